import MinimaCore
import Testing

@testable import MinimaCheckpoint

@Suite struct ModelConfigTests {
    static func config(_ text: String) throws -> ModelConfig {
        try ModelConfig(json: JSON(parsing: text), path: "m/config.json")
    }

    @Test func readsValuesOfBothStyles() throws {
        let config = try Self.config(
            """
            {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16",
            "tie_word_embeddings": true, "eos_token_id": [151645, 151643], "hidden_size": 5120,
            "rms_norm_eps": 1e-06, "sliding_window": null, "heads": 64.0,
            "quantization_config": {"quant_method": "minima"}}
            """)
        #expect(try config.architectures == ["Qwen3ForCausalLM"])
        #expect(try config.modelType == "qwen3")
        #expect(try config.dtype == .bfloat16)
        #expect(try config.tieWordEmbeddings == true)
        #expect(try config.eosTokenIDs == [151645, 151643])
        #expect(try config.int("hidden_size") == 5120)
        #expect(try config.int("heads") == 64)
        #expect(try config.double("rms_norm_eps", in: 0...1) == 1e-6)
        #expect(try config.intIfPresent("sliding_window") == nil)
        #expect(config.quantizationConfig?["quant_method"]?.string == "minima")
        let other = try Self.config(
            "{\"dtype\": \"float32\", \"torch_dtype\": \"float16\", \"eos_token_id\": 2}")
        #expect(try other.dtype == .float32)
        #expect(try other.eosTokenIDs == [2])
        #expect(try other.architectures.isEmpty)
        #expect(try other.tieWordEmbeddings == nil)
        #expect(try Self.config("{\"torch_dtype\": \"torch.float16\"}").dtype == .float16)
        #expect(try Self.config("{\"dtype\": \"auto\"}").dtype == nil)
        #expect(try Self.config("{}").dtype == nil)
        #expect(try Self.config("{}").eosTokenIDs.isEmpty)
    }

    @Test func errorsNameFileKeyFoundAndExpected() throws {
        let config = try Self.config(
            """
            {"hidden_size": "5120", "layers": 0, "heads": 2.5, "huge": 1e300, "eps": -1, "tie": 1,
            "names": ["a", 1], "eos_token_id": [1, -2], "dtype": "int4", "model_type": {"a": 1},
            "section": 3, "nested": {"x": null}, "beyond": 99999999999999999999}
            """)
        func said(_ body: () throws -> Void) -> String { message(body) }
        #expect(
            said { _ = try config.int("hidden_size") }
                == "m/config.json: \"hidden_size\" is \"5120\", expected a positive whole number")
        #expect(said { _ = try config.int("layers") }.contains("is 0, expected a positive"))
        #expect(said { _ = try config.int("heads") }.contains("is 2.5, expected"))
        #expect(said { _ = try config.int("huge") }.contains("is 1e+300, expected"))
        #expect(said { _ = try config.int("beyond") }.contains("is 1e+20, expected"))
        #expect(said { _ = try config.int("none") }.contains("\"none\" is missing, expected"))
        #expect(
            said { _ = try config.int("layers", in: 2...8) }.contains(
                "expected a whole number from 2 to 8"))
        #expect(
            said { _ = try config.double("eps", in: 0...1) }.contains(
                "is -1, expected a number from 0.0 to 1.0"))
        #expect(said { _ = try config.double("section0") }.contains("expected a number"))
        #expect(said { _ = try config.bool("tie") }.contains("is 1, expected true or false"))
        #expect(said { _ = try config.bool("none") }.contains("expected true or false"))
        #expect(said { _ = try config.string("none") }.contains("expected a string"))
        #expect(said { _ = try config.strings("names") }.contains("is a list of 2, expected"))
        #expect(said { _ = try config.eosTokenIDs }.contains("\"eos_token_id\" is a list of 2"))
        #expect(said { _ = try config.dtype }.contains("\"dtype\" is \"int4\", expected bfloat16"))
        #expect(said { _ = try config.modelType }.contains("an object of 1, expected a string"))
        #expect(said { _ = try config.sectionIfPresent("section") }.contains("an object"))
        let nested = try #require(try config.sectionIfPresent("nested"))
        #expect(said { _ = try nested.int("x") }.contains("\"nested.x\" is null, expected"))
    }

    @Test func readsTheGenerationConfig() throws {
        let directory = try TemporaryDirectory()
        #expect(try GenerationConfig(inDirectory: directory.path) == nil)
        try directory.file(
            "generation_config.json",
            """
            {"eos_token_id": [1, 2], "do_sample": true, "temperature": 0.6, "top_p": 0.95,
            "top_k": 20, "repetition_penalty": null}
            """)
        let config = try #require(try GenerationConfig(inDirectory: directory.path))
        #expect(config.eosTokenIDs == [1, 2])
        #expect(config.doSample == true && config.temperature == 0.6 && config.topP == 0.95)
        #expect(config.topK == 20 && config.repetitionPenalty == nil)
        try directory.file("generation_config.json", "{\"top_p\": 2}")
        let said = message { _ = try GenerationConfig(inDirectory: directory.path) }
        #expect(said.contains("generation_config.json: \"top_p\" is 2, expected a number from 0.0"))
    }
}
