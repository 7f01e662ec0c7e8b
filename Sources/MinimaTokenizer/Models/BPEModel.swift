import MinimaCore

/// Byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): a word's symbols are joined pair by
/// pair, the pair of lowest rank first, the leftmost of equals.
///
/// Symbols are scalars, or bytes where the pieces are raw bytes. A scalar without a token becomes
/// its byte tokens `<0x00>`…`<0xFF>` (`byte_fallback`), else the unknown token, else nothing.
struct BPEModel: Model {
    static let typeName = "BPE"

    let vocabulary: Vocabulary
    private let merges: MergeTable
    private let settings: Settings
    /// The token of each byte as `ByteLevelAlphabet` spells it; -1 for none.
    private let byteSymbols: [Int32]
    /// The token of each ASCII scalar; -1 for none.
    private let asciiSymbols: [Int32]
    /// The tokens `<0x00>`…`<0xFF>`; -1 for none. Empty without `byte_fallback`.
    private let fallbackSymbols: [Int32]
    /// Tokens by the bytes they spell, for `ignore_merges` on raw bytes.
    private let rawVocabulary: Vocabulary?
    /// Where long pieces may be cut without changing any token.
    private let separators: BPESeparators

    /// The settings beside vocabulary and merges.
    struct Settings: Sendable {
        let unknownToken: String?
        let unknownID: Int32?
        let prefix: [UInt8]
        let suffix: [UInt8]
        let fusesUnknown: Bool
        let fallsBackToBytes: Bool
        let ignoresMerges: Bool
    }

    /// Words of up to this many symbols are merged by scanning, longer ones with a heap; scanning
    /// is quadratic but has no overhead, and words are short.
    private static let scanLimit = 48

    init(_ section: ConfigSection) throws(TokenizerError) {
        let parts = try BPEModel.read(section)
        vocabulary = parts.vocabulary
        merges = parts.merges
        settings = parts.settings
        let vocabulary = parts.vocabulary
        byteSymbols = ByteLevelAlphabet.scalars.map {
            vocabulary.id(of: Array(String($0).utf8)) ?? -1
        }
        asciiSymbols = (UInt8(0)..<0x80).map { vocabulary.id(of: [$0]) ?? -1 }
        fallbackSymbols =
            !settings.fallsBackToBytes
            ? [] : (UInt8.min ... .max).map { vocabulary.id(of: BPEModel.byteToken($0)) ?? -1 }
        rawVocabulary = settings.ignoresMerges ? BPEModel.rawVocabulary(vocabulary) : nil
        separators = BPESeparators(
            vocabulary: vocabulary, mergePairs: parts.mergePairs, settings: settings,
            alwaysHasSymbol: settings.unknownID != nil
                || !fallbackSymbols.isEmpty && fallbackSymbols.allSatisfy { $0 >= 0 })
    }

    var coversAllBytes: Bool {
        byteSymbols.allSatisfy { $0 >= 0 } && settings.prefix.isEmpty && settings.suffix.isEmpty
    }

    /// The token that stands for a byte without a character of its own, such as `<0x0A>`.
    private static func byteToken(_ byte: UInt8) -> [UInt8] {
        let digits = String(byte, radix: 16, uppercase: true)
        return Array("<0x\(byte < 16 ? "0" : "")\(digits)>".utf8)
    }

    private static func rawVocabulary(_ vocabulary: Vocabulary) -> Vocabulary {
        var raw = Vocabulary(capacity: vocabulary.count)
        for id in vocabulary.ids {
            let bytes = vocabulary.token(id)?.withUnsafeBufferPointer {
                ByteLevelAlphabet.decoded($0)
            }
            // The spelling is one to one, so neither id nor bytes can be taken.
            if let bytes { try? raw.insert(bytes, id: id) }
        }
        return raw
    }
}

// MARK: - Encoding

extension BPEModel {
    func encode(
        _ pieces: consuming Pieces, areRawBytes: Bool, scratch: EncoderScratch,
        into ids: inout [Int32]
    ) throws(TokenizerError) {
        let ranges = pieces.ranges
        pieces.bytes.append(contentsOf: repeatElement(0, count: WordCache.padding))
        try pieces.bytes.withUnsafeBufferPointer { (bytes) throws(TokenizerError) in
            try merges.withView { (merges) throws(TokenizerError) in
                let word = Word(model: self, merges: merges, isRaw: areRawBytes, scratch: scratch)
                for range in ranges {
                    let piece = UnsafeBufferPointer(rebasing: bytes[range.lower..<range.upper])
                    try word.encode(piece: piece, into: &ids)
                }
            }
        }
    }

    /// The encoder of one run over the pieces of a text.
    private struct Word {
        let model: BPEModel
        let merges: MergeTable.View
        let isRaw: Bool
        let scratch: EncoderScratch

