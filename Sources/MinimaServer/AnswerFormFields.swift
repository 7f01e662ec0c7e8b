import MinimaCore
import MinimaGrammar

/// The form that a request wants its answers in, and the member that names it.
struct AskedForm: Sendable {
    var form: AnswerForm
    var parameter: String
    /// Whether answers may do without it where there is no xgrammar.
    var isOptional = false

    /// Members that name a form: OpenAI's, vLLM's, and vLLM's older ones.
    static let names: Set<String> = [
        "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar",
    ]

    /// - Returns: `nil` when answers may be any text.
    /// - Throws: `APIError` when a form is malformed, or more than one is given.
    static func read(_ fields: RequestFields) throws(APIError) -> AskedForm? {
        var found: [AskedForm] = []
        if let format = try fields.object("response_format"),
            let form = try responseFormat(format)
        {
            found.append(AskedForm(form: form, parameter: "response_format"))
        }
        if let outputs = try fields.object("structured_outputs") {
            found += try structured(RequestFields(outputs))
        }
        for (name, kind) in [
            ("guided_json", "json"), ("guided_regex", "regex"), ("guided_choice", "choice"),
            ("guided_grammar", "grammar"),
        ] {
            guard let value = fields[name] else { continue }
            found.append(AskedForm(form: try form(kind, value, name), parameter: name))
        }
        guard found.count <= 1 else {
            throw .invalid(
                "\(found[0].parameter) and \(found[1].parameter) both name a form of the answer; "
                    + "give one", found[1].parameter)
        }
        return found.first
    }

    private static func responseFormat(_ format: JSON) throws(APIError) -> AnswerForm? {
        let fields = try RequestFields(format)
        let place = "response_format"
        switch format["type"]?.string {
        case "text": return nil
        case "json_object": return .jsonObject
        case "json_schema":
            guard let wanted = try fields.object("json_schema") else {
                throw .invalid(
                    "response_format has no json_schema; give an object with name and schema",
                    "\(place).json_schema", code: "missing_parameter")
            }
            for name in wanted.object?.keys.map(\.text) ?? []
            where !["name", "description", "schema", "strict"].contains(name) {
                throw .invalid(
                    "response_format.json_schema has a member "
                        + "\"\(String(name.unicodeScalars.prefix(64)))\", which this server does "
                        + "not know; leave it out", "\(place).json_schema",
                    code: "unknown_parameter")
            }
            guard let schema = wanted["schema"], !schema.isNull else {
                throw .invalid(
                    "response_format.json_schema has no schema", "\(place).json_schema.schema",
                    code: "missing_parameter")
            }
            return try form("json", schema, "\(place).json_schema.schema")
        case "structural_tag":
            return try form("structural_tag", format, place)
        default:
            throw .invalid(
                "response_format has a type that this server does not know; give \"text\", "
                    + "\"json_object\" or \"json_schema\"", "\(place).type",
                code: "unsupported_parameter")
        }
    }

    private static func structured(_ fields: RequestFields) throws(APIError) -> [AskedForm] {
        let kinds = ["json", "regex", "choice", "grammar", "json_object", "structural_tag"]
        try fields.checkNames(known: Set(kinds))
        var found: [AskedForm] = []
        for kind in kinds {
            guard let value = fields[kind], !(kind == "json_object" && value == false) else {
                continue
            }
            let parameter = "structured_outputs.\(kind)"
            found.append(AskedForm(form: try form(kind, value, parameter), parameter: parameter))
        }
        return found
    }

    private static func form(
        _ kind: String, _ value: JSON, _ parameter: String
    ) throws(APIError) -> AnswerForm {
        switch kind {
        case "json_object":
            guard value == true else { throw wrong(parameter, value, expected: "a boolean") }
            return .jsonObject
        case "json":
            let schema = try parsed(value, parameter)
            guard schema.object != nil || schema.bool != nil else {
                throw wrong(parameter, schema, expected: "a JSON schema")
            }
            return .jsonSchema(schema)
        case "choice":
            guard let items = value.array else {
                throw wrong(parameter, value, expected: "an array of strings")
            }
            var texts: [String] = []
            for item in items {
                guard let text = item.string else {
                    throw wrong(parameter, item, expected: "strings")
                }
                texts.append(text)
            }
            return .choice(texts)
        case "structural_tag":
            guard let format = try parsed(value, parameter)["format"], format.object != nil else {
                throw .invalid(
                    "\(parameter) has no format; give an object with a type",
                    parameter, code: "missing_parameter")
            }
            return .structure(format)
        default:
            guard let text = value.string else {
                throw wrong(parameter, value, expected: "a string")
            }
            return kind == "regex" ? .regex(text) : .grammar(text)
        }
    }

    /// A value that may be given as JSON or as its text.
    private static func parsed(_ value: JSON, _ parameter: String) throws(APIError) -> JSON {
        guard let text = value.string else { return value }
        do throws(JSONError) {
            return try JSON(parsing: text)
        } catch {
            throw .invalid("\(parameter) is \(error)", parameter)
        }
    }

    private static func wrong(
        _ parameter: String, _ value: JSON, expected: String
    ) -> APIError {
        .invalid(
            "\(parameter) is \(value.kind), expected \(expected)", parameter, code: "invalid_type")
    }
}
