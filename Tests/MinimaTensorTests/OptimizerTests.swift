import MinimaCore
import Testing

@testable import MinimaTensor

/// A run of `Tests/Goldens/training/make_training.py`.
struct TrainingRun {
    let golden: TensorGoldens
    let name: String
    let device: Device

    static let names = ["matrix", "tall", "bias"]
    static let configuration = AdamW.Configuration(beta1: 0.9, beta2: 0.95, epsilon: 1e-8)

    init(_ name: String, device: Device = .cpu) throws {
        golden = try TensorGoldens("training")
        (self.name, self.device) = (name, device)
    }

    /// The leaves at the start; `dtype` only where it is not the masters'.
    func parameters(dtype: DType? = nil) throws -> [AdamW.Parameter] {
        try Self.names.map { parameter in
            let start = try golden("\(name).\(parameter).0")
            let leaf = try start.to(device, dtype: dtype ?? start.dtype).clone()
            try leaf.setRequiresGrad()
            return AdamW.Parameter(
                name: parameter, tensor: leaf, learningRateScale: parameter == "tall" ? 3 : 1,
                weightDecay: parameter == "matrix" ? 0.1 : 0)
        }
    }

    func gradients(_ step: Int, _ micro: Int) throws -> [Tensor] {
        try Self.names.map { try golden("\(name).grad.\($0).\(step).\(micro)").to(device) }
    }

    /// Takes `steps`; the returned norms are those before clipping.
    @discardableResult
    func take(_ steps: Range<Int>, _ optimiser: Optimizer, maximumNorm: Double? = 2) throws
        -> [Double]
    {
        let schedule = LearningRateSchedule(peak: 0.02, warmup: 5, total: 30, floor: 0.1)
        return try steps.map { step in
            for micro in 0..<2 { try optimiser.accumulate(gradients(step, micro)) }
            return try optimiser.step(
                learningRate: schedule.value(at: step), maximumNorm: maximumNorm
            ).item()
        }
    }

    /// Runs the whole of it and compares norms and masters with PyTorch's.
    ///
    /// - Parameter growth: What a rounding error can grow by within a step.
    func check(
        dtype: DType? = nil, maximumNorm: Double? = 2, growth: Double = 1,
        _ make: ([AdamW.Parameter]) throws -> Optimizer = { try AdamW($0, configuration) }
    ) throws {
        let parameters = try parameters(dtype: dtype)
        let optimiser = try make(parameters)
        for end in [10, 20] {
            let norms = try take(end - 10..<end, optimiser, maximumNorm: maximumNorm)
            let expected: [Double] = try golden("\(name).norms").values()
            let state = Dictionary(
                uniqueKeysWithValues: optimiser.state.map { ($0.name, $0.tensor) })
            #expect(try state["step"]?.item() == Double(end))
            for (norm, expected) in zip(norms, expected[(end - 10)...]) {
                // 57 squares of float32, and a square root that halves the error.
                #expect(abs(norm - expected) <= 57 * DType.float32.epsilon * expected)
            }
            for parameter in parameters {
                let expected = try golden("\(name).\(parameter.name).\(end)")
                let master = try #require(state["\(parameter.name).master"])
                // A few roundings of numbers of about 1 to 3 per step.
                let tolerance = 8 * Double(end) * expected.dtype.epsilon * growth
                #expect(
                    try distance(master.to(.cpu), expected) <= tolerance,
                    "\(parameter.name) after \(end)")
                #expect(
                    try parameter.tensor.detach().isIdentical(
                        to: master.to(dtype: parameter.tensor.dtype)))
            }
        }
    }
}

extension TrainingRun {
    func checkMuon() throws {
        // The slope of five iterations at singular value zero.
        let growth = (0..<5).reduce(1.0) { slope, _ in slope * 3.4445 }
        try check(maximumNorm: nil, growth: growth) { try Muon($0, others: Self.configuration) }
    }
}

@Suite("Optimiser")
struct OptimizerTests {
    @Test("AdamW with clipping, groups and a schedule follows PyTorch")
    func goldens() throws {
        try TrainingRun("float32").check()
        try TrainingRun("float64").check(maximumNorm: nil)
    }

    @Test func mastersStandBehindBfloat16() throws {
        try TrainingRun("bfloat16").check(dtype: .bfloat16)
    }

