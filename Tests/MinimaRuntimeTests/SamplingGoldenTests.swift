import Foundation
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaRuntime

/// Distributions of transformers' logits processors; `Tests/Goldens/sampling` has the script.
@Suite("Sampling as transformers does")
struct SamplingGoldenTests {
    @Test func distributionsAgree() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Goldens/sampling/sampling.json")
        let golden = try JSON(parsing: Array(Data(contentsOf: file)))
        let cases = try #require(golden["cases"]?.array)
        #expect(cases.count == 150)
        var (sequences, logits): ([SamplingSequence], [Float]) = ([], [])
        var expected: [Double] = []
        for entry in cases {
            let parameters = try parameters(try #require(entry["parameters"]))
            let prompt = try tokens(entry["prompt"])
            let answer = try tokens(entry["answer"])
            sequences.append(
                SamplingSequence(
                    parameters, tokens: prompt + answer, promptCount: prompt.count))
            logits += try #require(entry["logits"]?.array).compactMap(\.double).map { Float($0) }
            expected += try #require(entry["probabilities"]?.array).compactMap(\.double)
        }
        // One batch of all cases: each row follows its own parameters.
        let vocabulary = logits.count / cases.count
        let found: [Float] = try Sampler.probabilities(
            Tensor(logits, shape: [cases.count, vocabulary]), sequences
        ).values()
        #expect(found.count == expected.count)
        for (index, (found, expected)) in zip(found, expected).enumerated() {
            // Logits up to 16 carry float32 errors of 2⁻²⁰ through e^x, at temperature 0.6.
            #expect(
                abs(Double(found) - expected) <= 4e-6 * expected + 1e-9,
                "case \(index / vocabulary), token \(index % vocabulary)")
        }
    }

    private func tokens(_ value: JSON?) throws -> [Int32] {
        try #require(value?.array).compactMap(\.int).map { Int32($0) }
    }

    private func parameters(_ value: JSON) throws -> SamplingParameters {
        func number(_ name: String) throws -> Double { try #require(value[name]?.double) }
        var bias: [Int32: Double] = [:]
        for (token, amount) in try #require(value["bias"]?.object) {
            bias[try #require(Int32(token.text))] = amount.double
        }
        return try SamplingParameters(
            temperature: number("temperature"), topP: number("topP"),
            topK: Int(number("topK")), minP: number("minP"),
            repetitionPenalty: number("repetition"), presencePenalty: number("presence"),
            frequencyPenalty: number("frequency"), logitBias: bias)
    }
}
