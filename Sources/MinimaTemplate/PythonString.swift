/// Python's string methods, on Unicode scalars.
enum PythonString {
    typealias Scalars = ArraySlice<Unicode.Scalar>

    enum Side { case left, right, both }

    /// `strip`, `lstrip`, `rstrip`: without `set` white space goes.
    static func strip(_ text: Scalars, _ set: [Unicode.Scalar]? = nil, side: Side = .both)
        -> Scalars
    {
        var text = text
        let members = set.map { Set($0) }
        func goes(_ scalar: Unicode.Scalar) -> Bool {
            members?.contains(scalar) ?? PythonText.isSpace(scalar)
        }
        if side != .right { text = text.drop(while: goes) }
        if side != .left { while let last = text.last, goes(last) { text.removeLast() } }
        return text
    }

    /// Where `part` begins last in `text`.
    static func findLast(_ part: [Unicode.Scalar], in text: [Unicode.Scalar]) -> Int? {
        let search = TextSearch(Array(part.reversed()))
        let mirrored = Array(text.reversed())
        return search.first(in: mirrored[...], from: 0).map { text.count - $0 - part.count }
    }

    /// `split(separator, limit)`; a negative limit is none.
    static func split(
        _ text: [Unicode.Scalar], separator: [Unicode.Scalar], limit: Int
    ) -> [Scalars] {
        let search = TextSearch(separator)
        var parts: [Scalars] = []
        var start = 0
        while limit < 0 || parts.count < limit, let at = search.first(in: text[...], from: start) {
            parts.append(text[start..<at])
            start = at + separator.count
        }
        parts.append(text[start...])
        return parts
    }

    /// `rsplit(separator, limit)`.
    static func splitFromRight(
        _ text: [Unicode.Scalar], separator: [Unicode.Scalar], limit: Int
    ) -> [Scalars] {
        let mirrored = split(
            text.reversed(), separator: separator.reversed(), limit: limit)
        return mirrored.reversed().map {
            text[(text.count - $0.endIndex)..<(text.count - $0.startIndex)]
        }
    }

    /// `split()`: at runs of white space.
    static func words(_ text: [Unicode.Scalar], limit: Int) -> [Scalars] {
        var parts: [Scalars] = []
        var rest = strip(text[...], side: .left)
        while !rest.isEmpty {
            if limit >= 0, parts.count == limit {
                parts.append(rest)
                break
            }
            let end = rest.firstIndex(where: PythonText.isSpace) ?? rest.endIndex
            parts.append(rest[..<end])
            rest = strip(rest[end...], side: .left)
        }
        return parts
    }

    /// `rsplit()`: at runs of white space, from the right.
    static func wordsFromRight(_ text: [Unicode.Scalar], limit: Int) -> [Scalars] {
        var parts: [Scalars] = []
        var rest = strip(text[...], side: .right)
        while !rest.isEmpty {
            if limit >= 0, parts.count == limit {
                parts.append(rest)
                break
            }
            let start = rest.lastIndex(where: PythonText.isSpace).map { $0 + 1 } ?? rest.startIndex
            parts.append(rest[start...])
            rest = strip(rest[..<start], side: .right)
        }
        return parts.reversed()
    }

    /// `splitlines(keepends)`.
    static func lines(_ text: [Unicode.Scalar], keepingEnds: Bool = false) -> [Scalars] {
        var lines: [Scalars] = []
        var start = 0
        while start < text.count {
            var end = start
            while end < text.count, !PythonText.isLineBreak(text[end]) { end += 1 }
            var next = min(end + 1, text.count)
            if end + 1 < text.count, text[end] == "\r", text[end + 1] == "\n" { next += 1 }
            lines.append(text[start..<(keepingEnds ? next : end)])
            start = next
        }
        return lines
    }

    /// `replace(old, new, limit)`; a negative limit is none.
    static func replacing(
        _ old: [Unicode.Scalar], with new: [Unicode.Scalar], in text: [Unicode.Scalar], limit: Int
    ) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        var count = 0
        var start = 0
        if old.isEmpty {
            for scalar in text {
                if limit < 0 || count < limit { result += new }
                count += 1
                result.append(scalar)
            }
            if limit < 0 || count < limit { result += new }
            return result
        }
        let search = TextSearch(old)
        while limit < 0 || count < limit, let at = search.first(in: text[...], from: start) {
            result += text[start..<at]
            result += new
            start = at + old.count
            count += 1
        }
        result += text[start...]
        return result
    }

    /// How often `part` occurs without overlap.
    static func count(_ part: [Unicode.Scalar], in text: [Unicode.Scalar]) -> Int {
        guard !part.isEmpty else { return text.count + 1 }
        let search = TextSearch(part)
        var count = 0
        var start = 0
        while let at = search.first(in: text[...], from: start) {
            count += 1
            start = at + part.count
        }
        return count
    }
}

extension PythonString {
    /// `isupper()` or `islower()`: every cased scalar has that case, and there is one.
    static func isCased(_ text: [Unicode.Scalar], upper: Bool) -> Bool {
        let cased = text.filter(\.properties.isCased)
        return !cased.isEmpty
            && cased.allSatisfy { upper ? $0.properties.isUppercase : $0.properties.isLowercase }
    }

    /// `lower()`, with the final form of sigma at the ends of words.
    static func lowered(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        for index in text.indices { appendLower(index, of: text, to: &result) }
        return result
    }

    static func uppered(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        text.flatMap { $0.properties.uppercaseMapping.unicodeScalars }
    }

    private static func appendLower(
        _ index: Int, of text: [Unicode.Scalar], to result: inout [Unicode.Scalar]
    ) {
        guard text[index] == "\u{3A3}" else {
            result.append(contentsOf: text[index].properties.lowercaseMapping.unicodeScalars)
            return
        }
        let before = text[..<index].last { !$0.properties.isCaseIgnorable }
        let after = text[(index + 1)...].first { !$0.properties.isCaseIgnorable }
        let isFinal = before?.properties.isCased == true && after?.properties.isCased != true
        result.append(isFinal ? "\u{3C2}" : "\u{3C3}")
    }

    /// `capitalize()`.
    static func capitalized(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        for index in text.indices {
            if index == 0 {
                result.append(contentsOf: text[0].properties.titlecaseMapping.unicodeScalars)
            } else {
                appendLower(index, of: text, to: &result)
            }
        }
        return result
    }

    /// `str.title()`: every cased run begins in title case.
    static func titled(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        var insideWord = false
        for index in text.indices {
            if insideWord {
                appendLower(index, of: text, to: &result)
            } else {
                result.append(contentsOf: text[index].properties.titlecaseMapping.unicodeScalars)
            }
            insideWord = text[index].properties.isCased
        }
        return result
    }

    /// `swapcase()`.
    static func swapped(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        for index in text.indices {
            if text[index].properties.isUppercase {
                appendLower(index, of: text, to: &result)
            } else {
                let mapping = text[index].properties
                result +=
                    mapping.isLowercase
                    ? Array(mapping.uppercaseMapping.unicodeScalars)
                    : [text[index]]
            }
        }
        return result
    }

    /// Jinja's filter `title`: words begin after spaces, hyphens and opening brackets.
    static func titledWords(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        var word: [Unicode.Scalar] = []
        func flush() {
            guard let first = word.first else { return }
            result += uppered([first]) + lowered(Array(word.dropFirst()))
            word = []
        }
        for scalar in text {
            if "-({[<".unicodeScalars.contains(scalar) || PythonText.isSpace(scalar) {
                flush()
                result.append(scalar)
            } else {
                word.append(scalar)
            }
        }
        flush()
        return result
    }
}
