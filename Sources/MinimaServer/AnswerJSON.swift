import MinimaCore
import MinimaRuntime
import OrderedCollections

/// Members of answers that both interfaces share or that differ in form only.
struct AnswerJSON: Sendable {
    let texts: TokenTexts

    /// OpenAI's least log-probability: JSON has no infinity.
    private static let least = -9999.0

    private static func number(_ logprob: Float) -> JSON {
        .number(logprob.isFinite ? Double(logprob) : least)
    }

    /// `logprobs` of a completion's choice.
    func completion(_ tokens: [ScoredToken]) -> JSON {
        [
            "text_offset": .array(tokens.map { .integer(Int64($0.offset)) }),
            "token_logprobs": .array(tokens.map { $0.logprob.map(Self.number) ?? .null }),
            "tokens": .array(tokens.map { .string(texts.text($0.id)) }),
            "top_logprobs": .array(tokens.map(top)),
        ]
    }

    /// The likeliest tokens by their texts, the chosen one among them; of several with one text the
    /// likeliest counts.
    private func top(_ token: ScoredToken) -> JSON {
        guard let logprob = token.logprob else { return .null }
        var likeliest: [(JSON.Name, JSON)] = []
        for alternative in token.alternatives + [.init(id: token.id, logprob: logprob)] {
            let name = JSON.Name(texts.text(alternative.id))
            if !likeliest.contains(where: { $0.0 == name }) {
                likeliest.append((name, Self.number(alternative.logprob)))
            }
        }
        return .object(.init(uniqueKeysWithValues: likeliest))
    }

    /// `logprobs` of a chat's choice.
    func chat(_ tokens: [ScoredToken]) -> JSON {
        [
            "content": .array(
                tokens.map { token in
                    entry(
                        token.id, token.logprob ?? 0,
                        top: token.alternatives.map { entry($0.id, $0.logprob, top: nil) })
                }), "refusal": nil,
        ]
    }

    private func entry(_ id: Int32, _ logprob: Float, top: [JSON]?) -> JSON {
        let text = texts.text(id)
        // A token that is not UTF-8 by itself has bytes that its text does not tell.
        let bytes = JSON.array(texts.bytes(id).map { .integer(Int64($0)) })
        guard let top else {
            return ["token": .string(text), "logprob": Self.number(logprob), "bytes": bytes]
        }
        return [
            "token": .string(text), "logprob": Self.number(logprob), "bytes": bytes,
            "top_logprobs": .array(top),
        ]
    }

    /// Numbers of tokens.
    ///
    /// - Parameter cached: Tokens of the prompt whose keys and values were there.
    static func usage(prompt: Int, cached: Int, generated: Int) -> JSON {
        [
            "prompt_tokens": .integer(Int64(prompt)),
            "completion_tokens": .integer(Int64(generated)),
            "total_tokens": .integer(Int64(prompt + generated)),
            "prompt_tokens_details": ["cached_tokens": .integer(Int64(cached))],
        ]
    }

    /// An identifier that nobody can guess.
    static func identifier(_ prefix: String) -> String {
        var generator = SystemRandomNumberGenerator()
        let parts = (0..<2).map { _ in
            let digits = String(generator.next(), radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }
        return "\(prefix)-\(parts.joined())"
    }
}

/// Writes the objects of a stream: what they share is written once.
struct ChunkWriter: Sendable {
    private let head: String
    private let tail: String
    private let last: String

    /// - Parameter usage: Whether the stream ends with the numbers of tokens, for which the chunks
    ///   before have an empty member.
    init(id: String, object: String, created: Int, model: ServedModel, usage: Bool) {
        let shared: JSON = [
            "id": .string(id), "object": .string(object), "created": .integer(Int64(created)),
            "model": .string(model.name), "system_fingerprint": .string(model.fingerprint),
        ]
        head = "data: " + shared.text(indent: nil).dropLast() + ",\"choices\":["
        tail = usage ? "],\"usage\":null}\n\n" : "]}\n\n"
        last = "],\"usage\":"
    }

    /// An event with one choice.
    func event(_ choice: JSON) -> String { head + choice.text(indent: nil) + tail }

    /// The event with the numbers of tokens.
    func event(usage: JSON) -> String { head + last + usage.text(indent: nil) + "}\n\n" }

    /// An event that ends a stream before its time.
    static func event(_ error: APIError) -> String {
        "data: \(error.json.text(indent: nil))\n\n"
    }

    /// The stream's end.
    static let end = "data: [DONE]\n\n"
}
