import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Evaluation")
struct EvaluatorTests {
    let model: any LanguageModel
    let vocabulary: Int

    init() throws {
        model = try goldenModel("qwen3-gqa4-tied-v5").loadModel()
        vocabulary = model.dimensions.vocabulary
    }

    /// The definition, one window and one token at a time, in float64.
    private func reference(_ windows: [[Int32]], dense: (any LanguageModel)? = nil) throws -> (
        nll: Double, kl: Double, tokens: Int
    ) {
        var (nll, kl, tokens) = (0.0, 0.0, 0)
        for window in windows where window.count >= 2 {
            let ids = try Tensor(window.map(Int64.init), shape: [1, window.count])
            let log = try model.logits(model.run(ids)).to(dtype: .float64).logSoftmax()
            let q: [Double] = try log.values()
            let p: [Double] =
                try dense.map {
                    try $0.logits($0.run(ids)).to(dtype: .float64).logSoftmax().values()
                } ?? q
            for position in 0..<window.count - 1 {
                let row = position * vocabulary
                nll -= q[row + Int(window[position + 1])]
                for token in 0..<vocabulary {
                    let (a, b) = (p[row + token], q[row + token])
                    kl += exponential(a) * (a - b)
                }
                tokens += 1
            }
        }
        return (nll, kl, tokens)
    }

    private func exponential(_ x: Double) -> Double {
        (try? Tensor([x]).exp().item()) ?? .nan
    }

    @Test func perplexityIsTheDefinition() throws {
        let text = someTokens(53, vocabulary: vocabulary)
        let windows = TokenWindows.split([text], context: 10, keepRest: true)
        #expect(windows.map(\.count) == [10, 10, 10, 10, 10, 3])
        let expected = try reference(windows)
        for perPass in [1, 20, 1000] {
            let found = try Evaluator(model, tokensPerPass: perPass).measure(windows)
            #expect(found.tokens == expected.tokens && found.tokens == 47)
            #expect(abs(found.negativeLogLikelihood - expected.nll) <= 1e-4 * expected.nll)
            #expect(found.kl == nil)
        }
    }

    @Test func divergence() throws {
        let other = try goldenModel("qwen3-mha-bias-v5").loadModel()
        guard other.dimensions.vocabulary == vocabulary else {
            // Another vocabulary is an error, which is worth as much.
            #expect(throws: StageError.self) { try Evaluator(model, against: other) }
            return
        }
        let windows = [someTokens(12, vocabulary: vocabulary)]
        let expected = try reference(windows, dense: other)
        let found = try Evaluator(model, against: other).measure(windows)
        let kl = try #require(found.divergence)
        #expect(abs(kl - expected.kl) <= 1e-4 * expected.kl)
        let itself = try Evaluator(model, against: model).measure(windows)
        #expect(abs(try #require(itself.kl)) <= 1e-6)
        #expect(
            itself.perplexity == (try Evaluator(model, against: model).measure(windows)).perplexity)
    }

    @Test func badTextIsRefused() throws {
        let evaluator = try Evaluator(model)
        for windows in [[], [[]], [[1]]] as [[[Int32]]] {
            #expect(throws: StageError.self) { try evaluator.measure(windows) }
        }
        for id in [-1, Int32(vocabulary), .max] {
            do {
                _ = try evaluator.measure([[0, id]])
                Issue.record("token \(id) was accepted")
            } catch {
                #expect("\(error)".contains("\(id)"))
            }
        }
    }

    @Test func progressCanCancel() throws {
        struct Stop: Error {}
        let windows = [[Int32]](repeating: [1, 2, 3], count: 10)
        var calls = 0
        #expect(throws: Stop.self) {
            _ = try Evaluator(model, tokensPerPass: 3).measure(windows) { progress in
                calls += 1
                #expect(progress.total == 20 && progress.done == 2 * calls)
                if calls == 3 { throw Stop() }
            }
        }
        #expect(calls == 3)
    }

    @Test func windows() {
        #expect(
            TokenWindows.split([[1, 2, 3, 4, 5]], context: 2, keepRest: true) == [[1, 2], [3, 4]])
        #expect(
            TokenWindows.split([[1, 2, 3], [4, 5, 6]], context: 2, keepRest: false)
                == [[1, 2], [4, 5]])
        let many = (0..<10).map { [Int32($0)] }
        #expect(TokenWindows.spread(many, count: 4) == [[0], [2], [5], [7]])
        #expect(TokenWindows.spread(many, count: 20) == many)
    }
}
