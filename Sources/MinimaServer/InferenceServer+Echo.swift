import MinimaRuntime

/// A prompt as its answer begins with it.
struct Echo: Sendable {
    var text: String
    /// Scalars of text before each token.
    var offsets: [Int]
}

extension InferenceServer {
    func echo(_ prompt: CompletionRequest.Prompt) -> Echo {
        var stream = model.tokenizer.makeStream(skipSpecialTokens: false)
        var (text, offsets, scalars): (String, [Int], Int) = ("", [], 0)
        for id in prompt.tokens {
            offsets.append(scalars)
            let piece = stream.append(id)
            text += piece
            scalars += piece.unicodeScalars.count
        }
        text += stream.finish()
        return Echo(text: prompt.text ?? text, offsets: offsets)
    }

    /// Likeliest tokens told at each place of the prompts; `nil`: their log-probabilities are not asked
    /// for.
    ///
    /// - Throws: For more of them than an answer may hold.
    func promptLogprobs(_ request: CompletionRequest) throws(APIError) -> Int? {
        guard request.echo, let alternatives = request.parameters.sampling.logprobs else {
            return nil
        }
        let tokens = request.prompts.reduce(0) { $0 + $1.tokens.count }
        let asked = tokens * (alternatives + 1)
        guard asked <= options.maxPromptLogprobs else {
            throw .invalid(
                "echo with logprobs = \(alternatives) asks for \(asked) log-probabilities of "
                    + "\(tokens) tokens of prompts, at most \(options.maxPromptLogprobs) are "
                    + "possible; send fewer prompts or a smaller logprobs", "echo",
                code: "out_of_range")
        }
        return alternatives
    }

    /// A prompt's tokens with their log-probabilities.
    ///
    /// - Parameter handle: A request of the prompt that asks for them.
    func scores(
        _ echo: Echo, _ handle: GenerationHandle, _ lifetime: RequestLifetime
    ) async throws(APIError) -> [ScoredToken] {
        guard let prompt = await handle.scoredPrompt else {
            throw failure(await handle.outcome.reason, lifetime)
                ?? .failed("the prompt could not be scored")
        }
        return zip(prompt, echo.offsets).map { token, offset in
            ScoredToken(
                id: token.id, logprob: token.logprob, alternatives: token.alternatives,
                offset: offset)
        }
    }
}
