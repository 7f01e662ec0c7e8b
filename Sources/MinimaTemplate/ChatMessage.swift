import MinimaCore
import OrderedCollections

/// One message of a conversation.
public struct ChatMessage: Sendable, Hashable {
    /// A call of a tool by the assistant.
    public struct ToolCall: Sendable, Hashable {
        /// Identifies the call to the message with its result.
        public var id: String?
        /// Name of the function called.
        public var name: String
        /// The call's arguments, an object.
        public var arguments: JSON

        /// A call of the function `name`.
        public init(id: String? = nil, name: String, arguments: JSON) {
            self.id = id
            self.name = name
            self.arguments = arguments
        }
    }

    /// Who speaks: `system`, `user`, `assistant` or `tool`; templates may know more.
    public var role: String
    /// What is said.
    public var content: String?
    /// What the assistant thought before.
    public var reasoning: String?
    /// Tools the assistant calls.
    public var toolCalls: [ToolCall]
    /// Which call this `tool` message answers.
    public var toolCallID: String?

    /// A message by `role`.
    public init(
        role: String, content: String? = nil, reasoning: String? = nil,
        toolCalls: [ToolCall] = [], toolCallID: String? = nil
    ) {
        self.role = role
        self.content = content
        self.reasoning = reasoning
        self.toolCalls = toolCalls
        self.toolCallID = toolCallID
    }

    /// The message as templates see it.
    public var json: JSON {
        var members: OrderedDictionary<JSON.Name, JSON> = ["role": .string(role)]
        if let content { members["content"] = .string(content) }
        if let reasoning { members["reasoning_content"] = .string(reasoning) }
        if !toolCalls.isEmpty {
            members["tool_calls"] = .array(
                toolCalls.map { call in
                    var members: OrderedDictionary<JSON.Name, JSON> = ["type": "function"]
                    if let id = call.id { members["id"] = .string(id) }
                    members["function"] = [
                        "name": .string(call.name), "arguments": call.arguments,
                    ]
                    return .object(members)
                })
        }
        if let toolCallID { members["tool_call_id"] = .string(toolCallID) }
        return .object(members)
    }
}
