import MinimaCore

/// A tokenizer read from a checkpoint's tokenizer.json, with the ids of Hugging Face `tokenizers`.
///
/// Byte-level BPE (GPT-2, Llama 3, Qwen, GPT-OSS) and BPE converted from SentencePiece (Llama 2,
/// Mistral). `truncation` and `padding` of the file are not applied. Values may be shared between
/// threads; concurrent calls do not wait for each other.
public struct Tokenizer: Sendable {
    let vocabulary: Vocabulary
    let addedTokens: AddedTokens
    private let normalizer: (any Normalizer)?
    private let preTokenizer: (any PreTokenizer)?
    private let postProcessor: (any PostProcessor)?
    private let decoder: (any Decoder)?
    private let model: any Model
    /// Whether the model gets raw bytes; the same tokens as from their spelling, without the detour.
    private let usesRawBytes: Bool
    private let pool = ScratchPool()

    /// The tokens that tokenizer_config.json names.
    public let specialTokens: SpecialTokens

    /// The longest text that one call encodes, in bytes, also once it is normalized: offsets have
    /// 32 bits.
    public static let maximumByteCount = 1 << 30

    /// Reads the sections of tokenizer.json.
    ///
    /// - Parameters:
    ///   - tokenizerJSON: The document.
    ///   - config: tokenizer_config.json; without it no special token has a role.
    ///   - file: The document's name, for messages.
    /// - Throws: `TokenizerError` naming file and section when a component is malformed or is one
    ///   that Minima does not implement.
    public init(
        tokenizerJSON: JSON, config: JSON? = nil, file: String = "tokenizer.json"
    ) throws(TokenizerError) {
        try self.init(
            tokenizerJSON: tokenizerJSON, config: config, file: file, prefersRawBytes: true)
    }

    /// - Parameter prefersRawBytes: `false` takes the slow way that defines what is right.
    init(
        tokenizerJSON: JSON, config: JSON?, file: String, prefersRawBytes: Bool
    ) throws(TokenizerError) {
        let root = ConfigSection(json: tokenizerJSON, file: file, path: "")
        guard tokenizerJSON.object != nil else {
            throw root.malformed("expected an object, found \(tokenizerJSON.kind)")
        }
        let model = try Registry.model(try root.section("model"))
        vocabulary = model.vocabulary
        self.model = model
        normalizer = try root.optionalSection("normalizer").map(Registry.normalizer)
        let preTokenizer = try root.optionalSection("pre_tokenizer").map(Registry.preTokenizer)
        decoder = try root.optionalSection("decoder").map(Registry.decoder)
        addedTokens = try AddedTokens(
            root.optionalSection("added_tokens"), vocabulary: model.vocabulary,
            normalizer: normalizer)
        if prefersRawBytes, model.coversAllBytes, let raw = preTokenizer?.leavingRawBytes() {
            usesRawBytes = true
            self.preTokenizer = raw
        } else {
            usesRawBytes = false
            self.preTokenizer = preTokenizer
        }
        let processor = try root.optionalSection("post_processor").map(Registry.postProcessor)
        let (vocabulary, addedTokens) = (self.vocabulary, self.addedTokens)
        specialTokens = try SpecialTokens(config) { text in
            addedTokens.id(of: Array(text.utf8)) ?? vocabulary.id(of: Array(text.utf8))
        }
        postProcessor = specialTokens.template ?? processor
    }

    /// The ids of a text.
    ///
    /// - Parameter addSpecialTokens: Whether the file's template puts its tokens (such as the
    ///   beginning of a sequence) around the text. Special tokens that the text spells are found
    ///   either way.
    /// - Throws: `TokenizerError` when the text is longer than `maximumByteCount`, a regular
    ///   expression gives up on it, or it needs an unknown token that the vocabulary lacks.
    /// - Complexity: O(bytes), for words of bounded length.
    public func encode(
        _ text: String, addSpecialTokens: Bool = true
    ) throws(TokenizerError) -> [Int32] {
        try encode(validUTF8: Array(text.utf8), addSpecialTokens: addSpecialTokens)
    }

    /// The ids of a text given as bytes; what is not UTF-8 counts as U+FFFD.
    public func encode(
        utf8 bytes: [UInt8], addSpecialTokens: Bool = true
    ) throws(TokenizerError) -> [Int32] {
        try encode(validUTF8: UTF8Text.repaired(bytes), addSpecialTokens: addSpecialTokens)
    }

