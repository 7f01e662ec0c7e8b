extension Interpreter {
    /// Python's `json.dumps`, as transformers' filter `tojson` calls it.
    func json(
        _ value: Value, ensureASCII: Bool, indent: Value?, separators: Value?, sortKeys: Bool
    ) throws(TemplateError) -> Value {
        var writer = JSONDump(interpreter: self, ensureASCII: ensureASCII, sortKeys: sortKeys)
        if let indent, !indent.isNone {
            if let text = indent.text {
                writer.indent = text
            } else {
                let width = max(0, try integer(indent, "tojson", standard: 0))
                try allocate(width)
                writer.indent = String(repeating: " ", count: width)
            }
            writer.itemSeparator = ","
        }
        if let separators, !separators.isNone {
            let parts = try iterate(separators)
            guard parts.count == 2, let item = parts[0].text, let key = parts[1].text else {
                throw failure(.value, "tojson: separators must be two strings")
            }
            writer.itemSeparator = item
            writer.keySeparator = key
        }
        try writer.write(value, level: 0)
        return .string(writer.output)
    }
}

private struct JSONDump {
    let interpreter: Interpreter
    let ensureASCII: Bool
    let sortKeys: Bool
    var indent: String?
    var itemSeparator = ", "
    var keySeparator = ": "
    var output = ""

    private mutating func put(_ text: String) throws(TemplateError) {
        try interpreter.allocate(text.utf8.count)
        output += text
    }

    private mutating func newLine(_ level: Int) throws(TemplateError) {
        guard let indent else { return }
        try interpreter.allocate(indent.utf8.count, times: level)
        output += "\n"
        for _ in 0..<level { output += indent }
    }

    mutating func write(_ value: Value, level: Int) throws(TemplateError) {
        try interpreter.step()
        switch value {
        case .none: try put("null")
        case .bool(let flag): try put(flag ? "true" : "false")
        case .integer(let number): try put(String(number))
        case .float(let number): try put(Self.text(of: number))
        case .string(let text), .markup(let text): try put(quoted(text))
        case .list(let elements), .tuple(let elements):
            try write(elements.values, level: level)
        case .dictionary(let members): try write(members, level: level)
        default:
            if case .undefined(let undefined) = value {
                throw interpreter.failure(.undefined, "tojson: \(undefined.reason)")
            }
            throw interpreter.failure(.value, "a '\(value.type)' has no JSON; append '|list'")
        }
    }

    private mutating func write(_ elements: [Value], level: Int) throws(TemplateError) {
        guard !elements.isEmpty else { return try put("[]") }
        try put("[")
        for (index, element) in elements.enumerated() {
            if index > 0 { try put(itemSeparator) }
            try newLine(level + 1)
            try write(element, level: level + 1)
        }
        try newLine(level)
        try put("]")
    }

    private mutating func write(_ members: Members, level: Int) throws(TemplateError) {
        guard !members.pairs.isEmpty else { return try put("{}") }
        var pairs: [(name: String, key: Value, value: Value)] = []
        for (key, value) in members.pairs {
            pairs.append((try name(of: key.value), key.value, value))
        }
        if sortKeys {
            guard pairs.allSatisfy({ $0.key.text != nil }) else {
                throw interpreter.failure(.unsupported, "tojson: sort_keys of keys but strings")
            }
            pairs.sort { PythonText.precedes($0.name, $1.name) }
        }
        try put("{")
        for (index, pair) in pairs.enumerated() {
            if index > 0 { try put(itemSeparator) }
            try newLine(level + 1)
            try put(quoted(pair.name))
            try put(keySeparator)
            try write(pair.value, level: level + 1)
        }
        try newLine(level)
        try put("}")
    }

    private func name(of key: Value) throws(TemplateError) -> String {
        switch key {
        case .string(let text), .markup(let text): return text
        case .none: return "null"
        case .bool(let flag): return flag ? "true" : "false"
        case .integer(let number): return String(number)
        case .float(let number): return Self.text(of: number)
        default:
            throw interpreter.failure(.value, "a '\(key.type)' cannot name a JSON member")
        }
    }

    private static func text(of number: Double) -> String {
        if number.isNaN { return "NaN" }
        if number.isInfinite { return number < 0 ? "-Infinity" : "Infinity" }
        return PythonNumber.repr(number)
    }

    private func quoted(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        result.append("\"")
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result.append(contentsOf: "\\\"".unicodeScalars)
            case "\\": result.append(contentsOf: "\\\\".unicodeScalars)
            case "\n": result.append(contentsOf: "\\n".unicodeScalars)
            case "\r": result.append(contentsOf: "\\r".unicodeScalars)
            case "\t": result.append(contentsOf: "\\t".unicodeScalars)
            case "\u{8}": result.append(contentsOf: "\\b".unicodeScalars)
            case "\u{C}": result.append(contentsOf: "\\f".unicodeScalars)
            case "\u{0}"..<"\u{20}":
                result.append(contentsOf: Self.escape(UInt16(scalar.value)).unicodeScalars)
            case "\u{7F}"... where ensureASCII:
                for unit in String(Character(scalar)).utf16 {
                    result.append(contentsOf: Self.escape(unit).unicodeScalars)
                }
            default: result.append(scalar)
            }
        }
        result.append("\"")
        return String(result)
    }

    private static func escape(_ unit: UInt16) -> String {
        "\\u" + PythonText.hexadecimal(UInt32(unit), width: 4)
    }
}
