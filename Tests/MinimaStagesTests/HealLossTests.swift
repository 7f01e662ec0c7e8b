import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

/// Makes the embedding, which is the output projection too, a leaf that trains.
private final class EmbeddingAdapter: WeightAdapter {
    private(set) var leaf: Tensor?

    func adapt(_ tensor: Tensor, name: String) throws -> Tensor {
        guard name == "model.embed_tokens.weight" else { return tensor }
        try tensor.setRequiresGrad()
        leaf = tensor
        return tensor
    }

    func adapt(_ weight: any LinearWeight, name: String) throws -> any LinearWeight { weight }
}

@Suite("Distillation loss")
struct HealLossTests {
    let student: any LanguageModel
    let teacher: any LanguageModel
    /// `[vocabulary, hidden]` of both.
    let projections: (student: Tensor, teacher: Tensor)
    let hidden: (student: Tensor, teacher: Tensor)
    let targets: Tensor
    let mask: Tensor
    let rows = 23
    let vocabulary = 64

    init() throws {
        let adapter = EmbeddingAdapter()
        let student = try goldenModel("qwen3-gqa4-tied-v5").loadModel(adapter: adapter)
        let teacher = try goldenModel("qwen3-sharded-v5").loadModel()
        let generator = try RandomGenerator(seed: 3, device: .cpu)
        let widths = (student.dimensions.hidden, teacher.dimensions.hidden)
        hidden = (
            try .randn([rows, widths.0], generator: generator),
            try .randn([rows, widths.1], generator: generator)
        )
        projections = (
            try #require(adapter.leaf),
            try teacher.logits(.identity(widths.1)).transpose()
        )
        targets = try Tensor(someTokens(rows, vocabulary: vocabulary).map(Int64.init))
        mask = try Tensor((0..<23).map { Float($0 % 3 == 0 ? 0 : 1) })
        (self.student, self.teacher) = (student, teacher)
    }

    /// What is expected of a loss: its parts and its gradients, by autograd in float64.
    struct Expected {
        var (kl, crossEntropy, loss): (Double, Double, Double)
        var (hidden, projection): (Tensor, Tensor)
    }

