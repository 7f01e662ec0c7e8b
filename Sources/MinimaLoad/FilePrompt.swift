import MinimaCore

/// A prompt from a file.
public struct FilePrompt: Sendable, Hashable {
    /// The messages of a chat; a plain prompt is one of the user's.
    public var messages: [JSON]
    /// The prompt as one text, for completions.
    public var text: String
    /// New tokens that it asks for; `nil`: what is drawn.
    public var answerTokens: Int?

    /// Reads prompts: JSON lines, or one JSON array (ShareGPT's files).
    ///
    /// A prompt is a string, or an object with `prompt`, OpenAI's `messages`, or ShareGPT's
    /// `conversations`, of which the part before the model's first answer is taken. `max_tokens`
    /// or `output_tokens` say how long the answer may be.
    ///
    /// - Parameter path: For messages.
    public static func read(_ text: [UInt8], path: String) throws(LoadError) -> [FilePrompt] {
        let space: Set<UInt8> = [0x20, 0x09, 0x0A, 0x0D]
        var prompts: [FilePrompt] = []
        if text.first(where: { !space.contains($0) }) == UInt8(ascii: "[") {
            let items: [JSON]
            do throws(JSONError) {
                items = try JSON(parsing: text).array ?? []
            } catch {
                throw .badPrompts(path: path, line: 1, reason: error.description)
            }
            for (index, item) in items.enumerated() {
                // ShareGPT's files have conversations without a word of the user.
                if item["conversations"]?.array?.isEmpty == true { continue }
                prompts.append(try FilePrompt(item, path: path, line: index + 1))
            }
        } else {
            let lines = text.split(separator: 0x0A, omittingEmptySubsequences: false)
            for (index, line) in lines.enumerated() where !line.allSatisfy(space.contains) {
                let json: JSON
                do throws(JSONError) {
                    json = try JSON(parsing: Array(line))
                } catch {
                    throw .badPrompts(path: path, line: index + 1, reason: error.description)
                }
                prompts.append(try FilePrompt(json, path: path, line: index + 1))
            }
        }
        guard !prompts.isEmpty else { throw .noPrompts(path: path) }
        return prompts
    }

    private init(_ json: JSON, path: String, line: Int) throws(LoadError) {
        func fail(_ reason: String) -> LoadError {
            .badPrompts(path: path, line: line, reason: reason)
        }
        for name in ["max_tokens", "max_completion_tokens", "output_tokens"] {
            guard let value = json[name], !value.isNull else { continue }
            guard let count = value.int, (1...LengthDistribution.longest).contains(count) else {
                throw fail("\(name) is no number from 1 to \(LengthDistribution.longest)")
            }
            answerTokens = answerTokens ?? count
        }
        if let text = json.string ?? json["prompt"]?.string {
            guard !text.isEmpty else { throw fail("the prompt is empty") }
            self.text = text
            messages = [["role": "user", "content": .string(text)]]
        } else if let items = json["messages"]?.array {
            guard !items.isEmpty, items.allSatisfy({ $0["role"]?.string != nil }) else {
                throw fail("its messages are not objects with a role")
            }
            messages = items
            text = items.compactMap { $0["content"]?.string }.joined(separator: "\n")
        } else if let turns = json["conversations"]?.array {
            messages = []
            for turn in turns {
                guard let from = turn["from"]?.string, let value = turn["value"]?.string else {
                    throw fail("a turn of its conversation has no from or no value")
                }
                guard let role = ["human": "user", "user": "user", "system": "system"][from] else {
                    break
                }
                messages.append(["role": .string(role), "content": .string(value)])
            }
            if messages.isEmpty, let first = turns.first?["value"]?.string {
                // Some conversations begin with the model's words.
                messages = [["role": "user", "content": .string(first)]]
            }
            guard !messages.isEmpty else { throw fail("its conversation is empty") }
            text = messages.compactMap { $0["content"]?.string }.joined(separator: "\n")
        } else {
            throw fail("it is \(json.kind)")
        }
    }
}
