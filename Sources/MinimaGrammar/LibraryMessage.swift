/// Messages of the library, as a client may see them.
enum LibraryMessage {
    private static let longest = 300

    /// Without time, file and line of the library, in one line, and not longer than a line or two.
    static func cleaned(_ message: String) -> String {
        var text = message[...]
        if let place = text.firstRange(of: ".cc:") ?? text.firstRange(of: ".h:") {
            text = text[place.upperBound...].drop { $0.isNumber }
            text = text.drop { $0 == ":" || $0 == " " }
        }
        // A failed check says its condition first.
        if text.hasPrefix("Check failed:"), let end = text.firstRange(of: "is false: ") {
            text = text[end.upperBound...]
        }
        let scalars = text.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? " " : $0 }
        var line = String(String.UnicodeScalarView(scalars))
            .split(separator: " ").joined(separator: " ")
        if line.unicodeScalars.count > longest {
            line = String(line.unicodeScalars.prefix(longest)) + "…"
        }
        return line.isEmpty ? "the library gives no reason" : line
    }
}
