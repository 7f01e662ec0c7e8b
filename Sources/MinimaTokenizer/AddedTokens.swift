import MinimaCore

/// Tokens beside the model's own: found in the text before anything else happens to it.
struct AddedTokens: Sendable {
    /// An entry of `added_tokens`.
    struct Entry: Sendable {
        let id: Int32
        let content: [UInt8]
        /// What the normalizers make of the content, for tokens that are looked for behind them.
        let normalized: [UInt8]?
        let isSpecial: Bool
        let isSingleWord: Bool
        let stripsLeft: Bool
        let stripsRight: Bool
    }

    /// A part of a text: an added token, or what stands between two.
    enum Part {
        case token(Int32)
        case text(Range<Int>)
    }

    private(set) var entries: [Int32: Entry] = [:]
    private var ids: [[UInt8]: Int32] = [:]
    private var specialContents: Set<[UInt8]> = []
    /// Tokens looked for in the text as it is.
    private var rawTrie = TokenTrie()
    /// Tokens looked for in the normalized text.
    private var normalizedTrie = TokenTrie()

    /// Reads `added_tokens`.
    ///
    /// As in Hugging Face's library a token that the model has keeps the model's id, and any other
    /// is numbered on; the file's own `id` is not looked at.
    init(
        _ section: ConfigSection?, vocabulary: Vocabulary, normalizer: (any Normalizer)?
    ) throws(TokenizerError) {
        var nextID = vocabulary.count
        for element in try section?.elements() ?? [] {
            let content = Array(try element.string("content").utf8)
            guard !content.isEmpty else { continue }
            let id: Int32
            if let known = ids[content] ?? vocabulary.id(of: content) {
                id = known
            } else {
                guard let new = Int32(exactly: nextID) else {
                    throw element.malformed("more tokens than ids")
                }
                id = new
                nextID += 1
            }
            try add(element, content: content, id: id, normalizer: normalizer)
        }
        buildTries()
    }

    private mutating func add(
        _ element: ConfigSection, content: [UInt8], id: Int32, normalizer: (any Normalizer)?
    ) throws(TokenizerError) {
        let isSpecial = try element.bool("special")
        var normalized: [UInt8]?
        if try element.bool("normalized", default: !isSpecial) {
            var text = NormalizedText(bytes: content, startsAtOrigin: true)
            try normalizer?.normalize(&text)
            normalized = text.bytes
        }
        entries[id] = Entry(
            id: id, content: content, normalized: normalized, isSpecial: isSpecial,
            isSingleWord: try element.bool("single_word", default: false),
            stripsLeft: try element.bool("lstrip", default: false),
            stripsRight: try element.bool("rstrip", default: false))
        ids[content] = id
        if isSpecial { specialContents.insert(content) }
    }

    /// Of tokens whose normalized texts are the same, the one with the largest id is found.
    private mutating func buildTries() {
        for entry in entries.values.sorted(by: { $0.id < $1.id }) {
            switch entry.normalized {
            case .some(let text) where text.isEmpty: break
            case .some(let text): normalizedTrie.insert(text, token: entry.id)
            case .none: rawTrie.insert(entry.content, token: entry.id)
            }
        }
    }

    /// One more than the largest id.
    var idLimit: Int { Int(entries.keys.max() ?? -1) + 1 }

    /// The id of an added token by its content.
    func id(of content: [UInt8]) -> Int32? { ids[content] }

    /// What decoding starts from.
    func text(_ id: Int32) -> [UInt8]? {
        entries[id].map { $0.normalized ?? $0.content }
    }

    /// Whether decoding without special tokens leaves this text out.
    func isSpecial(_ text: ArraySlice<UInt8>) -> Bool {
        !specialContents.isEmpty && specialContents.contains(Array(text))
    }

    /// Finds the tokens that are looked for in the text as it is.
    func split(raw text: UnsafeBufferPointer<UInt8>, _ body: (Part) throws(TokenizerError) -> Void)
        throws(TokenizerError)
    {
        try split(text, rawTrie, body)
    }

    /// Finds the tokens that are looked for in the normalized text.
    func split(
        normalized text: UnsafeBufferPointer<UInt8>, _ body: (Part) throws(TokenizerError) -> Void
    ) throws(TokenizerError) {
        try split(text, normalizedTrie, body)
    }

    private func split(
        _ text: UnsafeBufferPointer<UInt8>, _ trie: TokenTrie,
        _ body: (Part) throws(TokenizerError) -> Void
    ) throws(TokenizerError) {
        var covered = 0
        var position = 0
        while !trie.isEmpty, let match = trie.firstMatch(in: text, from: position) {
            position = match.end
            guard let entry = entries[match.token] else { continue }
            var (start, end) = (match.start, match.end)
            if entry.isSingleWord, Self.isInsideWord(text, start, end) { continue }
            if entry.stripsLeft {
                // White space that the token before has taken already stays with it.
                start = max(UTF8Text.startOfWhitespace(in: text, before: start), covered)
            }
            if entry.stripsRight { end = UTF8Text.endOfWhitespace(in: text, from: end) }
            if covered < start { try body(.text(covered..<start)) }
            try body(.token(match.token))
            covered = end
        }
        if covered < text.count { try body(.text(covered..<text.count)) }
    }

    private static func isInsideWord(
        _ text: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int
    ) -> Bool {
        if start > 0,
            Unicode.Scalar(UTF8Text.scalar(in: text, before: start).value)?.isWord == true
        {
            return true
        }
        return end < text.count
            && Unicode.Scalar(UTF8Text.scalar(in: text, at: end).value)?.isWord == true
    }
}
