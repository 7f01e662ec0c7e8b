import MinimaCore
import MinimaModels
import MinimaTensor

/// Any model of any family through libtorch's operators, on the CPU or a GPU, with paged keys and
/// values; the reference of faster backends.
///
/// Works synchronously: a step is computed when it is queued. With dynamic rotary scaling a prompt's
/// angles follow its whole length, as if it were one chunk; a sequence that lost its pages gets those
/// of the length at which it came back.
///
/// Proposals are verified by one pass over the last token and all of them, and then chosen place by
/// place as without them; keys and values behind the last right one are written over by later steps.
public final class TorchBackend: DecodeBackend {
    /// What fits.
    public let capacity: DecodeCapacity
    /// Bytes of one token's keys and values in all layers, the draft's included.
    public let bytesPerToken: Int

    private let model: any LanguageModel
    private let storage: PagedStorage
    private let drafter: (any Drafter)?
    private var slots: [Slot?]
    /// Seconds per token of a prompt, of which older ones count less.
    private var tokenSeconds: Double?
    private var results: [[[SampledToken]]] = []
    private var scores: [[SampledToken]] = []

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
    ///   - draft: What proposes tokens.
    ///   - draftTokens: Tokens that a step may propose per row with a draft, at most.
    /// - Throws: `DraftingError` for a draft of another vocabulary.
    public convenience init(
        _ model: any LanguageModel, slots: Int = 32, pages: Int, pageTokens: Int = 64,
        prefillChunk: Int = 512, draft: TorchDraft? = nil, draftTokens: Int = 7
    ) throws {
        try self.init(
            model, slots: slots, pages: pages, pageTokens: pageTokens, prefillChunk: prefillChunk,
            draftTokens: draft == nil ? 0 : draftTokens
        ) { try draft?.drafter($0) }
    }

    init(
        _ model: any LanguageModel, slots: Int, pages: Int, pageTokens: Int,
        prefillChunk: Int = 512, draftTokens: Int,
        drafter: (DecodeCapacity) throws -> (any Drafter)?
    ) throws {
        self.model = model
        let dimensions = model.dimensions
        let shapes = try Self.keyValueShapes(of: model)
        var capacity = DecodeCapacity(
            slots: max(slots, 1), pages: max(pages, 1), pageTokens: max(pageTokens, 1),
            context: dimensions.context, vocabulary: dimensions.vocabulary,
            prefillChunk: max(prefillChunk, 1), buckets: Array(1...max(slots, 1)),
            // libtorch's products of several rows add up in an order that depends on their number.
            deterministicBucket: 1, queuedSteps: 1, draftTokens: Array(0...max(draftTokens, 0)))
        storage = try PagedStorage(
            shapes, pages: capacity.pages, pageTokens: capacity.pageTokens, device: model.device)
        let drafter = try drafter(capacity)
        self.drafter = drafter
        if !model.rotary.dependsOnLength {
            capacity.prefixes = PrefixReuse(lookahead: drafter?.lookahead ?? 0)
        }
        self.capacity = capacity
        bytesPerToken = PagedStorage.bytesPerToken(shapes) + (drafter?.bytesPerToken ?? 0)
        self.slots = Array(repeating: nil, count: capacity.slots)
    }

    /// Bytes of one token's keys and values in all layers of `model`, from one token's pass.
    public static func bytesPerToken(of model: any LanguageModel) throws -> Int {
        PagedStorage.bytesPerToken(try keyValueShapes(of: model))
    }

