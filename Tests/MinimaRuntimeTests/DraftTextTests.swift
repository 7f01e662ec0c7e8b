import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// Texts that a model continues, as drafts are trained on.
@Suite("Continued texts")
struct DraftTextTests {
    private let model: any LanguageModel

    init() throws {
        let path = "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5"
        model = try Checkpoint(path: path).loadModel()
    }

    private let prompts: [[Int32]] = [[1, 2, 3], [9, 8, 7], [4, 4, 60], [5, 6, 7], [0, 63, 1]]

    @Test("each as if it were alone", arguments: [1, 2, 5])
    func greedy(batch: Int) throws {
        let writer = TextGenerator(model)
        var reports: [Int] = []
        let texts = try writer.sample(
            continuing: prompts, length: 11, sampling: .init(), batch: batch
        ) { reports.append($0.done) }
        for (prompt, text) in zip(prompts, texts) {
            let alone = try writer.generate(prompt, maxTokens: 8, sampling: .init(), stop: [])
            #expect(text == prompt + alone.tokens)
        }
        #expect(texts.count == 5 && reports == reports.sorted() && reports.last == 55)
    }

    @Test("penalties go by each one's own history") func penalties() throws {
        var sampling = try SamplingParameters()
        sampling.repetitionPenalty = 1.5
        let writer = TextGenerator(model)
        let texts = try writer.sample(continuing: prompts, length: 11, sampling: sampling)
        for (prompt, text) in zip(prompts, texts) {
            let alone = try writer.generate(prompt, maxTokens: 8, sampling: sampling, stop: [])
            #expect(text == prompt + alone.tokens)
        }
    }

    @Test("one prompt many times gives what its samples give") func samples() throws {
        let sampling = try SamplingParameters(temperature: 1, seed: 3)
        let writer = TextGenerator(model)
        let expected = try writer.sample(count: 4, length: 9, start: 2, sampling: sampling)
        let found = try writer.sample(
            continuing: Array(repeating: [2], count: 4), length: 9, sampling: sampling)
        #expect(found == expected && Set(found).count > 1)
    }

    @Test func promptsThatCannotBe() throws {
        let writer = TextGenerator(model)
        func sample(_ prompts: [[Int32]], _ length: Int) throws -> [[Int32]] {
            try writer.sample(continuing: prompts, length: length, sampling: .init())
        }
        #expect(try sample([], 5).isEmpty)
        #expect(try sample([[1, 2, 3]], 2) == [[1, 2, 3]])
        for prompts in [[[1], [1, 2]], [[]], [[64]], [[-1]]] as [[[Int32]]] {
            #expect(throws: ModelError.self) { try sample(prompts, 5) }
        }
        #expect(throws: ModelError.self) { try sample([[1]], model.dimensions.context + 1) }
    }
}
