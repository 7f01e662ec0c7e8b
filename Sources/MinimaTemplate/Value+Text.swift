extension Interpreter {
    /// Python's `str(value)`.
    func string(_ value: Value) throws(TemplateError) -> String {
        switch value {
        case .undefined: return ""
        case .string(let text), .markup(let text): return text
        case .none: return "None"
        case .bool(let flag): return flag ? "True" : "False"
        case .integer(let number): return String(number)
        case .float(let number): return PythonNumber.repr(number)
        default:
            var text = ""
            try appendRepr(value, to: &text, level: 0)
            return text
        }
    }

    /// Python's `repr(value)`.
    func repr(_ value: Value) throws(TemplateError) -> String {
        var text = ""
        try appendRepr(value, to: &text, level: 0)
        return text
    }

    private func appendRepr(
        _ value: Value, to text: inout String, level: Int
    ) throws(TemplateError) {
        try step()
        guard level <= TemplateLimits.valueDepth else {
            throw failure(.limit, "a value nests deeper than \(TemplateLimits.valueDepth)")
        }
        let before = text.utf8.count
        switch value {
        case .undefined: text += "Undefined"
        case .string(let string): text += PythonText.repr(string)
        case .markup(let string): text += "Markup(" + PythonText.repr(string) + ")"
        case .none, .bool, .integer, .float: text += try string(value)
        case .list(let elements):
            try appendRepr(elements, in: ("[", "]"), to: &text, level: level)
            return
        case .tuple(let elements):
            let end = elements.values.count == 1 ? ",)" : ")"
            try appendRepr(elements, in: ("(", end), to: &text, level: level)
            return
        case .view(let view):
            try appendRepr(
                view.elements, in: (view.kind + "([", "])"), to: &text, level: level)
            return
        case .dictionary(let members):
            try appendRepr(
                members.pairs.elements.map { ($0.key, $0.value) }, to: &text, level: level)
            return
        case .namespace(let namespace):
            text += "<Namespace "
            try appendRepr(
                namespace.attributes.elements.map { ($0.key, $0.value) }, to: &text, level: level)
            text += ">"
            return
        case .range(let range):
            text += "range(\(range.start), \(range.stop)"
            text += range.step == 1 ? ")" : ", \(range.step))"
        case .macro(let macro): text += "<Macro " + PythonText.repr(macro.definition.name) + ">"
        case .loop(let loop): text += "<LoopContext \(loop.index0 + 1)/\(try loop.length())>"
        case .iterator, .function, .method:
            throw failure(
                .unsupported,
                "the text of a \(value.type), which differs from run to run in Python; "
                    + "append '|list' or call it")
        }
        try allocate(text.utf8.count - before)
    }

    private func appendRepr(
        _ elements: Elements, in ends: (String, String), to text: inout String, level: Int
    ) throws(TemplateError) {
        text += ends.0
        for (index, element) in elements.values.enumerated() {
            if index > 0 { text += ", " }
            try appendRepr(element, to: &text, level: level + 1)
        }
        text += ends.1
    }

    private func appendRepr(
        _ pairs: [(Key, Value)], to text: inout String, level: Int
    ) throws(TemplateError) {
        text += "{"
        for (index, pair) in pairs.enumerated() {
            if index > 0 { text += ", " }
            try appendRepr(pair.0.value, to: &text, level: level + 1)
            text += ": "
            try appendRepr(pair.1, to: &text, level: level + 1)
        }
        text += "}"
    }
}
