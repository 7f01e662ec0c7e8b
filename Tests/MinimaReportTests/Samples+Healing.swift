import MinimaCore

extension Sample {
    static let healed = "out/tiny-healed"

    static func phase(
        _ name: String, tokens: Int, heldOut: [Double?], losses: [Double?] = [],
        perplexities: [Double?] = [], parameters: Int = 2_228_225, ending: String = "steps"
    ) -> HealingResult.Phase {
        let last = Swift.max(heldOut.count - 1, 1)
        return HealingResult.Phase(
            name: name, parameters: parameters, steps: 100, tokens: tokens, seconds: 20,
            tokensPerSecond: Double(tokens) / 16, peakDeviceBytes: nil, stepBacks: 0,
            ending: ending,
            points: heldOut.enumerated().map { index, value in
                HealingResult.Point(
                    step: 100 * index / last, tokens: tokens * index / last,
                    seconds: 20 * Double(index) / Double(last),
                    loss: losses.indices.contains(index) ? losses[index] : nil, heldOut: value,
                    perplexity: perplexities.indices.contains(index) ? perplexities[index] : nil,
                    learningRate: 0.001)
            })
    }

    /// Two layers one by one, then the whole model.
    static let healingPhases = [
        phase("layer 0", tokens: 500_000, heldOut: [0.3, 0.2, 0.21], ending: "held-out"),
        phase("layer 1", tokens: 500_000, heldOut: [0.4, 0.25]),
        phase(
            "end to end", tokens: 1_500_000, heldOut: [0.25, 0.15, 0.1012],
            losses: [nil, 0.31, 0.22], perplexities: [29.5, 26.1, 24.7]),
    ]

    static func healing(
        of model: String = small, phases: [HealingResult.Phase] = healingPhases,
        after: HealingResult.Measurement = .init(kl: 0.1012, perplexity: 24.7),
        parameters: Int = 2_932_001, compression: CompressionResult? = compression
    ) -> HealingResult {
        HealingResult(
            version: "0.1.0", model: model, modelHashes: ["model.safetensors": "ab12cd34"],
            teacher: dense, teacherHashes: ["model.safetensors": "9f86d081"],
            texts: [.init(name: "heal.txt", documents: 12_000, tokens: 1_600_000)],
            settings: ["lr": "0.001", "context": "1024"], device: "cuda:0", dtype: "bfloat16",
            torch: "2.11.0", processes: 2, heldOutTokens: 65_536,
            before: .init(kl: 0.5933, perplexity: 37.2), after: after,
            teacherPerplexity: 20.613, parameters: parameters, bytes: 2 * parameters, seconds: 72,
            phases: phases, compression: compression)
    }
}