    /// The loss written out; with `kept`, the KL over the teacher's `kept` most probable tokens and
    /// all others as one.
    private func expected(
        _ loss: DistillationLoss, kept: Int? = nil, mask: Tensor?, withTeacher: Bool = true
    ) throws -> Expected {
        let x = try hidden.student.to(dtype: .float64)
        let w = try projections.student.detach().to(dtype: .float64)
        try x.setRequiresGrad()
        try w.setRequiresGrad()
        return try withGradients {
            let z = try x.matmul(w.transpose())
            let t = try hidden.teacher.to(dtype: .float64)
                .matmul(projections.teacher.to(dtype: .float64).transpose())
            var q = try (z / loss.temperature).softmax()
            var p = try (t / loss.temperature).softmax()
            if let kept {
                let (top, ids) = try p.topK(kept)
                let ofTop = try q.gather(1, ids)
                p = try .cat([top, top.sum([1], keepDims: true) * -1 + 1], dim: 1)
                q = try .cat([ofTop, ofTop.sum([1], keepDims: true) * -1 + 1], dim: 1)
            }
            let kl = try (p * (try Self.log(p) - Self.log(q))).sum()
            let all = try mask?.to(dtype: .float64) ?? .ones([rows], dtype: .float64)
            let crossEntropy = try (z.crossEntropy(targets) * all).sum()
            let temperature = loss.temperature * loss.temperature
            let klShare = withTeacher ? loss.klWeight * temperature / Double(rows) : 0
            let total =
                try kl * klShare
                + crossEntropy * (loss.crossEntropyWeight / all.sum().item())
            let gradients = try total.gradients([x, w])
            return Expected(
                kl: withTeacher && loss.klWeight != 0 ? try kl.item() : 0,
                crossEntropy: try crossEntropy.item(), loss: try total.item(),
                hidden: try #require(gradients[0]), projection: try #require(gradients[1]))
        }
    }

    private static func log(_ x: Tensor) throws -> Tensor {
        try Operator("aten::log")(.tensor(x))
    }

    private func found(
        _ loss: DistillationLoss, kept: Int? = nil, mask: Tensor?, withTeacher: Bool = true,
        rows range: Range<Int>? = nil
    ) throws -> DistillationLoss.Result {
        let range = range ?? 0..<rows
        var source: DistillationLoss.Teacher? = .model(
            teacher, hidden: try hidden.teacher.narrow(0, range))
        if let kept {
            let logits = try teacher.logits(hidden.teacher.narrow(0, range))
            source = .cached(
                try TeacherRows(logits: logits, temperature: loss.temperature, count: kept))
        }
        let count = try mask.map { Int(try $0.sum().item()) } ?? rows
        return try loss.evaluate(
            student, hidden: hidden.student.narrow(0, range), teacher: withTeacher ? source : nil,
            targets: .init(
                tokens: targets.narrow(0, range), mask: mask?.narrow(0, range), tokenCount: rows,
                targetCount: count),
            leaves: [projections.student])
    }

    /// An output projection that is stored as codes is multiplied out once; the gradient at the hidden
    /// states is (softmax(z) − onehot)·Ŵ / rows, whatever the chunks.
    @Test func aStoredHeadIsDifferentiatedThrough() throws {
        let source = try goldenModel("qwen3-gqa4-tied-v5")
        let plan = try CompressionPlan.dense("test", version: "test")
            .withHead(bits: 4, of: source)
        let student = try RandomWeights(source.config, path: "test", seed: 5, plan: plan.modules)
            .loadModel()
        let matrix = try student.head.weight.reconstruct().to(dtype: .float64)
        var loss = DistillationLoss()
        (loss.klWeight, loss.crossEntropyWeight) = (0, 1)
        let x = hidden.student
        let z = try x.to(dtype: .float64).matmul(matrix.transpose())
        let chosen = try Tensor.identity(vocabulary, dtype: .float64).selecting(0, targets)
        let expected = try (z.softmax() - chosen).matmul(matrix) / Double(rows)
        for chunk in [vocabulary * 5, 1 << 22] {
            loss.logitsPerChunk = chunk
            let found = try loss.evaluate(
                student, hidden: x, teacher: nil,
                targets: .init(tokens: targets, tokenCount: rows, targetCount: rows))
            let error = try (found.hidden.to(dtype: .float64) - expected).norm().item()
            // Sums over the vocabulary of logits that are sums over the hidden state.
            let terms = Double(vocabulary + student.dimensions.hidden)
            let size = try max(z.abs().max().item(), 1)
            let bound = try terms * DType.float32.epsilon * size * expected.norm().item()
            #expect(error <= bound)
        }
    }

    /// Relative rounding of a row's probabilities in float32: of the products behind a logit, at the
    /// size of the logits, and of the sum over the vocabulary.
    private func rounding(_ loss: DistillationLoss) throws -> Double {
        let size = try max(
            hidden.student.matmul(projections.student.detach().transpose()).abs().max().item(),
            hidden.teacher.matmul(projections.teacher.transpose()).abs().max().item())
        let terms = Double(student.dimensions.hidden + teacher.dimensions.hidden + vocabulary)
        return terms * DType.float32.epsilon * max(size, 1) * max(1 / loss.temperature, 1)
    }

    private func check(
        _ found: DistillationLoss.Result, _ expected: Expected, _ loss: DistillationLoss,
        _ comment: Comment
    ) throws {
        let rounding = try rounding(loss)
        // Every row's terms are sums of probabilities times log-probabilities.
        let size = 1 + abs(expected.crossEntropy) + abs(expected.kl)
        #expect(abs(try found.kl.item() - expected.kl) <= rounding * size, comment)
        #expect(
            abs(try found.crossEntropy.item() - expected.crossEntropy) <= rounding * size, comment)
        let square = loss.temperature * loss.temperature
        #expect(
            abs(try found.loss.item() - expected.loss) <= rounding * size * max(square, 1), comment)
        // ‖Δ(q − p)‖ ≤ 2 · rounding by row, through ‖W‖, or through ‖x‖ summed over rows.
        let share =
            loss.klWeight * loss.temperature / Double(rows)
            + loss.crossEntropyWeight / Double(rows / 2)
        let error = 2 * rounding * share * Double(rows).squareRoot()
        let atHidden = try (found.hidden.to(dtype: .float64) - expected.hidden).norm().item()
        #expect(try atHidden <= error * projections.student.norm().item(), comment)
        #expect(try expected.hidden.norm().item() > 100 * atHidden, comment)
        let leaf = try #require(found.leaves[0])
        #expect(leaf.dtype == .float32)
        let atLeaf = try (leaf.to(dtype: .float64) - expected.projection).norm().item()
        #expect(try atLeaf <= error * hidden.student.norm().item(), comment)
    }

    private func loss(_ kl: Double, _ crossEntropy: Double, _ temperature: Double)
        -> DistillationLoss
    {
        var loss = DistillationLoss()
        (loss.klWeight, loss.crossEntropyWeight) = (kl, crossEntropy)
        loss.temperature = temperature
        return loss
    }

    @Test(arguments: [(1.0, 0.0), (0.7, 0.4), (0, 1), (0, 0)], [1.0, 2.5])
    func gradientsAreThoseOfTheWrittenLoss(weights: (Double, Double), temperature: Double) throws {
        let loss = loss(weights.0, weights.1, temperature)
        for mask in [nil, mask] {
            for kept in [nil, 1, 7] {
                let comment: Comment = "mask \(mask != nil), kept \(kept ?? -1)"
                let expected = try expected(loss, kept: kept, mask: mask)
                let found = try found(loss, kept: kept, mask: mask)
                guard weights != (0, 0) else {
                    #expect(try found.loss.item() == 0 && found.hidden.norm().item() == 0)
                    continue
                }
                try check(found, expected, loss, comment)
            }
        }
    }

    /// With the whole vocabulary kept, no tail is left, and the KL is the exact one.
    @Test(arguments: [1.0, 2.5]) func keepingAllIsExact(temperature: Double) throws {
        let loss = loss(1, 0.3, temperature)
        let found = try found(loss, kept: vocabulary, mask: mask)
        try check(found, expected(loss, mask: mask), loss, "all kept")
    }

    @Test func withoutATeacherTheTextCounts() throws {
        let loss = loss(1, 1, 1)
        let found = try found(loss, mask: mask, withTeacher: false)
        try check(found, expected(loss, mask: mask, withTeacher: false), loss, "no teacher")
        #expect(try found.kl.item() == 0)
    }

    /// Chunks and processes take parts of the rows; sums divided by the counts of all add up.
    @Test(arguments: [nil, 7]) func partsAddUp(kept: Int?) throws {
        var loss = loss(1, 0.5, 1)
        let whole = try expected(loss, kept: kept, mask: mask)
        for limit in [1, 64, 5 * 64, 1 << 20] {
            loss.logitsPerChunk = limit
            try check(
                found(loss, kept: kept, mask: mask), whole, loss, "\(limit) logits per chunk")
        }
        let count = Int(try mask.sum().item())
        let parts = try [0..<9, 9..<rows].map { range in
            // The count of targets is that of all rows.
            try found(loss, kept: kept, mask: mask, rows: range)
        }
        #expect(count == 15)
        let sum = DistillationLoss.Result(
            loss: try parts[0].loss + parts[1].loss, kl: try parts[0].kl + parts[1].kl,
            crossEntropy: try parts[0].crossEntropy + parts[1].crossEntropy,
            hidden: try .cat(parts.map(\.hidden)),
            leaves: [try #require(parts[0].leaves[0]) + #require(parts[1].leaves[0])])
        try check(sum, whole, loss, "two processes")
    }

    /// A student without a doubt: probabilities outside float32's range give no NaN.
    @Test(arguments: [nil, 1, 7, 64]) func sharpDistributionsStayFinite(kept: Int?) throws {
        for (ofStudent, ofTeacher) in [(1e4, 1.0), (1, 1e4), (1e4, 1e4)] {
            let logits = try teacher.logits(hidden.teacher * ofTeacher)
            let source: DistillationLoss.Teacher =
                if let kept {
                    .cached(try TeacherRows(logits: logits, count: kept))
                } else {
                    .model(teacher, hidden: try hidden.teacher * ofTeacher)
                }
            let found = try loss(1, 0.5, 1).evaluate(
                student, hidden: hidden.student * ofStudent, teacher: source,
                targets: .init(tokens: targets, tokenCount: rows, targetCount: rows))
            #expect(try found.loss.item().isFinite)
            #expect(try found.hidden.norm().item().isFinite)
            #expect(found.leaves.isEmpty)
        }
    }

    /// In bfloat16 the softmax is still taken in float32.
    @Test func halfPrecisionLogits() throws {
        let model = try goldenModel("qwen3-gqa4-tied-v5").loadModel(dtype: .bfloat16)
        let states = try hidden.student.to(dtype: .bfloat16)
        let found = try loss(1, 0.5, 1).evaluate(
            model, hidden: states, teacher: .model(teacher, hidden: hidden.teacher),
            targets: .init(tokens: targets, tokenCount: rows, targetCount: rows))
        #expect(found.hidden.dtype == .bfloat16 && found.loss.dtype == .float32)
        let expected = try expected(loss(1, 0.5, 1), mask: nil)
        // Hidden states, weights, logits, their gradient and its product are each rounded once.
        let size = try hidden.student.matmul(projections.student.detach().transpose()).abs().max()
            .item()
        let relative = 5 * DType.bfloat16.epsilon * max(size, 1)
        let distance = try (found.hidden.to(dtype: .float64) - expected.hidden).norm().item()
        let share = 1.5 / Double(rows) * Double(rows).squareRoot() * 2
        #expect(try distance <= relative * share * projections.student.norm().item())
        #expect(abs(try found.loss.item() - expected.loss) <= relative * (1 + expected.loss))
    }

    @Test func otherVocabulariesAreRefused() throws {
        let other = try goldenModel("qwen3-mha-bias-v5").loadModel(dtype: .float32)
        try #require(other.dimensions.vocabulary != vocabulary)
        #expect(throws: StageError.self) {
            try DistillationLoss().evaluate(
                student, hidden: hidden.student, teacher: .model(other, hidden: hidden.student),
                targets: .init(tokens: targets, tokenCount: rows, targetCount: rows))
        }
    }
}

