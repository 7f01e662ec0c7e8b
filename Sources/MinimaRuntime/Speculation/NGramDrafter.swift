import MinimaTensor

/// Proposes what followed a sequence's last tokens when they stood in it before.
///
/// - Note: Saxena 2023, "Prompt lookup decoding".
final class NGramDrafter: Drafter {
    private let suffix: Int
    private var sequences: [Int: [Int32]] = [:]

    /// A drafter that looks for the last `suffix` tokens, then for fewer.
    init(suffix: Int) {
        self.suffix = max(suffix, 1)
    }

    func open(_ slot: Int, cached: ArraySlice<Int32>) {
        sequences[slot] = Array(cached)
    }

    func close(_ slot: Int) {
        sequences[slot] = nil
    }

    func prefill(_ chunk: PrefillChunk, features: Tensor?) {
        take(chunk.slot, at: chunk.position, Array(chunk.tokens))
    }

    func observe(_ row: DecodeBatch.Row, _ tokens: [Int32], features: Tensor?) {
        take(row.slot, at: row.position, tokens)
    }

    private func take(_ slot: Int, at position: Int, _ tokens: [Int32]) {
        let known = sequences[slot]?.prefix(position) ?? []
        sequences[slot] = known + tokens
    }

    func propose(_ rows: [DraftRow], count: Int) -> [DraftTree] {
        rows.map { row in
            let known = sequences[row.slot]?.prefix(row.position) ?? []
            return DraftTree(
                chain: Self.proposal(after: known + [row.last], count: count, suffix: suffix))
        }
    }

    /// What followed the last tokens of `tokens` earlier: where the longest suffix of up to `suffix`
    /// tokens occurs, and there last. What reaches the end goes on with the proposal itself.
    ///
    /// - Returns: `count` tokens, or none without an occurrence.
    static func proposal(after tokens: [Int32], count: Int, suffix: Int) -> [Int32] {
        let end = tokens.count - 1
        var (best, place) = (0, 0)
        for candidate in stride(from: end - 1, through: 0, by: -1) {
            var length = 0
            while length < suffix, length <= candidate,
                tokens[candidate - length] == tokens[end - length]
            {
                length += 1
            }
            if length > best { (best, place) = (length, candidate) }
            if best == suffix { break }
        }
        guard best > 0 else { return [] }
        var sequence = tokens
        for offset in 0..<count { sequence.append(sequence[place + 1 + offset]) }
        return Array(sequence[tokens.count...])
    }
}
