import MinimaCore

/// Numbers of tokens that a server reports.
struct TokenUsage: Sendable, Hashable {
    var prompt: Int
    var answer: Int

    /// More than any answer has, and few enough for sums.
    private static let possible = 0...1 << 40

    init?(_ json: JSON?) {
        guard let prompt = json?["prompt_tokens"]?.int, Self.possible.contains(prompt) else {
            return nil
        }
        let answer = json?["completion_tokens"]?.int ?? 0
        guard Self.possible.contains(answer) else { return nil }
        (self.prompt, self.answer) = (prompt, answer)
    }
}

/// A piece of one answer.
struct AnswerDelta: Sendable, Hashable {
    var index: Int
    var text: String
    /// Whether the piece carries a token's work: text, thoughts or a tool call.
    var hasToken: Bool
    var finishReason: String?
}

/// What one event of a stream says.
enum AnswerEvent: Sendable, Hashable {
    case deltas([AnswerDelta], TokenUsage?)
    case error(String)
    /// The last one.
    case done

    /// Reads an event's data.
    ///
    /// - Throws: `RequestFailure.malformedEvent`.
    init(_ data: [UInt8]) throws(RequestFailure) {
        if data.elementsEqual("[DONE]".utf8) {
            self = .done
            return
        }
        let json: JSON
        do throws(JSONError) {
            json = try JSON(parsing: data)
        } catch {
            throw .malformedEvent
        }
        guard json.object != nil else { throw .malformedEvent }
        if let error = json["error"], !error.isNull {
            self = .error(error["message"]?.string ?? error.text(indent: nil))
            return
        }
        self = .deltas(try Self.deltas(json["choices"]), TokenUsage(json["usage"]))
    }

    private static func deltas(_ choices: JSON?) throws(RequestFailure) -> [AnswerDelta] {
        guard let choices, !choices.isNull else { return [] }
        guard let choices = choices.array else { throw .malformedEvent }
        var deltas: [AnswerDelta] = []
        for choice in choices {
            guard choice.object != nil else { throw .malformedEvent }
            let delta = choice["delta"]
            let text = delta?["content"]?.string ?? choice["text"]?.string ?? ""
            let other = ["reasoning_content", "reasoning", "refusal"].contains {
                delta?[$0]?.string?.isEmpty == false
            }
            let calls = delta?["tool_calls"]?.array?.isEmpty == false
            deltas.append(
                AnswerDelta(
                    index: choice["index"]?.int ?? 0, text: text,
                    hasToken: !text.isEmpty || other || calls,
                    finishReason: choice["finish_reason"]?.string))
        }
        return deltas
    }
}