    static func keyValueShapes(of model: any LanguageModel) throws -> [KeyValueShape] {
        let probe = KeyValueProbe()
        try withoutGradients {
            let place = try Tensor.zeros([1, 1], dtype: .int64, device: model.device)
            let (cosines, sines) = try model.rotary.table(place, length: 1, dtype: model.dtype)
            let context = ForwardContext(
                batch: 1, tokens: 1, cosines: cosines, sines: sines, mask: nil, store: probe)
            var x = try model.embed(place)
            for index in 0..<model.dimensions.layers { x = try model.layer(index, x, context) }
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
        drafter?.open(slot, cached: sequence.tokens.prefix(sequence.cached))
    }

    /// Ends the sequence in `slot`.
    public func close(_ slot: Int) {
        slots[slot] = nil
        drafter?.close(slot)
    }

    private func state(_ slot: Int) throws -> Slot {
        guard let state = slots[slot] else {
            throw EngineError.stepFailed("slot \(slot) is closed")
        }
        return state
    }

    // MARK: Work

    /// Seconds of prefilling at the rate of the last chunks; `nil` before the first one.
    public func prefillSeconds(tokens: Int, at position: Int) -> Double? {
        tokenSeconds.map { $0 * Double(tokens) }
    }

    /// Computes a part of a prompt.
    public func prefill(_ chunk: PrefillChunk) throws {
        let started = ContinuousClock.now
        try compute(chunk)
        // Of a few tokens the time says little.
        guard chunk.tokens.count >= min(capacity.pageTokens, capacity.prefillChunk) else { return }
        let seconds = (ContinuousClock.now - started).totalSeconds / Double(chunk.tokens.count)
        // What other programs did to one chunk soon counts no more.
        tokenSeconds = tokenSeconds.map { $0 + (min(seconds, 4 * $0) - $0) / 4 } ?? seconds
    }

    private func compute(_ chunk: PrefillChunk) throws {
        let count = chunk.tokens.count
        let (hidden, features) = try run(
            [Array(chunk.tokens)],
            PagedRows(
                pages: [chunk.pages], positions: [chunk.position], count: count,
                rotaryLength: slots[chunk.slot]?.start))
        if chunk.samples { slots[chunk.slot]?.sampling.mask = chunk.mask }
        let tokens =
            chunk.samples
            ? try choose(hidden.narrow(1, count - 1..<count), [chunk.slot], [DraftTree()]) : []
        let scored = try chunk.scoring.map { try score($0, hidden) }
        try drafter?.prefill(chunk, features: features)
        if chunk.samples { results.append(tokens) }
        if let scored { scores.append(scored) }
    }

    /// Computes the next tokens of every row.
    public func decode(_ batch: DecodeBatch) throws {
        let slots = batch.rows.map(\.slot)
        let inputs = try slots.map { try state($0).last }
        for row in batch.rows { self.slots[row.slot]?.sampling.mask = row.mask }
        let proposals = try propose(batch)
        // No further than what is proposed, whatever was asked for.
        let most = proposals.reduce(0) { max($0, $1.count) }
        var rows = PagedRows(
            pages: batch.rows.map(\.pages), positions: batch.rows.map(\.position),
            count: most + 1)
        if proposals.contains(where: { !$0.isChain }) {
            rows.parents = proposals.map { tree in
                [0] + tree.parents.map { $0 + 1 } + Array(repeating: 0, count: most - tree.count)
            }
        }
        let (hidden, features) = try run(
            zip(inputs, proposals).map { input, tree in
                [input] + tree.tokens + Array(repeating: 0, count: most - tree.count)
            }, rows)
        let tokens = try choose(hidden, slots, proposals)
        // Of what was computed the last tokens and the branches that turned out right.
        let right = zip(proposals, tokens).map { tree, tokens in
            [0] + tree.path(of: tokens.dropLast().map(\.id)).map { $0 + 1 }
        }
        try straighten(rows, right)
        for (index, row) in batch.rows.enumerated() {
            let places = right[index]
            let isFirst = places.last == places.count - 1
            let own = try features?.narrow(0, index..<index + 1)
            try drafter?.observe(
                row, [inputs[index]] + tokens[index].dropLast().map(\.id),
                features: isFirst
                    ? own?.narrow(1, 0..<places.count)
                    : own?.selecting(1, Tensor(places.map(Int64.init)).to(model.device)))
        }
        results.append(tokens)
    }

    /// Moves keys and values of branches to where their tokens stand in the sequence.
    ///
    /// - Parameter right: Of each row the new tokens that are the sequence's, in order.
    private func straighten(_ rows: PagedRows, _ right: [[Int]]) throws {
        var (sources, destinations): ([Int], [Int]) = ([], [])
        for (row, places) in right.enumerated() {
            let (pages, position) = (rows.pages[row], rows.positions[row])
            for (place, source) in places.enumerated() where source != place {
                sources.append(storage.row(pages, position + source))
                destinations.append(storage.row(pages, position + place))
            }
        }
        try storage.copy(rows: sources, to: destinations)
    }

    /// What the drafter proposes, as far as those are tokens; nothing for rows with a mask.
    private func propose(_ batch: DecodeBatch) throws -> [DraftTree] {
        var proposals = [DraftTree](repeating: DraftTree(), count: batch.rows.count)
        let free = batch.rows.indices.filter { batch.rows[$0].mask == nil }
        guard let drafter, batch.draftTokens > 0, !free.isEmpty else { return proposals }
        let rows = try free.map { index in
            let row = batch.rows[index]
            let state = try state(row.slot)
            return DraftRow(
                slot: row.slot, last: state.last, position: row.position, pages: row.pages,
                sampling: state.sampling)
        }
        let found = try drafter.propose(rows, count: batch.draftTokens)
        for (index, tree) in zip(free, found) {
            proposals[index] = tree.valid(
                count: batch.draftTokens, vocabulary: capacity.vocabulary)
        }
        return proposals
    }

    /// Chooses the tokens after hidden states `[row, place, hidden]`, place by place, in each row for as
    /// long as what was proposed holds the token. Place 0 is the last token's, the others are the
    /// proposals'.
    private func choose(_ hidden: Tensor, _ rows: [Int], _ proposals: [DraftTree]) throws
        -> [[SampledToken]]
    {
        var tokens = [[SampledToken]](repeating: [], count: rows.count)
        let places = hidden.shape[1]
        let logits = try withoutGradients {
            try model.logits(model.normed(hidden.reshape([rows.count * places, -1])))
        }
        var active = Array(rows.indices)
        // The node that each row has come to.
        var nodes = Array(repeating: -1, count: rows.count)
        while !active.isEmpty {
            let chosen = try withoutGradients {
                let own =
                    places == 1
                    ? logits
                    : try logits.selecting(
                        0,
                        Tensor(active.map { Int64($0 * places + nodes[$0] + 1) })
                            .to(logits.device))
                return try Sampler.sample(own, active.map { try state(rows[$0]).sampling })
            }
            var going: [Int] = []
            for (row, token) in zip(active, chosen) {
                tokens[row].append(token)
                guard token.id >= 0 else { continue }
                slots[rows[row]]?.last = token.id
                slots[rows[row]]?.sampling.append(token.id)
                if let node = proposals[row].node(token.id, after: nodes[row]) {
                    nodes[row] = node
                    going.append(row)
                }
            }
            active = going
        }
        return tokens
    }

    /// Runs the layers over as many new tokens of each row.
    ///
    /// - Returns: The residual stream `[row, token, hidden]`, and what the drafter reads of it on its
    ///   way.
    private func run(_ tokens: [[Int32]], _ rows: PagedRows) throws -> (
        hidden: Tensor, features: Tensor?
    ) {
        let wanted = drafter?.featureLayers ?? []
        return try withoutGradients {
            let context = try storage.context(rows, rotary: model.rotary, dtype: model.dtype)
            let ids = tokens.flatMap { $0.map(Int64.init) }
            var x = try model.embed(
                Tensor(ids, shape: [tokens.count, rows.count]).to(model.device))
            var kept: [Int: Tensor] = [:]
            for index in 0..<model.dimensions.layers {
                if wanted.contains(index) { kept[index] = x }
                x = try model.layer(index, x, context)
            }
            let features = wanted.compactMap { kept[$0] }
            return (x, features.isEmpty ? nil : try .cat(features, dim: -1))
        }
    }

    /// The oldest result.
    public func collect() throws -> [[SampledToken]] {
        guard !results.isEmpty else { throw EngineError.stepFailed("nothing was queued") }
        return results.removeFirst()
    }

    /// Log-probabilities of a prompt's tokens after hidden states `[1, token, hidden]`, for some rows at
    /// a time: logits of all would take more memory than the rest of the model's work.
    private func score(_ scoring: PromptScoring, _ hidden: Tensor) throws -> [SampledToken] {
        var scored: [SampledToken] = []
        let (tokens, first) = (scoring.tokens, scoring.rows.lowerBound)
        while scored.count < tokens.count {
            let rest = tokens.dropFirst(scored.count).prefix(PromptScoring.rowsAtOnce)
            let start = first + scored.count
            let likely = try withoutGradients {
                let rows = try hidden.narrow(1, start..<start + rest.count)
                let logits = try model.logits(model.normed(rows.reshape([rest.count, -1])))
                return try LogProbabilities(
                    logits.to(dtype: .float32), rest.map(Int64.init), count: scoring.alternatives)
            }
            for (row, id) in rest.enumerated() {
                let logprob = likely.chosen[row]
                scored.append(
                    logprob.isFinite
                        ? SampledToken(id: id, logprob: logprob, alternatives: likely.top[row])
                        : SampledToken(id: SampledToken.notFinite))
            }
        }
        return scored
    }

    /// The oldest scores.
    public func collectScores() throws -> [SampledToken] {
        guard !scores.isEmpty else { throw EngineError.stepFailed("no scores were queued") }
        return scores.removeFirst()
    }
}
