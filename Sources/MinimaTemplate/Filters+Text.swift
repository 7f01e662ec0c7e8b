extension Filters {
    private static func changing(
        _ name: String, _ change: @escaping @Sendable ([Unicode.Scalar]) -> [Unicode.Scalar]
    ) -> Filter {
        { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: name)
            let scalars = PythonText.scalars(try interpreter.string(value))
            try interpreter.step(scalars.count / 4)
            return try interpreter.text(change(scalars))
        }
    }

    private static let escape: Filter = { (interpreter, value, arguments) throws(TemplateError) in
        _ = try interpreter.matched(arguments, callee: "escape")
        if case .markup = value { return value }
        let text = escaped(try interpreter.string(value))
        try interpreter.allocate(text.utf8.count)
        return .markup(text)
    }

    static let texts: [String: Filter] = [
        "capitalize": changing("capitalize", PythonString.capitalized),
        "lower": changing("lower", PythonString.lowered),
        "title": changing("title", PythonString.titledWords),
        "upper": changing("upper", PythonString.uppered),
        "escape": escape, "e": escape,
        "safe": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "safe")
            return .markup(try interpreter.string(value))
        },
        "string": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "string")
            if case .markup = value { return value }
            return .string(try interpreter.string(value))
        },
        "trim": { (interpreter, value, arguments) throws(TemplateError) in
            let set = try interpreter.matched(arguments, "chars", callee: "trim")[0]
            let scalars = PythonText.scalars(try interpreter.string(value))
            try interpreter.step(scalars.count / 16)
            let stripped = PythonString.strip(
                scalars[...], try interpreter.scalarsOrNone(set, "trim"))
            return try interpreter.text(Array(stripped))
        },
        "replace": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "old", "new", "count", callee: "replace")
            let old = try interpreter.string(try interpreter.required(options[0], "replace"))
            let new = try interpreter.string(try interpreter.required(options[1], "replace"))
            let limit = options[2].flatMap { $0.isNone ? nil : $0 }
            return try interpreter.replacing(
                PythonText.scalars(old), with: PythonText.scalars(new),
                in: PythonText.scalars(try interpreter.string(value)),
                limit: try interpreter.integer(limit, "replace", standard: -1))
        },
        "format": { (interpreter, value, arguments) throws(TemplateError) in
            guard arguments.named.isEmpty else {
                throw interpreter.failure(.unsupported, "format with named arguments")
            }
            return .string(
                try interpreter.formatted(
                    try interpreter.string(value), with: arguments.positional))
        },
        "indent": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "width", "first", "blank", callee: "indent")
            guard let text = value.text else { throw interpreter.refusal("indent", value) }
            let margin: [Unicode.Scalar]
            if let own = options[0]?.text {
                margin = PythonText.scalars(own)
            } else {
                let width = max(0, try interpreter.integer(options[0], "indent", standard: 4))
                try interpreter.allocate(width, times: 4)
                margin = Array(repeating: " ", count: width)
            }
            return try interpreter.indented(
                text, by: margin, first: options[1]?.isTrue ?? false,
                blank: options[2]?.isTrue ?? false)
        },
    ]
}

extension Interpreter {
    fileprivate func indented(
        _ text: String, by margin: [Unicode.Scalar], first: Bool, blank: Bool
    ) throws(TemplateError) -> Value {
        // Jinja adds a line end before it splits, so that a last empty line counts.
        let scalars = PythonText.scalars(text) + ["\n"]
        try step(scalars.count / 16)
        let lines = PythonString.lines(scalars)
        try allocate(lines.count, times: 4 * margin.count)
        var result: [Unicode.Scalar] = []
        for (index, line) in lines.enumerated() {
            if index > 0 { result.append("\n") }
            let isMarked = index == 0 ? first : blank || !line.isEmpty
            if isMarked { result += margin }
            result += line
        }
        return try self.text(result)
    }
}
