import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// What every format promises; run over all of `FormatRegistry.all`.
struct FormatChecker<Format: LinearWeight> {
    /// Budgets between the smallest and more than the dense size.
    func budgets(_ outputs: Int, _ inputs: Int) throws -> [Int] {
        let smallest = try smallestBudget(outputs, inputs)
        let dense = outputs * inputs
        let shares = [0.1, 0.3, 0.5, 0.65, 0.8, 1, 1.5]
        return [smallest] + shares.map { Int(Double(dense) * $0) }.filter { $0 > smallest }
    }

    /// What `budgetTooSmall` names, after checking that it is the truth.
    func smallestBudget(_ outputs: Int, _ inputs: Int) throws -> Int {
        for hopeless in [Int.min, -1] { #expect(refusal(of: hopeless, outputs, inputs) != nil) }
        guard let smallest = refusal(of: 0, outputs, inputs) else {
            Issue.record("a budget of 0 was not refused")
            return 0
        }
        let spec = try Format.spec(fitting: smallest, outputs: outputs, inputs: inputs)
        #expect(try Format.parameterCount(spec, outputs: outputs, inputs: inputs) == smallest)
        #expect(refusal(of: smallest - 1, outputs, inputs) == smallest)
        return smallest
    }

    /// The smallest budget that the refusal of `budget` names, or `nil` when it is accepted.
    private func refusal(of budget: Int, _ outputs: Int, _ inputs: Int) -> Int? {
        do throws(FormatError) {
            _ = try Format.spec(fitting: budget, outputs: outputs, inputs: inputs)
            return nil
        } catch {
            guard case .budgetTooSmall(Format.name, budget, let smallest) = error else {
                Issue.record(error)
                return nil
            }
            return smallest
        }
    }

    func decomposed(
        _ weight: Tensor, fitting budget: Int = .max, metric: InputMetric? = nil
    ) throws -> Format {
        let spec = try Format.spec(
            fitting: budget, outputs: weight.shape[0], inputs: weight.shape[1])
        return try Format.decompose(weight, spec: spec, metric: metric)
    }

    func fullRankIsExact() throws {
        for (index, shape) in Samples.shapes.enumerated() {
            let weight = try Samples.normal(shape, seed: UInt64(index))
            let metrics: [InputMetric?] = [
                nil, try Samples.metric(shape[1], tokens: 4 * shape[1], seed: 1),
                try Samples.metric(shape[1], tokens: (shape[1] + 1) / 2, seed: 2),
            ]
            for metric in metrics {
                let full = try decomposed(weight, metric: metric)
                let bound = roundingBound(size: shape[0] + shape[1], steps: full.tensors.count)
                let error = try full.reconstruct().distance(to: weight)
                #expect(error <= bound * (try weight.length()), "\(full.spec) of \(shape)")
            }
        }
    }

    func countsAreExact() throws {
        for shape in Samples.shapes {
            let (outputs, inputs) = (shape[0], shape[1])
            let weight = try Samples.normal(shape, seed: 3).to(dtype: .bfloat16)
            for budget in try budgets(outputs, inputs) {
                let spec = try Format.spec(fitting: budget, outputs: outputs, inputs: inputs)
                let layout = try Format.layout(spec, outputs: outputs, inputs: inputs)
                let stored = try Format.decompose(weight, spec: spec, metric: nil)
                #expect(stored.spec == spec)
                #expect([stored.outputs, stored.inputs] == shape)
                #expect(stored.tensors.map(\.name) == layout.map(\.name))
                #expect(stored.tensors.map(\.tensor.shape) == layout.map(\.shape))
                #expect(stored.tensors.allSatisfy { $0.tensor.dtype == .bfloat16 })
                let count = layout.reduce(0) { $0 + $1.shape.reduce(1, *) }
                #expect(
                    try Format.parameterCount(spec, outputs: outputs, inputs: inputs) == count)
                #expect(stored.parameterCount == count)
                #expect(stored.byteCount == 2 * count)
                #expect(count <= budget)
            }
        }
    }

    /// Budgets are kept for sizes of real models, primes and vectors, without decomposing anything.
    func budgetsAreKept() throws {
        let shapes = [
            [5120, 25600], [151_936, 5120], [127, 131], [1, 4099], [4099, 1], [104_729, 64],
            [17_408, 5120], [1, 1],
        ]
        for shape in shapes {
            let (outputs, inputs) = (shape[0], shape[1])
            for budget in try budgets(outputs, inputs) {
                let spec = try Format.spec(fitting: budget, outputs: outputs, inputs: inputs)
                let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
                #expect(count <= budget, "\(spec)")
            }
        }
    }

