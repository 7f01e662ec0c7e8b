import Glibc
import MinimaCore
import MinimaGrammar
import MinimaRuntime

/// An answer that is complete.
private struct Answer: Sendable {
    var text = ""
    var message = AnswerMessage()
    var tokens: [ScoredToken] = []
    var reason = FinishReason.length.name
    var count = 0

    mutating func add(_ piece: AnswerPiece) {
        text += piece.text
        tokens += piece.tokens
        for delta in piece.deltas { message.add(delta) }
    }
}

/// How one interface writes choices.
private struct ChoiceForm: Sendable {
    /// Prefix of identifiers and name of a complete answer's object.
    let identifier: String
    let object: String
    let streamObject: String
    let complete: @Sendable (_ index: Int, Answer) -> JSON
    /// What a stream begins each answer with.
    let opening: @Sendable (_ index: Int) -> JSON?
    /// A piece of a stream, in one choice or several; a reason ends the answer.
    let piece: @Sendable (_ index: Int, AnswerPiece, _ reason: String?) -> [JSON]
}

extension InferenceServer {
    // MARK: Completions

    /// `/v1/completions`.
    func complete(_ body: JSON, _ lifetime: RequestLifetime) async throws(APIError) -> Reply {
        try model.check(RequestFields(body).string("model"))
        var request = try CompletionRequest(
            body, model: model, vocabulary: engine.capacity.vocabulary, options: options,
            seed: .random(in: 0 ... .max))
        request.truncate(context: context)
        var limits: [Int] = []
        for prompt in request.prompts {
            limits.append(
                try request.parameters.limit(
                    prompt: prompt.tokens.count, context: context,
                    standard: CompletionRequest.standardTokens, parameter: "prompt"))
        }
        let parameters = request.parameters
        let grammar: CompiledGrammar? =
            if let form = parameters.form { try await constraints.compile(form) } else { nil }
        let scored = try promptLogprobs(request)
        let echoes = request.echo ? request.prompts.map(echo) : []
        var readers: [AnswerReader] = []
        // The first request of each prompt also tells the prompt's log-probabilities.
        var scorers: [GenerationHandle] = []
        for (number, (prompt, limit)) in zip(request.prompts, limits).enumerated() {
            // Without new tokens there is a request only where the prompt is scored.
            let answers = limit > 0 ? parameters.count : scored == nil ? 0 : 1
            for answer in 0..<answers {
                let handle = try submit(
                    prompt.tokens, limit: limit, parameters, number: answer,
                    promptLogprobs: answer == 0 ? scored : nil, grammar: grammar, lifetime)
                if answer == 0 { scorers.append(handle) }
                guard limit > 0 else { continue }
                let before = request.echo ? echoes[number].text.unicodeScalars.count : 0
                readers.append(
                    AnswerReader(
                        index: number * parameters.count + answer, handle: handle,
                        text: AnswerText(
                            model.tokenizer, after: prompt.tokens, parameters, offset: before,
                            tellsEnd: true)))
            }
        }
        var opening = echoes.map { AnswerPiece(text: $0.text) }
        if scored != nil {
            for (index, handle) in scorers.enumerated() {
                opening[index].tokens = try await scores(echoes[index], handle, lifetime)
            }
        }
        let asksLogprobs = parameters.sampling.logprobs != nil
        let (json, openings, count) = (json, opening, parameters.count)
        let choice = {
            @Sendable (index: Int, text: String, tokens: [ScoredToken], reason: String?) -> JSON in
            [
                "index": .integer(Int64(index)), "text": .string(text),
                "logprobs": asksLogprobs ? json.completion(tokens) : .null,
                "finish_reason": reason.map { .string($0) } ?? .null,
            ]
        }
        let form = ChoiceForm(
            identifier: "cmpl", object: "text_completion", streamObject: "text_completion",
            complete: { index, answer in
                let echo = openings.isEmpty ? AnswerPiece() : openings[index / count]
                return choice(
                    index, echo.text + answer.text, echo.tokens + answer.tokens, answer.reason)
            },
            opening: { index in
                guard !openings.isEmpty else { return nil }
                let echo = openings[index / count]
                return choice(index, echo.text, echo.tokens, nil)
            },
            piece: { index, piece, reason in [choice(index, piece.text, piece.tokens, reason)] })
        return try await reply(
            form, readers, answers: request.prompts.count * count, parameters,
            promptTokens: request.prompts.reduce(0) { $0 + $1.tokens.count }, lifetime)
    }

