import MinimaCore
import OrderedCollections

/// A function that a model may call.
struct Tool: Sendable, Hashable {
    var name: String
    /// The tool as templates see it.
    var json: JSON
    /// JSON schema of the arguments.
    var schema: JSON
    /// Whether calls must follow the schema even where the model is free to call.
    var isStrict: Bool

    /// White space in a row between the parts of arguments, at most: some models write it without end.
    private static let mostWhitespace: Int64 = 32

    /// The arguments' part of a structural tag.
    ///
    /// - Parameters:
    ///   - isForced: Whether the schema holds even if the function is not strict.
    ///   - style: How arguments are written, by xgrammar's name.
    func arguments(isForced: Bool, style: String = "json") -> JSON {
        var members = schema.object ?? [:]
        if members["type"] == nil { members["type"] = "object" }
        let isFree = !isForced && !isStrict
        return [
            "type": "json_schema", "style": .string(style),
            "max_whitespace_cnt": .integer(Self.mostWhitespace),
            "json_schema": isFree
                ? ["type": "object", "additionalProperties": true] : .object(members),
        ]
    }
}

/// Which calls a request wants.
enum ToolChoice: Sendable, Hashable {
    /// None: the model is not told of the tools.
    case none
    /// Whichever the model makes.
    case auto
    /// One at least.
    case required
    /// One, of this function.
    case named(String)
}

/// The members of a chat's request that are about tools.
struct ToolParameters: Sendable {
    var tools: [Tool]
    var choice: ToolChoice
    /// Whether an answer may hold more than one call.
    var isParallel: Bool

    static let names: Set<String> = [
        "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
    ]

    /// As many as OpenAI's interface takes.
    static let mostTools = 128
    /// Bytes of all tools' names, descriptions and schemas.
    static let mostBytes = 1 << 20

    /// Tools that the model is told of.
    var offered: [Tool] { choice == .none ? [] : tools }

    /// Tools that the model may call.
    var callable: [Tool] {
        guard case .named(let name) = choice else { return offered }
        return offered.filter { $0.name == name }
    }

    /// Whether there may be several calls; who names a function wants one call of it.
    var mayRepeat: Bool {
        if case .named = choice { false } else { isParallel }
    }

    init(_ fields: RequestFields) throws(APIError) {
        for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")]
        where fields[old] != nil {
            throw .invalid(
                "\(old) is the older form of \(new), which this server takes instead; send \(new)",
                old, code: "unsupported_parameter")
        }
        tools = try Self.tools(fields)
        isParallel = try fields.bool("parallel_tool_calls") ?? true
        choice = try Self.choice(fields["tool_choice"], tools)
    }

    private static func tools(_ fields: RequestFields) throws(APIError) -> [Tool] {
        let items = try fields.array("tools") ?? []
        guard items.count <= mostTools else {
            throw .invalid(
                "tools holds \(items.count) functions, at most \(mostTools) are possible", "tools",
                code: "out_of_range")
        }
        var tools: [Tool] = []
        var names: Set<String> = []
        var bytes = 0
        for (index, item) in items.enumerated() {
            let tool = try tool(item, "tools[\(index)]")
            guard names.insert(tool.name).inserted else {
                throw .invalid(
                    "tools names the function \"\(tool.name)\" twice; names must differ",
                    "tools[\(index)].function.name")
            }
            bytes += tool.json.text(indent: nil).utf8.count
            tools.append(tool)
        }
        guard bytes <= mostBytes else {
            throw .invalid(
                "tools has \(bytes) bytes, at most \(mostBytes) are possible", "tools",
                code: "out_of_range")
        }
        return tools
    }

    private static func tool(_ item: JSON, _ place: String) throws(APIError) -> Tool {
        guard item.object != nil else {
            throw .invalid(
                "\(place) is \(item.kind), expected an object", place, code: "invalid_type")
        }
        guard item["type"]?.string == "function" else {
            throw .invalid(
                "\(place) has a type other than \"function\"; this server knows functions only",
                "\(place).type", code: "unsupported_parameter")
        }
        guard let function = item["function"], function.object != nil else {
            throw .invalid(
                "\(place) has no function; give an object with a name", "\(place).function",
                code: "missing_parameter")
        }
        let fields = try RequestFields(function)
        let name = try name(fields["name"], "\(place).function.name")
        let schema = fields["parameters"] ?? emptySchema
        guard schema.object != nil else {
            throw .invalid(
                "\(place).function.parameters is \(schema.kind), expected a JSON schema of an "
                    + "object", "\(place).function.parameters", code: "invalid_type")
        }
        if let type = schema["type"], type != "object" {
            throw .invalid(
                "\(place).function.parameters describes no object: its type must be \"object\", as "
                    + "arguments are", "\(place).function.parameters")
        }
        if let text = fields["description"], text.string == nil {
            throw .invalid(
                "\(place).function.description is \(text.kind), expected a string",
                "\(place).function.description", code: "invalid_type")
        }
        if let flag = fields["strict"], flag.bool == nil {
            throw .invalid(
                "\(place).function.strict is \(flag.kind), expected a boolean",
                "\(place).function.strict", code: "invalid_type")
        }
        // What is meant for the server, or means nothing, is not the model's business.
        var members = (function.object ?? [:]).filter { !$0.value.isNull && $0.key != "strict" }
        members["parameters"] = schema
        return Tool(
            name: name, json: ["type": "function", "function": .object(members)], schema: schema,
            isStrict: fields["strict"]?.bool ?? false)
    }

    /// The schema of a function without parameters.
    private static let emptySchema: JSON = ["type": "object", "properties": [:]]

    /// Checks a function's name.
    static func name(_ value: JSON?, _ place: String) throws(APIError) -> String {
        guard let name = value?.string else {
            throw .invalid(
                "\(place) is \(value?.kind ?? "missing"), expected a string", place,
                code: value == nil ? "missing_parameter" : "invalid_type")
        }
        guard (1...64).contains(name.utf8.count), name.utf8.allSatisfy(\.isNameByte) else {
            throw .invalid(
                "\(place) is \"\(String(name.unicodeScalars.prefix(64)))\"; a function's name has "
                    + "1 to 64 of the characters a-z, A-Z, 0-9, _ and -", place)
        }
        return name
    }

    private static func choice(_ value: JSON?, _ tools: [Tool]) throws(APIError) -> ToolChoice {
        guard let value else { return .auto }
        let choice: ToolChoice
        switch value {
        case "none": choice = .none
        case "auto": choice = .auto
        case "required": choice = .required
        default:
            guard value["type"] == "function", let name = value["function"]?["name"]?.string else {
                throw .invalid(
                    "tool_choice is none of \"none\", \"auto\", \"required\" and "
                        + "{\"type\": \"function\", \"function\": {\"name\": …}}", "tool_choice")
            }
            guard tools.contains(where: { $0.name == name }) else {
                throw .invalid(
                    "tool_choice names the function \"\(String(name.unicodeScalars.prefix(64)))\", "
                        + "which is not among tools", "tool_choice")
            }
            choice = .named(name)
        }
        guard !tools.isEmpty || choice == .none || choice == .auto else {
            throw .invalid(
                "tool_choice asks for a call, but the request has no tools", "tool_choice")
        }
        return choice
    }
}

extension UInt8 {
    /// Whether a function's name may hold it.
    var isNameByte: Bool {
        switch self {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }

    /// Whether it is white space in JSON.
    var isSpace: Bool { self == 0x20 || self == 0x0A || self == 0x0D || self == 0x09 }
}