    func errorFallsWithTheBudget() throws {
        for shape in [[24, 36], [36, 16], [13, 24]] {
            let weight = try Samples.normal(shape, seed: 5)
            let total = try weight.length()
            var last = Double.infinity
            for budget in try budgets(shape[0], shape[1]) {
                let stored = try decomposed(weight, fitting: budget)
                let error = try stored.reconstruct().distance(to: weight)
                let slack = roundingBound(
                    size: shape[0] + shape[1], steps: stored.tensors.count)
                #expect(error <= last + slack * total, "\(stored.spec)")
                #expect(error <= total * (1 + slack))
                last = error
            }
        }
    }

    func forwardIsTheMatrix() throws {
        for shape in Samples.shapes {
            let (outputs, inputs) = (shape[0], shape[1])
            let weight = try Samples.normal(shape, seed: 6)
            for budget in try budgets(outputs, inputs) {
                let stored = try decomposed(weight, fitting: budget)
                let matrix = try stored.reconstruct()
                for leading in [[], [3], [2, 3], [0], [2, 1, 2]] {
                    let x = try Samples.normal(leading + [inputs], seed: 7)
                    let result = try stored.forward(x)
                    #expect(result.shape == leading + [outputs])
                    let bound = try forwardBound(stored, x)
                    let error = try result.distance(to: x.linear(matrix))
                    #expect(error <= bound, "\(stored.spec) at \(leading)")
                }
            }
            let full = try decomposed(weight)
            let wrong = try Samples.normal([2, inputs + 1], seed: 8)
            #expect(throws: TensorError.self) { try full.forward(wrong) }
            #expect(throws: TensorError.self) { try full.forward(Tensor.ones([], dtype: .float64)) }
        }
    }

    /// Norms × ε × terms: each contraction sums at most `size` products, twice over the two ways.
    private func forwardBound(_ stored: Format, _ x: Tensor) throws -> Double {
        var norms = try x.length()
        var terms = stored.outputs + stored.inputs
        for (_, tensor) in stored.tensors {
            norms *= try tensor.length()
            terms += tensor.shape.max() ?? 1
        }
        let dtype = x.dtype
        return 2 * Double(terms) * dtype.epsilon * norms
    }

    func halfPrecisionWorks() throws {
        let weight = try Samples.normal([24, 36], seed: 9)
        let x = try Samples.normal([5, 36], seed: 10)
        for dtype in [DType.bfloat16, .float16, .float32] {
            let stored = try decomposed(weight.to(dtype: dtype), fitting: 24 * 36)
            let exact = try Format(
                spec: stored.spec, outputs: 24, inputs: 36,
                tensors: stored.tensors.map { try $0.tensor.to(dtype: .float64) })
            let result = try stored.forward(x.to(dtype: dtype))
            #expect(result.dtype == dtype)
            let rounded = try x.to(dtype: dtype).to(dtype: .float64)
            // Each contraction rounds its input and its result to `dtype`; sums are float32.
            let steps = Double(stored.tensors.count + 1)
            var norms = try rounded.length()
            for (_, tensor) in exact.tensors { norms *= try tensor.length() }
            let error = try result.distance(to: exact.forward(rounded))
            #expect(error <= steps * dtype.epsilon * norms, "\(dtype)")
            #expect(error > 0)
        }
    }

    func roundTrips() throws {
        let weight = try Samples.normal([24, 36], seed: 11).to(dtype: .float32)
        let stored = try decomposed(weight, fitting: 24 * 36)
        let tensors = stored.tensors.map(\.tensor)
        let again = try Format(spec: stored.spec, outputs: 24, inputs: 36, tensors: tensors)
        #expect(try again.reconstruct().isIdentical(to: stored.reconstruct()))
        #expect(again.multiplyAdds == stored.multiplyAdds)
        #expect(throws: FormatError.self) {
            try Format(
                spec: stored.spec, outputs: 24, inputs: 36, tensors: tensors + tensors)
        }
        #expect(throws: FormatError.self) {
            try Format(spec: stored.spec, outputs: 24, inputs: 36, tensors: [])
        }
        #expect(throws: FormatError.self) {
            try Format(spec: stored.spec, outputs: 36, inputs: 24, tensors: tensors)
        }
        for index in tensors.indices {
            var wrong = tensors
            wrong[index] = try wrong[index].unsqueeze(0)
            #expect(throws: FormatError.self) {
                try Format(spec: stored.spec, outputs: 24, inputs: 36, tensors: wrong)
            }
        }
    }

    func twoRunsAreIdentical() throws {
        let weight = try Samples.normal([24, 36], seed: 12).to(dtype: .float32)
        let metric = try Samples.metric(36, tokens: 100, seed: 13)
        let first = try decomposed(weight, fitting: 500 + 24 * 18, metric: metric)
        let second = try decomposed(weight, fitting: 500 + 24 * 18, metric: metric)
        #expect(first.spec == second.spec)
        for (left, right) in zip(first.tensors, second.tensors) {
            #expect(try left.tensor.isIdentical(to: right.tensor))
            #expect(left.tensor.strides == (try left.tensor.contiguous().strides))
        }
    }
}