    private func encode(
        validUTF8 bytes: [UInt8], addSpecialTokens: Bool
    ) throws(TokenizerError) -> [Int32] {
        guard bytes.count <= Self.maximumByteCount else {
            throw .textTooLong(bytes: bytes.count, limit: Self.maximumByteCount)
        }
        let scratch = pool.take()
        defer { pool.put(scratch) }
        var ids: [Int32] = []
        ids.reserveCapacity(bytes.count / 3 + 4)
        try bytes.withUnsafeBufferPointer { (buffer) throws(TokenizerError) in
            try addedTokens.split(raw: buffer) { (part) throws(TokenizerError) in
                switch part {
                case .token(let id): ids.append(id)
                case .text(let range):
                    let text = NormalizedText(
                        bytes: range.count == bytes.count ? bytes : Array(buffer[range]),
                        startsAtOrigin: range.lowerBound == 0)
                    try encode(text, scratch, into: &ids)
                }
            }
        }
        guard addSpecialTokens, let postProcessor else { return ids }
        return postProcessor.process(ids)
    }

    /// Appends the ids of a text between two added tokens.
    private func encode(
        _ text: NormalizedText, _ scratch: EncoderScratch, into ids: inout [Int32]
    ) throws(TokenizerError) {
        var text = text
        try normalizer?.normalize(&text)
        guard text.bytes.count <= Self.maximumByteCount else {
            throw .textTooLong(bytes: text.bytes.count, limit: Self.maximumByteCount)
        }
        try text.bytes.withUnsafeBufferPointer { (buffer) throws(TokenizerError) in
            try addedTokens.split(normalized: buffer) { (part) throws(TokenizerError) in
                switch part {
                case .token(let id): ids.append(id)
                case .text(let range):
                    var pieces = Pieces(
                        NormalizedText(
                            bytes: range.count == text.bytes.count
                                ? text.bytes : Array(buffer[range]),
                            startsAtOrigin: text.startsAtOrigin && range.lowerBound == 0))
                    try preTokenizer?.split(&pieces)
                    try model.encode(
                        pieces, areRawBytes: usesRawBytes, scratch: scratch, into: &ids)
                }
            }
        }
    }
}

// MARK: - Tokens and decoding

extension Tokenizer {
    /// One more than the largest id, added tokens included: the least number of embedding rows.
    public var vocabularySize: Int { max(vocabulary.idLimit, addedTokens.idLimit) }

    /// The id that a vocabulary of `tokens` tokens may not reach; ids far beyond their number would
    /// make tables of any size.
    static func idLimit(tokens: Int) -> Int { 8 * tokens + 65536 }

    /// A token as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`), or `nil` for an unused id.
    public func token(for id: Int32) -> String? {
        if let entry = addedTokens.entries[id] {
            return String(decoding: entry.content, as: UTF8.self)
        }
        return vocabulary.token(id).map { String(decoding: $0, as: UTF8.self) }
    }

    /// The bytes that a token adds to a text, behind other tokens: of a byte-level vocabulary those
    /// that its characters stand for, of one with byte tokens (`<0xE2>`) that byte. They need not be
    /// UTF-8: a scalar's bytes may be spread over several tokens. Special tokens are as they are
    /// spelt; an unused id has none.
    ///
    /// The bytes of ids one after the other are what ``decode(_:skipSpecialTokens:)`` makes text of,
    /// but for a space that a decoder leaves out at a text's beginning.
    public func bytes(of id: Int32) -> [UInt8] {
        guard let token = addedTokens.text(id)?[...] ?? vocabulary.token(id) else { return [] }
        let spelling = Array(token)
        return decoder?.bytes(of: spelling) ?? JoinStage.bytes(of: spelling)
    }

    /// Whether a token is marked as special: it has a meaning of its own and is no part of a text.
    public func isSpecial(_ id: Int32) -> Bool {
        addedTokens.entries[id].map(\.isSpecial) ?? false
    }

    /// The id of a token as the vocabulary spells it.
    public func id(for token: String) -> Int32? {
        let bytes = Array(token.utf8)
        return addedTokens.id(of: bytes) ?? vocabulary.id(of: bytes)
    }

    /// The text of `ids`. Ids without a token are left out, bytes that are not UTF-8 become U+FFFD.
    ///
    /// - Parameter skipSpecialTokens: Whether tokens marked as special are left out.
    public func decode(_ ids: some Sequence<Int32>, skipSpecialTokens: Bool = true) -> String {
        var stream = makeStream(skipSpecialTokens: skipSpecialTokens)
        var bytes: [UInt8] = []
        for id in ids { stream.append(id, to: &bytes) }
        stream.finish(into: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A decoder that takes ids as they are generated.
    ///
    /// - Parameters:
    ///   - skipSpecialTokens: Whether tokens marked as special are left out.
    ///   - kept: Special tokens that are not left out.
    public func makeStream(
        skipSpecialTokens: Bool = true, keeping kept: Set<Int32> = []
    ) -> TokenStream {
        TokenStream(
            tokenizer: self, stage: decoder?.makeStage() ?? JoinStage(),
            skipsSpecialTokens: skipSpecialTokens, kept: kept)
    }
}
