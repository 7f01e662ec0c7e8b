import MinimaRuntime

/// Log-probabilities of a prompt's own tokens.
///
/// The engine tells the distribution after a prompt only. So a prompt of L tokens takes L - 1
/// requests, one for each beginning of it, in which a bias makes the token that follows there the
/// one that is chosen; log-probabilities are the model's own, before any bias. That is L²/2 tokens
/// of work where an engine that keeps a prefill's logits needs L.
struct PromptScorer: Sendable {
    let engine: Engine
    /// Beginnings that are computed at one time, at most.
    private let window: Int

    init(_ engine: Engine) {
        self.engine = engine
        window = min(max(engine.capacity.slots, 1), 16)
    }

    /// What came of a scoring.
    enum Failure: Error {
        case refused(EngineError)
        case ended(FinishReason)
    }

    /// The tokens of a prompt, each with its log-probability; the first has none.
    ///
    /// - Parameters:
    ///   - alternatives: Likeliest tokens reported beside each.
    ///   - offsets: Scalars of text before each token.
    ///   - request: Ends the work.
    func score(
        _ prompt: [Int32], alternatives: Int, offsets: [Int], _ request: RequestLifetime
    ) async throws(Failure) -> [ScoredToken] {
        var scores: [ScoredToken] = []
        var handles: [GenerationHandle] = []
        var next = 1
        if let first = prompt.first {
            scores.append(
                ScoredToken(id: first, logprob: nil, alternatives: [], offset: offsets[0]))
        }
        while scores.count < prompt.count {
            while next < prompt.count, handles.count < window {
                do {
                    handles.append(try submit(prompt, next, alternatives))
                } catch {
                    // Those of this prompt that run make room; without any, others fill the queue.
                    guard case .queueFull = error, !handles.isEmpty else {
                        throw .refused(error)
                    }
                    break
                }
                if let handle = handles.last { request.add(handle) }
                next += 1
            }
            let outcome = await handles.removeFirst().outcome
            let place = scores.count
            guard let token = outcome.tokens.first?.token else { throw .ended(outcome.reason) }
            // A bias of 100 decides between any logits of a sound model.
            guard token.id == prompt[place] else {
                throw .ended(.failed(.notFinite(position: place)))
            }
            scores.append(
                ScoredToken(
                    id: token.id, logprob: token.logprob, alternatives: token.alternatives,
                    offset: offsets[place]))
        }
        return scores
    }

    /// Asks for the token at `place`, which is known.
    private func submit(
        _ prompt: [Int32], _ place: Int, _ alternatives: Int
    ) throws(EngineError) -> GenerationHandle {
        let sampling: SamplingParameters
        do throws(SamplingError) {
            sampling = try SamplingParameters(
                logitBias: [prompt[place]: 100], logprobs: alternatives)
        } catch {
            throw .badSampling(error)
        }
        return try engine.submit(
            GenerationRequest(prompt: Array(prompt[..<place]), maxTokens: 1, sampling: sampling))
    }
}
