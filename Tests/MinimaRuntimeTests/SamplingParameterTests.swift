import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Parameters of sampling")
struct SamplingParameterTests {
    @Test func valuesOutsideTheirRangesAreRefused() {
        func refused(_ error: SamplingError, _ make: () throws -> SamplingParameters) {
            #expect(throws: error) { _ = try make() }
        }
        refused(.badMinP(1.5)) { try .init(minP: 1.5) }
        refused(.badMinP(-0.1)) { try .init(minP: -0.1) }
        refused(.badRepetitionPenalty(0)) { try .init(repetitionPenalty: 0) }
        refused(.badRepetitionPenalty(101)) { try .init(repetitionPenalty: 101) }
        refused(.badPenalty(name: "presence", 2.1)) { try .init(presencePenalty: 2.1) }
        refused(.badPenalty(name: "frequency", -3)) { try .init(frequencyPenalty: -3) }
        refused(.badBias(token: 4, 101)) { try .init(logitBias: [4: 101]) }
        refused(.badBiasToken(-1, vocabulary: nil)) { try .init(logitBias: [-1: 1]) }
        refused(.badLogprobs(21)) { try .init(logprobs: 21) }
        refused(.badLogprobs(-1)) { try .init(logprobs: -1) }
        let many = Dictionary(uniqueKeysWithValues: (0..<513 as Range<Int32>).map { ($0, 1.0) })
        refused(.tooManyBiases(513)) { try .init(logitBias: many) }
        for bad in [Double.nan, .infinity, -.infinity] {
            #expect(throws: SamplingError.self) { try SamplingParameters(minP: bad) }
            #expect(throws: SamplingError.self) { try SamplingParameters(repetitionPenalty: bad) }
            #expect(throws: SamplingError.self) { try SamplingParameters(presencePenalty: bad) }
            #expect(throws: SamplingError.self) { try SamplingParameters(frequencyPenalty: bad) }
            #expect(throws: SamplingError.self) { try SamplingParameters(logitBias: [1: bad]) }
        }
    }

    @Test func aVocabularyLimitsBiases() throws {
        let parameters = try SamplingParameters(logitBias: [9: 1])
        try parameters.check(vocabulary: 10)
        #expect(throws: SamplingError.badBiasToken(9, vocabulary: 9)) {
            try parameters.check(vocabulary: 9)
        }
        // Where nobody checked, the token is none of the model's.
        let row = try Tensor([1, 2, 3] as [Float], shape: [1, 3])
        #expect(try Sampler.sample(row, [SamplingSequence(parameters)]).map(\.id) == [2])
    }

    @Test func errorsNameTheValueAndTheRange() {
        let errors: [(SamplingError, [String])] = [
            (.badMinP(2), ["2.0", "0...1"]), (.badRepetitionPenalty(0), ["0.0", "0.01...100"]),
            (.badPenalty(name: "presence", 3), ["presence", "3.0", "-2...2"]),
            (.tooManyBiases(600), ["600", "512"]), (.badBias(token: 7, 200), ["7", "200.0"]),
            (.badBiasToken(9, vocabulary: 5), ["9", "0..<5"]),
            (.badLogprobs(30), ["30", "0...20"]),
            (.wrongRows(logits: [2, 5], sequences: 3), ["[2, 5]", "3"]),
        ]
        for (error, words) in errors {
            for word in words { #expect(error.description.contains(word), "\(error)") }
        }
    }

    @Test func sequencesOfOnePromptHaveTheirOwnSeeds() throws {
        let parameters = try SamplingParameters(seed: 5)
        #expect(parameters.forSequence(0) == parameters)
        let seeds = (0..<1000).map { parameters.forSequence($0).seed }
        #expect(Set(seeds).count == 1000)
    }

    /// Any parameters that pass the checks give a token of the vocabulary from any finite logits.
    @Test(arguments: 0..<60 as Range<UInt64>)
    func everyValidRequestGetsAToken(_ seed: UInt64) throws {
        var generator = SamplingGenerator(state: 1000 + seed)
        func value(_ range: ClosedRange<Double>) -> Double {
            let edge = Int.random(in: 0..<4, using: &generator)
            if edge == 0 { return range.lowerBound }
            if edge == 1 { return range.upperBound }
            return .random(in: range, using: &generator)
        }
        let vocabulary = Int.random(in: 1...20, using: &generator)
        let parameters = try SamplingParameters(
            temperature: value(0...1) * value(0...1e300), topP: value(1e-300...1),
            topK: Int(value(0...100)), minP: value(0...1), repetitionPenalty: value(0.01...100),
            presencePenalty: value(-2...2), frequencyPenalty: value(-2...2),
            logitBias: [Int32(vocabulary - 1): value(-100...100)], logprobs: Int(value(0...20)),
            seed: generator.next())
        let scale = Float(value(0...1e30))
        let logits = generator.logits(vocabulary).map { $0 * scale }
        let sequence = SamplingSequence(
            parameters, tokens: generator.tokens(30, vocabulary: vocabulary), promptCount: 10)
        let found = try Sampler.sample(Tensor(logits, shape: [1, vocabulary]), [sequence])
        #expect((0..<Int32(vocabulary)).contains(found[0].id))
    }
}
