import MinimaCore
import NIOHTTP1

/// Finds out what a server understands, and how many tokens it counts in words.
struct ServerProbe: Sendable {
    let client: ServerClient
    let options: LoadOptions
    let note: @Sendable (String) -> Void

    /// A maker of requests that the server takes.
    func maker(_ model: String) async throws -> PromptMaker {
        var maker = PromptMaker(
            options: options, model: model, dialect: .init(ignoresEnd: options.ignoresEnd))
        try await settle(&maker)
        if options.prompts.isEmpty { maker.tokens = await measured(maker) }
        return maker
    }

    /// Leaves out what the server refuses, one parameter after the other.
    private func settle(_ maker: inout PromptMaker) async throws(LoadError) {
        while true {
            let body = maker.body(words: 4, answerTokens: 2, streams: true)
            let outcome = await client.answer(to: body, options.interface.path)
            guard case .failed(let failure, let wait, let message) = outcome else { return }
            switch failure {
            case .status(429):
                try? await Task.sleep(for: .seconds(wait ?? 1))
                if Task.isCancelled { return }
                continue
            case .status(400), .status(422): break
            case .status(let status):
                throw .refused(path: options.interface.path, status: status, message: message)
            case .connect:
                throw .unreachable(client.address.description, reason: "no connection")
            default:
                throw .notAnswered(
                    path: options.interface.path,
                    reason: message.isEmpty ? "\(failure)" : "\(failure): \(message)")
            }
            guard case .status(let status) = failure else { return }
            let isNamed = { (name: String) in message.contains(name) }
            if maker.dialect.limitName == "max_tokens", isNamed("max_completion_tokens") {
                maker.dialect.limitName = "max_completion_tokens"
            } else if maker.dialect.ignoresEnd, !isNamed("stream_options") {
                maker.dialect.ignoresEnd = false
                note("the server does not take ignore_eos; answers end where the model ends them")
            } else if maker.dialect.asksUsage {
                maker.dialect.asksUsage = false
                note("the server does not take stream_options; tokens are counted by pieces")
            } else {
                throw .refused(path: options.interface.path, status: status, message: message)
            }
        }
    }

    /// Tokens of words, from the server's own counts.
    private func measured(_ maker: PromptMaker) async -> WordTokens {
        let (few, many) = (16, 216)
        guard let low = await promptTokens(maker, words: few) else {
            note("the server does not count tokens of prompts; a word is taken for 1.3")
            return .typical
        }
        guard let high = await promptTokens(maker, words: many), high > low else {
            // Its context may be shorter than that.
            return WordTokens(perWord: max(Double(low) / Double(few), 0.1), overhead: 0)
        }
        let perWord = Double(high - low) / Double(many - few)
        return WordTokens(perWord: perWord, overhead: Double(low) - perWord * Double(few))
    }

    private func promptTokens(_ maker: PromptMaker, words: Int) async -> Int? {
        let body = maker.body(words: words, answerTokens: 1, streams: false)
        let outcome = await client.answer(to: body, options.interface.path)
        guard case .complete(let answer) = outcome else { return nil }
        return answer.usage?.prompt
    }
}