    // MARK: Chat

    /// `/v1/chat/completions`.
    func chat(_ body: JSON, _ lifetime: RequestLifetime) async throws(APIError) -> Reply {
        try model.check(RequestFields(body).string("model"))
        var request = try ChatRequest(
            body, model: model, vocabulary: engine.capacity.vocabulary, options: options,
            seed: .random(in: 0 ... .max))
        request.tokens = request.parameters.truncated(
            request.tokens, context: context, standard: nil)
        let parameters = request.parameters
        let limit = try parameters.limit(
            prompt: request.tokens.count, context: context, standard: nil,
            parameter: "messages")
        var grammar: CompiledGrammar?
        if var form = parameters.form {
            form.form = model.behindThoughts(form.form, after: request.prompt)
            do throws(APIError) {
                grammar = try await constraints.compile(form)
            } catch {
                guard form.isOptional, error == .noConstraints(form.parameter) else { throw error }
            }
        }
        let marks = request.marks(model)
        var readers: [AnswerReader] = []
        for answer in 0..<parameters.count {
            let handle = try submit(
                request.tokens, limit: limit, parameters, number: answer, grammar: grammar,
                lifetime)
            readers.append(
                AnswerReader(
                    index: answer, handle: handle,
                    text: AnswerText(
                        model.tokenizer, after: request.tokens, parameters, keeping: marks),
                    message: request.parser(model)))
        }
        let asksLogprobs = parameters.sampling.logprobs != nil
        let withReasoning = model.chat?.reasoningParser != nil
        // An answer that may have no content begins with none.
        let mayBeSilent = withReasoning || !request.tools.offered.isEmpty
        let json = json
        let choice = {
            @Sendable (index: Int, delta: JSON, tokens: [ScoredToken], reason: String?) -> JSON in
            [
                "index": .integer(Int64(index)), "delta": delta,
                "logprobs": asksLogprobs ? json.chat(tokens) : .null,
                "finish_reason": reason.map { .string($0) } ?? .null,
            ]
        }
        let form = ChoiceForm(
            identifier: "chatcmpl", object: "chat.completion",
            streamObject: "chat.completion.chunk",
            complete: { index, answer in
                [
                    "index": .integer(Int64(index)),
                    "message": answer.message.json(withReasoning: withReasoning),
                    "logprobs": asksLogprobs ? json.chat(answer.tokens) : .null,
                    "finish_reason": .string(answer.reason),
                ]
            },
            opening: {
                choice($0, ["role": "assistant", "content": mayBeSilent ? .null : ""], [], nil)
            },
            piece: { index, piece, reason in
                let deltas = piece.deltas.isEmpty ? [[:]] : piece.deltas.map(\.json)
                return deltas.enumerated().map { place, delta in
                    choice(
                        index, delta, place == 0 ? piece.tokens : [],
                        place == deltas.count - 1 ? reason : nil)
                }
            })
        return try await reply(
            form, readers, answers: parameters.count, parameters,
            promptTokens: request.tokens.count, lifetime)
    }

    // MARK: Both

