import MinimaCore
import MinimaRuntime

/// What completions and chats have in common: how tokens are chosen and when an answer ends.
struct AnswerParameters: Sendable {
    var sampling: SamplingParameters
    /// New tokens at most; `nil`: what the interface's default is.
    var maxTokens: Int?
    /// Answers to each prompt.
    var count: Int
    /// Texts that end an answer; they are not part of it.
    var stopTexts: [String]
    /// Whether the text that ends an answer is part of it all the same.
    var includesStopText: Bool
    /// Tokens that end an answer.
    var stopTokens: Set<Int32>
    /// What else is said of single tokens.
    var rules: TokenRules
    /// The last tokens of a prompt that count; -1: as many as leave room for the answer, `nil`: all.
    var promptTokens: Int?
    /// What answers must look like; `nil`: any text.
    var form: AskedForm?
    var skipsSpecialTokens: Bool
    var streams: Bool
    /// Whether a stream ends with the numbers of tokens.
    var streamsUsage: Bool
    /// See ``GenerationRequest/cacheSalt``.
    var cacheSalt: String

    /// Texts that may end an answer, and the bytes of each, at most.
    static let mostStops = 16
    static let longestStop = 1024

    /// Parameters that every endpoint that generates knows.
    static let names: Set<String> = Set(neutral.keys).union(ignored).union(AskedForm.names).union([
        "model", "n", "stop", "stop_token_ids", "ignore_eos", "skip_special_tokens", "stream",
        "stream_options", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
        "frequency_penalty", "repetition_penalty", "logit_bias", "seed", "max_tokens", "logprobs",
        "cache_salt", "min_tokens", "bad_words", "allowed_token_ids", "include_stop_str_in_output",
        "truncate_prompt_tokens",
    ])

    /// Parameters that change nothing about the answer.
    private static let ignored: Set<String> = [
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "request_id", "priority", "spaces_between_special_tokens",
    ]

    /// Parameters that this server does not follow, and the values that ask for nothing; to ignore
    /// others would give answers that nobody asked for.
    private static let neutral: [String: [JSON]] = [
        "length_penalty": [1, 1.0], "use_beam_search": [false], "prompt_logprobs": [],
        "return_tokens_as_token_ids": [false], "return_token_ids": [false],
        "logits_processors": [.array([])], "modalities": [["text"]], "audio": [],
        "prediction": [], "web_search_options": [], "suffix": [""], "documents": [],
        "chat_template": [], "include_reasoning": [true], "media_io_kwargs": [],
        "mm_processor_kwargs": [], "kv_transfer_params": [], "vllm_xargs": [],
    ]

    /// - Parameters:
    ///   - logprobs: How many likeliest tokens each endpoint's own parameters ask for.
    ///   - randomSeed: Seed of requests that give none.
    init(
        _ fields: RequestFields, model: ServedModel, vocabulary: Int, logprobs: Int?,
        maxAnswers: Int, randomSeed: UInt64
    ) throws(APIError) {
        for (name, allowed) in Self.neutral.sorted(by: { $0.key < $1.key }) {
            guard let value = fields[name], !allowed.contains(value) else { continue }
            throw .invalid(
                "this server does not support \(name) yet; leave it out", name,
                code: "unsupported_parameter")
        }
        count = try fields.int("n", in: 1...maxAnswers) ?? 1
        cacheSalt = try fields.string("cache_salt") ?? ""
        streams = try fields.bool("stream") ?? false
        streamsUsage = false
        if let options = try fields.object("stream_options") {
            guard streams else {
                throw .invalid(
                    "stream_options is given for an answer that is not streamed; set stream to true",
                    "stream_options")
            }
            streamsUsage = try RequestFields(options).bool("include_usage") ?? false
        }
        skipsSpecialTokens = try fields.bool("skip_special_tokens") ?? true
        stopTexts = try Self.stops(fields)
        let ids = try fields.array("stop_token_ids") ?? []
        stopTokens = Set(
            try RequestFields.tokens(ids, of: "stop_token_ids", vocabulary: vocabulary))
        let ignoresEnd = try fields.bool("ignore_eos") == true
        if !ignoresEnd { stopTokens.formUnion(model.stop) }
        includesStopText = try fields.bool("include_stop_str_in_output") ?? false
        rules = try TokenRules(fields, model: model, vocabulary: vocabulary)
        // As in vLLM, -1 keeps as many as the context holds.
        promptTokens = try fields.int("truncate_prompt_tokens", in: -1...Int.max)
        guard promptTokens != 0 else {
            throw .invalid(
                "truncate_prompt_tokens is 0, expected at least 1, or -1 for the context",
                "truncate_prompt_tokens", code: "out_of_range")
        }
        form = try AskedForm.read(fields)
        if let form, ignoresEnd {
            throw .invalid(
                "ignore_eos cannot be followed together with \(form.parameter), which says where the "
                    + "answer ends; leave it out", "ignore_eos")
        }

        let seed = try fields.int("seed", in: Int.min...Int.max)
        let defaults = model.defaults
        let temperature = try fields.double("temperature", in: 0...100)
        let topP = try fields.double("top_p", in: 0...1)
        // OpenAI takes a top_p of 0, which keeps the likeliest token; so does the least above 0.
        let share = max(topP ?? defaults.topP, .leastNonzeroMagnitude)
        // As in vLLM, -1 keeps all tokens.
        let topK = try fields.int("top_k", in: -1...Int.max) ?? defaults.topK
        let minP = try fields.double("min_p", in: 0...1) ?? 0
        let repetition = try fields.double("repetition_penalty", in: 0.01...100)
        let presence = try fields.double("presence_penalty", in: -2...2) ?? 0
        let frequency = try fields.double("frequency_penalty", in: -2...2) ?? 0
        let bias = try Self.bias(fields, vocabulary: vocabulary)
        do throws(SamplingError) {
            sampling = try SamplingParameters(
                temperature: temperature ?? defaults.temperature, topP: share,
                topK: min(max(topK, 0), vocabulary),
                minP: minP, repetitionPenalty: repetition ?? defaults.repetitionPenalty,
                presencePenalty: presence, frequencyPenalty: frequency, logitBias: bias,
                logprobs: logprobs, seed: seed.map { UInt64(bitPattern: Int64($0)) } ?? randomSeed)
        } catch {
            throw .invalid(error.description)
        }
    }

