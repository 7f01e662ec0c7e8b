import MinimaModels
import MinimaTensor

/// Proposes what a smaller model with the target's vocabulary would say.
///
/// It draws with the target's parameters and from the target's random numbers, so it proposes what the
/// target will choose wherever the distributions agree well enough.
final class ModelDrafter: Drafter {
    let bytesPerToken: Int

    private let model: any LanguageModel
    private let storage: PagedStorage
    private var slots: [Int: Slot] = [:]

    private struct Slot {
        var track = DraftTrack()
        /// Proposals behind the last token whose keys and values are in the pages.
        var guessed: [Int32] = []
    }

    /// A drafter for sequences in a backend's slots and pages.
    init(_ model: any LanguageModel, _ capacity: DecodeCapacity) throws {
        let vocabulary = model.dimensions.vocabulary
        guard vocabulary == capacity.vocabulary else {
            throw DraftingError.otherVocabulary(draft: vocabulary, target: capacity.vocabulary)
        }
        self.model = model
        let shapes = try TorchBackend.keyValueShapes(of: model)
        bytesPerToken = PagedStorage.bytesPerToken(shapes)
        storage = try PagedStorage(
            shapes, pages: capacity.pages, pageTokens: capacity.pageTokens, device: model.device)
    }

    func open(_ slot: Int, cached: ArraySlice<Int32>) {
        slots[slot] = Slot(track: DraftTrack(cached: cached))
    }

    func close(_ slot: Int) {
        slots[slot] = nil
    }

    func prefill(_ chunk: PrefillChunk, features: Tensor?) throws {
        take(chunk.slot, at: chunk.position, Array(chunk.tokens))
        try compute(chunk.slot, chunk.pages)
    }

    func observe(_ row: DecodeBatch.Row, _ tokens: [Int32], features: Tensor?) throws {
        take(row.slot, at: row.position, tokens)
        guard let track = slots[row.slot]?.track else { return }
        let pageTokens = storage.pageTokens
        if track.computed < track.tokens.count / pageTokens * pageTokens {
            try compute(row.slot, row.pages)
        }
    }

    /// Computes all tokens, as far as its context goes.
    private func compute(_ slot: Int, _ pages: [Int32]) throws {
        guard var track = slots[slot]?.track else { return }
        let end = min(track.tokens.count, model.dimensions.context)
        guard track.computed < end else { return }
        _ = try run([Array(track.tokens[track.computed..<end])], [track.computed], [pages])
        track.compute(to: end)
        slots[slot]?.track = track
    }

    private func take(_ slot: Int, at position: Int, _ tokens: [Int32]) {
        guard var state = slots[slot] else { return }
        // The last token and the proposals behind it, as far as they were right, are computed.
        let known = state.track.computed - position
        state.track.observe(tokens, at: position)
        if known == 1 {
            let right = zip(state.guessed, tokens.dropFirst()).prefix { $0 == $1 }.count
            state.track.compute(to: position + 1 + right)
        }
        state.guessed = []
        slots[slot] = state
    }

    func propose(_ rows: [DraftRow], count: Int) throws -> [DraftTree] {
        var proposals = [[Int32]](repeating: [], count: rows.count)
        let places = rows.indices.filter {
            slots[rows[$0].slot]?.track.tokens.count == rows[$0].position
                && rows[$0].position + count <= model.dimensions.context
        }
        guard !places.isEmpty, count > 0 else { return rows.map { _ in DraftTree() } }
        let active = places.map { rows[$0] }
        var sequences = active.map(\.sampling)
        var logits = try catchUp(active)
        for step in 0..<count {
            let tokens = try withoutGradients {
                try Sampler.tokens(logits, sequences).values(as: Int64.self).map(Int32.init)
            }
            for (index, token) in tokens.enumerated() {
                proposals[places[index]].append(token)
                sequences[index].append(token)
            }
            guard step + 1 < count else { break }
            logits = try run(
                tokens.map { [$0] }, active.map { $0.position + 1 + step },
                active.map(\.pages))
            for (row, token) in zip(active, tokens) { slots[row.slot]?.guessed.append(token) }
        }
        return proposals.map { DraftTree(chain: $0) }
    }

    /// Computes all tokens up to each row's last.
    ///
    /// - Returns: Logits after it, `[row, vocabulary]`.
    private func catchUp(_ rows: [DraftRow]) throws -> Tensor {
        let tracks = rows.map { slots[$0.slot]?.track ?? DraftTrack() }
        var logits: [Tensor?] = Array(repeating: nil, count: rows.count)
        let pending = zip(rows, tracks).map { row, track in
            Array(track.tokens[track.computed...]) + [row.last]
        }
        for (_, indices) in pending.groups(by: \.count) {
            let found = try run(
                indices.map { pending[$0] }, indices.map { tracks[$0].computed },
                indices.map { rows[$0].pages })
            for (place, index) in indices.enumerated() {
                logits[index] = try found.narrow(0, place..<place + 1)
            }
        }
        for (row, var track) in zip(rows, tracks) {
            track.compute(to: row.position + 1)
            slots[row.slot]?.track = track
            slots[row.slot]?.guessed = []
        }
        let all = logits.compactMap(\.self)
        return all.count == 1 ? all[0] : try .cat(all)
    }

    /// Logits `[row, vocabulary]` after new tokens of rows, as many of each, from `positions`.
    private func run(
        _ tokens: [[Int32]], _ positions: [Int], _ pages: [[Int32]]
    ) throws -> Tensor {
        let rows = PagedRows(pages: pages, positions: positions, count: tokens[0].count)
        return try withoutGradients {
            let context = try storage.context(rows, rotary: model.rotary, dtype: model.dtype)
            let ids = tokens.flatMap { $0.map(Int64.init) }
            var x = try model.embed(
                Tensor(ids, shape: [tokens.count, rows.count]).to(model.device))
            for index in 0..<model.dimensions.layers { x = try model.layer(index, x, context) }
            return try model.logits(model.normed(x.select(1, rows.count - 1)))
        }
    }
}
