import MinimaCore

/// How many tokens a server counts in words.
struct WordTokens: Sendable, Hashable {
    /// Tokens of one word, on average.
    var perWord: Double
    /// Tokens that a template adds.
    var overhead: Double

    /// English text and common tokenizers, for servers that do not count.
    static let typical = WordTokens(perWord: 1.3, overhead: 0)

    /// Words that make `tokens` tokens or so, at least one.
    func words(_ tokens: Int) -> Int {
        max(1, Int(((Double(tokens) - overhead) / perWord).rounded()))
    }
}

/// Writes the bodies of requests; the same ones for the same seed, in whatever order they are sent.
struct PromptMaker: Sendable {
    /// Parameters that not every server knows.
    struct Dialect: Sendable, Hashable {
        /// Whether streams are asked for token counts (`stream_options.include_usage`).
        var asksUsage = true
        /// Whether answers are asked to go on after their end (`ignore_eos`).
        var ignoresEnd = false
        /// The name of the limit of new tokens.
        var limitName = "max_tokens"
    }

    let options: LoadOptions
    let model: String
    var dialect: Dialect
    var tokens = WordTokens.typical

    /// The body of request `number`, and the new tokens that it asks for; negative numbers are for
    /// requests that are not measured.
    func body(_ number: Int) -> (bytes: [UInt8], answerTokens: Int) {
        var random = SplitMix(
            options.seed &+ UInt64(bitPattern: Int64(number)) &* 0x5851_f42d_4c95_7f2d)
        let promptTokens = options.promptTokens.draw(&random)
        let drawn = options.answerTokens.draw(&random)
        if !options.prompts.isEmpty {
            let place = number % options.prompts.count
            let prompt = options.prompts[place < 0 ? place + options.prompts.count : place]
            let count = prompt.answerTokens ?? drawn
            return (body(messages: prompt.messages, text: prompt.text, count), count)
        }
        let words = tokens.words(promptTokens)
        var shared = SplitMix(options.seed ^ 0x7072_6566_6978)
        let common = options.sharedPrefix == 0 ? 0 : min(tokens.words(options.sharedPrefix), words)
        var text = (0..<common).map { _ in Self.word(&shared) }
        text += (common..<words).map { _ in Self.word(&random) }
        return (body(text: text.joined(separator: " "), drawn), drawn)
    }

    /// A body whose prompt has so many words.
    func body(words: Int, answerTokens: Int, streams: Bool) -> [UInt8] {
        var random = SplitMix(options.seed ^ 0x776f_7264_73 ^ UInt64(words))
        let text = (0..<words).map { _ in Self.word(&random) }.joined(separator: " ")
        return body(text: text, answerTokens, streams: streams)
    }

    private static func word(_ random: inout SplitMix) -> String {
        Words.all[Int.random(in: 0..<Words.all.count, using: &random)]
    }

    private func body(text: String, _ count: Int, streams: Bool = true) -> [UInt8] {
        body(
            messages: [["role": "user", "content": .string(text)]], text: text, count,
            streams: streams)
    }

    private func body(
        messages: [JSON], text: String, _ count: Int, streams: Bool = true
    ) -> [UInt8] {
        var members: [(String, JSON)] = [("model", .string(model))]
        switch options.interface {
        case .chat: members.append(("messages", .array(messages)))
        case .completions: members.append(("prompt", .string(text)))
        }
        members.append((dialect.limitName, .integer(Int64(count))))
        members.append(("stream", .bool(streams)))
        if streams, dialect.asksUsage {
            members.append(("stream_options", ["include_usage": true]))
        }
        if dialect.ignoresEnd { members.append(("ignore_eos", true)) }
        if let temperature = options.temperature {
            members.append(("temperature", .number(temperature)))
        }
        let pairs = members.map { (JSON.Name($0), $1) }
        return Array(JSON.object(.init(uniqueKeysWithValues: pairs)).text(indent: nil).utf8)
    }
}
