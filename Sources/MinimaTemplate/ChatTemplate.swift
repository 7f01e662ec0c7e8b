import MinimaCore
import OrderedCollections

/// A checkpoint's chat template: Jinja as Hugging Face transformers renders it.
///
/// The subset of Jinja that public templates use, with its whitespace rules (`trim_blocks`,
/// `lstrip_blocks`) and Python's texts of values. Integers have 64 bits; the context's numbers
/// beyond are floats. A template can neither read files nor the clock nor the environment, nor
/// use more than ``TemplateLimits`` allow.
public struct ChatTemplate: Sendable {
    /// The template as it was given.
    public let source: String
    private let syntax: Syntax

    /// Parses a template.
    ///
    /// - Throws: `TemplateError` of kind `syntax`, `unsupported` or `limit`, with the line.
    /// - Complexity: O(scalars of `source`).
    public init(source: String) throws(TemplateError) {
        syntax = try Parser.syntax(of: source)
        self.source = source
    }

    /// Whether the template mentions a variable of this name.
    public func reads(_ variable: String) -> Bool {
        syntax.symbols[JSON.Name(variable)] != nil
    }

    /// Renders with the given variables.
    ///
    /// - Parameters:
    ///   - context: An object; its members are the template's variables.
    ///   - now: What `strftime_now` prints; a template that calls it fails without.
    ///   - limits: Bounds on work and memory.
    /// - Throws: `TemplateError`; of kind `raised` when the template refuses the conversation.
    public func render(
        _ context: JSON, now: TemplateDate? = nil, limits: TemplateLimits = TemplateLimits()
    ) throws(TemplateError) -> String {
        guard case .object(let variables) = context else {
            throw TemplateError(
                .value, "the template's variables are \(context.kind), expected an object")
        }
        let interpreter = Interpreter(
            syntax: syntax, context: variables, now: now, limits: limits)
        return try interpreter.render()
    }

    /// Renders a conversation as transformers' `apply_chat_template` does.
    ///
    /// Members of messages that are null are left out, and reasoning given as `reasoning_content`,
    /// `thinking` or `reasoning` is offered under the first two names.
    ///
    /// - Parameters:
    ///   - messages: An array of objects, each with a `role`.
    ///   - tools: An array of JSON schemas of functions, or `nil`.
    ///   - addGenerationPrompt: Whether the text ends where the assistant is to speak.
    ///   - variables: More variables: `bos_token`, `eos_token`, `enable_thinking`, …
    ///   - now: What `strftime_now` prints.
    ///   - limits: Bounds on work and memory.
    public func render(
        messages: JSON, tools: JSON? = nil, addGenerationPrompt: Bool,
        variables: [String: JSON] = [:], now: TemplateDate? = nil,
        limits: TemplateLimits = TemplateLimits()
    ) throws(TemplateError) -> String {
        guard case .array(let items) = messages, !items.isEmpty else {
            throw TemplateError(
                .value, "the messages are \(messages.kind), expected a non-empty array")
        }
        var conversation: [JSON] = []
        for item in items {
            guard case .object(let members) = item else {
                throw TemplateError(.value, "a message is \(item.kind), expected an object")
            }
            conversation.append(.object(Self.normalized(members)))
        }
        var context: OrderedDictionary<JSON.Name, JSON> = [
            "messages": .array(conversation), "tools": tools ?? .null, "documents": .null,
            "add_generation_prompt": .bool(addGenerationPrompt),
        ]
        for (name, value) in variables { context[JSON.Name(name)] = value }
        return try render(.object(context), now: now, limits: limits)
    }

    /// Renders a conversation; see ``render(messages:tools:addGenerationPrompt:variables:now:limits:)``.
    public func render(
        messages: [ChatMessage], tools: JSON? = nil, addGenerationPrompt: Bool,
        variables: [String: JSON] = [:], now: TemplateDate? = nil,
        limits: TemplateLimits = TemplateLimits()
    ) throws(TemplateError) -> String {
        try render(
            messages: .array(messages.map(\.json)), tools: tools,
            addGenerationPrompt: addGenerationPrompt, variables: variables, now: now,
            limits: limits)
    }

    /// A message without null members, its reasoning under the names templates read.
    private static func normalized(
        _ message: OrderedDictionary<JSON.Name, JSON>
    ) -> OrderedDictionary<JSON.Name, JSON> {
        let present = message.filter { !$0.value.isNull }
        let names: [JSON.Name] = ["reasoning_content", "thinking", "reasoning"]
        guard let reasoning = names.lazy.compactMap({ present[$0] }).first else { return present }
        var result: OrderedDictionary<JSON.Name, JSON> = ["thinking": reasoning]
        for (name, value) in present { result[name] = value }
        result["reasoning_content"] = reasoning
        return result
    }
}
