import Glibc
import MinimaCore
import MinimaRuntime
import MinimaTemplate
import OrderedCollections

/// A request to `/v1/chat/completions`.
struct ChatRequest: Sendable {
    /// The conversation as the template writes it, and its tokens.
    var prompt: String
    var tokens: [Int32]
    var parameters: AnswerParameters

    private static let names = AnswerParameters.names.union([
        "messages", "max_completion_tokens", "top_logprobs", "add_generation_prompt",
        "chat_template_kwargs", "continue_final_message",
    ])

    init(
        _ body: JSON, model: ServedModel, vocabulary: Int, options: ServerOptions, seed: UInt64
    ) throws(APIError) {
        let fields = try RequestFields(body)
        try fields.checkNames(known: Self.names)
        let wants = try fields.bool("logprobs") ?? false
        let top = try fields.int("top_logprobs", in: 0...SamplingParameters.mostLogprobs)
        guard wants || top == nil || top == 0 else {
            throw .invalid(
                "top_logprobs needs logprobs; set logprobs to true", "top_logprobs")
        }
        parameters = try AnswerParameters(
            fields, model: model, vocabulary: vocabulary, logprobs: wants ? top ?? 0 : nil,
            maxAnswers: options.maxAnswers, randomSeed: seed)
        let limits = (
            try fields.int("max_completion_tokens", in: 1...Int.max),
            try fields.int("max_tokens", in: 1...Int.max)
        )
        parameters.maxTokens = limits.0 ?? limits.1
        if try fields.bool("continue_final_message") == true {
            throw .invalid(
                "this server does not support continue_final_message yet; leave it out",
                "continue_final_message", code: "unsupported_parameter")
        }
        (prompt, tokens) = try Self.prompt(fields, model)
    }

    /// The prompt that a conversation makes.
    static func prompt(
        _ fields: RequestFields, _ model: ServedModel
    ) throws(APIError) -> (text: String, tokens: [Int32]) {
        guard let chat = model.chat else {
            throw .invalid(
                "this model has no chat template; use /v1/completions", "messages",
                code: "no_chat_template")
        }
        let messages = try messages(fields)
        var variables = chat.variables
        if let more = try fields.object("chat_template_kwargs")?.object {
            let own: Set<String> = ["messages", "tools", "documents", "add_generation_prompt"]
            for (name, value) in more {
                guard !own.contains(name.text) else {
                    throw .invalid(
                        "chat_template_kwargs names \(name.text), which the request itself gives",
                        "chat_template_kwargs")
                }
                variables[name.text] = value
            }
        }
        let speaks = try fields.bool("add_generation_prompt") ?? true
        let text: String
        do throws(TemplateError) {
            text = try chat.template.render(
                messages: .array(messages), addGenerationPrompt: speaks, variables: variables,
                now: TemplateDate(unixSeconds: time(nil)), limits: limits)
        } catch {
            throw .invalid(
                "the model's chat template refuses this conversation: \(error.reason)", "messages",
                code: "chat_template_error")
        }
        // The template writes the special tokens.
        let tokens = try model.encode(text, addSpecialTokens: false, parameter: "messages")
        guard !tokens.isEmpty else {
            throw .invalid(
                "the model's chat template makes no text of this conversation", "messages")
        }
        return (text, tokens)
    }

    /// A template's work for one request: a tenth of what templates may do elsewhere, as it holds up
    /// a thread that others need.
    private static let limits = TemplateLimits(steps: 2_000_000, bytes: 32 << 20)

    private static func messages(_ fields: RequestFields) throws(APIError) -> [JSON] {
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
        var messages: [JSON] = []
        for (index, item) in items.enumerated() {
            messages.append(try message(item, "messages[\(index)]"))
        }
        return messages
    }

    private static func message(_ item: JSON, _ place: String) throws(APIError) -> JSON {
        guard let members = item.object else {
            throw .invalid("\(place) is \(item.kind), expected an object", place)
        }
        guard let role = item["role"]?.string else {
            throw .invalid(
                "\(place) has no role; give \"system\", \"user\" or \"assistant\"",
                "\(place).role", code: "missing_parameter")
        }
        guard ["system", "developer", "user", "assistant"].contains(role) else {
            throw .invalid(
                "\(place) has the role \"\(String(role.unicodeScalars.prefix(32)))\"; this server "
                    + "knows system, developer, user and assistant", "\(place).role",
                code: "unsupported_parameter")
        }
        for name in ["tool_calls", "function_call", "audio", "tool_call_id"] {
            guard let value = item[name], !value.isNull else { continue }
            throw .invalid(
                "\(place) has \(name), which this server does not support yet; leave it out",
                "\(place).\(name)", code: "unsupported_parameter")
        }
        var message = members
        // OpenAI's newer name of the same; templates know the older one.
        message["role"] = .string(role == "developer" ? "system" : role)
        message["content"] = .string(try content(item["content"], "\(place).content"))
        return .object(message)
    }

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