        @inline(__always)
        func encode(
            piece: UnsafeBufferPointer<UInt8>, into ids: inout [Int32]
        ) throws(TokenizerError) {
            if piece.count <= WordCache.maximumKeyLength, isRaw || model.separators.isEmpty {
                return try encode(word: piece, into: &ids)
            }
            try encode(long: piece, into: &ids)
        }

        @inline(never)
        private func encode(
            long piece: UnsafeBufferPointer<UInt8>, into ids: inout [Int32]
        ) throws(TokenizerError) {
            var start = 0
            var index = 1
            while let cut = model.separators.next(in: piece, from: index, isRaw: isRaw) {
                try encode(
                    word: UnsafeBufferPointer(rebasing: piece[start..<cut]), into: &ids)
                start = cut
                index = cut + 1
            }
            try encode(word: UnsafeBufferPointer(rebasing: piece[start...]), into: &ids)
        }

        @inline(__always)
        private func encode(
            word: UnsafeBufferPointer<UInt8>, into ids: inout [Int32]
        ) throws(TokenizerError) {
            guard word.count <= WordCache.maximumKeyLength else {
                return try merge(word, into: &ids)
            }
            let key = WordCache.key(word)
            if scratch.cache.append(key, to: &ids) { return }
            let start = ids.count
            try merge(word, into: &ids)
            scratch.cache.insert(key, ids[start...])
        }

        @inline(never)
        private func merge(
            _ word: UnsafeBufferPointer<UInt8>, into ids: inout [Int32]
        ) throws(TokenizerError) {
            if model.settings.ignoresMerges {
                let known =
                    isRaw ? model.rawVocabulary?.id(of: word) : model.vocabulary.id(of: word)
                if let known { return ids.append(known) }
            }
            scratch.symbols.removeAll(keepingCapacity: true)
            if isRaw {
                for byte in word { scratch.symbols.append(model.byteSymbols[Int(byte)]) }
            } else {
                try model.appendSymbols(of: word, to: &scratch.symbols)
            }
            if scratch.symbols.count <= BPEModel.scanLimit {
                scratch.mergeByScanning(merges)
            } else {
                scratch.mergeByHeap(merges)
            }
            ids.append(contentsOf: scratch.symbols)
        }
    }

    /// Appends the tokens of the word's scalars, before any merge.
    private func appendSymbols(
        of word: UnsafeBufferPointer<UInt8>, to symbols: inout [Int32]
    ) throws(TokenizerError) {
        var unknownIsPending = false
        var index = 0
        while index < word.count {
            let length = UTF8Text.scalar(in: word, at: index).length
            let bytes = UnsafeBufferPointer(rebasing: word[index..<(index + length)])
            let isFirst = index == 0
            index += length
            if let id = symbol(of: bytes, isFirst: isFirst, isLast: index == word.count) {
                if unknownIsPending, let unknown = settings.unknownID { symbols.append(unknown) }
                unknownIsPending = false
                symbols.append(id)
                continue
            }
            // Byte tokens do not end a run of unknown scalars, here as in Hugging Face's library.
            if appendFallback(bytes, isFirst, index == word.count, to: &symbols) { continue }
            guard let token = settings.unknownToken else { continue }
            guard let unknown = settings.unknownID else { throw .unknownTokenMissing(token) }
            if unknownIsPending, !settings.fusesUnknown { symbols.append(unknown) }
            unknownIsPending = true
        }
        if unknownIsPending, let unknown = settings.unknownID { symbols.append(unknown) }
    }

    @inline(__always)
    private func symbol(
        of scalar: UnsafeBufferPointer<UInt8>, isFirst: Bool, isLast: Bool
    ) -> Int32? {
        guard settings.prefix.isEmpty, settings.suffix.isEmpty else {
            return vocabulary.id(of: affixed(scalar, isFirst: isFirst, isLast: isLast))
        }
        guard scalar[0] >= 0x80 else {
            let id = asciiSymbols[Int(scalar[0])]
            return id >= 0 ? id : nil
        }
        return vocabulary.id(of: scalar)
    }

    private func affixed(
        _ scalar: UnsafeBufferPointer<UInt8>, isFirst: Bool, isLast: Bool
    ) -> [UInt8] {
        (isFirst ? [] : settings.prefix) + scalar + (isLast ? settings.suffix : [])
    }

    private func appendFallback(
        _ scalar: UnsafeBufferPointer<UInt8>, _ isFirst: Bool, _ isLast: Bool,
        to symbols: inout [Int32]
    ) -> Bool {
        guard !fallbackSymbols.isEmpty else { return false }
        let bytes = affixed(scalar, isFirst: isFirst, isLast: isLast)
        guard bytes.allSatisfy({ fallbackSymbols[Int($0)] >= 0 }) else { return false }
        for byte in bytes { symbols.append(fallbackSymbols[Int(byte)]) }
        return true
    }
}
