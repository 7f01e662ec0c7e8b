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
        try sampler.next(logits(input, cache))
    }

    /// Of each row's last token, `[rows, vocabulary]`.
    private func logits(_ input: Tensor, _ cache: KVCache) throws -> Tensor {
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
        return logits
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
        try sample(
            continuing: Array(repeating: [start], count: count), length: length,
            sampling: sampling, batch: batch, progress: progress)
    }

    /// Samples a sequence of `length` tokens for each prompt, that of prompt i with the seed of
    /// `SamplingParameters.forSequence(i)`.
    ///
    /// End tokens do not end a sequence.
    ///
    /// - Parameters:
    ///   - prompts: Of one length, at least one token.
    ///   - batch: Sequences at a time.
    /// - Returns: Sequences of exactly `length` tokens, their prompts included; a prompt that is
    ///   longer stays as it is.
    public func sample(
        continuing prompts: [[Int32]], length: Int, sampling: SamplingParameters,
        batch: Int = 32, progress: ProgressHandler = { _ in }
    ) throws -> [[Int32]] {
        let longest = max(length, prompts.first?.count ?? 0)
        guard longest <= model.dimensions.context else {
            throw ModelError.contextExceeded(length: longest, context: model.dimensions.context)
        }
        try sampling.check()
        var results: [[Int32]] = []
        while results.count < prompts.count {
            let first = results.count
            let rows = Array(prompts[first..<min(first + max(batch, 1), prompts.count)])
            guard let width = rows.first?.count, width > 0, rows.allSatisfy({ $0.count == width })
            else { throw ModelError.badTokens(shape: [rows.count, rows.first?.count ?? 0]) }
            try model.requireTokens(rows.joined())
            let own = max(length, width)
            var sequences = rows.enumerated().map { row, prompt in
                SamplingSequence(sampling.forSequence(first + row), tokens: prompt)
            }
            let cache = KVCache(layers: model.dimensions.layers, capacity: own)
            let start = try Tensor(
                rows.flatMap { $0.map(Int64.init) }, shape: [rows.count, width]
            ).to(model.device)
            var columns = [start]
            for position in width..<own {
                let next = try withoutGradients {
                    try Sampler.tokens(logits(columns[columns.count - 1], cache), sequences)
                }
                let ids: [Int64]? = sampling.usesHistory ? try next.values() : nil
                for row in sequences.indices {
                    if let ids {
                        sequences[row].append(Int32(clamping: ids[row]))
                    } else {
                        sequences[row].skip(1)
                    }
                }
                columns.append(try next.reshape([rows.count, 1]))
                try progress(
                    StageProgress(
                        stage: "sample", done: first * length + rows.count * (position + 1),
                        total: prompts.count * length, unit: "tokens"))
            }
            let ids: [Int32] = try Tensor.cat(columns, dim: 1).to(dtype: .int32).values()
            results += rows.indices.map { Array(ids[$0 * own..<($0 + 1) * own]) }
        }
        return results
    }
}
