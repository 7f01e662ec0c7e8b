import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

@Suite("Generation")
struct GenerationTests {
    let model: any LanguageModel

    init() throws {
        let path = "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5"
        model = try Checkpoint(path: path).loadModel()
    }

    private func generate(
        _ prompt: [Int32], _ maxTokens: Int, stop: Set<Int32> = []
    ) throws -> TextGenerator.Outcome {
        try TextGenerator(model).generate(
            prompt, maxTokens: maxTokens, sampling: .init(), stop: stop)
    }

    @Test func endsAtTheLimitOrAnEndToken() throws {
        let free = try generate([1, 2, 3], 12)
        #expect(free.tokens.count == 12 && free.reason == .length)
        #expect(free.decodeSteps == 11)
        let end = free.tokens[5]
        let stopped = try generate([1, 2, 3], 12, stop: [end])
        let first = try #require(free.tokens.firstIndex(of: end))
        #expect(stopped.tokens == Array(free.tokens[..<first]))
        #expect(stopped.reason == .stop)
    }

    @Test func theContextIsALimit() throws {
        let context = model.dimensions.context
        let prompt = [Int32](repeating: 1, count: context - 2)
        let outcome = try generate(prompt, 100)
        #expect(outcome.tokens.count == 2 && outcome.reason == .length)
        #expect(throws: ModelError.self) { try generate(prompt + [1, 1], 1) }
        #expect(throws: ModelError.self) { try generate([], 1) }
        for id in [-1, Int32(model.dimensions.vocabulary), .max] {
            #expect(throws: ModelError.self) { try generate([0, id], 1) }
            #expect(throws: ModelError.self) {
                _ = try TextGenerator(model).sample(
                    count: 1, length: 2, start: id, sampling: .init())
            }
        }
    }

    @Test func tokensArriveOneByOneAndCancel() throws {
        struct Enough: Error {}
        var seen: [Int32] = []
        #expect(throws: Enough.self) {
            _ = try TextGenerator(model).generate(
                [1, 2, 3], maxTokens: 50, sampling: .init(), stop: []
            ) { id in
                seen.append(id)
                if seen.count == 4 { throw Enough() }
            }
        }
        #expect(seen == (try generate([1, 2, 3], 4)).tokens)
    }

    @Test func samplesHaveTheAskedShapeAndSeed() throws {
        func sample(_ seed: UInt64, batch: Int) throws -> [[Int32]] {
            try TextGenerator(model).sample(
                count: 5, length: 9, start: 2, sampling: .init(temperature: 1, seed: seed),
                batch: batch)
        }
        let samples = try sample(1, batch: 2)
        #expect(samples.count == 5)
        #expect(samples.allSatisfy { $0.count == 9 && $0[0] == 2 })
        #expect(try sample(1, batch: 2) == samples)
        #expect(try sample(2, batch: 2) != samples)
        #expect(Set(samples).count > 1)
        #expect(throws: ModelError.self) {
            _ = try TextGenerator(model).sample(
                count: 1, length: model.dimensions.context + 1, start: 0, sampling: .init())
        }
    }
}
