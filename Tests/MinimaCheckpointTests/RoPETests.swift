import MinimaCore
import Testing

@testable import MinimaCheckpoint

@Suite struct RoPETests {
    struct Golden: Sendable, CustomTestStringConvertible {
        let name: String
        let config: ModelConfig
        let headDim: Int
        let sequenceLength: Int
        let frequencies: [Double]
        let attentionScaling: Double
        var testDescription: String { name }
    }

    static func goldens() throws -> [Golden] {
        try JSON(file: golden("rope.json")).array?.map { entry in
            Golden(
                name: entry["name"]?.string ?? "",
                config: try ModelConfig(json: entry["config"] ?? .null, path: "rope.json"),
                headDim: entry["head_dim"]?.int ?? 0,
                sequenceLength: entry["sequence_length"]?.int ?? 0,
                frequencies: entry["frequencies"]?.array?.compactMap(\.double) ?? [],
                attentionScaling: entry["attention_scaling"]?.double ?? 0)
        } ?? []
    }

    /// Steps are rounded to float32 in transformers and here. A step whose `powf` differs by one
    /// unit (2⁻²³ of the value) passes it on through at most six further operations of half a unit
    /// each: 2⁻²³ · (1 + 6/2) = 2⁻²¹. Llama 3's blend adds the rounding of `smooth` (at most
    /// `high` = 4 units over `high - low` = 3), each times at most the frequency: one unit more
    /// than the bound allows for, so 2⁻²⁰ covers all kinds.
    @Test func frequenciesAgreeWithTransformers() throws {
        let goldens = try Self.goldens()
        #expect(goldens.count >= 20)
        for golden in goldens {
            let rope = try golden.config.ropeParameters()
            let (frequencies, scaling) = rope.inverseFrequencies(
                headDim: golden.headDim, sequenceLength: golden.sequenceLength)
            #expect(frequencies.count == golden.frequencies.count, "\(golden.name)")
            for (mine, theirs) in zip(frequencies, golden.frequencies) {
                #expect(abs(mine - theirs) <= theirs * 0x1p-20, "\(golden.name)")
            }
            // Both compute it in double precision; log and division differ by a unit at most.
            #expect(
                abs(scaling - golden.attentionScaling) <= 4 * golden.attentionScaling.ulp,
                "\(golden.name)")
        }
    }

    @Test func bothStylesMeanTheSame() throws {
        let old = try ModelConfigTests.config(
            """
            {"rope_theta": 500000.0, "max_position_embeddings": 131072, "rope_scaling": {"rope_type":
            "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}
            """)
        let new = try ModelConfigTests.config(
            """
            {"max_position_embeddings": 131072, "rope_parameters": {"rope_theta": 500000.0,
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}
            """)
        #expect(try old.ropeParameters() == new.ropeParameters())
        #expect(
            try old.ropeParameters().scaling
                == .llama3(factor: 8, lowFactor: 1, highFactor: 4, originalPositions: 8192))
        #expect(
            try ModelConfigTests.config("{}").ropeParameters(defaultTheta: 5)
                == RoPEParameters(theta: 5))
    }

    @Test(arguments: [
        ("{\"rope_scaling\": {\"type\": \"longrope\"}}", "\"rope_scaling.type\" is \"longrope\""),
        ("{\"rope_parameters\": {\"rope_type\": 3}}", "rope_parameters.rope_type\" is 3"),
        ("{\"rope_parameters\": []}", "\"rope_parameters\" is a list of 0, expected an object"),
        ("{\"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling.factor\" is missing"),
        ("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", "factor\" is 0, expected"),
        ("{\"rope_theta\": 1}", "\"rope_theta\" is 1, expected a number from 1.0"),
        ("{\"rope_theta\": -5}", "\"rope_theta\" is -5, expected"),
        ("{\"partial_rotary_factor\": 1.5}", "\"partial_rotary_factor\" is 1.5, expected"),
        (
            "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}",
            "expected a max_position_embeddings"
        ),
        (
            "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}}",
            "original_max_position_embeddings\" is missing"
        ),
        (
            """
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4,
            "high_freq_factor": 4}, "max_position_embeddings": 9}
            """, "\"rope_scaling.high_freq_factor\" is 4, expected more than low_freq_factor"
        ),
        (
            """
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention":
            {"rope_theta": 1e4}}}
            """,
            "\"rope_parameters.sliding_attention\" is an object of 1, expected the same parameters"
        ),
        (
            "{\"rope_parameters\": {\"full_attention\": null, \"linear_attention\": {}}}",
            "\"rope_parameters.full_attention\" is null, expected rotary parameters"
        ),
    ])
    func errorsNameTheKey(text: String, says: String) throws {
        let config = try ModelConfigTests.config(text)
        let said = message { _ = try config.ropeParameters() }
        #expect(said.hasPrefix("m/config.json: ") && said.contains(says), "\(said)")
    }
}
