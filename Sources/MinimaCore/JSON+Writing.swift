extension JSON {
    /// This document as JSON text.
    ///
    /// - Parameters:
    ///   - indent: Spaces per level; `nil` writes one line without spaces.
    ///   - sortedKeys: Whether members are written by name instead of in their own order.
    /// - Precondition: Numbers are finite; JSON has no NaN. A non-finite number is written as `null`.
    public func text(indent: Int? = 2, sortedKeys: Bool = false) -> String {
        var writer = JSONWriter(indent: indent, sortedKeys: sortedKeys)
        writer.write(self, level: 0)
        return writer.output
    }
}

private struct JSONWriter {
    let indent: Int?
    let sortedKeys: Bool
    var output = ""

    init(indent: Int?, sortedKeys: Bool) {
        self.indent = indent
        self.sortedKeys = sortedKeys
    }

    mutating func newLine(_ level: Int) {
        guard let indent else { return }
        output += "\n"
        output += String(repeating: " ", count: indent * level)
    }

    mutating func write(_ value: JSON, level: Int) {
        switch value {
        case .null: output += "null"
        case .bool(let flag): output += flag ? "true" : "false"
        case .integer(let number): output += String(number)
        case .number(let number): output += number.isFinite ? "\(number)" : "null"
        case .string(let text): write(text)
        case .array(let elements):
            // Short lists of scalars (shapes, ranks) stay on one line.
            let inline = elements.allSatisfy { $0.array == nil && $0.object == nil }
            output += "["
            for (index, element) in elements.enumerated() {
                if index > 0 { output += inline && indent != nil ? ", " : "," }
                if !inline { newLine(level + 1) }
                write(element, level: level + 1)
            }
            if !inline { newLine(level) }
            output += "]"
        case .object(let members):
            output += "{"
            let names = sortedKeys ? members.keys.sorted() : Array(members.keys)
            for (index, name) in names.enumerated() {
                if index > 0 { output += "," }
                newLine(level + 1)
                write(name.text)
                output += indent == nil ? ":" : ": "
                write(members[name] ?? .null, level: level + 1)
            }
            if !members.isEmpty { newLine(level) }
            output += "}"
        }
    }

    mutating func write(_ text: String) {
        output += "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": output += "\\\""
            case "\\": output += "\\\\"
            case "\n": output += "\\n"
            case "\r": output += "\\r"
            case "\t": output += "\\t"
            case "\u{0}"..<"\u{20}":
                let hexadecimal = String(scalar.value, radix: 16)
                output += "\\u" + String(repeating: "0", count: 4 - hexadecimal.count) + hexadecimal
            default: output.unicodeScalars.append(scalar)
            }
        }
        output += "\""
    }
}