    @Test("Muon with a schedule follows PyTorch")
    func muon() throws {
        try TrainingRun("muon").checkMuon()
    }

    @Test func muonLeavesWhatIsNotChosenToAdamW() throws {
        let run = try TrainingRun("float32")
        let (chosen, left) = (try run.parameters(), try run.parameters())
        let muon = try Muon(chosen, others: TrainingRun.configuration) { $0.name == "matrix" }
        let adamW = try AdamW(left, TrainingRun.configuration)
        for optimiser in [muon, adamW] {
            try run.take(0..<3, optimiser, maximumNorm: nil)
        }
        let names = muon.state.map(\.name).filter { $0.hasSuffix(".momentum") }
        #expect(names == ["matrix.momentum"])
        for (one, other) in zip(chosen, left) {
            let isSame = try one.tensor.detach().isIdentical(to: other.tensor.detach())
            #expect(isSame == (one.name != "matrix"), "\(one.name)")
        }
    }

    @Test("AdamW follows PyTorch on a network")
    func network() throws {
        let golden = try TensorGoldens()
        let names = ["w1", "b1", "w2", "b2"]
        let leaves = try names.map { try golden("adamw.\($0).0").clone() }
        func optimiser(_ indices: [Int], beta2: Double, decay: Double) throws -> AdamW {
            try AdamW(
                indices.map {
                    AdamW.Parameter(name: names[$0], tensor: leaves[$0], weightDecay: decay)
                }, AdamW.Configuration(beta2: beta2))
        }
        let matrices = try optimiser([0, 2], beta2: 0.95, decay: 0.1)
        let biases = try optimiser([1, 3], beta2: 0.999, decay: 0)
        for leaf in leaves { try leaf.setRequiresGrad() }
        let (x, y) = (try golden("adamw.x"), try golden("adamw.y"))
        for step in 1...10 {
            let hidden = try Operator("aten::tanh")(.tensor(x.linear(leaves[0], bias: leaves[1])))
            let error = try hidden.linear(leaves[2], bias: leaves[3]) - y
            let gradients = try error.square().mean().gradients(leaves)
            try matrices.accumulate([gradients[0], gradients[2]])
            try matrices.step(learningRate: 1e-2)
            try biases.accumulate([gradients[1], gradients[3]])
            try biases.step(learningRate: 3e-2)
            for (name, leaf) in zip(names, leaves) {
                // Steps of float32 rounding on values of about 1.
                let expected = try golden("adamw.\(name).\(step)")
                #expect(
                    try distance(leaf.detach(), expected)
                        <= 8 * Double(step) * DType.float32.epsilon, "\(name) after \(step)")
            }
        }
    }

    @Test func epsilonStandsOutsideTheRoot() throws {
        let golden = try TensorGoldens()
        let p = try golden("quadratic.p.0").clone()
        let (a, b) = (try golden("quadratic.a"), try golden("quadratic.b"))
        let optimiser = try AdamW(
            [.init(name: "p", tensor: p, weightDecay: 0.1)],
            .init(beta1: 0.9, beta2: 0.95, epsilon: 1e-3))
        for step in 1...10 {
            try optimiser.accumulate([a.matmul(p.unsqueeze(1)).squeeze(1) - b])
            try optimiser.step(learningRate: 1e-2)
            #expect(
                try distance(p, golden("quadratic.p.\(step)"))
                    <= 8 * Double(step) * DType.float32.epsilon)
        }
    }

    @Test(arguments: [
        ("float32", DType.float32), ("bfloat16", .bfloat16), ("bfloat16", .float16),
        ("float64", .float64),
    ])
    func resumesBitwise(run: String, dtype: DType) throws {
        let run = try TrainingRun(run)
        let whole = try run.parameters(dtype: dtype)
        let uninterrupted = try AdamW(whole, TrainingRun.configuration)
        try run.take(0..<7, uninterrupted)
        let saved = try uninterrupted.state.map { ($0.name, try $0.tensor.clone()) }
        try run.take(7..<12, uninterrupted)

        let again = try run.parameters(dtype: dtype)
        let resumed = try AdamW(again, TrainingRun.configuration)
        try run.take(0..<2, resumed)
        try resumed.accumulate(run.gradients(2, 0))
        try resumed.restore(Dictionary(uniqueKeysWithValues: saved))
        try run.take(7..<12, resumed)
        for (left, right) in zip(uninterrupted.state, resumed.state) {
            #expect(left.name == right.name)
            #expect(try left.tensor.isIdentical(to: right.tensor), "\(left.name)")
        }
        for (left, right) in zip(whole, again) {
            #expect(try left.tensor.detach().isIdentical(to: right.tensor.detach()))
        }
    }

    @Test(arguments: [Double.nan, .infinity], [DType.float32, .bfloat16])
    func aNormThatIsNotFiniteChangesNothing(value: Double, dtype: DType) throws {
        let run = try TrainingRun("bfloat16")
        let parameters = try run.parameters(dtype: dtype)
        let optimiser = try AdamW(parameters, TrainingRun.configuration)
        try run.take(0..<3, optimiser)
        let before = try optimiser.state.map { try $0.tensor.clone() }
        let leaves = try parameters.map { try $0.tensor.detach().clone() }
        for maximumNorm in [nil, 2.0] {
            var gradients = try run.gradients(3, 0)
            gradients[1] = try gradients[1] * value
            try optimiser.accumulate(gradients)
            let norm = try optimiser.step(learningRate: 0.1, maximumNorm: maximumNorm)
            #expect(try !norm.item().isFinite)
            for (before, after) in zip(before, optimiser.state) {
                #expect(try before.isIdentical(to: after.tensor), "\(after.name)")
            }
            for (leaf, parameter) in zip(leaves, parameters) {
                #expect(try leaf.isIdentical(to: parameter.tensor.detach()))
            }
        }
        #expect(try run.take(3..<4, optimiser)[0].isFinite, "the next step is a step again")
        #expect(try !optimiser.state[1].tensor.isIdentical(to: before[1]))
    }

    @Test func aMissingGradientIsZero() throws {
        let run = try TrainingRun("float32")
        func trained(_ missing: (Tensor) throws -> Tensor?) throws -> [Tensor] {
            let parameters = try run.parameters()
            let optimiser = try AdamW(parameters, TrainingRun.configuration)
            try run.take(0..<2, optimiser)
            for step in 2..<5 {
                for micro in 0..<2 {
                    var gradients: [Tensor?] = try run.gradients(step, micro)
                    // In the last step, the second micro-batch has what the first lacks.
                    if step < 4 || micro == 0 { gradients[1] = try missing(run.gradients(0, 0)[1]) }
                    try optimiser.accumulate(gradients)
                }
                try optimiser.step(learningRate: 1e-2, maximumNorm: 2)
            }
            // Nothing at all was accumulated.
            try optimiser.step(learningRate: 1e-2)
            return try parameters.map { try $0.tensor.detach() }
        }
        for (left, right) in try zip(trained { _ in nil }, trained { try $0 * 0 }) {
            #expect(try left.isIdentical(to: right))
        }
    }

    @Test func viewsAreWrittenThrough() throws {
        let whole = try Tensor.ones([4, 6])
        let view = try whole.transpose().narrow(0, 1..<3)
        let optimiser = try AdamW([.init(name: "view", tensor: view)])
        try optimiser.accumulate([.ones([2, 4])])
        try optimiser.step(learningRate: 0.5)
        // Adam's first step is the learning rate, up to epsilon.
        let expected = try Tensor.ones([4, 6])
        try expected.narrow(1, 1..<3).copy(from: .full([4, 2], 0.5))
        #expect(try distance(whole, expected) <= 1e-8 + DType.float32.epsilon)
    }

    @Test func refusals() throws {
        let ones = try Tensor.ones([2])
        let parameter = AdamW.Parameter(name: "p", tensor: ones)
        let optimiser = try AdamW([parameter])
        #expect(throws: TensorError.self) { try optimiser.accumulate([]) }
        #expect(throws: TensorError.self) { try optimiser.accumulate([.ones([1])]) }
        #expect(throws: TensorError.self) { try optimiser.step(learningRate: 1, maximumNorm: 0) }
        #expect(throws: TensorError.self) { try AdamW([]) }
        #expect(throws: TensorError.self) { try AdamW([parameter, parameter]) }
        #expect(throws: TensorError.self) {
            try AdamW([.init(name: "n", tensor: .arange(0..<2))])
        }
        var state = Dictionary(uniqueKeysWithValues: optimiser.state.map { ($0.name, $0.tensor) })
        state["step"] = try .full([], 5)
        state["p.second_moment"] = try .ones([3])
        #expect(throws: TensorError.self) { try optimiser.restore(state) }
        state["p.second_moment"] = nil
        #expect(throws: TensorError.self) { try optimiser.restore(state) }
        #expect(try optimiser.state[0].tensor.item() == 0, "nothing was restored")
        #expect(try ones.values(as: Float.self) == [1, 1])
    }

    @Test func shardsCoverEachParameterOnce() {
        let sizes = (0..<97).map { ($0 * 7919) % 1000 + ($0 % 10 == 0 ? 5000 : 1) }
        for count in [1, 2, 3, 8, 200] {
            let shards = ParameterShard.partition(sizes, into: count)
            #expect(shards.count == count)
            #expect(shards.flatMap(\.self).sorted() == Array(sizes.indices))
            let totals = shards.map { $0.map { sizes[$0] }.reduce(0, +) }
            let mean = Double(sizes.reduce(0, +)) / Double(count)
            let best = max(mean, Double(sizes.max() ?? 0))
            #expect(Double(totals.max() ?? 0) <= best * 4 / 3)
        }
    }

    @Test func bucketsHoldEachTensorApart() throws {
        let tensors = try [[3], [5, 7], [], [0], [40, 40], [2, 2]].enumerated().map {
            try Tensor.zeros($1, dtype: $0 == 1 ? .float64 : .float32)
        }
        let buckets = TensorBucket.plan(Array(tensors.indices), of: tensors, byteLimit: 300)
        #expect(buckets.map(\.members) == [[0, 2, 3], [4], [5], [1]])
        for bucket in buckets {
            let (buffer, views) = try bucket.allocate()
            for (index, view) in zip(bucket.members, views) {
                try view.copy(from: .full(tensors[index].shape, Double(index + 1)))
            }
            for (index, view) in zip(bucket.members, views) {
                #expect(view.shape == tensors[index].shape && view.dtype == tensors[index].dtype)
                #expect(try view.values().allSatisfy { $0 == Double(index + 1) })
            }
            let total = bucket.members.map { tensors[$0].count * ($0 + 1) }.reduce(0, +)
            #expect(try buffer.sum().item() == Double(total), "gaps are zero")
        }
    }

    @Test(arguments: [
        ("constant", LearningRateSchedule.Decay.constant), ("linear", .linear),
        ("cosine", .cosine), ("stable", .stable(share: 0.4)),
    ])
    func schedulesFollowPyTorch(name: String, decay: LearningRateSchedule.Decay) throws {
        let expected: [Double] = try TensorGoldens("training")("schedules.\(name)").values()
        let schedule = LearningRateSchedule(
            peak: 0.02, warmup: 5, total: 30, decay: decay, floor: 0.1)
        for (step, expected) in expected.enumerated() {
            // PyTorch multiplies its way from step to step.
            #expect(abs(schedule.value(at: step) - expected) <= 0.02 * 60 * DType.float64.epsilon)
        }
        let last = decay == .constant ? 0.02 : 0.002
        #expect(abs(schedule.value(at: 30) - last) <= 0.02 * DType.float64.epsilon)
        #expect(schedule.value(at: 30) == schedule.value(at: 1000))
    }
}

/// Skipped where there is no GPU.
@Suite("GPU optimiser", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0))
struct GPUOptimizerTests {
    @Test func goldens() throws {
        try TrainingRun("float32", device: .cuda(0)).check()
        try TrainingRun("float64", device: .cuda(0)).check(maximumNorm: nil)
        try TrainingRun("bfloat16", device: .cuda(0)).check(dtype: .bfloat16)
        try TrainingRun("muon", device: .cuda(0)).checkMuon()
    }

    @Test func aNormThatIsNotFiniteChangesNothing() throws {
        let run = try TrainingRun("bfloat16", device: .cuda(0))
        let optimiser = try AdamW(run.parameters(dtype: .bfloat16), TrainingRun.configuration)
        try run.take(0..<3, optimiser)
        let before = try optimiser.state.map { try $0.tensor.clone() }
        try optimiser.accumulate(run.gradients(3, 0).map { try $0 * .infinity })
        #expect(try !optimiser.step(learningRate: 0.1, maximumNorm: 2).item().isFinite)
        for (before, after) in zip(before, optimiser.state) {
            #expect(try before.isIdentical(to: after.tensor), "\(after.name)")
        }
    }
}
