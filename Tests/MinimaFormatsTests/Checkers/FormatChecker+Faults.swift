import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

extension FormatChecker {
    /// The forward is linear in each tensor, so a difference over any step is the gradient's share.
    func gradientsFlow() throws {
        let weight = try Samples.normal([12, 18], seed: 20)
        let stored = try decomposed(weight, fitting: 12 * 18)
        let x = try Samples.normal([2, 2, 18], seed: 21)
        let probe = try Samples.normal([2, 2, 12], seed: 22)
        let tensors = try stored.tensors.map { try $0.tensor.clone() }
        func value(_ tensors: [Tensor]) throws -> Tensor {
            let format = try Format(
                spec: stored.spec, outputs: 12, inputs: 18, tensors: tensors)
            return try (format.forward(x) * probe).sum()
        }
        for tensor in tensors { try tensor.setRequiresGrad() }
        let gradients = try value(tensors).gradients(tensors)
        let plain = try tensors.map { try $0.detach() }
        let scale = try x.length() * probe.length()
        for index in tensors.indices {
            let gradient = try #require(gradients[index])
            #expect(gradient.shape == tensors[index].shape)
            let direction = try Samples.normal(tensors[index].shape, seed: 23)
            var moved = plain
            moved[index] = try plain[index] + direction
            let difference = try value(moved).item() - value(plain).item()
            let slope = try (gradient * direction).sum().item()
            var norms = scale
            for tensor in moved { norms *= try tensor.length() }
            let bound = roundingBound(size: 12 + 18, steps: tensors.count) * norms
            #expect(abs(difference - slope) <= bound)
            #expect(abs(slope) > bound)
        }
    }

    func brokenNumbersAreRefused() throws {
        guard Format.name != Dense.name else { return }
        let weight = try Samples.normal([8, 12], seed: 24)
        let spec = try Format.spec(fitting: 96, outputs: 8, inputs: 12)
        for bad in [Double.nan, .infinity, -.infinity] {
            let broken = try weight.clone()
            try broken.narrow(0, 3..<4).narrow(1, 5..<6).copy(from: .full([1, 1], bad))
            let error = #expect(throws: TensorError.self) {
                try Format.decompose(broken, spec: spec, metric: nil)
            }
            #expect("\(error.map { "\($0)" } ?? "")".contains("given 1 values"))
            if Format.usesMetric {
                let moment = try Tensor.full([12, 12], bad, dtype: .float64)
                #expect(throws: TensorError.self) {
                    try Format.decompose(
                        weight, spec: spec, metric: InputMetric(secondMoment: moment))
                }
            }
        }
        if Format.usesMetric {
            let foreign = try Samples.metric(11, tokens: 20, seed: 25)
            #expect(throws: FormatError.self) {
                try Format.decompose(weight, spec: spec, metric: foreign)
            }
        }
        for shape in [[96], [2, 4, 12]] {
            #expect(throws: FormatError.self) {
                try Format.decompose(weight.reshape(shape), spec: spec, metric: nil)
            }
        }
    }

    func nothingStaysNothing() throws {
        for shape in [[8, 12], [12, 8], [1, 5]] {
            let zero = try Tensor.zeros(shape, dtype: .float64)
            for metric in [nil, try Samples.metric(shape[1], tokens: 3, seed: 26)] {
                let stored = try decomposed(zero, metric: metric)
                #expect(try stored.reconstruct().length() == 0)
            }
        }
    }

    func metricLowersTheWeightedError() throws {
        guard Format.usesMetric, Format.name != Dense.name else { return }
        for seed in 30..<34 {
            let weight = try Samples.normal([24, 36], seed: UInt64(seed))
            for tokens in [400, 20] {
                let metric = try Samples.metric(36, tokens: tokens, seed: UInt64(seed))
                let budget = 24 * 36 / 2
                let plain = try decomposed(weight, fitting: budget)
                let weighted = try decomposed(weight, fitting: budget, metric: metric)
                let plainError = try metric.norm(plain.reconstruct() - weight)
                let weightedError = try metric.norm(weighted.reconstruct() - weight)
                #expect(weightedError < plainError)
                #expect(
                    try plain.reconstruct().distance(to: weight)
                        < weighted.reconstruct().distance(to: weight))
            }
        }
    }

    /// Random specifications, most of them nonsense, are refused or have a layout that counts.
    func hostileSpecsAreRefused() throws {
        var pool = HostileSizes()
        var accepted = 0
        for round in 0..<8000 {
            let outputs = round % 2 == 0 ? 24 : pool.size()
            let inputs = round % 2 == 0 ? 36 : pool.size()
            let spec = FormatSpec(
                format: Format.name, outputModes: pool.modes(of: outputs),
                inputModes: pool.modes(of: inputs), ranks: pool.sizes())
            if try counts(spec, outputs, inputs) { accepted += 1 }
            try fits(pool.size(), outputs, inputs)
        }
        #expect(accepted > 0)
        let foreign = FormatSpec(format: "other", ranks: [1])
        #expect(throws: FormatError.wrongFormat(found: "other", needed: Format.name)) {
            try Format.layout(foreign, outputs: 2, inputs: 2)
        }
    }

    private func counts(_ spec: FormatSpec, _ outputs: Int, _ inputs: Int) throws -> Bool {
        do throws(FormatError) {
            let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
            #expect(count > 0)
            return true
        } catch {
            #expect(!error.description.isEmpty)
            return false
        }
    }

    private func fits(_ budget: Int, _ outputs: Int, _ inputs: Int) throws {
        do throws(FormatError) {
            let spec = try Format.spec(fitting: budget, outputs: outputs, inputs: inputs)
            let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
            #expect(count <= budget)
        } catch {
            #expect(!error.description.isEmpty)
        }
    }
}

/// Sizes that a damaged or malicious file might state.
private struct HostileSizes {
    var numbers = SampleNumbers(state: 0xF0)
    let choices = [
        0, -1, 1, 1, 2, 3, 4, 6, 8, 12, 24, 36, 1 << 20, 1 << 31, 1 << 44, 1 << 62, Int.max,
        Int.min,
    ]

    mutating func size() -> Int { choices[Int.random(in: 0..<choices.count, using: &numbers)] }

    mutating func sizes() -> [Int] {
        var sizes: [Int] = []
        let tame = Bool.random(using: &numbers)
        for _ in 0..<Int.random(in: 0...4, using: &numbers) {
            sizes.append(tame ? Int.random(in: 1...4, using: &numbers) : size())
        }
        return sizes
    }

    /// Mostly modes that multiply to `size`, sometimes none or any.
    mutating func modes(of size: Int) -> [Int] {
        guard (1...64).contains(size), Int.random(in: 0..<8, using: &numbers) > 0 else {
            return sizes()
        }
        var (rest, modes) = (size, [Int]())
        for _ in 0..<Int.random(in: 0...3, using: &numbers) {
            let divisors = (1...rest).filter { rest % $0 == 0 }
            let divisor = divisors[Int.random(in: 0..<divisors.count, using: &numbers)]
            modes.append(divisor)
            rest /= divisor
        }
        if !modes.isEmpty { modes[modes.count - 1] *= rest }
        return modes
    }
}
