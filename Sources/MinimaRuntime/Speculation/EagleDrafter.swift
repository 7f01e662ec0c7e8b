import MinimaModels
import MinimaTensor

/// Proposes what an EAGLE-3 head says after a target model's features.
///
/// Place i of the head reads the target's features of token i and the embedding of token i + 1. What
/// it computes for guessed places, from its own output instead of features, is not kept: it is computed
/// again once the target has been there.
final class EagleDrafter: Drafter {
    let featureLayers: [Int]
    let bytesPerToken: Int
    let lookahead = 1

    private let draft: EagleDraft
    private let storage: PagedStorage
    /// Whether the draft's ids are the target's.
    private let isWhole: Bool
    /// Children of a node at most.
    private let width: Int
    private let vocabulary: Int
    private var slots: [Int: Slot] = [:]

    private struct Slot {
        var track = DraftTrack()
        /// Features `[1, token, layers · hidden]` of consecutive places up to the last observed.
        var features: [Tensor] = []
        /// Places that those are.
        var featureCount = 0

        /// The first place with features.
        var firstFeature: Int { track.tokens.count - featureCount }
    }

    /// A drafter for sequences in a backend's slots and pages.
    init(_ draft: EagleDraft, _ capacity: DecodeCapacity, width: Int = 1) throws {
        guard draft.config.vocabulary == capacity.vocabulary else {
            throw DraftingError.otherVocabulary(
                draft: draft.config.vocabulary, target: capacity.vocabulary)
        }
        self.draft = draft
        self.width = width
        featureLayers = draft.featureLayers
        vocabulary = capacity.vocabulary
        isWhole = try draft.targetIds.values(as: Int64.self).elementsEqual(
            0..<Int64(capacity.vocabulary))
        let shapes = [Self.shape(of: draft)]
        bytesPerToken = PagedStorage.bytesPerToken(shapes)
        storage = try PagedStorage(
            shapes, pages: capacity.pages, pageTokens: capacity.pageTokens, device: draft.device)
    }

    /// What its keys and values look like.
    static func shape(of draft: EagleDraft) -> KeyValueShape {
        KeyValueShape(
            heads: draft.config.keyValueHeads, keyDim: draft.config.headDim,
            valueDim: draft.config.headDim, dtype: draft.dtype)
    }

    func open(_ slot: Int, cached: ArraySlice<Int32>) {
        slots[slot] = Slot(track: DraftTrack(cached: cached))
    }

    func close(_ slot: Int) {
        slots[slot] = nil
    }

    func prefill(_ chunk: PrefillChunk, features: Tensor?) throws {
        take(chunk.slot, at: chunk.position, Array(chunk.tokens), features)
        try compute(chunk.slot, chunk.pages)
    }

    /// Computes all places but the last, which waits for the token after it.
    private func compute(_ slot: Int, _ pages: [Int32]) throws {
        guard let state = slots[slot], state.track.computed < state.track.tokens.count - 1
        else { return }
        let places = state.track.computed..<state.track.tokens.count - 1
        _ = try withoutGradients {
            try run(
                hidden: fused([state], [places]),
                tokens: [Array(state.track.tokens[(places.lowerBound + 1)...])],
                positions: [places.lowerBound], [pages])
        }
        try compute(slot, to: places.upperBound)
    }

    private func take(_ slot: Int, at position: Int, _ tokens: [Int32], _ features: Tensor?) {
        guard let features, !tokens.isEmpty else { return }
        slots[slot]?.track.observe(tokens, at: position)
        slots[slot]?.features.append(features)
        slots[slot]?.featureCount += tokens.count
    }

    /// Places before `count` are computed: forgets their features.
    private func compute(_ slot: Int, to count: Int) throws {
        guard var state = slots[slot] else { return }
        state.track.compute(to: count)
        state.featureCount = state.track.tokens.count - count
        var (left, kept) = (state.featureCount, [Tensor]())
        for features in state.features.reversed() where left > 0 {
            let width = features.shape[1]
            // A copy, so that the others' memory is free.
            kept.append(try features.narrow(1, max(width - left, 0)..<width).contiguous())
            left -= width
        }
        state.features = kept.reversed()
        slots[slot] = state
    }

    func observe(_ row: DecodeBatch.Row, _ tokens: [Int32], features: Tensor?) throws {
        take(row.slot, at: row.position, tokens, features)
        guard let track = slots[row.slot]?.track else { return }
        let pageTokens = storage.pageTokens
        if track.computed < (track.tokens.count - 1) / pageTokens * pageTokens {
            try compute(row.slot, row.pages)
        }
    }

    func propose(_ rows: [DraftRow], count: Int) throws -> [DraftTree] {
        var proposals = [DraftTree](repeating: DraftTree(), count: rows.count)
        let places = rows.indices.filter {
            guard let track = slots[rows[$0].slot]?.track else { return false }
            return track.tokens.count == rows[$0].position && track.computed < rows[$0].position
        }
        guard !places.isEmpty, count > 0 else { return proposals }
        let active = places.map { rows[$0] }
        let trees = try withoutGradients {
            var hidden = try catchUp(active)
            let positions = active.map(\.position)
            let store = try storage.branches(pages: active.map(\.pages), lengths: positions)
            var growing = DraftBranches(active.map(\.sampling), count: count, width: width)
            try growing.add(scores(draft.logits(hidden), growing.sequences))
            while let level = growing.next() {
                let parents = try Tensor(level.parents).to(draft.device)
                hidden = try run(
                    hidden: hidden.selecting(0, parents), level,
                    positions.map { $0 + level.depth }, positions, store)
                try growing.add(scores(draft.logits(hidden), growing.sequences))
            }
            return growing.trees
        }
        for (place, tree) in zip(places, trees) { proposals[place] = tree }
        return proposals
    }

