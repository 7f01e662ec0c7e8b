/// A part of tokenizer.json that is chosen by its `type`.
protocol Component: Sendable {
    /// The `type` that tokenizer.json names it by.
    static var typeName: String { get }

    /// Reads the component's settings.
    init(_ section: ConfigSection) throws(TokenizerError)
}

/// Rewrites the text before it is split.
protocol Normalizer: Component {
    func normalize(_ text: inout NormalizedText) throws(TokenizerError)
}

/// Cuts the text into pieces that no token crosses.
protocol PreTokenizer: Component {
    func split(_ pieces: inout Pieces) throws(TokenizerError)

    /// This pre-tokenizer without its final mapping of bytes to characters, for models that look
    /// raw bytes up; `nil` when that mapping is not the last thing it does.
    func leavingRawBytes() -> (any PreTokenizer)?
}

extension PreTokenizer {
    func leavingRawBytes() -> (any PreTokenizer)? { nil }
}

/// Adds special tokens around the encoded text.
protocol PostProcessor: Component {
    func process(_ ids: [Int32]) -> [Int32]
}

/// Turns tokens back into text.
protocol Decoder: Component {
    /// The decoder's working state for one run over a list of tokens.
    func makeStage() -> any DecoderStage

    /// The bytes that a token with this spelling adds to a text, behind other tokens.
    ///
    /// Unlike the text that a stage puts out these need not be UTF-8, and they do not depend on
    /// other tokens: a token that holds part of a scalar gives just that part.
    func bytes(of token: [UInt8]) -> [UInt8]
}

/// A text between two added tokens, on its way through the normalizers.
struct NormalizedText {
    /// Valid UTF-8.
    var bytes: [UInt8]
    /// Whether the first byte stems from the first byte of the whole input.
    var startsAtOrigin: Bool
}

/// A text cut into pieces.
struct Pieces {
    /// Valid UTF-8, or raw bytes after `PreTokenizer.leavingRawBytes()`.
    var bytes: [UInt8]
    /// Whether the first byte stems from the first byte of the whole input.
    var startsAtOrigin: Bool
    /// Ascending ranges of `bytes`, none empty, all on scalar boundaries.
    var ranges: [ByteRange]

    /// One piece that is the whole text.
    init(_ text: NormalizedText) {
        bytes = text.bytes
        startsAtOrigin = text.startsAtOrigin
        ranges = bytes.isEmpty ? [] : [ByteRange(start: 0, end: bytes.count)]
    }
}

/// A range of a text's bytes, in half the space of `Range<Int>`.
struct ByteRange {
    let start: UInt32
    let end: UInt32

    /// - Precondition: Both fit 32 bits; `Tokenizer.maximumByteCount` sees to that.
    init(start: Int, end: Int) {
        self.start = UInt32(truncatingIfNeeded: start)
        self.end = UInt32(truncatingIfNeeded: end)
    }

    var lower: Int { Int(start) }
    var upper: Int { Int(end) }
    var count: Int { Int(end - start) }
}
