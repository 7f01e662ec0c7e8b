import MinimaCore
import Testing

@Suite struct ResultsTests {
    private let inspection = InspectionResult(
        model: "models/tiny \"quoted\" é", family: "qwen3",
        architecture: ["hidden_size": "256", "headDim": "32"], files: 2,
        dtypes: ["BF16": 8_000, "F8_E4M3": 16], parameters: 4_000, bytes: 8_016,
        parts: [
            .init(
                name: "mlp.down_proj", modules: 4, formats: ["low_rank": 3, "dense": 1],
                parameters: 4_000, bytes: 8_016)
        ])

    private let evaluation = EvaluationResult(
        model: "small", against: "dense", text: ["a.txt", "b.txt"], context: 1_024,
        tokens: 12_345, perplexity: 37.2, kl: 0.1, parameters: 4_000, bytes: 8_000,
        device: "cuda:0", dtype: "BF16", seconds: 1.5, tokensPerSecond: 8_230)

    private let compression = CompressionResult(
        version: "0.1.0", parent: "dense",
        parentHashes: ["model-00001-of-00002.safetensors": "ab12", "Some_Name": "cd34"],
        plan: CompressionPlan(
            version: "0.1.0", model: "dense", fingerprints: ["Some_Name": "cd34"],
            target: "ratio 0.35", formats: [], linearParametersBefore: 100,
            linearParametersAfter: 65, linearBytesBefore: 200, linearBytesAfter: 130,
            damage: 0.5,
            modules: [
                .init(
                    name: "model.layers.0.mlp.up_proj", outputs: 12, inputs: 8,
                    spec: FormatSpec(
                        format: "tt", outputModes: [3, 4], inputModes: [2, 4], ranks: [5]),
                    parameters: 65, bytes: 130, damage: 0.5)
            ]),
        device: "cuda:0", dtype: "bfloat16", torch: "2.11.0",
        calibration: .init(
            sources: [.init(name: "self", windows: 256, weight: 1)], context: 1_024,
            gradientWindows: 0, seed: .max, hash: "ef56"),
        compensation: "0.5", ridge: 0.01,
        totals: .init(
            linearParametersBefore: 100, linearParametersAfter: 65, linearBytesBefore: 200,
            linearBytesAfter: 130, parametersBefore: 120, parametersAfter: 85,
            bytesBefore: 240, bytesAfter: 170),
        seconds: 12.25, phases: ["fit": 10.5], peakDeviceBytes: 1 << 40,
        modules: [
            .init(
                name: "model.layers.0.mlp.up_proj", outputs: 12, inputs: 8,
                spec: FormatSpec(
                    format: "tt", outputModes: [3, 4], inputModes: [2, 4], ranks: [5]),
                parameters: 65, bytes: 130, weightError: 0.25, outputError: 0.1, damage: 0.4,
                predictedDamage: 0.5, compensation: 0.5, seconds: 1.5)
        ])

    private let generation = GenerationResult(
        model: "small", prompt: "Once\r\nupon\u{0}", text: "a time \u{202E}\u{1F600}",
        promptTokens: 2, tokens: 2, finishReason: "stop", tokensPerSecond: 50, temperature: 0.8,
        seed: 1 << 63 + 1)

    private var healing: HealingResult {
        HealingResult(
            version: "0.1.0", model: "small", modelHashes: ["model.safetensors": "ab12"],
            teacher: "dense", teacherHashes: ["Some_Name": "cd34"],
            texts: [.init(name: "a.txt.xz", documents: 7, tokens: 9_000)],
            settings: ["learning-rate": "0.001", "someKey": "1"], device: "cuda:0",
            dtype: "bfloat16", torch: "2.11.0", processes: 2, heldOutTokens: 1_024,
            before: .init(kl: 0.5, perplexity: 30), after: .init(kl: 0.25, perplexity: 25),
            teacherPerplexity: 20.5, parameters: 85, bytes: 170, seconds: 60.5,
            phases: [
                .init(
                    name: "end to end", parameters: 65, steps: 10, tokens: 80, seconds: 50,
                    tokensPerSecond: 2, peakDeviceBytes: 1 << 40, stepBacks: 1, ending: "held-out",
                    points: [
                        .init(
                            step: 0, tokens: 0, seconds: 0, loss: nil, heldOut: 0.5,
                            learningRate: 0),
                        .init(
                            step: 10, tokens: 80, seconds: 49, loss: 0.75, heldOut: 0.25,
                            perplexity: 25, learningRate: 1e-4),
                    ])
            ], compression: compression)
    }

    private func expectRoundTrip<Result: StageResult & Equatable>(_ result: Result) throws {
        let text = try result.json()
        #expect(try Result(json: text) == result)
        #expect(try JSON(parsing: text)["kind"]?.string == Result.kind)
    }

