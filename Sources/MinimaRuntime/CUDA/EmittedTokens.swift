/// What a step left of each slot's tokens, on the host.
struct EmittedTokens {
    /// By slot.
    let counts: [Int32]
    /// By slot and place.
    let tokens: [Int32]
    /// By slot and place: the row of logits, of the row's; `nil`: that of the place.
    var path: [Int32]?
    let logSums, chosen: [Float]?
    /// By row of logits and rank, `width` of each row.
    let likeliest: (ids: [Int64], values: [Float], width: Int)?
    /// Places of a slot.
    let places: Int
    /// Rows of logits of a row of the step, those of its places.
    let rowsOfLogits: Int

    /// The tokens of a row, in order: at least one, at most as many as it has rows of logits.
    ///
    /// - Parameters:
    ///   - wanted: Likeliest tokens that its request wants; `nil` for no log-probabilities.
    func tokens(row: Int, slot: Int, wanted: Int?) -> [SampledToken] {
        let count = min(max(Int(counts[slot]), 1), rowsOfLogits)
        return (0..<count).map { place in
            let index = slot * places + place
            guard let wanted, let logSums, let chosen else {
                return SampledToken(id: tokens[index])
            }
            return SampledToken(
                id: tokens[index], logprob: chosen[index] - logSums[index],
                alternatives: alternatives(
                    row * rowsOfLogits + own(index, place), count: wanted,
                    logSum: logSums[index]))
        }
    }

    /// The row of logits, of the row's, of a place.
    private func own(_ index: Int, _ place: Int) -> Int {
        path.map { min(max(Int($0[index]), 0), rowsOfLogits - 1) } ?? place
    }

    private func alternatives(_ row: Int, count: Int, logSum: Float) -> [SampledToken.Alternative] {
        guard let likeliest, count > 0 else { return [] }
        let first = row * likeliest.width
        return (first..<first + min(count, likeliest.width)).map { place in
            SampledToken.Alternative(
                id: Int32(truncatingIfNeeded: likeliest.ids[place]),
                logprob: likeliest.values[place] - logSum)
        }
    }
}
