import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

private let hasCUDA = ((try? Device.cudaCount()) ?? 0) > 0

/// Every format on a GPU against itself on the CPU.
@Suite("GPU formats", .enabled(if: hasCUDA, "no CUDA device")) struct GPUFormatTests {
    @Test(arguments: FormatRegistry.all.map { $0.name }) func agreesWithTheCPU(name: String) throws
    {
        func check<Format: LinearWeight>(_ format: Format.Type) throws {
            let checker = FormatChecker<Format>()
            try checker.forEachSpec { spec in
                for dtype in [DType.float64, .float32, .bfloat16] {
                    try agrees(checker, spec, dtype)
                }
            }
        }
        try check(FormatRegistry.format(name))
    }

    private func agrees<Format: LinearWeight>(
        _ checker: FormatChecker<Format>, _ spec: FormatSpec, _ dtype: DType
    ) throws {
        let weight = try checker.weight(100, dtype)
        let metric = try Samples.metric(
            checker.inputs, tokens: 400, seed: 101, outputs: checker.outputs)
        let here = try Format.decompose(weight, spec: spec, metric: metric)
        let there = try Format.decompose(weight.to(.cuda(0)), spec: spec, metric: metric)
        #expect(there.tensors.allSatisfy { $0.tensor.device == .cuda(0) })
        let moved = try Format(
            spec: spec, outputs: checker.outputs, inputs: checker.inputs,
            tensors: there.tensors.map { try $0.tensor.to(.cpu) })
        // Searches may take another of two ways that are equally good but for rounding.
        let errors = try [here, moved].map {
            try metric.norm($0.reconstruct().to(dtype: .float64) - weight.to(dtype: .float64))
        }
        let slack = try 1e-3 * errors[0] + dtype.epsilon * metric.norm(weight)
        #expect(abs(errors[0] - errors[1]) <= slack, "\(spec) in \(dtype)")
        // The same numbers multiplied on both sides: two roundings per contraction on each.
        let x = try Samples.normal([2, 7, checker.inputs], seed: 102).to(dtype: dtype)
        let result = try there.forward(x.to(.cuda(0)))
        #expect(result.device == .cuda(0))
        #expect(result.dtype == dtype)
        let steps = moved.tensors.count
        let bound =
            roundingBound(size: checker.outputs + checker.inputs, steps: steps)
            + 4 * Double(steps) * dtype.epsilon
        let error = try moved.forward(x).distance(to: result.to(.cpu))
        #expect(try error <= bound * moved.gain() * x.length(), "\(spec) in \(dtype)")
    }
}
