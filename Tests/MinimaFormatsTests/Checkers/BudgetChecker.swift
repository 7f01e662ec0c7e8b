import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// What formats promise that have a specification for every number of parameters.
struct BudgetChecker<Format: BudgetedFormat> {
    /// Budgets between the smallest and more than the dense size.
    private func budgets(_ outputs: Int, _ inputs: Int) throws -> [Int] {
        let smallest = try smallestBudget(outputs, inputs)
        let dense = outputs * inputs
        let shares = [0.1, 0.3, 0.5, 0.65, 0.8, 1, 1.5]
        return [smallest] + shares.map { Int(Double(dense) * $0) }.filter { $0 > smallest }
    }

    /// What `budgetTooSmall` names, after checking that it is the truth.
    private func smallestBudget(_ outputs: Int, _ inputs: Int) throws -> Int {
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

    private func decomposed(
        _ weight: Tensor, fitting budget: Int = .max, metric: Metric? = nil
    ) throws -> Format {
        let spec = try Format.spec(
            fitting: budget, outputs: weight.shape[0], inputs: weight.shape[1])
        return try Format.decompose(weight, spec: spec, metric: metric)
    }

    /// With any budget nothing is lost, except where rank-deficient metrics see nothing of it.
    func fullRankIsExact() throws {
        for (index, shape) in Samples.shapes.enumerated() {
            let weight = try Samples.normal(shape, seed: UInt64(index))
            let metrics: [Metric?] = [
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

    /// Budgets are kept for sizes of real models, primes and vectors, without decomposing anything.
    func budgetsAreKept() throws {
        let shapes = [
            [5120, 25600], [151_936, 5120], [127, 131], [1, 4099], [4099, 1], [104_729, 64],
            [17_408, 5120], [1, 1],
        ]
        for shape in shapes + Samples.shapes {
            let (outputs, inputs) = (shape[0], shape[1])
            for budget in try budgets(outputs, inputs) {
                let spec = try Format.spec(fitting: budget, outputs: outputs, inputs: inputs)
                let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
                #expect(count <= budget, "\(spec)")
            }
        }
        var pool = HostileNumbers()
        for _ in 0..<4000 {
            let (budget, outputs, inputs) = (pool.size(), pool.size(), pool.size())
            do throws(FormatError) {
                let spec = try Format.spec(fitting: budget, outputs: outputs, inputs: inputs)
                let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
                #expect(count <= budget)
            } catch {
                #expect(!error.description.isEmpty)
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

    func everyShapeIsMultiplied() throws {
        for shape in Samples.shapes {
            let weight = try Samples.normal(shape, seed: 6)
            for budget in try budgets(shape[0], shape[1]) {
                let stored = try decomposed(weight, fitting: budget)
                try FormatChecker<Format>().forwardAgrees(stored)
            }
        }
    }

    func nothingOfAnyShapeStaysNothing() throws {
        for shape in [[8, 12], [12, 8], [1, 5]] {
            let zero = try Tensor.zeros(shape, dtype: .float64)
            for metric in [nil, try Samples.metric(shape[1], tokens: 3, seed: 26)] {
                #expect(try decomposed(zero, metric: metric).reconstruct().length() == 0)
            }
        }
    }
}
