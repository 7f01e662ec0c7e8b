/// How keys and values are stored.
public enum KeyValueFormat: Sendable, Hashable, CaseIterable {
    /// bfloat16.
    case bfloat16
    /// e4m3 with a power of two as scale for each token's key and value of each head; a value's error
    /// is at most 2⁻⁴ of itself or 2⁻¹⁸ of the head's largest.
    case float8

    /// Bytes of a value.
    var valueBytes: Int { self == .float8 ? 1 : 2 }
    /// Tokens of a tile of a page, and the multiple that heads are padded to.
    var block: Int { self == .float8 ? 64 : 32 }
}

/// Sizes and numbers of a model's attention, which its kernels are compiled for.
public struct AttentionShape: Sendable, Hashable {
    /// Query heads.
    public let heads: Int
    /// Key-value heads, each read by `heads / kvHeads` query heads.
    public let kvHeads: Int
    /// Values of a head; a multiple of 8, at most 256.
    public let headDim: Int
    /// The first values of a head, which are rotated.
    public let rotaryDim: Int
    /// Whether queries and keys pass an RMSNorm per head before the rotation.
    public let normalisesQueriesAndKeys: Bool
    /// The norms' epsilon.
    public let epsilon: Double
    /// Factor of the rotation's cosines and sines (YaRN's attention scaling).
    public let ropeScaling: Double
    /// Factor of the scores.
    public let scale: Double

    /// A shape that the kernels can be compiled for.
    ///
    /// - Parameters:
    ///   - rotaryDim: `headDim` by default.
    ///   - scale: `1/√headDim` by default.
    /// - Throws: `KernelError.invalidLaunch` for sizes that the kernels do not have.
    public init(
        heads: Int, kvHeads: Int, headDim: Int, rotaryDim: Int? = nil,
        normalisesQueriesAndKeys: Bool, epsilon: Double = 1e-6, ropeScaling: Double = 1,
        scale: Double? = nil
    ) throws(KernelError) {
        let rotaryDim = rotaryDim ?? headDim
        guard kvHeads > 0, heads >= kvHeads, heads % kvHeads == 0, heads / kvHeads <= 64,
            (8...256).contains(headDim), headDim % 8 == 0,
            (2...headDim).contains(rotaryDim), rotaryDim % 2 == 0
        else {
            throw .invalidLaunch(
                kernel: "attention.cu",
                reason: """
                    \(heads) heads over \(kvHeads) key-value heads of \(headDim) values, \(rotaryDim) of \
                    them rotated, were asked for; it has 1 to 64 heads to each key-value head, heads \
                    of 8, 16, … 256 values, and rotates an even number of them
                    """)
        }
        self.heads = heads
        self.kvHeads = kvHeads
        self.headDim = headDim
        self.rotaryDim = rotaryDim
        self.normalisesQueriesAndKeys = normalisesQueriesAndKeys
        self.epsilon = epsilon
        self.ropeScaling = ropeScaling
        self.scale = scale ?? 1 / Double(headDim).squareRoot()
    }

    /// Values of a token's projection: queries, keys, values.
    public var projectionWidth: Int { (heads + 2 * kvHeads) * headDim }

    /// Values of a head in a page.
    func paddedDim(_ format: KeyValueFormat) -> Int {
        (headDim + format.block - 1) / format.block * format.block
    }

    /// Bytes of the keys, or of the values, of one head for `format.block` tokens: `TILE_BYTES` of
    /// `keyvalue.cuh`.
    func tileBytes(_ format: KeyValueFormat) -> Int {
        let values = format.block * paddedDim(format) * format.valueBytes
        return values + (format == .float8 ? format.block : 0)
    }

    /// Constants of `keyvalue.cuh`.
    func constants(_ format: KeyValueFormat) -> [String: KernelConstant] {
        [
            "HEADS": .int(heads), "KV_HEADS": .int(kvHeads), "HEAD_DIM": .int(headDim),
            "ROTARY_DIM": .int(rotaryDim), "QK_NORM": .int(normalisesQueriesAndKeys ? 1 : 0),
            "KV_FP8": .int(format == .float8 ? 1 : 0),
        ]
    }
}
