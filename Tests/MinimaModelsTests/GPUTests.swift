import MinimaCheckpoint
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaModels

/// Skipped where there is no GPU.
@Suite("GPU families against transformers", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0))
struct GPUModelTests {
    @Test("float32 logits and cached passes", arguments: GoldenModel.all)
    func logits(golden: GoldenModel) throws {
        let model = try Checkpoint(path: golden.directory).loadModel(
            device: .cuda(0), dtype: .float32)
        for (index, row) in golden.rows.enumerated() {
            let expected = try golden.logits(index)
            let whole: [Float] = try model.logits(model.run(tokens([row]))).values()
            #expect(largestDifference(whole, expected) <= golden.tolerance, "row \(index)")
            guard golden.golden["greedy_cached_only"]?.bool == false else { continue }
            let cache = KVCache(layers: model.dimensions.layers, capacity: 2)
            var parts: [Float] = []
            for piece in [row[..<1], row[1...]] where !piece.isEmpty {
                let hidden = try model.run(tokens([Array(piece)]), cache: cache)
                parts += try model.logits(hidden).values(as: Float.self)
            }
            #expect(largestDifference(parts, expected) <= golden.tolerance, "row \(index), cached")
        }
    }

    /// Weights in blocks are multiplied out on the device: as on the CPU, bit for bit.
    @Test func blocksOfFloat8() throws {
        let checkpoint = try Checkpoint(path: goldensFolder() + "/float8")
        for name in ["uneven", "whole", "small"] {
            let info = try #require(checkpoint.info(name))
            let found = try checkpoint.tensor(name, shape: info.shape, on: .cuda(0))
            #expect(found.device == .cuda(0))
            let expected = try checkpoint.tensor("\(name).expected")
            #expect(try found.to(.cpu).isIdentical(to: expected), "\(name)")
        }
    }
}