    /// - Parameter answers: How many there are; those without a reader have no new tokens.
    private func reply(
        _ form: ChoiceForm, _ readers: [AnswerReader], answers: Int,
        _ parameters: AnswerParameters, promptTokens: Int, _ lifetime: RequestLifetime
    ) async throws(APIError) -> Reply {
        let id = AnswerJSON.identifier(form.identifier)
        let created = time(nil)
        if parameters.streams {
            let chunks = ChunkWriter(
                id: id, object: form.streamObject, created: created, model: model,
                usage: parameters.streamsUsage)
            return .events { [self] writer in
                try await stream(
                    &writer, chunks, form, readers, answers: answers,
                    parameters, promptTokens: promptTokens, lifetime)
            }
        }
        var cached = CachedTokens(choices: parameters.count)
        let all = try await collect(readers, answers: answers, &cached, lifetime)
        return .json([
            "id": .string(id), "object": .string(form.object),
            "created": .integer(Int64(created)), "model": .string(model.name),
            "system_fingerprint": .string(model.fingerprint),
            "choices": .array(all.enumerated().map { form.complete($0, $1) }),
            "usage": AnswerJSON.usage(
                prompt: promptTokens, cached: cached.sum, generated: all.reduce(0) { $0 + $1.count }
            ),
        ])
    }

    private func collect(
        _ readers: [AnswerReader], answers: Int, _ cached: inout CachedTokens,
        _ lifetime: RequestLifetime
    ) async throws(APIError) -> [Answer] {
        var all = Array(repeating: Answer(), count: answers)
        do {
            try await AnswerReader.read(readers) { index, event in
                switch event {
                case .piece(let piece): all[index].add(piece)
                case .end(let end):
                    if let error = failure(end.reason, lifetime) { throw error }
                    metrics.add(end.timing)
                    cached.add(end.cachedTokens, of: index)
                    all[index].add(end.piece)
                    all[index].reason = end.reasonName
                    all[index].count = end.timing.tokens
                }
            }
        } catch let error as APIError {
            throw error
        } catch {
            throw .failed("the answer could not be read")
        }
        return all
    }

    private func stream(
        _ writer: inout EventWriter, _ chunks: ChunkWriter, _ form: ChoiceForm,
        _ readers: [AnswerReader], answers: Int, _ parameters: AnswerParameters,
        promptTokens: Int, _ lifetime: RequestLifetime
    ) async throws -> Bool {
        for index in 0..<answers {
            if let choice = form.opening(index) { try await writer.write(chunks.event(choice)) }
        }
        var (generated, cached) = (0, CachedTokens(choices: parameters.count))
        do {
            try await AnswerReader.read(readers) { index, event in
                switch event {
                case .piece(let piece):
                    guard !piece.isEmpty else { return }
                    for choice in form.piece(index, piece, nil) {
                        try await writer.write(chunks.event(choice))
                    }
                case .end(let end):
                    if let error = failure(end.reason, lifetime) { throw error }
                    metrics.add(end.timing)
                    generated += end.timing.tokens
                    cached.add(end.cachedTokens, of: index)
                    for choice in form.piece(index, end.piece, end.reasonName) {
                        try await writer.write(chunks.event(choice))
                    }
                }
            }
            let read = Set(readers.map(\.index))
            for index in 0..<answers where !read.contains(index) {
                for choice in form.piece(index, AnswerPiece(), FinishReason.length.name) {
                    try await writer.write(chunks.event(choice))
                }
            }
            if parameters.streamsUsage {
                let usage = AnswerJSON.usage(
                    prompt: promptTokens, cached: cached.sum, generated: generated)
                try await writer.write(chunks.event(usage: usage))
            }
        } catch let error as APIError {
            if lifetime.end == .disconnected { return false }
            try await writer.write(ChunkWriter.event(error))
        }
        try await writer.write(ChunkWriter.end)
        return true
    }
}

/// Tokens of prompts that were not computed; of a prompt with several choices those of the choice that
/// found fewest, as the others found what that one computed.
private struct CachedTokens {
    let choices: Int
    private var prompts: [Int: Int] = [:]

    init(choices: Int) { self.choices = max(choices, 1) }

    var sum: Int { prompts.values.reduce(0, +) }

    mutating func add(_ count: Int, of answer: Int) {
        let prompt = answer / choices
        prompts[prompt] = min(prompts[prompt] ?? count, count)
    }
}
