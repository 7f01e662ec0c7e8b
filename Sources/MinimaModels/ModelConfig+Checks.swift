import MinimaCheckpoint
import MinimaCore

/// What every family asks of its configuration before it computes with its numbers.
extension ModelConfig {
    /// Values of the largest matrix that is believed: 32 TiB in bfloat16, and the products of a
    /// model's 10,000 layers with it do not overflow.
    static let largestMatrix = 1 << 44

    /// Throws unless the FFN's activation is SiLU.
    func requireSiLU() throws {
        let activation = try stringIfPresent("hidden_act") ?? "silu"
        guard activation == "silu" else {
            throw ModelError.unsupported(
                path: path, key: "hidden_act", found: "\"\(activation)\"", supported: "\"silu\"")
        }
    }

    /// Throws unless `count` is a multiple of `divisor`.
    func requireDivisible(_ key: String, _ count: Int, by divisor: Int) throws {
        guard count.isMultiple(of: divisor) else {
            throw mismatch(key, expected: "a multiple of num_key_value_heads (\(divisor))")
        }
    }

    /// Throws unless matrices of `rows` × `hidden` values can exist; `key` made the rows.
    func requireMatrix(_ key: String, rows: Int, hidden: Int) throws {
        let (count, overflows) = rows.multipliedReportingOverflow(by: hidden)
        guard !overflows, count <= Self.largestMatrix else {
            throw mismatch(
                key,
                expected: "matrices of at most \(Self.largestMatrix) values; "
                    + "these are \(rows) × hidden_size (\(hidden))")
        }
    }

    /// The size of a head where `head_dim` does not say it: an equal share of `hidden`.
    func sharedHeadDim(hidden: Int, heads: Int) throws -> Int {
        guard hidden >= heads else {
            throw mismatch(
                "hidden_size",
                expected: "at least num_attention_heads (\(heads)), or a head_dim beside it")
        }
        return hidden / heads
    }

    /// Throws unless the rotated dimensions of a head come in pairs.
    func requirePairs(_ rope: RoPEParameters, headDim: Int) throws {
        let rotated = rope.rotatedDimensions(headDim: headDim)
        guard rotated.isMultiple(of: 2) else {
            throw mismatch(
                "head_dim",
                expected: "heads with an even number of rotated dimensions; of \(headDim), "
                    + "\(rotated) are rotated")
        }
    }
}
