import MinimaCore

extension AnswerForm {
    /// White space in a row between the parts of JSON, at most: some models write it without end.
    static let mostWhitespace = 16

    /// What this is called in messages.
    var title: String {
        switch self {
        case .jsonObject: "a JSON object"
        case .jsonSchema: "the JSON schema"
        case .regex: "the regular expression"
        case .choice: "the list of choices"
        case .grammar: "the grammar"
        case .structure: "the structural tag"
        case .after(_, _, let form): form.title
        }
    }

    /// Refuses what would cost too much, and what the library would not follow without saying so.
    func check(_ limits: GrammarLimits) throws(GrammarError) {
        switch self {
        case .jsonObject: return
        case .jsonSchema(let schema):
            try checkSize(schema.text(indent: nil), limits)
            try SchemaCheck.check(schema)
        case .regex(let pattern):
            try checkSize(pattern, limits)
            try PatternCheck.check(pattern, title: title, hasStrings: false)
        case .choice(let texts):
            guard !texts.isEmpty else {
                throw .refused(reason: "\(title) is empty; give at least one text")
            }
            guard texts.count <= SchemaCheck.mostValues else {
                throw .refused(
                    reason: "\(title) has \(texts.count) texts, at most \(SchemaCheck.mostValues) "
                        + "are possible")
            }
            guard !texts.contains("") else {
                throw .refused(reason: "\(title) has an empty text; leave it out")
            }
            try checkSize(texts.joined(), limits)
        case .grammar(let text):
            try checkSize(text, limits)
            try PatternCheck.check(text, title: title, hasStrings: true)
        case .structure(let format):
            try checkSize(format.text(indent: nil), limits)
            try Self.check(format: format, limits, depth: 0)
        case .after(_, _, let form): try form.check(limits)
        }
    }

    private func checkSize(_ text: String, _ limits: GrammarLimits) throws(GrammarError) {
        guard text.utf8.count <= limits.bytes else {
            throw .refused(
                reason:
                    "\(title) has \(text.utf8.count) bytes, at most \(limits.bytes) are possible")
        }
        guard !text.utf8.contains(0) else {
            throw .refused(reason: "\(title) holds a character of code 0")
        }
    }

    /// Checks the forms inside a structural tag.
    private static func check(
        format: JSON, _ limits: GrammarLimits, depth: Int
    ) throws(GrammarError) {
        guard depth <= PatternCheck.mostNested else {
            throw .refused(reason: "the structural tag is nested too deeply")
        }
        if let elements = format.array {
            for element in elements { try check(format: element, limits, depth: depth + 1) }
        }
        guard let members = format.object else { return }
        for (name, value) in members {
            switch (name.text, value.string) {
            case ("json_schema", nil):
                if value.bool == nil { try AnswerForm.jsonSchema(value).check(limits) }
            case ("pattern", let pattern?): try AnswerForm.regex(pattern).check(limits)
            case ("grammar", let grammar?): try AnswerForm.grammar(grammar).check(limits)
            default: try check(format: value, limits, depth: depth + 1)
            }
        }
    }
}
