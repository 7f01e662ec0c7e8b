/// Foreign text made safe to show: nothing in it can move the cursor, reorder its surroundings or
/// be invalid in HTML.
///
/// Control characters (other than line feed and tab), explicit directional formatting,
/// noncharacters and line separators appear as `⟨U+202E⟩`; a carriage return before a line feed is
/// dropped.
struct VisibleText {
    /// What may be shown.
    let text: String

    init(_ foreign: String) {
        var scalars = String.UnicodeScalarView()
        var pendingReturn = false
        for scalar in foreign.unicodeScalars {
            if pendingReturn && scalar != "\n" { scalars.append(contentsOf: Self.code("\r")) }
            pendingReturn = scalar == "\r"
            if pendingReturn { continue }
            if Self.isHarmless(scalar) {
                scalars.append(scalar)
            } else {
                scalars.append(contentsOf: Self.code(scalar))
            }
        }
        if pendingReturn { scalars.append(contentsOf: Self.code("\r")) }
        text = String(scalars)
    }

    /// The same on one line, for terminals.
    var line: String {
        var scalars = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            scalars.append(scalar == "\n" || scalar == "\t" ? " " : scalar)
        }
        return String(scalars)
    }

    private static func code(_ scalar: Unicode.Scalar) -> String.UnicodeScalarView {
        let digits = String(scalar.value, radix: 16, uppercase: true)
        let padding = String(repeating: "0", count: Swift.max(0, 4 - digits.count))
        return "⟨U+\(padding)\(digits)⟩".unicodeScalars
    }

    private static func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x09, 0x0A: true
        case 0..<0x20, 0x7F..<0xA0: false
        case 0x2028, 0x2029: false
        // Embeddings, overrides and isolates; the implicit marks (200E, 200F, 061C) are harmless.
        case 0x202A...0x202E, 0x2066...0x2069: false
        case 0xFDD0...0xFDEF: false
        default: scalar.value & 0xFFFE != 0xFFFE
        }
    }
}

extension VisibleText {
    /// Columns that `line` takes in a terminal: two for wide East Asian characters and emoji, none
    /// for combining marks.
    static func columns(_ line: String) -> Int {
        line.unicodeScalars.reduce(0) { $0 + columns($1) }
    }

    private static func columns(_ scalar: Unicode.Scalar) -> Int {
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .enclosingMark, .format: return 0
        default: break
        }
        switch scalar.value {
        case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F,
            0xFF00...0xFF60, 0xFFE0...0xFFE6, 0x1F300...0x1F64F, 0x1F680...0x1FAFF,
            0x20000...0x3FFFD:
            return 2
        default: return 1
        }
    }

    /// `line`, its middle replaced by `…` where it takes more than `width` columns.
    static func fit(_ line: String, width: Int) -> String {
        guard columns(line) > width else { return line }
        let scalars = Array(line.unicodeScalars)
        var head = String.UnicodeScalarView()
        var tail: [Unicode.Scalar] = []
        var free = width - 1
        var (first, last) = (0, scalars.count - 1)
        while first <= last {
            let takesHead = head.count <= tail.count
            let scalar = takesHead ? scalars[first] : scalars[last]
            guard columns(scalar) <= free else { break }
            free -= columns(scalar)
            if takesHead {
                head.append(scalar)
                first += 1
            } else {
                tail.append(scalar)
                last -= 1
            }
        }
        head.append("…")
        head.append(contentsOf: tail.reversed())
        return String(head)
    }
}
