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
        nll: Double, kl: Double, tokens: Int, scale: Double
    ) {
        var (nll, kl, tokens, scale) = (0.0, 0.0, 0, 0.0)
        for window in windows where window.count >= 2 {
            let ids = try Tensor(window.map(Int64.init), shape: [1, window.count])
            let log = try model.logits(model.run(ids)).to(dtype: .float64).logSoftmax()
            let q: [Double] = try log.values()
            let p: [Double] =
                try dense.map {
                    try $0.logits($0.run(ids)).to(dtype: .float64).logSoftmax().values()
                } ?? q
            scale = max(scale, (p + q).map(abs).max() ?? 0)
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
        return (nll, kl, tokens, scale)
    }

    private func exponential(_ x: Double) -> Double {
        (try? Tensor([x]).exp().item()) ?? .nan
    }

    /// Rounding of a sum of `tokens` float32 log-probabilities, in nats: each is made of `hidden`
    /// products for its logit and `vocabulary` exponentials for the norm, every term wrong by
    /// epsilon times `scale`, the largest log-probability met.
    private func tolerance(tokens: Int, scale: Double) -> Double {
        let terms = model.dimensions.hidden + vocabulary
        return Double(tokens * terms) * DType.float32.epsilon * scale
    }

    @Test func perplexityIsTheDefinition() throws {
        let text = someTokens(53, vocabulary: vocabulary)
        let windows = TokenWindows.split([text], context: 10, keepRest: true)
        #expect(windows.map(\.count) == [10, 10, 10, 10, 10, 3])
        let expected = try reference(windows)
        for perPass in [1, 20, 1000] {
            let found = try Evaluator(model, tokensPerPass: perPass).measure(windows)
            #expect(found.tokens == expected.tokens && found.tokens == 47)
            let difference = abs(found.negativeLogLikelihood - expected.nll)
            #expect(difference <= tolerance(tokens: 47, scale: expected.scale))
            #expect(found.kl == nil)
        }
    }

    @Test func divergenceIsTheDefinition() throws {
        let other = try goldenModel("qwen3-sharded-v5").loadModel()
        try #require(other.dimensions.vocabulary == vocabulary)
        let windows = TokenWindows.split(
            [someTokens(33, vocabulary: vocabulary)], context: 12, keepRest: true)
        let expected = try reference(windows, dense: other)
        let found = try Evaluator(model, against: other, tokensPerPass: 24).measure(windows)
        let kl = try #require(found.divergence)
        // Both models' rounding, weighted by probabilities that sum to one.
        let bound = 2 * tolerance(tokens: expected.tokens, scale: expected.scale)
        #expect(found.tokens == expected.tokens && found.tokens == 30)
        #expect(expected.kl > 10 * bound, "models too alike to tell a wrong sum")
        #expect(abs(kl - expected.kl) <= bound)
        #expect(abs(found.negativeLogLikelihood - expected.nll) <= bound)
        // The other way round is another number.
        let reversed = try Evaluator(other, against: model).measure(windows)
        #expect(abs(try #require(reversed.divergence) - kl) > bound)
        // One computation done twice: not a bit of difference.
        #expect(try Evaluator(model, against: model).measure(windows).kl == 0)
    }

    @Test func vocabulariesMustBeTheSame() throws {
        let other = try goldenModel("qwen3-mha-bias-v5").loadModel()
        do {
            _ = try Evaluator(model, against: other)
            Issue.record("models of two vocabularies were compared")
        } catch StageError.vocabulariesDiffer(let dense, let own) {
            #expect(dense == other.dimensions.vocabulary && own == vocabulary && dense != own)
        }
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
            } catch ModelError.tokenOutOfRange(let found, let size) {
                #expect(found == id && size == vocabulary)
            }
        }
    }

    @Test func windowsTooShortToPredictAreLeftOut() throws {
        let evaluator = try Evaluator(model, tokensPerPass: 4)
        let found = try evaluator.measure([[], [1, 2], [3], [], [4, 5, 6]])
        #expect(found == (try evaluator.measure([[1, 2], [4, 5, 6]])) && found.tokens == 3)
    }

    @Test func batchesKeepToTheirTokens() {
        func sizes(_ counts: [Int], _ tokens: Int) -> [[Int]] {
            TokenWindows.batches(counts.map { [Int32](repeating: 0, count: $0) }, tokens: tokens)
                .map { $0.map(\.count) }
        }
        #expect(sizes([1, 100, 100, 100], 200) == [[1], [100, 100], [100]])
        #expect(sizes([100, 1, 1, 1], 2) == [[100], [1, 1], [1]])
        #expect(sizes([0, 2, 0, 2], 4) == [[2, 2]])
        #expect(sizes([3, 3], 0) == [[3], [3]])
        #expect(sizes([], 8) == [])
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