    /// The head over a level of branches.
    ///
    /// - Parameters:
    ///   - hidden: The output at each node's parent, `[row · node, hidden]`.
    ///   - positions: The places of each row's nodes in its sequence.
    ///   - trunks: Places of each row before its branches.
    /// - Returns: The output at each node, `[row · node, hidden]`.
    private func run(
        hidden: Tensor, _ level: DraftBranches.Level, _ positions: [Int], _ trunks: [Int],
        _ store: PagedStorage.Branches
    ) throws -> Tensor {
        let (batch, nodes) = (trunks.count, level.tokens[0].count)
        let (cosines, sines) = try storage.angles(
            positions.map { Array(repeating: $0, count: nodes) }, nil, draft.rotary, draft.dtype)
        // Keys: the trunks, padded to the longest, then the nodes of all levels.
        let longest = trunks.max() ?? 0
        let context = ForwardContext(
            batch: batch, tokens: nodes, cosines: cosines, sines: sines,
            mask: try storage.visibility(
                trunks, keys: longest + nodes * (level.depth + 1),
                level.branches.map { $0.map { $0.map { longest + $0 } } }),
            store: store)
        let ids = try Tensor(
            level.tokens.flatMap { $0.map(Int64.init) }, shape: [batch, nodes]
        ).to(draft.device)
        return try draft.layer(
            embedding: draft.embed(ids), hidden: hidden.reshape([batch, nodes, -1]),
            context: context
        ).reshape([batch * nodes, -1])
    }

    /// Computes all places before each row's last token.
    ///
    /// - Returns: The head's output at the last of them, `[row, hidden]`.
    private func catchUp(_ rows: [DraftRow]) throws -> Tensor {
        let states = rows.map { slots[$0.slot] ?? Slot() }
        var hidden: [Tensor?] = Array(repeating: nil, count: rows.count)
        for (_, indices) in states.groups(by: { $0.track.tokens.count - $0.track.computed }) {
            let group = indices.map { states[$0] }
            let found = try run(
                hidden: fused(
                    group, group.map { $0.track.computed..<$0.track.tokens.count }),
                tokens: indices.map {
                    states[$0].track.tokens[(states[$0].track.computed + 1)...]
                        + [rows[$0].last]
                },
                positions: group.map(\.track.computed), indices.map { rows[$0].pages })
            for (place, index) in indices.enumerated() {
                hidden[index] = try found.narrow(0, place..<place + 1)
            }
        }
        for row in rows { try compute(row.slot, to: row.position) }
        let all = hidden.compactMap(\.self)
        return all.count == 1 ? all[0] : try .cat(all)
    }

    /// Fused features of as many places of each sequence, `[row, place, hidden]`.
    private func fused(_ states: [Slot], _ places: [Range<Int>]) throws -> Tensor {
        let features = try zip(states, places).map { state, places in
            let all =
                state.features.count == 1
                ? state.features[0] : try Tensor.cat(state.features, dim: 1)
            let first = places.lowerBound - state.firstFeature
            return try all.narrow(1, first..<first + places.count)
        }
        return try draft.fuse(features.count == 1 ? features[0] : .cat(features))
    }

    /// The head over new places of rows, as many of each, from `positions`.
    ///
    /// - Parameters:
    ///   - hidden: Fused features or the output at the places before, `[row, place, hidden]`.
    ///   - tokens: The tokens after the places.
    /// - Returns: The output at each row's last place, `[row, hidden]`.
    private func run(
        hidden: Tensor, tokens: [[Int32]], positions: [Int], _ pages: [[Int32]]
    ) throws -> Tensor {
        let rows = PagedRows(pages: pages, positions: positions, count: tokens[0].count)
        let context = try storage.context(rows, rotary: draft.rotary, dtype: draft.dtype)
        let ids = try Tensor(
            tokens.flatMap { $0.map(Int64.init) }, shape: [tokens.count, rows.count]
        ).to(draft.device)
        return try draft.layer(embedding: draft.embed(ids), hidden: hidden, context: context)
            .select(1, rows.count - 1)
    }

    /// How good each of the target's tokens is by the draft's logits `[row, draft vocabulary]`.
    private func scores(_ logits: Tensor, _ sequences: [SamplingSequence]) throws -> Tensor {
        guard !isWhole else { return try Sampler.scores(logits, sequences) }
        // Tokens that the draft does not know cannot be proposed.
        let rows = sequences.count
        let all = try Tensor.full(
            [rows, vocabulary], -.infinity, dtype: .float32, device: draft.device
        ).scatter(
            1, draft.targetIds.unsqueeze(0).expand([rows, draft.config.draftVocabulary]),
            logits.to(dtype: .float32))
        return try Sampler.scores(all, sequences)
    }
}
