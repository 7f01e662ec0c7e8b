import MinimaCore

/// What a constrained answer must look like.
public indirect enum AnswerForm: Sendable, Hashable {
    /// Any JSON object.
    case jsonObject
    /// JSON that a JSON Schema describes. Objects have no members beyond those that the schema
    /// names, unless it says so with additionalProperties, and they have them in its order.
    case jsonSchema(JSON)
    /// A text that a regular expression matches as a whole.
    case regex(String)
    /// One of several texts.
    case choice([String])
    /// What the rule `root` of a grammar derives, in the notation of llama.cpp (GBNF).
    case grammar(String)
    /// The member `format` of one of xgrammar's structural tags, which may hold all of the above and
    /// free text: {"type": "triggered_tags", "triggers": ["<tool_call>"], "tags": [...]}.
    case structure(JSON)
    /// Free text up to and with `end`, white space, then another form.
    ///
    /// - Parameter begin: What such a text begins with; it may then be left out as a whole. Empty:
    ///   the prompt has begun it, and it must end.
    case after(begin: String, end: String, AnswerForm)
}

extension AnswerForm {
    /// This as a part of a structural tag.
    public var format: JSON {
        switch self {
        case .jsonObject: Self.format(schema: Self.anyObject)
        case .jsonSchema(let schema): Self.format(schema: schema)
        case .regex(let pattern): ["type": "regex", "pattern": .string(pattern)]
        case .choice(let texts):
            [
                "type": "or",
                "elements": .array(
                    texts.map { ["type": "const_string", "value": .string($0)] }),
            ]
        case .grammar(let text): ["type": "grammar", "grammar": .string(text)]
        case .structure(let format): format
        case .after(let begin, let end, let form):
            Self.format(from: begin, to: end, then: form.format)
        }
    }

    /// The same with any JSON in place of each schema that limits strings by patterns, formats or
    /// lengths; `nil` without one. Such limits let the library forget that JSON wants some characters
    /// escaped, so what has them is followed together with this.
    func withoutStringLimits() throws(GrammarError) -> Self? {
        switch self {
        case .jsonObject, .regex, .choice, .grammar: return nil
        case .jsonSchema(let schema):
            return try SchemaCheck.check(schema).limitsStrings ? .jsonSchema(true) : nil
        case .structure(let format):
            let free = try Self.withoutStringLimits(format)
            return free == format ? nil : .structure(free)
        case .after(let begin, let end, let form):
            return try form.withoutStringLimits().map { .after(begin: begin, end: end, $0) }
        }
    }

    private static func withoutStringLimits(_ format: JSON) throws(GrammarError) -> JSON {
        if let items = format.array {
            var free: [JSON] = []
            for item in items { free.append(try withoutStringLimits(item)) }
            return .array(free)
        }
        guard var members = format.object else { return format }
        // Other styles write strings as they are.
        if format["type"] == "json_schema", format["style"] ?? "json" == "json",
            let schema = format["json_schema"]
        {
            if try SchemaCheck.check(schema).limitsStrings { members["json_schema"] = true }
            return .object(members)
        }
        for (name, value) in members { members[name] = try withoutStringLimits(value) }
        return .object(members)
    }

    private static func format(schema: JSON) -> JSON {
        [
            "type": "json_schema", "json_schema": schema,
            "max_whitespace_cnt": .integer(Int64(mostWhitespace)),
        ]
    }

    static let anyObject: JSON = ["type": "object", "additionalProperties": true]

    private static func format(from begin: String, to end: String, then answer: JSON) -> JSON {
        let text: JSON = [
            "type": "tag", "begin": .string(begin), "content": ["type": "any_text"],
            "end": .string(end),
        ]
        let space: JSON = ["type": "regex", "pattern": "[ \\n]{0,4}"]
        let opening: JSON =
            begin.isEmpty ? text : ["type": "optional", "content": text]
        return ["type": "sequence", "elements": [opening, space, answer]]
    }
}
