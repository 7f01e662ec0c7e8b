import MinimaCore
import MinimaRuntime
import MinimaTokenizer

extension InferenceServer {
    // MARK: Tokens

    /// `/tokenize`: a text's or a conversation's tokens, in vLLM's form.
    func tokenize(_ body: JSON) throws(APIError) -> JSON {
        let fields = try RequestFields(body)
        try fields.checkNames(known: [
            "model", "prompt", "messages", "add_special_tokens", "add_generation_prompt",
            "chat_template_kwargs", "return_token_strs", "tools", "tool_choice",
        ])
        try model.check(fields.string("model"))
        let withTexts = try fields.bool("return_token_strs") ?? false
        let special = try fields.bool("add_special_tokens") ?? true
        let ids: [Int32]
        if fields["messages"] != nil {
            ids = try ChatRequest.prompt(fields, ToolParameters(fields), model).tokens
        } else if let text = try fields.string("prompt") {
            ids = try model.encode(text, addSpecialTokens: special, parameter: "prompt")
        } else {
            throw .invalid(
                "the request has neither prompt nor messages; give one", "prompt",
                code: "missing_parameter")
        }
        return [
            "count": .integer(Int64(ids.count)), "max_model_len": .integer(Int64(context)),
            "tokens": .array(ids.map { .integer(Int64($0)) }),
            "token_strs": withTexts
                ? .array(ids.map { .string(model.tokenizer.token(for: $0) ?? "") }) : .null,
        ]
    }

    /// `/detokenize`: the text of tokens, special ones as they are spelt.
    func detokenize(_ body: JSON) throws(APIError) -> JSON {
        let fields = try RequestFields(body)
        try fields.checkNames(known: ["model", "tokens"])
        try model.check(fields.string("model"))
        guard let items = try fields.array("tokens") else {
            throw .invalid(
                "the request has no tokens; give an array of token ids", "tokens",
                code: "missing_parameter")
        }
        let ids = try RequestFields.tokens(
            items, of: "tokens", vocabulary: engine.capacity.vocabulary)
        return ["prompt": .string(model.tokenizer.decode(ids, skipSpecialTokens: false))]
    }

    /// `/tokenizer_info`: tokens with a role and the chat template, in vLLM's form; with it and
    /// `/tokenize`, clients such as lm-evaluation-harness need no tokenizer of their own.
    func tokenizerInfo() -> JSON {
        let special = model.tokenizer.specialTokens
        func text(_ token: SpecialTokens.Token?) -> JSON { token.map { .string($0.text) } ?? .null }
        return [
            "bos_token": text(special.beginning), "eos_token": text(special.end),
            "pad_token": text(special.padding), "unk_token": text(special.unknown),
            "model_max_length": .integer(Int64(context)),
            "chat_template": model.chat.map { .string($0.template.source) } ?? .null,
        ]
    }

    // MARK: Models

    /// An entry of `/v1/models`.
    func modelEntry(_ name: String) -> JSON {
        [
            "id": .string(name), "object": "model", "created": .integer(Int64(model.created)),
            "owned_by": "minima", "max_model_len": .integer(Int64(context)),
        ]
    }

    /// The entry of the model that a path names.
    func modelEntry(path: String) throws(APIError) -> JSON {
        let name = Self.decoded(path.utf8.dropFirst("/v1/models/".utf8.count))
        try model.check(name)
        return modelEntry(name)
    }

    /// A part of a path without its escapes.
    private static func decoded(_ text: some Collection<UInt8>) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text)[...]
        while let byte = rest.popFirst() {
            let digits = String(decoding: rest.prefix(2), as: UTF8.self)
            if byte == UInt8(ascii: "%"), digits.utf8.count == 2,
                let value = UInt8(digits, radix: 16)
            {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    // MARK: Health

    /// `/health`, `/health/ready`: whether requests are answered; `/health/live`: whether to start the
    /// process again would not help.
    func healthReply(_ path: String) -> Reply {
        let health = health
        let metrics = engine.metrics
        let isGood = path == "/health/live" ? health.isAlive : health == .ready
        let body: JSON = [
            "status": .string(health.rawValue), "running": .integer(Int64(metrics.running)),
            "waiting": .integer(Int64(metrics.waiting)),
        ]
        return .text(
            body.text(indent: nil), type: "application/json", status: isGood ? 200 : 503)
    }
}
