import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Distribution of sampling")
struct SamplingDistributionTests {
    static let logits: [Float] = [2, 1, 0.5, 0.25, 0, -0.5, -1, -3, 1.5, 1.25]

    static let filters: [SamplingParameters] = {
        let all: [() throws -> SamplingParameters] = [
            { try .init(temperature: 1, seed: 11) },
            { try .init(temperature: 0.5, seed: 12) },
            { try .init(temperature: 2.5, seed: 13) },
            { try .init(temperature: 1, topK: 4, seed: 14) },
            { try .init(temperature: 1, topP: 0.7, seed: 15) },
            { try .init(temperature: 1, minP: 0.2, seed: 16) },
            { try .init(temperature: 1.5, topP: 0.8, topK: 6, minP: 0.05, seed: 17) },
            { try .init(temperature: 1, logitBias: [0: -2, 7: 4], seed: 18) },
        ]
        return all.compactMap { try? $0() }
    }()

    /// Pearson's chi-square of draws at successive positions. A right sampler exceeds the limit, the
    /// 99.9th percentile by Wilson and Hilferty's approximation, once in a thousand cases; the seeds
    /// are fixed, so a case either always passes or never does.
    @Test(arguments: filters)
    func drawsFollowTheProbabilities(_ parameters: SamplingParameters) throws {
        let draws = 8000
        let expected = PlainSampling.probabilities(
            PlainSampling.adjusted(Self.logits.map(Double.init), parameters), parameters)
        let sequences = (0..<draws).map { position in
            var sequence = SamplingSequence(parameters)
            sequence.skip(position)
            return sequence
        }
        let rows = try Tensor(Self.logits, shape: [1, Self.logits.count])
            .expand([draws, Self.logits.count])
        let ids: [Int64] = try Sampler.tokens(rows, sequences).values()
        var counts = [Double](repeating: 0, count: expected.count)
        for id in ids { counts[Int(id)] += 1 }
        var (chi, degrees, pooled) = (0.0, -1.0, (count: 0.0, mean: 0.0))
        for (count, probability) in zip(counts, expected).sorted(by: { $0.1 < $1.1 }) {
            if probability == 0 { #expect(count == 0, "a dropped token was drawn") }
            // Rare tokens together, as the approximation needs means above 5.
            pooled.count += count
            pooled.mean += probability * Double(draws)
            guard pooled.mean > 5 else { continue }
            chi += (pooled.count - pooled.mean) * (pooled.count - pooled.mean) / pooled.mean
            degrees += 1
            pooled = (0, 0)
        }
        let spread = 2 / (9 * degrees)
        let root = 1 - spread + 3.09 * spread.squareRoot()
        #expect(chi < degrees * root * root * root)
    }

    /// Weights have relative errors of 2⁻²² or so; only a token on a filter's very edge could differ,
    /// and the seeds are such that none is.
    @Test(arguments: 0..<40 as Range<UInt64>)
    func probabilitiesAreTheDefinitions(_ seed: UInt64) throws {
        var generator = SamplingGenerator(state: seed)
        let vocabulary = Int.random(in: 1...70, using: &generator)
        let logits = generator.logits(vocabulary)
        var parameters = try generator.parameters(vocabulary: vocabulary)
        if parameters.temperature == 0 { parameters.temperature = 0.7 }
        let prompt = generator.tokens(5, vocabulary: vocabulary)
        let answer = generator.tokens(9, vocabulary: vocabulary)
        let sequence = SamplingSequence(
            parameters, tokens: prompt + answer, promptCount: prompt.count)
        let found: [Float] = try Sampler.probabilities(
            Tensor(logits, shape: [1, vocabulary]), [sequence]
        ).values()
        let adjusted = PlainSampling.adjusted(
            logits.map(Double.init), parameters, prompt: prompt, answer: answer)
        let expected = PlainSampling.probabilities(adjusted, parameters)
        for (found, expected) in zip(found, expected) {
            #expect(abs(Double(found) - expected) < 1e-5, "\(parameters)")
        }
    }

    @Test(arguments: 0..<12 as Range<UInt64>)
    func rowsDoNotSeeOneAnother(_ seed: UInt64) throws {
        var generator = SamplingGenerator(state: 100 + seed)
        let vocabulary = 37
        let rows = 9
        var sequences: [SamplingSequence] = []
        var logits: [[Float]] = []
        for _ in 0..<rows {
            sequences.append(
                SamplingSequence(
                    try generator.parameters(vocabulary: vocabulary),
                    tokens: generator.tokens(6, vocabulary: vocabulary), promptCount: 2))
            logits.append(generator.logits(vocabulary))
        }
        func tokens(_ order: [Int]) throws -> [SampledToken] {
            try Sampler.sample(
                Tensor(order.flatMap { logits[$0] }, shape: [order.count, vocabulary]),
                order.map { sequences[$0] })
        }
        let together = try tokens(Array(0..<rows))
        let order = (0..<rows).shuffled(using: &generator)
        #expect(try tokens(order) == order.map { together[$0] })
        for row in 0..<rows { #expect(try tokens([row]) == [together[row]]) }
    }

    @Test func samplersCountPositionsAndTokens() throws {
        var generator = SamplingGenerator(state: 7)
        let parameters = try SamplingParameters(
            temperature: 1, repetitionPenalty: 1.2, presencePenalty: 0.5, frequencyPenalty: 0.3,
            seed: 3)
        let prompt: [Int32] = [4, 5, 6]
        let sampler = try Sampler(parameters, prompt: prompt, device: .cpu)
        var sequences = (0..<3).map {
            SamplingSequence(parameters.forSequence($0), tokens: prompt)
        }
        for _ in 0..<6 {
            let logits = try Tensor(generator.logits(3 * 12, spread: 1), shape: [3, 12])
            let expected = try Sampler.sample(logits, sequences).map(\.id)
            for row in 0..<3 { sequences[row].append(expected[row]) }
            #expect(try sampler.next(logits).values(as: Int64.self).map(Int32.init) == expected)
        }
        #expect(sequences[0].position == 9)
        #expect(throws: SamplingError.self) {
            try sampler.next(Tensor.zeros([2, 12]))
        }
    }

    /// A sequence computed again after it was preempted goes on as before.
    @Test func theSameTokensGiveTheSameState() throws {
        let parameters = try SamplingParameters(temperature: 1, presencePenalty: 1, seed: 9)
        var sequence = SamplingSequence(parameters, tokens: [1, 2])
        for token: Int32 in [3, 3, 1] { sequence.append(token) }
        let again = SamplingSequence(parameters, tokens: [1, 2, 3, 3, 1], promptCount: 2)
        #expect(sequence.position == again.position)
        #expect(sequence.prompt == again.prompt && sequence.counts == again.counts)
    }

    @Test func likelyTokensAreReported() throws {
        var generator = SamplingGenerator(state: 21)
        let logits = generator.logits(2 * 15)
        let asking = try SamplingParameters(
            temperature: 3, topK: 4, logitBias: [2: 50], logprobs: 3, seed: 2)
        let silent = try SamplingParameters(temperature: 1)
        let found = try Sampler.sample(
            Tensor(logits, shape: [2, 15]), [asking, silent].map { SamplingSequence($0) })
        // The model's own distribution: neither bias nor temperature nor top-k.
        let plain = PlainSampling.probabilities(
            logits.prefix(15).map(Double.init), try SamplingParameters(temperature: 1))
        #expect(found[0].id == 2)
        let logprob = try #require(found[0].logprob)
        #expect(abs(PlainSampling.exponential(Double(logprob)) - plain[2]) < 1e-5)
        #expect(found[0].alternatives.count == 3)
        let likeliest = plain.sorted(by: >).prefix(3)
        for (alternative, probability) in zip(found[0].alternatives, likeliest) {
            #expect(plain[Int(alternative.id)] == probability)
            #expect(
                abs(PlainSampling.exponential(Double(alternative.logprob)) - probability) < 1e-5)
        }
        #expect(found[1].logprob == nil && found[1].alternatives.isEmpty)
    }

    @Test func logitsThatAreNotFiniteAreReported() throws {
        for bad in [Float.nan, .infinity, -.infinity] {
            let rows: [Float] = [1, 2, 3, 1, bad, 3]
            for temperature in [0, 1.0] {
                let parameters = try SamplingParameters(temperature: temperature, logprobs: 1)
                let found = try Sampler.sample(
                    Tensor(rows, shape: [2, 3]),
                    [SamplingSequence(parameters), SamplingSequence(parameters)])
                #expect(found[1] == SampledToken(id: SampledToken.notFinite))
                #expect((0..<3).contains(found[0].id) && found[0].logprob != nil)
            }
        }
        #expect(throws: SamplingError.self) {
            try Sampler.sample(
                Tensor.zeros([2, 3]), [SamplingSequence(SamplingParameters())])
        }
    }
}
