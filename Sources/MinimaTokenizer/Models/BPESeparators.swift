/// Places where a piece can be cut in two that are then encoded on their own, with the same tokens.
///
/// Two neighbouring symbols can only end up in one token when some merge has a left side that ends
/// with the first one's last scalar and a right side that begins with the second one's first. If no
/// merge has a right side beginning with "▁" unless its left side ends with "▁" too, then nothing
/// ever joins across the border between another scalar and a "▁". Tokenizers that do not cut the
/// text beforehand (SentencePiece) can so be cut into words, and words are cached.
struct BPESeparators: Sendable {
    /// UTF-8 of the scalars that separate; for raw bytes their bytes.
    private let scalars: [[UInt8]]
    private let rawBytes: [UInt8]

    /// Scalars worth looking for: what stands between words.
    private static let candidates: [Unicode.Scalar] = ["\u{2581}", " ", "\n"]

    /// - Parameters:
    ///   - mergePairs: Every merge's left and right token.
    ///   - alwaysHasSymbol: Whether no scalar is dropped for want of a token.
    init(
        vocabulary: Vocabulary, mergePairs: [(left: Int32, right: Int32)],
        settings: BPEModel.Settings, alwaysHasSymbol: Bool
    ) {
        // Affixes depend on where a word ends, and `ignore_merges` looks whole pieces up.
        guard settings.prefix.isEmpty, settings.suffix.isEmpty, !settings.ignoresMerges else {
            scalars = []
            rawBytes = []
            return
        }
        func isSeparator(_ text: [UInt8]) -> Bool {
            guard vocabulary.id(of: text) != nil else { return false }
            // A symbol's text is its scalar, the unknown token or a byte token.
            if let unknown = settings.unknownID, let symbol = vocabulary.token(unknown),
                symbol.suffix(text.count) == text[...]
            {
                return false
            }
            return mergePairs.allSatisfy { left, right in
                guard let right = vocabulary.token(right), right.starts(with: text),
                    let left = vocabulary.token(left)
                else { return true }
                return left.suffix(text.count) == text[...]
            }
        }
        scalars =
            alwaysHasSymbol
            ? Self.candidates.map { Array(String($0).utf8) }.filter(isSeparator) : []
        rawBytes = Self.candidates.filter(\.isASCII).map { UInt8(truncatingIfNeeded: $0.value) }
            .filter { isSeparator(ByteLevelAlphabet.encoded(CollectionOfOne($0))) }
    }

    /// Whether no scalar separates.
    var isEmpty: Bool { scalars.isEmpty }

    /// The first place at or behind `index`, which is not 0, where `piece` may be cut.
    @inline(__always)
    func next(in piece: UnsafeBufferPointer<UInt8>, from index: Int, isRaw: Bool) -> Int? {
        isRaw ? nextRaw(in: piece, from: index) : nextScalar(in: piece, from: index)
    }

    private func nextRaw(in piece: UnsafeBufferPointer<UInt8>, from index: Int) -> Int? {
        guard !rawBytes.isEmpty else { return nil }
        return piece.indices[index...].first { index in
            piece[index - 1] != piece[index] && rawBytes.contains(piece[index])
        }
    }

    private func nextScalar(in piece: UnsafeBufferPointer<UInt8>, from index: Int) -> Int? {
        var first: Int?
        for scalar in scalars {
            let end = min(piece.count, first ?? piece.count)
            if let found = Self.find(scalar, in: piece, from: index, to: end) { first = found }
        }
        return first
    }

    /// The first place in `index..<end` where `scalar` stands and not itself before it.
    private static func find(
        _ scalar: [UInt8], in piece: UnsafeBufferPointer<UInt8>, from index: Int, to end: Int
    ) -> Int? {
        scalar.withUnsafeBufferPointer { scalar in
            let lead = scalar[0]
            let length = scalar.count
            for start in index..<max(index, min(end, piece.count - length + 1))
            where piece[start] == lead {
                guard matches(scalar, piece, start) else { continue }
                if start < length || !matches(scalar, piece, start - length) { return start }
            }
            return nil
        }
    }

    @inline(__always)
    private static func matches(
        _ scalar: UnsafeBufferPointer<UInt8>, _ piece: UnsafeBufferPointer<UInt8>, _ start: Int
    ) -> Bool {
        for offset in 0..<scalar.count where piece[start + offset] != scalar[offset] {
            return false
        }
        return true
    }
}
