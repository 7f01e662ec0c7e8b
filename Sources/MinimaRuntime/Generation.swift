import MinimaCore
import MinimaModels
import MinimaTensor

/// Continues token sequences with a model, one pass after the other over a contiguous cache: the
/// reference of ``Engine``, which does the same for many requests at a time, and the way of sampling
/// text to calibrate and train with.
public struct TextGenerator {
    /// Why a generation ended.
    public enum FinishReason: String, Sendable {
        /// The model wrote an end token.
        case stop
        /// The limit on new tokens, or the model's context, was reached.
        case length
    }

    /// What came out of a generation.
    public struct Outcome: Sendable {
        /// New tokens, without the end token.
        public var tokens: [Int32]
        /// Why it ended.
        public var reason: FinishReason
        /// Wall-clock time of the prompt's pass.
        public var promptSeconds: Double
        /// Wall-clock time of the passes after it.
        public var decodeSeconds: Double
        /// Passes after the prompt's.
        public var decodeSteps: Int
    }

    private let model: any LanguageModel

    /// A generator over `model`.
    public init(_ model: any LanguageModel) {
        self.model = model
    }

    /// Continues `prompt`.
    ///
    /// - Parameters:
    ///   - prompt: At least one token.
    ///   - maxTokens: New tokens at most; the model's context limits them too.
    ///   - stop: Tokens that end the text.
    ///   - onToken: Receives each new token as it is chosen; throws to cancel.
    /// - Throws: `ModelError.contextExceeded` when not even one new token fits.
    public func generate(
        _ prompt: [Int32], maxTokens: Int, sampling: SamplingParameters, stop: Set<Int32>,
        onToken: (Int32) throws -> Void = { _ in }
    ) throws -> Outcome {
        let dimensions = model.dimensions
        guard !prompt.isEmpty else { throw ModelError.badTokens(shape: [1, 0]) }
        guard prompt.count < dimensions.context else {
            throw ModelError.contextExceeded(
                length: prompt.count + 1, context: dimensions.context)
        }
        try model.requireTokens(prompt)
        let sampler = try Sampler(sampling, prompt: prompt, device: model.device)
        let room = min(maxTokens, dimensions.context - prompt.count)
        let cache = KVCache(layers: dimensions.layers, capacity: min(prompt.count + room, 4096))
        var outcome = Outcome(
            tokens: [], reason: .length, promptSeconds: 0, decodeSeconds: 0, decodeSteps: 0)
        var input = try Tensor(prompt.map(Int64.init), shape: [1, prompt.count]).to(model.device)
        let clock = ContinuousClock()
        while outcome.tokens.count < room {
            let started = clock.now
            let next = try withoutGradients { try step(input, cache, sampler) }
            let id = Int32(try next.item())
            let seconds = (clock.now - started).totalSeconds
            if cache.count == prompt.count {
                outcome.promptSeconds = seconds
            } else {
                outcome.decodeSeconds += seconds
                outcome.decodeSteps += 1
            }
            if stop.contains(id) {
                outcome.reason = .stop
                break
            }
            outcome.tokens.append(id)
            try onToken(id)
            input = try next.reshape([1, 1])
        }
        return outcome
    }

    private func step(_ input: Tensor, _ cache: KVCache, _ sampler: Sampler) throws -> Tensor {
        let hidden = try model.run(input, cache: cache)
        let logits = try model.logits(hidden.select(1, input.shape[1] - 1))
        // Once per sequence: weights that are not finite show at the first token.
        if cache.count == input.shape[1] {
            let finite = try logits.isFinite().sum(dtype: .int64).item()
            guard Int(finite) == logits.count else {
                throw TensorError.notFinite(
                    function: "the model's output", count: logits.count - Int(finite))
            }
        }
        return try sampler.next(logits)
    }

    /// Samples `count` sequences of `length` tokens that begin with `start`.
    ///
    /// End tokens do not end a sequence: what follows one is a new document, as in training.
    ///
    /// - Returns: `count` sequences of exactly `length` tokens, `start` included.
    public func sample(
        count: Int, length: Int, start: Int32, sampling: SamplingParameters, batch: Int = 32,
        progress: ProgressHandler = { _ in }
    ) throws -> [[Int32]] {
        guard length <= model.dimensions.context else {
            throw ModelError.contextExceeded(length: length, context: model.dimensions.context)
        }
        try model.requireTokens([start])
        var sequences: [[Int32]] = []
        while sequences.count < count {
            let rows = min(batch, count - sequences.count)
            let sampler = try Sampler(
                sampling, prompt: [start], first: sequences.count, device: model.device)
            let cache = KVCache(layers: model.dimensions.layers, capacity: length)
            var columns = [
                try Tensor.full([rows, 1], Double(start), dtype: .int64, device: model.device)
            ]
            for position in 1..<max(length, 1) {
                columns.append(
                    try withoutGradients {
                        try step(columns[position - 1], cache, sampler).reshape([rows, 1])
                    })
                try progress(
                    StageProgress(
                        stage: "sample", done: sequences.count * length + rows * (position + 1),
                        total: count * length, unit: "tokens"))
            }
            let ids: [Int32] = try Tensor.cat(columns, dim: 1).values()
            sequences += (0..<rows).map { Array(ids[$0 * length..<($0 + 1) * length]) }
        }
        return sequences
    }
}
