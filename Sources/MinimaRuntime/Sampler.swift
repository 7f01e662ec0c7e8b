import MinimaCore
import MinimaTensor

/// Chooses tokens with libtorch's operators on the device that holds the logits; the reference of the
/// sampling kernel, with which it agrees bit for bit given the same logits.
///
/// A draw is a function of the logits, the request's seed and the new token's index in its sequence:
/// neither the other rows of a batch nor the device change it.
public final class Sampler {
    private let parameters: SamplingParameters
    private let device: Device
    private let prompt: [Int32]
    private var sequences: [SamplingSequence] = []
    private var steps = 0

    /// A sampler for sequences that continue one prompt, all with the same parameters; the sequence of
    /// row i draws with the seed of ``SamplingParameters/forSequence(_:)``.
    ///
    /// - Parameter prompt: What the sequences begin with. The first new token's index is its length.
    /// - Throws: `SamplingError` for parameters outside their ranges.
    public init(
        _ parameters: SamplingParameters, prompt: [Int32] = [], device: Device
    ) throws(SamplingError) {
        try parameters.check()
        self.parameters = parameters
        self.device = device
        self.prompt = prompt
    }

    /// The next token of each row's sequence.
    ///
    /// - Parameter logits: `[rows, vocabulary]`.
    /// - Returns: int64 `[rows]`.
    public func next(_ logits: Tensor) throws -> Tensor {
        try prepare(rows: logits.shape[0])
        let tokens = try Self.tokens(logits, sequences)
        steps += 1
        if parameters.usesHistory {
            let ids = try tokens.values(as: Int64.self)
            for (row, id) in ids.enumerated() { sequences[row].append(Int32(clamping: id)) }
        } else {
            for row in sequences.indices { sequences[row].skip(1) }
        }
        return tokens
    }

    /// The distribution `[rows, vocabulary]`, float32, that ``next(_:)`` draws from when the
    /// temperature is above 0.
    public func probabilities(_ logits: Tensor) throws -> Tensor {
        try prepare(rows: logits.shape[0])
        return try Self.probabilities(logits, sequences)
    }

    private func prepare(rows: Int) throws {
        guard rows != sequences.count else { return }
        // Sequences without a history are rows of logits and nothing more.
        guard steps == 0 || !parameters.usesHistory else {
            throw SamplingError.wrongRows(logits: [rows], sequences: sequences.count)
        }
        sequences = (0..<rows).map { row in
            var sequence = SamplingSequence(parameters.forSequence(row), tokens: prompt)
            sequence.skip(steps)
            return sequence
        }
    }
}

extension Sampler {
    /// The next token of each sequence.
    ///
    /// - Parameter logits: `[rows, vocabulary]`, a row for each sequence.
    /// - Returns: int64 `[rows]`; what a row of logits that are not finite gives is arbitrary.
    public static func tokens(
        _ logits: Tensor, _ sequences: [SamplingSequence]
    ) throws -> Tensor {
        let (logits, draw) = try prepared(logits, sequences)
        return try draw.tokens(draw.adjusted(logits))
    }

    /// Of what ``tokens(_:_:)`` takes the largest in each row, float32 `[rows, vocabulary]`.
    static func scores(_ logits: Tensor, _ sequences: [SamplingSequence]) throws -> Tensor {
        let (logits, draw) = try prepared(logits, sequences)
        return try draw.scores(draw.adjusted(logits))
    }

    /// The distributions `[rows, vocabulary]`, float32, that ``tokens(_:_:)`` draws from, without
    /// regard to a temperature of 0.
    public static func probabilities(
        _ logits: Tensor, _ sequences: [SamplingSequence]
    ) throws -> Tensor {
        let (logits, draw) = try prepared(logits, sequences)
        let (relative, weights, least) = try draw.filtered(draw.adjusted(logits))
        guard let weights, let least else { return try relative.softmax() }
        let bits = try weights.reinterpreted(as: .int32)
        return try relative.maskedFill(least.isAtMost(bits).not(), -.infinity).softmax()
    }

    /// The next token of each sequence with the log-probabilities that its parameters ask for;
    /// ``SampledToken/notFinite`` for rows whose logits are not all finite.
    ///
    /// Log-probabilities are those of the model's own distribution, before mask, bias, penalties,
    /// temperature and filters: what the model would say, not what it may.
    public static func sample(
        _ logits: Tensor, _ sequences: [SamplingSequence]
    ) throws -> [SampledToken] {
        let (logits, draw) = try prepared(logits, sequences)
        let finite = try logits.isFinite().sum([1], dtype: .int64).values(as: Int64.self)
        let tokens = try draw.tokens(draw.adjusted(logits)).values(as: Int64.self)
        let isAsked = sequences.map { $0.parameters.logprobs != nil }
        let count = sequences.compactMap(\.parameters.logprobs).max() ?? 0
        let likely =
            isAsked.contains(true) ? try LogProbabilities(logits, tokens, count: count) : nil
        return sequences.indices.map { row in
            guard finite[row] == logits.shape[1] else {
                return SampledToken(id: SampledToken.notFinite)
            }
            let id = Int32(clamping: tokens[row])
            guard let likely, let count = sequences[row].parameters.logprobs else {
                return SampledToken(id: id)
            }
            return SampledToken(
                id: id, logprob: likely.chosen[row],
                alternatives: Array(likely.top[row].prefix(count)))
        }
    }

    private static func prepared(
        _ logits: Tensor, _ sequences: [SamplingSequence]
    ) throws -> (Tensor, SamplingDraw) {
        guard logits.rank == 2, logits.shape[0] == sequences.count, logits.shape[1] > 0 else {
            throw SamplingError.wrongRows(logits: logits.shape, sequences: sequences.count)
        }
        let words = (logits.shape[1] + 31) / 32
        for case let mask? in sequences.map(\.mask) where mask.count != words {
            throw SamplingError.badMask(words: mask.count, needed: words)
        }
        return (
            try logits.to(dtype: .float32).contiguous(),
            SamplingDraw(sequences, device: logits.device)
        )
    }
}

/// Natural logarithms of the model's probabilities.
struct LogProbabilities {
    /// Of the chosen token of each row.
    let chosen: [Float]
    /// Of each row's likeliest tokens, likeliest first.
    let top: [[SampledToken.Alternative]]

    /// - Parameters:
    ///   - logits: float32 `[rows, vocabulary]`.
    ///   - tokens: The chosen token of each row.
    ///   - count: Likeliest tokens told of each.
    init(_ logits: Tensor, _ tokens: [Int64], count: Int) throws(TensorError) {
        let all = try logits.logSoftmax()
        let places = try Tensor(tokens, shape: [tokens.count, 1]).to(logits.device)
        chosen = try all.gather(1, places).values()
        let count = min(count, logits.shape[1])
        guard count > 0 else {
            top = tokens.map { _ in [] }
            return
        }
        let (values, indices) = try all.topK(count)
        let likelihoods: [Float] = try values.values()
        let ids: [Int64] = try indices.values()
        top = tokens.indices.map { row in
            (row * count..<(row + 1) * count).map {
                SampledToken.Alternative(id: Int32(clamping: ids[$0]), logprob: likelihoods[$0])
            }
        }
    }
}
