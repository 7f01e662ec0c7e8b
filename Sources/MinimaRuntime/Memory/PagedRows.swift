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
    /// Length that dynamic rotary scaling goes by; `nil`: at each token as if it were the last.
    var rotaryLength: Int?
    /// Of each new token the one before it among its row's, the first of which is 0 and has none: what
    /// a tree's nodes follow. They see those before them in their branch only, and stand one place
    /// behind them. `nil`: each follows the one before it.
    var parents: [[Int]]?

    /// Tokens of each, the new ones included.
    var lengths: [Int] { positions.map { $0 + count } }

    /// Of each row's new tokens the branch that they end, themselves included; `nil` without branches.
    fileprivate var branches: [[[Int]]]? {
        parents?.map { parents in
            var branches: [[Int]] = []
            for (token, parent) in parents.enumerated() {
                branches.append((token > 0 ? branches[parent] : []) + [token])
            }
            return branches
        }
    }
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
        let pass = try pass(pages: rows.pages, lengths: rows.lengths, tokens: count)
        let branches = rows.branches
        let absolute = rows.positions.indices.map { row in
            (0..<count).map { token in
                rows.positions[row] + (branches.map { $0[row][token].count - 1 } ?? token)
            }
        }
        let (cosines, sines) = try angles(absolute, rows.rotaryLength, rotary, dtype)
        let keys = rows.lengths.max() ?? 0
        // Row by row, every key is visible to a single new token.
        let isRagged = Set(rows.lengths).count > 1
        var mask: Tensor?
        if let branches {
            mask = try visibility(
                rows.positions, keys: keys,
                zip(rows.positions, branches).map { position, branches in
                    branches.map { $0.map { position + $0 } }
                })
        } else if keys > count && (isRagged || count > 1) {
            let places = try tensor(
                rows.positions.map { Array($0..<$0 + count) }, shape: [batch, 1, count, 1])
            mask = try Tensor.arange(0..<keys, device: device).isAtMost(places)
        }
        return ForwardContext(
            batch: batch, tokens: count, cosines: cosines, sines: sines, mask: mask, store: pass)
    }

    private func tensor(_ values: [[Int]], shape: [Int]) throws(TensorError) -> Tensor {
        try Tensor(values.flatMap { $0.map(Int64.init) }, shape: shape).to(device)
    }

    /// True where a new token sees a key, `[row, 1, token, keys]`: the first `trunks` keys of its row,
    /// and those that are named for it.
    func visibility(
        _ trunks: [Int], keys: Int, _ named: [[[Int]]]
    ) throws(TensorError) -> Tensor {
        let (batch, count) = (trunks.count, named.first?.count ?? 0)
        let last = try tensor([trunks.map { $0 - 1 }], shape: [batch, 1, 1, 1])
        let trunk = try Tensor.arange(0..<keys, device: device).isAtMost(last)
            .expand([batch, 1, count, keys])
        let places = named.enumerated().flatMap { row, tokens in
            tokens.enumerated().flatMap { token, seen in
                seen.map { (row * count + token) * keys + $0 }
            }
        }
        return try trunk.contiguous().reshape([-1]).scatter(
            0, tensor([places], shape: [places.count]),
            Tensor.ones([places.count], dtype: .bool, device: device)
        ).reshape([batch, 1, count, keys])
    }

    /// Cosines and sines at places `[row][token]`, see `RotaryEmbedding.table`.
    ///
    /// - Parameter rotaryLength: See ``PagedRows/rotaryLength``.
    func angles(
        _ places: [[Int]], _ rotaryLength: Int?, _ rotary: RotaryEmbedding, _ dtype: DType
    ) throws(TensorError) -> (Tensor, Tensor) {
        let count = places.first?.count ?? 0
        let all = try tensor(places, shape: [places.count, count])
        guard rotary.dependsOnLength else {
            let length = places.reduce(0) { max($0, $1.max() ?? 0) } + 1
            return try rotary.table(all, length: length, dtype: dtype)
        }
        if let rotaryLength {
            return try rotary.table(all, length: rotaryLength, dtype: dtype)
        }
        var (cosines, sines): ([Tensor], [Tensor]) = ([], [])
        for (row, places) in places.enumerated() {
            let own = try all.narrow(0, row..<row + 1)
            var tables: [(cosines: Tensor, sines: Tensor)] = []
            for (token, place) in places.enumerated() {
                tables.append(
                    try rotary.table(
                        own.narrow(1, token..<token + 1), length: place + 1, dtype: dtype))
            }
            cosines.append(try .cat(tables.map(\.cosines), dim: 2))
            sines.append(try .cat(tables.map(\.sines), dim: 2))
        }
        return (try Tensor.cat(cosines), try Tensor.cat(sines))
    }
}
