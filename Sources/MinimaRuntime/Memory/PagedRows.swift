import MinimaCore
import MinimaModels
import MinimaTensor

/// New tokens at the ends of several sequences, as many of each, whose keys and values go into pages.
struct PagedRows {
    /// Pages of each sequence.
    var pages: [[Int32]]
    /// Tokens of each in its pages before the new ones.
    var positions: [Int]
    /// New tokens of each.
    var count: Int
    /// Tokens of each sequence before the first that its pages hold.
    var starts: [Int]?
    /// Length that dynamic rotary scaling goes by; `nil`: at each token as if it were the last.
    var rotaryLength: Int?

    /// Tokens of each, the new ones included.
    var lengths: [Int] { positions.map { $0 + count } }
}

extension PagedStorage {
    /// What layers need for a pass over new tokens, whose keys and values it writes here.
    ///
    /// - Throws: `EngineError.stepFailed` where pages do not reach.
    func context(_ rows: PagedRows, rotary: RotaryEmbedding, dtype: DType) throws
        -> ForwardContext
    {
        for (pages, length) in zip(rows.pages, rows.lengths)
        where pages.count * pageTokens < length {
            throw EngineError.stepFailed(
                "\(pages.count) pages of \(pageTokens) do not hold \(length) tokens")
        }
        let (batch, count) = (rows.pages.count, rows.count)
        func tensor(_ positions: [Int]) throws(TensorError) -> Tensor {
            try Tensor(
                positions.flatMap { ($0..<$0 + count).map(Int64.init) }, shape: [batch, count]
            ).to(device)
        }
        let pass = try pass(pages: rows.pages, lengths: rows.lengths, tokens: count)
        let places = try tensor(rows.positions)
        let starts = rows.starts ?? Array(repeating: 0, count: batch)
        let absolute = zip(rows.positions, starts).map { $0 + $1 }
        let isShifted = starts.contains { $0 > 0 }
        let (cosines, sines) = try Self.angles(
            isShifted ? try tensor(absolute) : places, absolute, rows, rotary, dtype)
        let keys = rows.lengths.max() ?? 0
        // Row by row, every key is visible to a single new token.
        let isRagged = Set(rows.lengths).count > 1
        var mask: Tensor?
        if keys > count && (isRagged || count > 1) {
            mask = try Tensor.arange(0..<keys, device: device)
                .isAtMost(places.reshape([batch, 1, count, 1]))
        }
        return ForwardContext(
            batch: batch, tokens: count, cosines: cosines, sines: sines, mask: mask, store: pass)
    }

    /// Cosines and sines at `places` `[row, token]`, see `RotaryEmbedding.table`.
    private static func angles(
        _ places: Tensor, _ positions: [Int], _ rows: PagedRows, _ rotary: RotaryEmbedding,
        _ dtype: DType
    ) throws(TensorError) -> (Tensor, Tensor) {
        guard rotary.dependsOnLength else {
            return try rotary.table(places, length: rows.lengths.max() ?? 0, dtype: dtype)
        }
        if let length = rows.rotaryLength {
            return try rotary.table(places, length: length, dtype: dtype)
        }
        var (cosines, sines): ([Tensor], [Tensor]) = ([], [])
        for (row, position) in positions.enumerated() {
            let own = try places.narrow(0, row..<row + 1)
            var tables: [(cosines: Tensor, sines: Tensor)] = []
            for token in 0..<rows.count {
                tables.append(
                    try rotary.table(
                        own.narrow(1, token..<token + 1), length: position + token + 1,
                        dtype: dtype))
            }
            cosines.append(try .cat(tables.map(\.cosines), dim: 2))
            sines.append(try .cat(tables.map(\.sines), dim: 2))
        }
        return (try Tensor.cat(cosines), try Tensor.cat(sines))
    }
}
