/// What a drafter with keys and values of its own knows of a sequence, and what of it is computed.
struct DraftTrack {
    /// The sequence's tokens as far as the target has computed them.
    private(set) var tokens: [Int32] = []
    /// Places whose keys and values are computed and right.
    private(set) var computed = 0

    /// The track of a sequence whose first pages are filled with these tokens.
    init(cached: ArraySlice<Int32> = []) {
        tokens = Array(cached)
        computed = cached.count
    }

    /// Takes tokens from `position`.
    mutating func observe(_ new: [Int32], at position: Int) {
        if position < tokens.count { computed = min(computed, position) }
        tokens.removeSubrange(min(position, tokens.count)...)
        tokens += new
    }

    /// Places before `count` are computed.
    mutating func compute(to count: Int) { computed = count }
}

extension Array {
    /// Indices of elements with equal keys, in ascending order of the keys.
    func groups(by key: (Element) -> Int) -> [(key: Int, indices: [Int])] {
        Dictionary(grouping: indices) { key(self[$0]) }.sorted { $0.key < $1.key }
            .map { ($0.key, $0.value) }
    }
}