    @Test func everyResultIsReadBackAsItWasWritten() throws {
        try expectRoundTrip(inspection)
        try expectRoundTrip(evaluation)
        try expectRoundTrip(compression)
        try expectRoundTrip(generation)
        try expectRoundTrip(healing)
    }

    @Test func aHealingCarriesTheCompressionThatItHealed() throws {
        let document = try JSON(parsing: healing.json())
        #expect(document["kind"]?.string == "healing")
        #expect(document["compression"]?["totals"]?["parameters_after"]?.int == 85)
        #expect(document["settings"]?["learning-rate"]?.string == "0.001")
        #expect(document["settings"]?["someKey"]?.string == "1")
        let first = document["phases"]?.array?.first?["points"]?.array?.first
        #expect(first?["held_out"]?.double == 0.5 && first?["loss"] == nil)
        #expect(first?["perplexity"] == nil)
        #expect(document["teacher_perplexity"]?.double == 20.5)
        var alone = healing
        alone.compression = nil
        alone.phases[0].peakDeviceBytes = nil
        try expectRoundTrip(alone)
        #expect(try JSON(parsing: alone.json())["compression"] == nil)
    }

    @Test func absentValuesStayAbsent() throws {
        var alone = evaluation
        alone.against = nil
        alone.kl = nil
        try expectRoundTrip(alone)
        #expect(try JSON(parsing: alone.json())["kl"] == nil)
    }

    @Test func numbersThatJSONLacksSurvive() throws {
        var diverged = evaluation
        diverged.perplexity = .infinity
        diverged.kl = -.infinity
        try expectRoundTrip(diverged)
        diverged.kl = .nan
        #expect(try EvaluationResult(json: diverged.json()).kl?.isNaN == true)
        var unhealed = healing
        unhealed.after = .init(kl: .infinity, perplexity: -.infinity)
        try expectRoundTrip(unhealed)
        unhealed.teacherPerplexity = .infinity
        unhealed.phases[0].points[1].perplexity = .infinity
        try expectRoundTrip(unhealed)
        unhealed.phases[0].points[1].loss = .nan
        #expect(
            try HealingResult(json: unhealed.json()).phases[0].points[1].loss?.isNaN == true)
    }

    @Test func keysAreSnakeCaseAndKeysOfDictionariesAreNot() throws {
        let document = try JSON(parsing: compression.json())
        #expect(document["totals"]?["linear_parameters_before"]?.int == 100)
        #expect(document["parent_hashes"]?["Some_Name"]?.string == "cd34")
        let spec = document["modules"]?.array?.first?["spec"]
        #expect(spec?["output_modes"]?.array == [3, 4])
        #expect(try JSON(parsing: inspection.json())["architecture"]?["headDim"]?.string == "32")
    }

    @Test func aResultsSpecificationReadsAsThatOfACheckpoint() throws {
        let document = try JSON(parsing: compression.json())
        let stored = try #require(document["modules"]?.array?.first?["spec"])
        #expect(try FormatSpec(json: stored) == compression.modules.first?.spec)
        #expect(
            stored.text(sortedKeys: true)
                == compression.modules.first?.spec.json.text(sortedKeys: true))
    }

    @Test func anotherKindIsRefused() throws {
        #expect(throws: ResultError.wrongKind(found: "generation", expected: "evaluation")) {
            try EvaluationResult(json: generation.json())
        }
        #expect(throws: ResultError.wrongKind(found: nil, expected: "evaluation")) {
            try EvaluationResult(json: "[1]")
        }
        #expect(throws: JSONError.self) { try EvaluationResult(json: "{") }
    }

    @Test func laterKeysAreIgnored() throws {
        var members = try #require(try JSON(parsing: evaluation.json()).object)
        members["invented_later"] = [1, 2]
        #expect(try EvaluationResult(json: JSON.object(members).text()) == evaluation)
    }

    @Test func aBadValueIsNamedAsTheFileSpellsIt() throws {
        let text = try compression.json()
        #expect(throws: ResultError.missing(key: "modules[0].weight_error")) {
            try CompressionResult(
                json: text.replacing("\"weight_error\"", with: "\"renamed\""))
        }
        #expect(throws: ResultError.badValue(key: "totals.parameters_after")) {
            try CompressionResult(
                json: text.replacing(
                    "\"parameters_after\" : 85", with: "\"parameters_after\" : \"many\""))
        }
        #expect(throws: ResultError.badValue(key: "")) {
            try CompressionResult(json: text.replacing("18446744073709551615", with: "-1"))
        }
        #expect(throws: ResultError.badValue(key: "calibration.sources[0].name")) {
            try CompressionResult(json: text.replacing("\"self\"", with: "7"))
        }
    }
}
