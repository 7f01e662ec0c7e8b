import MinimaCore
import Glibc
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Speculation: trees")
struct DraftTreeTests {
    @Test func pathsFollowChildren() {
        var tree = DraftTree(chain: [4, 5])
        tree.append(7, after: -1)
        tree.append(5, after: 2)
        tree.append(9, after: 3)
        #expect(tree.path(of: [7, 5, 9, 1]) == [2, 3, 4])
        #expect(tree.path(of: [4, 5, 9]) == [0, 1])
        #expect(tree.path(of: [5]) == [] && tree.path(of: [Int32]()) == [])
        #expect(!tree.isChain && DraftTree(chain: [4, 5]).isChain && DraftTree().isChain)
    }

    @Test func whatIsNoTokenGoesWithItsChildren() {
        var tree = DraftTree(chain: [3, 64, 5])
        tree.append(6, after: 0)
        tree.append(-1, after: -1)
        tree.append(7, after: 4)
        tree.append(8, after: 3)
        let valid = tree.valid(count: 10, vocabulary: 64)
        #expect(valid.tokens == [3, 6, 8] && valid.parents == [-1, 0, 1])
        let short = tree.valid(count: 4, vocabulary: 64)
        #expect(short.tokens == [3, 6] && short.parents == [-1, 0])
        // A parent that does not come first is none.
        var wrong = DraftTree()
        wrong.append(1, after: 0)
        wrong.append(1, after: 5)
        #expect(wrong.valid(count: 5, vocabulary: 64).count == 0)
    }

    /// A draft that says after each text how likely each of a few tokens is.
    private struct Language {
        let vocabulary: Int
        let seed: UInt64

        func scores(_ text: [Int32]) -> [Float] {
            var random = SplitMix(text.reduce(seed) { $0 &* 31 &+ UInt64($1 + 1) })
            return (0..<vocabulary).map { _ in
                Int.random(in: 0..<5, using: &random) == 0
                    ? -.infinity : .random(in: -4...4, using: &random)
            }
        }

        /// Logarithms of probabilities.
        func likelihoods(_ text: [Int32]) -> [Float] {
            let scores = scores(text)
            let sum = scores.reduce(0.0) { $0 + Double($1).exponential }
            return scores.map { $0 - Float(sum.logarithm) }
        }
    }

    /// With as many branches as nodes a tree holds the likeliest texts of all.
    @Test(arguments: 1...12) func treesHoldTheLikeliestTexts(seed: UInt64) throws {
        var random = SplitMix(seed)
        let count = Int.random(in: 1...6, using: &random)
        let languages = (0..<UInt64(3)).map { Language(vocabulary: 5, seed: seed * 7 + $0) }
        let sequence = SamplingSequence(try SamplingParameters())
        var growing = DraftBranches(
            languages.map { _ in sequence }, count: count, width: count)
        var texts: [[[Int32]]] = languages.map { _ in [[]] }
        func add() throws {
            let all = zip(languages, texts).flatMap { language, texts in
                texts.map(language.scores)
            }
            try growing.add(Tensor(all.flatMap(\.self), shape: [all.count, 5]))
        }
        try add()
        var levels = 0
        while let level = growing.next() {
            #expect(level.depth == levels)
            levels += 1
            let flat = texts.flatMap(\.self)
            let nodes = level.tokens[0].count
            texts = level.tokens.enumerated().map { row, tokens in
                tokens.enumerated().map { node, token in
                    #expect(level.branches[row][node].count <= levels)
                    return flat[Int(level.parents[row * nodes + node])] + [token]
                }
            }
            try add()
        }
        #expect(levels < max(count, 2))
        for (language, tree) in zip(languages, growing.trees) {
            var all: [(text: [Int32], score: Float)] = [([], 0)]
            var next = 0
            while next < all.count {
                let (text, score) = all[next]
                next += 1
                guard text.count < count else { continue }
                for (token, value) in language.likelihoods(text).enumerated() where value.isFinite {
                    all.append((text + [Int32(token)], score + value))
                }
            }
            let best = all.dropFirst().sorted { $0.score > $1.score }.prefix(count)
            var found: [[Int32]] = []
            for (token, parent) in zip(tree.tokens, tree.parents) {
                #expect(parent < found.count)
                found.append((parent < 0 ? [] : found[parent]) + [token])
            }
            #expect(Set(found) == Set(best.map(\.text)))
        }
    }
}

extension Double {
    fileprivate var exponential: Double { isFinite ? exp(self) : 0 }
    fileprivate var logarithm: Double { log(self) }
}
