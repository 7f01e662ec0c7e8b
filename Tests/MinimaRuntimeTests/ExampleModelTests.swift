import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// The trained example model against transformers; see `Tests/Goldens/models/make_tiny.py`.
@Suite("Example model against transformers")
struct ExampleModelTests {
    let golden: JSON
    let model: any LanguageModel
    let prompt: [Int32]

    init() throws {
        let file = URL(filePath: "\(packageFolder())/Tests/Goldens/models/tiny.json")
        golden = try JSON(parsing: Array(try Data(contentsOf: file)))
        model = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m").loadModel()
        prompt = (golden["ids"]?.array ?? []).compactMap { $0.int.map { Int32($0) } }
    }

    @Test func lastLogits() throws {
        let ids = try Tensor(prompt.map { Int64($0) }, shape: [1, prompt.count])
        let hidden = try model.run(ids).narrow(1, prompt.count - 1..<prompt.count)
        let logits = try model.logits(hidden)
        let values: [Float] = try logits.values()
        let top = golden["logits"]?["top"]?.array ?? []
        #expect(top.count == 20)
        // float32 sums of 192 products through 6 layers, relative to logits of about 10.
        let tolerance = 192 * DType.float32.epsilon * 10
        for entry in top {
            let index = try #require(entry.array?[0].int)
            let value = try #require(entry.array?[1].double)
            #expect(abs(Double(values[index]) - value) <= tolerance)
        }
        let sum = try #require(golden["logits"]?["logsumexp"]?.double)
        #expect(abs(try logits.logSumExp().item() - sum) <= tolerance)
    }

    @Test("200 greedy tokens") func greedy() throws {
        let expected = (golden["greedy"]?.array ?? []).compactMap { $0.int.map { Int32($0) } }
        #expect(expected.count == 200)
        let outcome = try TextGenerator(model).generate(
            prompt, maxTokens: 200, sampling: .init(), stop: [])
        #expect(outcome.tokens == expected)
    }
}
