import ArgumentParser
import MinimaCore
import MinimaRuntime

/// How tokens are chosen.
struct SamplingOptions: ParsableArguments {
    @Option(help: "0 takes the likeliest token each time.")
    var temperature = 0.0

    @Option(help: "Keep the likeliest tokens whose probabilities reach this sum.")
    var topP = 1.0

    @Option(help: "Keep this many of the likeliest tokens; 0 keeps all.")
    var topK = 0

    @Option(help: "Keep tokens at least this times as probable as the likeliest.")
    var minP = 0.0

    @Option(
        help: "Divides positive and multiplies negative logits of tokens that were there before.")
    var repetitionPenalty = 1.0

    @Option(
        parsing: .unconditional,
        help: "Taken off the logits of tokens that the answer already holds, -2 to 2.")
    var presencePenalty = 0.0

    @Option(
        parsing: .unconditional,
        help: "Taken off a token's logit for each time the answer holds it, -2 to 2.")
    var frequencyPenalty = 0.0

    @Option(
        parsing: .upToNextOption,
        help: .init(
            "Added to the logits of tokens, -100 to 100 each; `minima tokenize` shows ids.",
            valueName: "id=bias"))
    var logitBias: [TokenBias] = []

    @Option(help: "Seed of the draws.")
    var seed: UInt64 = 0

    func validate() throws {
        do {
            _ = try parameters(logprobs: nil)
        } catch {
            throw ValidationError("\(error)")
        }
        if let id = Set(logitBias.map(\.id)).first(where: { id in
            logitBias.count { $0.id == id } > 1
        }) {
            throw ValidationError("--logit-bias names token \(id) more than once")
        }
    }

    /// The engine's parameters.
    func parameters(logprobs: Int?) throws(SamplingError) -> SamplingParameters {
        try SamplingParameters(
            temperature: temperature, topP: topP, topK: topK, minP: minP,
            repetitionPenalty: repetitionPenalty, presencePenalty: presencePenalty,
            frequencyPenalty: frequencyPenalty,
            logitBias: Dictionary(logitBias.map { ($0.id, $0.bias) }) { $1 },
            logprobs: logprobs, seed: seed)
    }
}

/// A token's bias, `ID=BIAS`.
struct TokenBias: Hashable, ExpressibleByArgument {
    var id: Int32
    var bias: Double

    init?(argument: String) {
        let parts = argument.split(separator: "=", omittingEmptySubsequences: false)
        guard parts.count == 2, let id = Int32(parts[0]), let bias = Double(parts[1]) else {
            return nil
        }
        self.id = id
        self.bias = bias
    }
}

extension GenerationResult.Sampling {
    init(_ parameters: SamplingParameters) {
        self.init(
            topP: parameters.topP, topK: parameters.topK, minP: parameters.minP,
            repetitionPenalty: parameters.repetitionPenalty,
            presencePenalty: parameters.presencePenalty,
            frequencyPenalty: parameters.frequencyPenalty,
            logitBias: Dictionary(
                uniqueKeysWithValues: parameters.logitBias.map { ("\($0.key)", $0.value) }))
    }
}