@Suite("Hidden-state loss")
struct HealHiddenLossTests {
    @Test func gradientIsThatOfTheWrittenLoss() throws {
        let generator = try RandomGenerator(seed: 4, device: .cpu)
        let teacher = try Tensor.randn([2, 5, 8], generator: generator)
        let student = try teacher + Tensor.randn([2, 5, 8], generator: generator) * 0.1
        let loss = HiddenLoss(boundaries: [2, 4], weight: 0.6)
        let (found, gradient) = try loss.evaluate(
            student: student, teacher: teacher, tokenCount: 30)
        let x = try student.to(dtype: .float64)
        try x.setRequiresGrad()
        let t = try teacher.to(dtype: .float64)
        let expected = try withGradients {
            try ((x - t).square().sum([-1]) / t.square().sum([-1])).sum() * (0.6 / 2 / 30)
        }
        let exact = try #require(try expected.gradients([x])[0])
        // Sums of 8 squares and 10 tokens; differences a tenth of their terms.
        let epsilon = 10 * Double(8 + 10) * DType.float32.epsilon
        #expect(try abs(found.item() - expected.item()) <= epsilon * expected.item())
        #expect(try relativeDistance(gradient, exact) <= epsilon)
        let half = try loss.evaluate(
            student: student.to(dtype: .bfloat16), teacher: teacher.to(dtype: .bfloat16),
            tokenCount: 30)
        #expect(half.gradient.dtype == .bfloat16 && half.loss.dtype == .float32)
        let silent = try loss.evaluate(
            student: Tensor.zeros([1, 8]), teacher: Tensor.zeros([1, 8]), tokenCount: 1)
        #expect(try silent.loss.item() == 0 && silent.gradient.norm().item() == 0)
    }

    @Test func boundariesAreSpreadEvenly() {
        #expect(HiddenLoss.spread(layers: 8, count: 4) == [2, 4, 6, 8])
        #expect(HiddenLoss.spread(layers: 5, count: 2) == [2, 5])
        #expect(HiddenLoss.spread(layers: 2, count: 9) == [1, 2])
        #expect(HiddenLoss.spread(layers: 3, count: 0) == [3])
    }

    private func relativeDistance(_ a: Tensor, _ b: Tensor) throws -> Double {
        try (a.to(dtype: .float64) - b).norm().item() / b.norm().item()
    }
}
