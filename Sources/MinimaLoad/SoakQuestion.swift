import MinimaCore

/// A request whose answer is known.
struct SoakQuestion: Sendable {
    /// What a server must answer.
    struct Reply: Sendable, Hashable {
        var texts: [Int: String]
        var finishReasons: [Int: String]

        init(_ answer: Answer) {
            (texts, finishReasons) = (answer.texts, answer.finishReasons)
        }
    }

    let path: String
    private let members: [(String, JSON)]
    /// The answer of a request that was alone.
    var reply: Reply?

    /// Draws a question; its prompt is of one to a few hundred tokens, and some prompts begin alike.
    init(model: String, random: inout SplitMix) {
        let isChat = Bool.random(using: &random)
        path = isChat ? "/v1/chat/completions" : "/v1/completions"
        let words = LengthDistribution.lognormal(median: 24, sigma: 1).draw(&random)
        var text = Bool.random(using: &random) ? Array(Words.all.prefix(70)) : []
        for _ in 0..<min(words, 300) {
            text.append(Words.all[Int.random(in: 0..<Words.all.count, using: &random)])
        }
        let prompt = JSON.string(text.joined(separator: " "))
        var members: [(String, JSON)] = [
            ("model", .string(model)),
            isChat
                ? ("messages", [["role": "user", "content": prompt]]) : ("prompt", prompt),
            ("max_tokens", .integer(.random(in: 1...32, using: &random))),
        ]
        if Int.random(in: 0..<3, using: &random) == 0 {
            members.append(("temperature", .number(0.5 + random.share())))
            members.append(("seed", .integer(.random(in: 0...1 << 32, using: &random))))
            members.append(("top_p", .number(0.9)))
        } else {
            members.append(("temperature", 0))
        }
        switch Int.random(in: 0..<8, using: &random) {
        case 0: members.append(("n", .integer(.random(in: 2...3, using: &random))))
        case 1: members.append(("ignore_eos", true))
        case 2: members.append(("presence_penalty", 0.7))
        default: break
        }
        self.members = members
    }

    /// The same question, whose answer also ends before one of these texts.
    func stopping(at stops: [String], reply: Reply) -> SoakQuestion {
        SoakQuestion(
            path: path, members: members + [("stop", .array(stops.map { .string($0) }))],
            reply: reply)
    }

    private init(path: String, members: [(String, JSON)], reply: Reply) {
        (self.path, self.members, self.reply) = (path, members, reply)
    }

    /// The request's body.
    func body(streams: Bool, asksUsage: Bool = false) -> [UInt8] {
        var members = members
        if streams { members.append(("stream", true)) }
        if asksUsage { members.append(("stream_options", ["include_usage": true])) }
        let pairs = members.map { (JSON.Name($0), $1) }
        return Array(JSON.object(.init(uniqueKeysWithValues: pairs)).text(indent: nil).utf8)
    }

    /// A question like this one that ends at a text in the middle of the answer, and what its answer
    /// must then be; `nil` where there are several answers or none long enough.
    func withStop(_ random: inout SplitMix) -> SoakQuestion? {
        guard let reply, reply.texts.count == 1, let text = reply.texts[0] else { return nil }
        let scalars = Array(text.unicodeScalars)
        guard scalars.count >= 6 else { return nil }
        let start = Int.random(in: 1..<scalars.count - 3, using: &random)
        let length = Int.random(in: 1...3, using: &random)
        let stop = scalars[start..<start + length]
        // A broken character is shown by one that stands for any.
        guard !stop.contains("\u{FFFD}") else { return nil }
        let places = 0...scalars.count - length
        guard let first = places.first(where: { scalars[$0..<$0 + length] == stop }) else {
            return nil
        }
        var ended = reply
        ended.texts[0] = Self.text(scalars[..<first])
        ended.finishReasons[0] = "stop"
        return stopping(at: [Self.text(stop), "\u{1}never\u{1}"], reply: ended)
    }

    private static func text(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        var text = String.UnicodeScalarView()
        text.append(contentsOf: scalars)
        return String(text)
    }
}
