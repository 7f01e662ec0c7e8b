import MinimaCore
import MinimaModels
import MinimaTensor

/// Any model of any family through libtorch's operators, on the CPU or a GPU, with paged keys and
/// values; the reference of faster backends.
///
/// Works synchronously: a step is computed when it is queued. With dynamic rotary scaling a prompt's
/// angles follow its whole length, as if it were one chunk; a sequence that lost its pages gets those
/// of the length at which it came back.
public final class TorchBackend: DecodeBackend {
    /// What fits.
    public let capacity: DecodeCapacity
    /// Bytes of one token's keys and values in all layers.
    public let bytesPerToken: Int

    private let model: any LanguageModel
    private let storage: PagedStorage
    private var slots: [Slot?]
    private var results: [[[SampledToken]]] = []

    private struct Slot {
        /// The next decode step's input.
        var last: Int32 = 0
        /// Tokens that the sequence begins with.
        let start: Int
        var sampling: SamplingSequence
    }

    /// A backend for `model` with `pages` pages, whose memory is taken at once.
    ///
    /// - Parameters:
    ///   - slots: Requests that run at one time, at most.
    ///   - prefillChunk: Tokens of a prompt computed at once, at most; activations grow with it.
    public init(
        _ model: any LanguageModel, slots: Int = 32, pages: Int, pageTokens: Int = 64,
        prefillChunk: Int = 512
    ) throws {
        self.model = model
        let dimensions = model.dimensions
        let shapes = try Self.keyValueShapes(of: model)
        bytesPerToken = PagedStorage.bytesPerToken(shapes)
        capacity = DecodeCapacity(
            slots: max(slots, 1), pages: max(pages, 1), pageTokens: max(pageTokens, 1),
            context: dimensions.context, vocabulary: dimensions.vocabulary,
            prefillChunk: max(prefillChunk, 1), buckets: Array(1...max(slots, 1)),
            // libtorch's products of several rows add up in an order that depends on their number.
            deterministicBucket: 1, queuedSteps: 1)
        storage = try PagedStorage(
            shapes, pages: capacity.pages, pageTokens: capacity.pageTokens, device: model.device)
        self.slots = Array(repeating: nil, count: capacity.slots)
    }

    /// Bytes of one token's keys and values in all layers of `model`, from one token's pass.
    public static func bytesPerToken(of model: any LanguageModel) throws -> Int {
        PagedStorage.bytesPerToken(try keyValueShapes(of: model))
    }

    private static func keyValueShapes(of model: any LanguageModel) throws -> [KeyValueShape] {
        let probe = KeyValueProbe()
        _ = try withoutGradients {
            try run(model, [[0]], positions: [0], rotaryLengths: [1], maskedKeys: nil, probe)
        }
        return probe.shapes
    }

    // MARK: Slots

    /// Gives `slot` to a sequence.
    public func open(_ slot: Int, _ sequence: SequenceStart) throws {
        slots[slot] = Slot(
            start: sequence.tokens.count,
            sampling: SamplingSequence(
                sequence.sampling, tokens: sequence.tokens, promptCount: sequence.promptCount))
    }

    /// Ends the sequence in `slot`.
    public func close(_ slot: Int) {
        slots[slot] = nil
    }

    // MARK: Work

    /// Computes a part of a prompt.
    public func prefill(_ chunk: PrefillChunk) throws {
        let hidden = try run(
            [Array(chunk.tokens)], positions: [chunk.position], pages: [chunk.pages],
            rotaryLength: slots[chunk.slot]?.start)
        if chunk.samples { try sample(hidden, [chunk.slot]) }
    }

    /// Computes one token of every row.
    public func decode(_ batch: DecodeBatch) throws {
        let tokens = batch.rows.map { [slots[$0.slot]?.last ?? 0] }
        let hidden = try run(
            tokens, positions: batch.rows.map(\.position), pages: batch.rows.map(\.pages))
        try sample(hidden, batch.rows.map(\.slot))
    }

