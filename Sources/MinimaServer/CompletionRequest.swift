import MinimaCore
import MinimaRuntime
import MinimaTokenizer

/// A request to `/v1/completions`.
struct CompletionRequest: Sendable {
    /// A text to continue.
    struct Prompt: Sendable {
        var tokens: [Int32]
        /// The text as it was given; `nil` when tokens were.
        var text: String?
    }

    var prompts: [Prompt]
    /// Whether answers begin with the prompt.
    var echo: Bool
    var parameters: AnswerParameters

    /// New tokens of requests that do not say, as in OpenAI's interface.
    static let standardTokens = 16

    private static let names = AnswerParameters.names.union([
        "prompt", "echo", "best_of", "add_special_tokens",
    ])

    init(
        _ body: JSON, model: ServedModel, vocabulary: Int, options: ServerOptions, seed: UInt64
    ) throws(APIError) {
        let fields = try RequestFields(body)
        try fields.checkNames(known: Self.names)
        let logprobs = try fields.int("logprobs", in: 0...SamplingParameters.mostLogprobs)
        parameters = try AnswerParameters(
            fields, model: model, vocabulary: vocabulary, logprobs: logprobs,
            maxAnswers: options.maxAnswers, randomSeed: seed)
        parameters.maxTokens = try fields.int("max_tokens", in: 0...Int.max)
        echo = try fields.bool("echo") ?? false
        if let best = try fields.int("best_of", in: 1...Int.max), best != parameters.count {
            throw .invalid(
                "best_of is \(best) and n is \(parameters.count); this server computes as many "
                    + "answers as it gives, so leave best_of out", "best_of",
                code: "unsupported_parameter")
        }
        prompts = try Self.prompts(fields, model: model, vocabulary: vocabulary)
        guard prompts.count * parameters.count <= options.maxAnswers else {
            throw .invalid(
                "\(prompts.count) prompts with n = \(parameters.count) ask for "
                    + "\(prompts.count * parameters.count) answers, at most \(options.maxAnswers) "
                    + "are possible", "prompt", code: "out_of_range")
        }
    }

    /// Leaves the ends of prompts, where so many tokens are asked for.
    mutating func truncate(context: Int) {
        for index in prompts.indices {
            let rest = parameters.truncated(
                prompts[index].tokens, context: context, standard: Self.standardTokens)
            guard rest.count < prompts[index].tokens.count else { continue }
            prompts[index] = Prompt(tokens: rest, text: nil)
        }
    }

    private static func prompts(
        _ fields: RequestFields, model: ServedModel, vocabulary: Int
    ) throws(APIError) -> [Prompt] {
        let special = try fields.bool("add_special_tokens") ?? true
        guard let value = fields["prompt"] else {
            throw .invalid(
                "the request has no prompt; give a string or an array of token ids, or several",
                "prompt", code: "missing_parameter")
        }
        if let text = value.string { return [try prompt(text, special, model)] }
        guard let items = value.array else {
            throw .invalid(
                "prompt is \(value.kind), expected a string or an array", "prompt",
                code: "invalid_type")
        }
        guard let first = items.first else {
            throw .invalid(
                "prompt is an empty array; give at least one prompt", "prompt",
                code: "out_of_range")
        }
        if first.int != nil { return [try prompt(items, model, vocabulary)] }
        var prompts: [Prompt] = []
        for item in items {
            if let text = item.string {
                prompts.append(try prompt(text, special, model))
            } else if let ids = item.array {
                prompts.append(try prompt(ids, model, vocabulary))
            } else {
                throw .invalid(
                    "prompt holds \(item.kind), expected strings, or arrays of token ids",
                    "prompt", code: "invalid_type")
            }
        }
        return prompts
    }

    private static func prompt(
        _ text: String, _ special: Bool, _ model: ServedModel
    ) throws(APIError) -> Prompt {
        let tokens = try model.encode(text, addSpecialTokens: special, parameter: "prompt")
        return Prompt(tokens: try started(tokens, model), text: text)
    }

    private static func prompt(
        _ ids: [JSON], _ model: ServedModel, _ vocabulary: Int
    ) throws(APIError) -> Prompt {
        let tokens = try RequestFields.tokens(ids, of: "prompt", vocabulary: vocabulary)
        return Prompt(tokens: try started(tokens, model), text: nil)
    }

    /// A model needs something to start from: an empty prompt begins a document.
    private static func started(
        _ tokens: [Int32], _ model: ServedModel
    ) throws(APIError) -> [Int32] {
        guard tokens.isEmpty else { return tokens }
        guard let start = model.documentStart else {
            throw .invalid(
                "the prompt is empty, and this model has no token to begin a document with",
                "prompt", code: "out_of_range")
        }
        return [start]
    }
}

extension ServedModel {
    /// Tokens of a text.
    func encode(
        _ text: String, addSpecialTokens: Bool, parameter: String
    ) throws(APIError) -> [Int32] {
        do throws(TokenizerError) {
            return try tokenizer.encode(text, addSpecialTokens: addSpecialTokens)
        } catch {
            throw .invalid("\(parameter) cannot be tokenized: \(error)", parameter)
        }
    }

    /// Checks the name of the model that a request wants; without one it gets this.
    func check(_ asked: String?) throws(APIError) {
        guard let asked, asked != name, !aliases.contains(asked) else { return }
        throw .notFound(
            "the model \"\(String(asked.unicodeScalars.prefix(128)))\" is not served here; this "
                + "server's model is \"\(name)\"", code: "model_not_found", parameter: "model")
    }
}