    private static func stops(_ fields: RequestFields) throws(APIError) -> [String] {
        guard let value = fields["stop"] else { return [] }
        let items: [JSON] = value.array ?? [value]
        guard items.count <= mostStops else {
            throw .invalid(
                "stop holds \(items.count) texts, at most \(mostStops) are possible", "stop",
                code: "out_of_range")
        }
        var texts: [String] = []
        for item in items {
            guard let text = item.string else {
                throw .invalid(
                    "stop holds \(item.kind), expected a string or an array of strings", "stop",
                    code: "invalid_type")
            }
            guard !text.isEmpty, text.utf8.count <= longestStop else {
                throw .invalid(
                    "stop holds a text of \(text.utf8.count) bytes, expected 1 to \(longestStop)",
                    "stop", code: "out_of_range")
            }
            texts.append(text)
        }
        return texts
    }

    private static func bias(_ fields: RequestFields, vocabulary: Int) throws(APIError)
        -> [Int32: Double]
    {
        guard let members = try fields.object("logit_bias")?.object else { return [:] }
        var bias: [Int32: Double] = [:]
        for (name, value) in members {
            let text = name.text
            guard let id = Int(text), (0..<vocabulary).contains(id) else {
                throw .invalid(
                    "logit_bias names the token \"\(String(text.unicodeScalars.prefix(32)))\"; its "
                        + "names are token ids from 0 to \(vocabulary - 1)", "logit_bias",
                    code: "out_of_range")
            }
            guard let number = value.double, abs(number) <= 100 else {
                throw .invalid(
                    "logit_bias of token \(id) is not a number between -100 and 100", "logit_bias",
                    code: "out_of_range")
            }
            bias[Int32(id)] = number
        }
        return bias
    }

    /// The end of a prompt that counts.
    ///
    /// - Parameters:
    ///   - context: Tokens of prompt and answer.
    ///   - standard: New tokens of requests that do not say; `nil`: as many as there is room for.
    func truncated(_ prompt: [Int32], context: Int, standard: Int?) -> [Int32] {
        guard let promptTokens else { return prompt }
        let answer = maxTokens ?? max(standard ?? 1, rules.least)
        let room = max(context - max(answer, 1), 1)
        return Array(prompt.suffix(promptTokens < 0 ? room : promptTokens))
    }

    /// Checks that a prompt and its answer fit, and says how long the answer may be.
    func limit(
        prompt: Int, context: Int, standard: Int?, parameter: String
    ) throws(APIError) -> Int {
        guard prompt < context else {
            throw .contextExceeded(context: context, prompt: prompt, parameter: parameter)
        }
        let room = context - prompt
        let limit = maxTokens ?? min(standard ?? room, room)
        guard limit <= room else {
            throw .contextExceeded(
                context: context, prompt: prompt, asked: limit, parameter: parameter)
        }
        guard rules.least <= limit else {
            throw .invalid(
                "min_tokens is \(rules.least), but the answer has \(limit) tokens at most; ask for "
                    + "fewer, or for a larger max_tokens", "min_tokens", code: "out_of_range")
        }
        return limit
    }
}
