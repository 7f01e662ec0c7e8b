/// What happens to the delimiters of a split.
enum SplitBehavior: String, Sendable, CaseIterable {
    case removed = "Removed"
    case isolated = "Isolated"
    case mergedWithPrevious = "MergedWithPrevious"
    case mergedWithNext = "MergedWithNext"
    case contiguous = "Contiguous"

    /// Reads a component's `behavior`.
    init(_ section: ConfigSection, default fallback: SplitBehavior? = nil) throws(TokenizerError) {
        if let fallback, section.optionalSection("behavior") == nil {
            self = fallback
            return
        }
        let name = try section.string("behavior")
        guard let behavior = SplitBehavior(rawValue: name) else {
            let known = Self.allCases.map(\.rawValue).joined(separator: ", ")
            throw section.malformed("the behavior \"\(name)\" is none of \(known)")
        }
        self = behavior
    }
}

/// A part of a text: a delimiter, or what stands between two.
struct SplitPart {
    var start: Int
    var end: Int
    var isDelimiter: Bool
}

extension SplitBehavior {
    /// The pieces that remain of `parts`, which cover a text without gaps.
    func resolve(_ parts: [SplitPart], _ emit: (_ start: Int, _ end: Int) -> Void) {
        switch self {
        case .isolated:
            for part in parts { emit(part.start, part.end) }
        case .removed:
            for part in parts where !part.isDelimiter { emit(part.start, part.end) }
        case .contiguous:
            merge(parts) { $0 == $1 }.forEach { emit($0.start, $0.end) }
        case .mergedWithPrevious:
            merge(parts) { previous, current in current && !previous }
                .forEach { emit($0.start, $0.end) }
        case .mergedWithNext:
            merge(parts.reversed()) { previous, current in current && !previous }
                .reversed().forEach { emit($0.start, $0.end) }
        }
    }

    /// Joins each part to the one before it where `joins(previous, current)` holds for their being
    /// delimiters; the part before the first counts as none.
    private func merge(
        _ parts: [SplitPart], joins: (_ previous: Bool, _ current: Bool) -> Bool
    ) -> [SplitPart] {
        var merged: [SplitPart] = []
        var previous = false
        for part in parts {
            if let last = merged.last, joins(previous, part.isDelimiter) {
                merged[merged.count - 1].start = min(last.start, part.start)
                merged[merged.count - 1].end = max(last.end, part.end)
            } else {
                merged.append(part)
            }
            previous = part.isDelimiter
        }
        return merged
    }
}

extension Pieces {
    /// Cuts every piece at the delimiters that `find` reports for it.
    ///
    /// - Parameters:
    ///   - invert: Whether what `find` reports is kept and the rest are the delimiters.
    ///   - find: Calls back with ascending, not overlapping bounds within the piece.
    @inline(__always)
    mutating func split(
        _ behavior: SplitBehavior, invert: Bool = false,
        find: (UnsafeBufferPointer<UInt8>, (_ start: Int, _ end: Int) -> Void)
            throws(TokenizerError) -> Void
    ) throws(TokenizerError) {
        var cut: [ByteRange] = []
        cut.reserveCapacity(ranges.count == 1 ? bytes.count / 4 + 1 : ranges.count)
        let old = ranges
        try bytes.withUnsafeBufferPointer { (bytes) throws(TokenizerError) in
            for range in old {
                let piece = UnsafeBufferPointer(rebasing: bytes[range.lower..<range.upper])
                let base = range.lower
                if behavior == .isolated {
                    var covered = 0
                    try find(piece) { start, end in
                        if start > covered {
                            cut.append(ByteRange(start: base + covered, end: base + start))
                        }
                        if end > start {
                            cut.append(ByteRange(start: base + start, end: base + end))
                        }
                        covered = end
                    }
                    if covered < piece.count {
                        cut.append(ByteRange(start: base + covered, end: base + piece.count))
                    }
                    continue
                }
                var parts: [SplitPart] = []
                var covered = 0
                try find(piece) { start, end in
                    if start > covered {
                        parts.append(SplitPart(start: covered, end: start, isDelimiter: invert))
                    }
                    parts.append(SplitPart(start: start, end: end, isDelimiter: !invert))
                    covered = end
                }
                if covered < piece.count {
                    parts.append(SplitPart(start: covered, end: piece.count, isDelimiter: invert))
                }
                behavior.resolve(parts) { start, end in
                    if end > start {
                        cut.append(ByteRange(start: base + start, end: base + end))
                    }
                }
            }
        }
        ranges = cut
    }

    /// Cuts every piece at the matches of a regular expression.
    mutating func split(
        _ behavior: SplitBehavior, invert: Bool = false, regex: Regex
    ) throws(TokenizerError) {
        let matcher = try regex.matcher(for: bytes)
        try split(behavior, invert: invert) { (piece, found) throws(TokenizerError) in
            try matcher.forEachMatch(in: piece, found)
        }
    }

    /// Cuts every piece at the scalars that `isDelimiter` accepts, one delimiter each.
    mutating func split(
        _ behavior: SplitBehavior, where isDelimiter: (Unicode.Scalar) -> Bool
    ) throws(TokenizerError) {
        try split(behavior) { (piece, found) throws(TokenizerError) in
            UTF8Text.forEachScalar(piece) { scalar, start, end in
                if isDelimiter(scalar) { found(start, end) }
            }
        }
    }

    /// Rebuilds every piece: `body` appends what becomes of it.
    mutating func rewrite(
        _ body: (_ piece: UnsafeBufferPointer<UInt8>, _ isAtOrigin: Bool, inout [UInt8]) -> Void
    ) throws(TokenizerError) {
        var rewritten: [UInt8] = []
        rewritten.reserveCapacity(bytes.count + bytes.count / 2)
        var cut: [ByteRange] = []
        cut.reserveCapacity(ranges.count)
        try bytes.withUnsafeBufferPointer { (bytes) throws(TokenizerError) in
            for range in ranges {
                let start = rewritten.count
                body(
                    UnsafeBufferPointer(rebasing: bytes[range.lower..<range.upper]),
                    startsAtOrigin && range.start == 0, &rewritten)
                guard rewritten.count <= Tokenizer.maximumByteCount else {
                    throw .textTooLong(bytes: rewritten.count, limit: Tokenizer.maximumByteCount)
                }
                if rewritten.count > start {
                    cut.append(ByteRange(start: start, end: rewritten.count))
                }
            }
        }
        bytes = rewritten
        ranges = cut
    }
}
