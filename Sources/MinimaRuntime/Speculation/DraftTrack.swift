/// What a drafter with keys and values of its own knows of a sequence, and what of it is computed.
struct DraftTrack {
    /// Places that a drafter catches up with at a time; what lies further back it does without.
    static let window = 128

    /// The sequence's tokens as far as the target has computed them.
    private(set) var tokens: [Int32] = []
    /// Places whose keys and values are computed and right.
    private(set) var computed = 0
    /// Pages at the beginning that hold nothing of the draft's.
    private(set) var skippedPages = 0

    /// Takes tokens from `position`.
    mutating func observe(_ new: [Int32], at position: Int) {
        if position < tokens.count { computed = min(computed, position) }
        tokens.removeSubrange(min(position, tokens.count)...)
        tokens += new
    }

    /// Places before `count` are computed.
    mutating func compute(to count: Int) { computed = count }

    /// Gives up what would take too long to compute, or cannot be: what lies before `place`, to the
    /// end of its page.
    mutating func skip(to place: Int, pageTokens: Int) {
        skippedPages = (place + pageTokens - 1) / pageTokens
        computed = skippedPages * pageTokens
    }

    /// Tokens before the first that the draft's pages hold.
    private func start(pageTokens: Int) -> Int { skippedPages * pageTokens }

    /// New places of sequences in what their pages hold of the draft's.
    ///
    /// - Parameters:
    ///   - pages: The target's, of each sequence.
    ///   - positions: The first new place of each.
    ///   - count: New places of each.
    static func rows(
        _ tracks: [Self], pages: [[Int32]], positions: [Int], count: Int, pageTokens: Int
    ) -> PagedRows {
        let starts = tracks.map { $0.start(pageTokens: pageTokens) }
        return PagedRows(
            pages: zip(pages, tracks).map { Array($0.dropFirst($1.skippedPages)) },
            positions: zip(positions, starts).map { $0 - $1 }, count: count, starts: starts)
    }
}

extension Array {
    /// Indices of elements with equal keys, in ascending order of the keys.
    func groups(by key: (Element) -> Int) -> [(key: Int, indices: [Int])] {
        Dictionary(grouping: indices) { key(self[$0]) }.sorted { $0.key < $1.key }
            .map { ($0.key, $0.value) }
    }
}
