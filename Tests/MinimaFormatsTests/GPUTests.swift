import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

private let hasCUDA = ((try? Device.cudaCount()) ?? 0) > 0

/// Every format on a GPU against itself on the CPU.
@Suite("GPU formats", .enabled(if: hasCUDA, "no CUDA device")) struct GPUFormatTests {
    @Test(arguments: FormatRegistry.all.map { $0.name }) func agreesWithTheCPU(name: String) throws
    {
        let format = try FormatRegistry.format(name)
        let (outputs, inputs) = (96, 160)
        let weight = try Samples.normal([outputs, inputs], seed: 100)
        let metric = try Samples.metric(inputs, tokens: 400, seed: 101)
        let x = try Samples.normal([2, 7, inputs], seed: 102)
        let spec = try format.spec(fitting: outputs * inputs, outputs: outputs, inputs: inputs)
        for dtype in [DType.float64, .float32, .bfloat16] {
            let here = try format.decompose(weight.to(dtype: dtype), spec: spec, metric: metric)
            let there = try format.decompose(
                weight.to(.cuda(0), dtype: dtype), spec: spec, metric: metric)
            let steps = here.tensors.count
            #expect(there.tensors.allSatisfy { $0.tensor.device == .cuda(0) })
            // Decomposed in float64 on both sides, then each tensor rounded once to `dtype`.
            let bound =
                roundingBound(size: outputs + inputs, steps: steps) + 2 * Double(steps)
                * dtype.epsilon
            let distance = try here.reconstruct().distance(to: there.reconstruct().to(.cpu))
            #expect(try distance <= bound * weight.length(), "\(dtype)")
            let result = try there.forward(x.to(.cuda(0), dtype: dtype))
            #expect(result.device == .cuda(0))
            #expect(result.dtype == dtype)
            let error = try here.forward(x.to(dtype: dtype)).distance(to: result.to(.cpu))
            var norms = try x.length()
            for (_, tensor) in here.tensors { norms *= try tensor.length() }
            #expect(error <= bound * norms, "\(dtype)")
        }
    }
}
