import MinimaCore

/// Fixed results of one small family of models.
enum Sample {
    static let dense = "models/tiny"
    static let small = "out/tiny-lowrank"

    static func evaluation(
        _ model: String, against: String? = nil, text: [String] = ["text.txt"],
        perplexity: Double, kl: Double? = nil, parameters: Int, device: String = "cpu",
        tokens: Int = 12_288
    ) -> EvaluationResult {
        EvaluationResult(
            model: model, against: against, text: text, context: 1_024, tokens: tokens,
            perplexity: perplexity, kl: kl, parameters: parameters, bytes: 2 * parameters,
            device: device, dtype: "float32", seconds: 3.21, tokensPerSecond: 3_828)
    }

    static let evaluations = [
        evaluation(dense, perplexity: 20.5121, parameters: 4_203_776),
        evaluation(
            small, against: dense, perplexity: 37.2, kl: 0.59333, parameters: 2_932_001),
    ]

    static func inspection(
        _ model: String, format: String, upProjection: Int, parameters: Int
    ) -> InspectionResult {
        InspectionResult(
            model: model, family: "qwen3", architecture: ["hidden_size": "256"], files: 1,
            dtypes: ["BF16": 2 * parameters], parameters: parameters, bytes: 2 * parameters,
            parts: [
                .init(
                    name: "embedding", modules: 1, formats: ["dense": 1], parameters: 1_024,
                    bytes: 2_048),
                .init(
                    name: "mlp.up_proj", modules: 2, formats: [format: 2],
                    parameters: upProjection, bytes: 2 * upProjection),
            ])
    }

    static func module(_ name: String, outputError: Double) -> CompressionResult.Module {
        .init(
            name: name, outputs: 96, inputs: 64, spec: FormatSpec(format: "lowrank", ranks: [25]),
            parameters: 4_000, bytes: 8_000, weightError: 0.31, outputError: outputError,
            seconds: 0.5)
    }

    static let plan = CompressionPlan(
        version: "0.1.0", model: dense, fingerprints: [:], target: "ratio 0.35",
        formats: ["lowrank"], linearParametersBefore: 3_500_000,
        linearParametersAfter: 2_228_225, linearBytesBefore: 7_000_000,
        linearBytesAfter: 4_456_450, damage: nil, modules: [])

    static let compression = CompressionResult(
        version: "0.1.0", parent: "./models/tiny/", parentHashes: ["model.safetensors": "9f86d081"],
        plan: plan, device: "cpu", dtype: "float32", torch: "2.11.0",
        calibration: .init(
            sources: [.init(name: "self", windows: 64, weight: 1)], context: 1_024,
            gradientWindows: 0, seed: 7, hash: "e3b0c442"),
        compensation: "off", ridge: 0.01,
        totals: .init(
            linearParametersBefore: 3_500_000, linearParametersAfter: 2_228_225,
            linearBytesBefore: 7_000_000, linearBytesAfter: 4_456_450,
            parametersBefore: 4_203_776, parametersAfter: 2_932_001, bytesBefore: 8_407_552,
            bytesAfter: 5_864_002),
        seconds: 131.7, phases: ["fit": 100],
        modules: [
            module("model.layers.0.mlp.up_proj", outputError: 0.125),
            module("model.layers.1.mlp.up_proj", outputError: 0.25),
            module("lm_head", outputError: 0),
        ])

    static func generation(_ model: String, prompt: String = "Once", text: String)
        -> GenerationResult
    {
        GenerationResult(
            model: model, prompt: prompt, text: text, promptTokens: 1, tokens: 3,
            finishReason: "length", tokensPerSecond: 50, temperature: 0.8, seed: 1)
    }
}
