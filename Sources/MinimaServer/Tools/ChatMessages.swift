import MinimaCore
import OrderedCollections

/// The messages of a request, checked and as templates take them.
struct ChatMessages {
    /// Objects with a `role` and a text `content`; the arguments of calls are objects, as templates
    /// of public models want them (a client sends their text).
    private(set) var json: [JSON] = []
    /// Identifiers of calls that a message of role `tool` may answer.
    private var calls: Set<String> = []

    /// Bytes of an identifier of a call, at most.
    private static let longestIdentifier = 256

    init(_ fields: RequestFields) throws(APIError) {
        guard let items = try fields.array("messages") else {
            throw .invalid(
                "the request has no messages; give an array of objects with role and content",
                "messages", code: "missing_parameter")
        }
        guard !items.isEmpty else {
            throw .invalid(
                "messages is an empty array; give at least one message", "messages",
                code: "out_of_range")
        }
        for (index, item) in items.enumerated() {
            json.append(try message(item, "messages[\(index)]"))
        }
    }

    private mutating func message(_ item: JSON, _ place: String) throws(APIError) -> JSON {
        guard let members = item.object else {
            throw .invalid("\(place) is \(item.kind), expected an object", place)
        }
        guard let role = item["role"]?.string else {
            throw .invalid(
                "\(place) has no role; give \"system\", \"user\", \"assistant\" or \"tool\"",
                "\(place).role", code: "missing_parameter")
        }
        guard ["system", "developer", "user", "assistant", "tool"].contains(role) else {
            throw .invalid(
                "\(place) has the role \"\(String(role.unicodeScalars.prefix(32)))\"; this server "
                    + "knows system, developer, user, assistant and tool", "\(place).role",
                code: "unsupported_parameter")
        }
        for name in ["function_call", "audio"] {
            guard let value = item[name], !value.isNull else { continue }
            throw .invalid(
                "\(place) has \(name), which this server does not support; leave it out",
                "\(place).\(name)", code: "unsupported_parameter")
        }
        for (name, owner) in [("tool_calls", "assistant"), ("tool_call_id", "tool")] {
            guard let value = item[name], !value.isNull, role != owner else { continue }
            throw .invalid(
                "\(place) has \(name), which belongs to messages of the role \(owner)",
                "\(place).\(name)")
        }
        for name in ["reasoning_content", "reasoning", "thinking", "name"] {
            guard let value = item[name], !value.isNull, value.string == nil else { continue }
            throw .invalid(
                "\(place).\(name) is \(value.kind), expected a string", "\(place).\(name)",
                code: "invalid_type")
        }
        var message = members
        // OpenAI's newer name of the same; templates know the older one.
        message["role"] = .string(role == "developer" ? "system" : role)
        let made = try toolCalls(item["tool_calls"], "\(place).tool_calls")
        message["tool_calls"] = made.isEmpty ? nil : .array(made)
        if role == "tool" { try checkAnswer(item["tool_call_id"], "\(place).tool_call_id") }
        let isSilent = !made.isEmpty && item["content"]?.isNull != false
        message["content"] =
            isSilent ? "" : .string(try Self.content(item["content"], "\(place).content"))
        return .object(message)
    }

    // MARK: Calls

    /// The calls that a message of the assistant made.
    private mutating func toolCalls(_ value: JSON?, _ place: String) throws(APIError) -> [JSON] {
        guard let value, !value.isNull else { return [] }
        guard let items = value.array else {
            throw .invalid(
                "\(place) is \(value.kind), expected an array", place, code: "invalid_type")
        }
        var made: [JSON] = []
        var identifiers: Set<String> = []
        for (index, item) in items.enumerated() {
            let place = "\(place)[\(index)]"
            guard let function = item["function"], function.object != nil,
                item["type"].map({ $0 == "function" }) ?? true
            else {
                throw .invalid(
                    "\(place) is no call of a function; give an object with id, type "
                        + "\"function\" and function", place)
            }
            let id = try Self.identifier(item["id"], "\(place).id")
            guard identifiers.insert(id).inserted else {
                throw .invalid(
                    "\(place).id is that of another call; ids must differ", "\(place).id")
            }
            made.append([
                "id": .string(id), "type": "function",
                "function": [
                    "name": .string(
                        try ToolParameters.name(function["name"], "\(place).function.name")),
                    "arguments": try Self.arguments(
                        function["arguments"], "\(place).function.arguments"),
                ],
            ])
        }
        calls.formUnion(identifiers)
        return made
    }

    private static func identifier(_ value: JSON?, _ place: String) throws(APIError) -> String {
        guard let id = value?.string, (1...longestIdentifier).contains(id.utf8.count) else {
            throw .invalid(
                "\(place) is no text of 1 to \(longestIdentifier) bytes; give the id of the call",
                place, code: value == nil ? "missing_parameter" : nil)
        }
        return id
    }

    /// The object that a call's arguments are the text of.
    private static func arguments(_ value: JSON?, _ place: String) throws(APIError) -> JSON {
        guard let value, !value.isNull else {
            throw .invalid("\(place) is missing; give a string", place, code: "missing_parameter")
        }
        guard let text = value.string else {
            if value.object != nil { return value }
            throw .invalid(
                "\(place) is \(value.kind), expected a string that holds a JSON object", place,
                code: "invalid_type")
        }
        if text.utf8.allSatisfy(\.isSpace) { return [:] }
        guard let object = try? JSON(parsing: text), object.object != nil else {
            throw .invalid("\(place) is not the text of a JSON object", place, code: "invalid_json")
        }
        return object
    }

    /// A message of role `tool` answers a call that was made before it.
    private func checkAnswer(_ value: JSON?, _ place: String) throws(APIError) {
        let id = try Self.identifier(value, place)
        guard calls.contains(id) else {
            throw .invalid(
                "\(place) is \"\(String(id.unicodeScalars.prefix(64)))\", which is the id of no "
                    + "call in the messages before; a message of the role tool answers one", place)
        }
    }

    // MARK: Texts

    /// A message's text: a string, or the texts of its parts, one per line.
    private static func content(_ value: JSON?, _ place: String) throws(APIError) -> String {
        guard let value, !value.isNull else {
            throw .invalid(
                "\(place) is missing; give a string", place, code: "missing_parameter")
        }
        if let text = value.string { return text }
        guard let parts = value.array else {
            throw .invalid(
                "\(place) is \(value.kind), expected a string or an array of parts", place,
                code: "invalid_type")
        }
        var texts: [String] = []
        for part in parts {
            guard part["type"]?.string == "text", let text = part["text"]?.string else {
                throw .invalid(
                    "\(place) has a part that is no text; this model reads text only", place,
                    code: "unsupported_parameter")
            }
            texts.append(text)
        }
        return texts.joined(separator: "\n")
    }
}