    /// Chooses the tokens after hidden states `[row, token, hidden]`.
    private func sample(_ hidden: Tensor, _ rows: [Int]) throws {
        let sequences = try rows.map { slot in
            guard let sequence = slots[slot]?.sampling else {
                throw EngineError.stepFailed("slot \(slot) is closed")
            }
            return sequence
        }
        let tokens = try withoutGradients {
            let last = try hidden.select(1, hidden.shape[1] - 1)
            return try Sampler.sample(model.logits(model.normed(last)), sequences)
        }
        for (slot, token) in zip(rows, tokens) where token.id >= 0 {
            slots[slot]?.last = token.id
            slots[slot]?.sampling.append(token.id)
        }
        results.append(tokens.map { [$0] })
    }

    /// Runs the layers over as many new tokens of each row.
    ///
    /// - Parameter rotaryLength: Length that dynamic scaling goes by; `nil`: each row's own.
    /// - Returns: The residual stream `[row, token, hidden]`.
    private func run(
        _ tokens: [[Int32]], positions: [Int], pages: [[Int32]], rotaryLength: Int? = nil
    ) throws -> Tensor {
        let count = tokens[0].count
        let lengths = positions.map { $0 + count }
        for (pages, length) in zip(pages, lengths)
        where pages.count * capacity.pageTokens < length {
            throw EngineError.stepFailed(
                "\(pages.count) pages of \(capacity.pageTokens) do not hold \(length) tokens")
        }
        return try withoutGradients {
            let pass = try storage.pass(pages: pages, lengths: lengths, tokens: count)
            let keys = lengths.max() ?? 0
            // Row by row, every key is visible to a single new token.
            let isRagged = Set(lengths).count > 1
            let mask = keys > count && (isRagged || count > 1)
            return try Self.run(
                model, tokens, positions: positions,
                rotaryLengths: lengths.map { rotaryLength ?? $0 }, maskedKeys: mask ? keys : nil,
                pass)
        }
    }

    private static func run(
        _ model: any LanguageModel, _ tokens: [[Int32]], positions: [Int], rotaryLengths: [Int],
        maskedKeys: Int?, _ store: any KeyValueStore
    ) throws -> Tensor {
        let (batch, count) = (tokens.count, tokens[0].count)
        let device = model.device
        let places = try Tensor(
            positions.flatMap { ($0..<$0 + count).map(Int64.init) }, shape: [batch, count]
        ).to(device)
        let (cosines, sines) = try angles(model, places, lengths: rotaryLengths)
        let mask = try maskedKeys.map { keys in
            try Tensor.arange(0..<keys, device: device)
                .isAtMost(places.reshape([batch, 1, count, 1]))
        }
        let context = ForwardContext(
            batch: batch, tokens: count, cosines: cosines, sines: sines, mask: mask, store: store)
        var x = try model.embed(
            Tensor(tokens.flatMap { $0.map(Int64.init) }, shape: [batch, count]).to(device))
        for index in 0..<model.dimensions.layers { x = try model.layer(index, x, context) }
        return x
    }

    /// Cosines and sines at `places` `[row, token]`, see `RotaryEmbedding.table`.
    private static func angles(_ model: any LanguageModel, _ places: Tensor, lengths: [Int])
        throws(TensorError) -> (Tensor, Tensor)
    {
        guard model.rotary.dependsOnLength else {
            return try model.rotary.table(places, length: lengths.max() ?? 0, dtype: model.dtype)
        }
        var (cosines, sines): ([Tensor], [Tensor]) = ([], [])
        for (row, length) in lengths.enumerated() {
            let table = try model.rotary.table(
                places.narrow(0, row..<row + 1), length: length, dtype: model.dtype)
            cosines.append(table.cosines)
            sines.append(table.sines)
        }
        return (try Tensor.cat(cosines), try Tensor.cat(sines))
    }

    /// The oldest result.
    public func collect() throws -> [[SampledToken]] {
        guard !results.isEmpty else { throw EngineError.stepFailed("nothing was queued") }
        return results.removeFirst()
    }

    /// Copies whole pages.
    public func copyPages(from sources: [Int32], to destinations: [Int32]) throws {
        try storage.copy(from: sources, to: destinations)
    }
}
