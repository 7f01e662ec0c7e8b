import MinimaKernels

extension SamplingParameters {
    /// These parameters as the sampling kernel reads them.
    var settings: SamplingSettings {
        SamplingSettings(
            temperature: temperature, topK: topK, topP: topP, minP: minP,
            repetitionPenalty: repetitionPenalty, presencePenalty: presencePenalty,
            frequencyPenalty: frequencyPenalty, logitBias: logitBias,
            wantsLogprobs: logprobs != nil, seed: seed)
    }
}
