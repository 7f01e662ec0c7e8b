/// The filters behind `|`.
enum Filters {
    typealias Filter =
        @Sendable (Interpreter, Value, Arguments) throws(TemplateError) -> Value

    static func unknown(_ name: String) -> String {
        "the filter '\(name)'; known are \(table.keys.sorted().joined(separator: ", "))"
    }

    static let table: [String: Filter] = texts.merging(sequences) { first, _ in first }
        .merging(values) { first, _ in first }

    /// Text with HTML's special characters as entities.
    static func escaped(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result.append(contentsOf: "&amp;".unicodeScalars)
            case "<": result.append(contentsOf: "&lt;".unicodeScalars)
            case ">": result.append(contentsOf: "&gt;".unicodeScalars)
            case "'": result.append(contentsOf: "&#39;".unicodeScalars)
            case "\"": result.append(contentsOf: "&#34;".unicodeScalars)
            default: result.append(scalar)
            }
        }
        return String(result)
    }

    // MARK: Numbers and single values

    private static let values: [String: Filter] = [
        "abs": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "abs")
            switch value.number {
            case .integer(let number):
                return number < 0 ? try interpreter.negated(value) : .integer(number)
            case .float(let number): return .float(number.magnitude)
            case nil: throw interpreter.refusal("abs", value)
            }
        },
        "attr": { (interpreter, value, arguments) throws(TemplateError) in
            let name = try interpreter.matched(arguments, "name", callee: "attr")[0]
            guard let name = name?.text else {
                throw interpreter.failure(.value, "attr needs a name")
            }
            if case .dictionary = value {
                // Python's dictionaries have methods for attributes and no members.
                let members = Members(pairs: [:], depth: 1)
                return try interpreter.attribute(name, of: .dictionary(members))
            }
            return try interpreter.attribute(name, of: value)
        },
        "default": standard, "d": standard,
        "float": { (interpreter, value, arguments) throws(TemplateError) in
            let fallback =
                try interpreter.matched(arguments, "default", callee: "float")[0] ?? .float(0)
            if let number = value.number { return .float(number.double) }
            if case .undefined(let undefined) = value {
                throw interpreter.failure(.undefined, undefined.reason)
            }
            return value.text.flatMap { PythonNumber.float($0) }.map { .float($0) } ?? fallback
        },
        "int": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(arguments, "default", "base", callee: "int")
            let base = try interpreter.integer(options[1], "int", standard: 10)
            if case .undefined(let undefined) = value {
                throw interpreter.failure(.undefined, undefined.reason)
            }
            if let whole = value.integer { return .integer(whole) }
            var number: Double?
            if case .float(let value) = value { number = value }
            if let text = value.text {
                try interpreter.step(text.utf8.count / 16)
                if let whole = PythonNumber.integer(text, base: base) { return .integer(whole) }
                number = PythonNumber.float(text)
            }
            if let number, number.isFinite {
                guard let whole = Int(exactly: number.rounded(.towardZero)) else {
                    throw interpreter.failure(.value, "int: an integer beyond 64 bits")
                }
                return .integer(whole)
            }
            return options[0] ?? .integer(0)
        },
        "round": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "precision", "method", callee: "round")
            return try interpreter.rounded(
                value, precision: try interpreter.integer(options[0], "round", standard: 0),
                method: options[1].map { $0.text ?? "" } ?? "common")
        },
        "tojson": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "ensure_ascii", "indent", "separators", "sort_keys", callee: "tojson")
            return try interpreter.json(
                value, ensureASCII: options[0]?.isTrue ?? false, indent: options[1],
                separators: options[2], sortKeys: options[3]?.isTrue ?? false)
        },
    ]

    private static let standard: Filter = { (interpreter, value, arguments) throws(TemplateError) in
        let options = try interpreter.matched(
            arguments, "default_value", "boolean", callee: "default")
        let counts = value.isUndefined || (options[1]?.isTrue == true && !value.isTrue)
        return counts ? options[0] ?? .string("") : value
    }
}

extension Interpreter {
    /// The arguments of a filter, its failures at the current line.
    func matched(
        _ arguments: Arguments, _ names: String..., callee: String
    ) throws(TemplateError) -> [Value?] {
        try located { () throws(TemplateError) in
            try arguments.matched(to: names, callee: callee)
        }
    }

    func refusal(_ filter: String, _ value: Value) -> TemplateError {
        if case .undefined(let undefined) = value { return failure(.undefined, undefined.reason) }
        return failure(.value, "\(filter) of a '\(value.type)'")
    }

    fileprivate func rounded(
        _ value: Value, precision: Int, method: String
    ) throws(TemplateError) -> Value {
        guard let number = value.number else { throw refusal("round", value) }
        guard (-300...300).contains(precision) else {
            throw failure(.value, "round: the precision \(precision) is not in -300...300")
        }
        switch method {
        case "common":
            if case .integer(let whole) = number {
                guard precision < 0 else { return .integer(whole) }
                throw failure(.unsupported, "round: an integer to tens or more")
            }
            guard number.double.isFinite, precision >= 0 else {
                if number.double.isFinite {
                    throw failure(.unsupported, "round: to tens or more")
                }
                return value
            }
            let text = PythonNumber.fixed(number.double, precision: precision)
            return .float(PythonNumber.float(text) ?? number.double)
        case "ceil", "floor":
            var scale = 1.0
            for _ in 0..<abs(precision) { scale *= 10 }
            let scaled = precision < 0 ? number.double / scale : number.double * scale
            let whole = scaled.rounded(method == "ceil" ? .up : .down)
            return .float(precision < 0 ? whole * scale : whole / scale)
        default:
            throw failure(.value, "round: the method must be common, ceil or floor")
        }
    }
}
