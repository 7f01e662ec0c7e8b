import Glibc
import MinimaCore
import MinimaGrammar
import MinimaRuntime
import MinimaTemplate
import OrderedCollections

/// A request to `/v1/chat/completions`.
struct ChatRequest: Sendable {
    /// The conversation as the template writes it, and its tokens.
    var prompt: String
    var tokens: [Int32]
    var parameters: AnswerParameters
    var tools: ToolParameters

    private static let names = AnswerParameters.names.union(ToolParameters.names).union([
        "messages", "max_completion_tokens", "top_logprobs", "add_generation_prompt",
        "chat_template_kwargs",
    ]).union(refused).union(told)

    /// Switches of vLLM's that this server has in one position only.
    private static let refused: Set<String> = [
        "continue_final_message", "echo", "add_special_tokens",
    ]
    /// What the template is told, if it asks.
    private static let told: Set<String> = ["reasoning_effort", "verbosity"]

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
        for name in Self.refused.sorted() where try fields.bool(name) == true {
            throw .invalid(
                "this server does not support \(name) yet; leave it out", name,
                code: "unsupported_parameter")
        }
        tools = try ToolParameters(fields)
        (prompt, tokens) = try Self.prompt(fields, tools, model)
        let asked = parameters.form
        parameters.form = try Self.form(asked, tools, model)
        if asked == nil, let form = parameters.form, try fields.bool("ignore_eos") == true {
            guard form.isOptional else {
                throw .invalid(
                    "ignore_eos cannot be followed together with a tool_choice that says where the "
                        + "answer ends; leave it out", "ignore_eos")
            }
            parameters.form = nil
        }
    }

    /// What the answer must look like, once calls that it may or must make are looked at.
    ///
    /// - Parameter asked: What the content must look like.
    private static func form(
        _ asked: AskedForm?, _ tools: ToolParameters, _ model: ServedModel
    ) throws(APIError) -> AskedForm? {
        guard !tools.offered.isEmpty, let parser = model.chat?.toolParser?.parser else {
            return asked
        }
        let isForced = tools.choice != .auto
        guard let asked else {
            guard isForced || tools.offered.contains(where: \.isStrict) else { return nil }
            let form = parser.form(
                of: tools.callable, isForced: isForced, isParallel: tools.mayRepeat)
            return form.map {
                AskedForm(
                    form: .structure($0), parameter: isForced ? "tool_choice" : "tools",
                    isOptional: !isForced)
            }
        }
        guard !isForced else {
            throw .invalid(
                "tool_choice asks for a call and \(asked.parameter) for content of some form; give "
                    + "one", asked.parameter)
        }
        guard
            let calls = parser.form(
                of: tools.offered, isForced: true, isParallel: tools.mayRepeat)
        else { return asked }
        // The answer is content or calls.
        let either: JSON = ["type": "or", "elements": [asked.form.format, calls]]
        return AskedForm(form: .structure(either), parameter: asked.parameter)
    }

    /// The prompt that a conversation makes.
    static func prompt(
        _ fields: RequestFields, _ tools: ToolParameters, _ model: ServedModel
    ) throws(APIError) -> (text: String, tokens: [Int32]) {
        guard let chat = model.chat else {
            throw .invalid(
                "this model has no chat template; use /v1/completions", "messages",
                code: "no_chat_template")
        }
        let messages = try ChatMessages(fields)
        let offered = tools.offered
        if !offered.isEmpty { try check(chat) }
        var variables = chat.variables
        for name in told {
            if let word = try fields.string(name) { variables[name] = .string(word) }
        }
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
            let template = offered.isEmpty ? chat.template : chat.toolTemplate
            text = try template.render(
                messages: .array(messages.json),
                tools: offered.isEmpty ? nil : .array(offered.map(\.json)),
                addGenerationPrompt: speaks, variables: variables,
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

    /// Checks that a model can be told of tools, and its calls be read.
    private static func check(_ chat: ServedModel.Chat) throws(APIError) {
        guard chat.toolTemplate.reads("tools") else {
            throw .invalid(
                "this model's chat template knows no tools, so the model would never see them; "
                    + "leave tools out", "tools", code: "unsupported_parameter")
        }
        guard chat.toolParser != nil else {
            throw .invalid(
                "in which form this model calls functions is not known, so its calls could not be "
                    + "told from text; start the server with --tool-parser, or leave tools out",
                "tools", code: "unsupported_parameter")
        }
    }

    /// Makes messages of answers to this request.
    func parser(_ model: ServedModel) -> MessageParser {
        let offered = tools.offered
        let schemas = Dictionary(offered.map { ($0.name, $0.schema) }) { first, _ in first }
        return MessageParser(
            reasoning: model.chat?.reasoningParser.map {
                ReasoningSplitter($0, isOpen: $0.isOpen(after: prompt))
            },
            calls: offered.isEmpty ? nil : model.chat?.toolParser?.parser.init(schemas),
            isParallel: tools.isParallel)
    }

    /// Tokens of marks that parsers look for, special or not.
    func marks(_ model: ServedModel) -> Set<Int32> {
        var marks: [String] = []
        if let reasoning = model.chat?.reasoningParser {
            marks += [reasoning.open, reasoning.close]
        }
        if !tools.offered.isEmpty { marks += model.chat?.toolParser?.parser.marks ?? [] }
        return Set(marks.compactMap { model.tokenizer.id(for: $0) })
    }
}
