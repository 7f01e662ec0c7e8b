import MinimaCheckpoint
import MinimaCore

extension ModelConfig {
    /// The output projection `lm_head`, without its weight: `[vocab_size, hidden_size]` in every family,
    /// behind the last layer.
    ///
    /// It is none of a model's sites: nothing is analysed or planned for it unless it is asked for.
    public func headSite() throws -> Site {
        let outputs = try int("vocab_size")
        let inputs = try int("hidden_size")
        try requireMatrix("vocab_size", rows: outputs, hidden: inputs)
        let shape = LinearShape(
            name: LinearShape.headName, outputs: outputs, inputs: inputs,
            patches: PatchGrid(.outputs, count: 1))
        return Site(shape, layer: try int("num_hidden_layers", in: 1...10_000))
    }
}

/// What every family asks of its configuration before it computes with its numbers.
extension ModelConfig {
    /// Values of the largest matrix that is believed: 32 TiB in bfloat16, and the products of a
    /// model's 10,000 layers with it do not overflow.
    static let largestMatrix = 1 << 44

    /// Whether the output projection is the embedding: tied, and not stored in a format of its own.
    var tiesHead: Bool {
        get throws {
            guard try tieWordEmbeddings == true else { return false }
            return try CompressionManifest(self).modules[LinearShape.headName] == nil
        }
    }

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
