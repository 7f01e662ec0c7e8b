import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

/// Skipped where there is no GPU.
@Suite("GPU training of drafts", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0))
struct DraftTrainingGPUTests {
    @Test("the loss, its gradient and acceptance are those of the CPU") func agrees() throws {
        let model = try DraftCase.shared.get()
        let (here, _) = try model.objective()
        let (there, _) = try model.objective(on: .cuda(0))
        // Sums in other orders through seven layers of ten operators each.
        let rounding = DType.float32.epsilon * 70 * 8
        var gradients: [[Tensor]] = []
        var losses: [Double] = []
        for objective in [here, there] {
            let sums = try objective.parameters.map { try Tensor.zeros($0.tensor.shape) }
            let loss = try objective.gradients(step: 0) { found in
                for (sum, gradient) in zip(sums, found) {
                    if let gradient { try sum.addInPlace(gradient.to(.cpu, dtype: .float32)) }
                }
            }
            losses.append(try loss.item())
            gradients.append(sums)
        }
        #expect(abs(losses[1] - losses[0]) <= rounding * losses[0])
        var (square, norm) = (0.0, 0.0)
        for (left, right) in zip(gradients[1], gradients[0]) {
            square += try (left - right).square().sum(dtype: .float64).item()
            norm += try right.square().sum(dtype: .float64).item()
        }
        #expect(square.squareRoot() <= rounding * norm.squareRoot())
        let (own, other) = (try here.measure(), try there.measure())
        #expect(abs(own.loss - other.loss) <= rounding * own.loss)
        // A guess or two may be as likely as another.
        #expect(abs(own.acceptance[0] - other.acceptance[0]) <= 0.01)
    }

    @Test("bfloat16 trains") func trains() throws {
        let model = try DraftCase.shared.get()
        let scratch = try Scratch()
        var request = model.request { $0.tokens = 24 * 8 * 40 }
        request.device = .cuda(0)
        request.dtype = .bfloat16
        let result = try DraftTraining(model.source, request).run(output: "\(scratch.path)/draft")
        #expect(result.after.loss < 0.9 * result.before.loss)
        #expect(result.after.acceptance[0] > result.before.acceptance[0])
        #expect(result.phase.peakDeviceBytes ?? 0 > 0)
    }
}
