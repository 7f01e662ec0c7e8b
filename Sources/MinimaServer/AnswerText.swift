import MinimaRuntime
import MinimaTokenizer

/// A token of an answer, or of a prompt, with its likelihood.
struct ScoredToken: Sendable, Hashable {
    var id: Int32
    /// Natural logarithm of its probability; `nil` for the first token of a prompt.
    var logprob: Float?
    /// The likeliest tokens, likeliest first.
    var alternatives: [SampledToken.Alternative]
    /// Scalars of the text before the token.
    var offset: Int
}

/// What a token adds to an answer.
struct AnswerPiece: Sendable, Hashable {
    var text = ""
    /// Tokens whose text is out with this piece, where log-probabilities were asked for.
    var tokens: [ScoredToken] = []
    /// What a chat's message has of the text, which is empty then.
    var deltas: [MessageDelta] = []

    var isEmpty: Bool { text.isEmpty && tokens.isEmpty && deltas.isEmpty }
}

/// Makes text of an answer's tokens, as they come, up to the first text that ends it.
struct AnswerText {
    private var stream: TokenStream
    private var stop: StopMatcher
    /// Tokens that have come, and how many must before a text may end the answer.
    private var count = 0
    private let least: Int
    private let keepsTokens: Bool
    /// Whether an end token is among the tokens told of, behind the text.
    private let tellsEnd: Bool
    /// Tokens that wait for their text, with the bytes of text up to their beginnings and ends.
    private var waiting: [(token: ScoredToken, start: Int, end: Int)] = []
    /// Bytes and scalars of text that tokens gave, and bytes of it that were passed on.
    private var bytes = 0
    private var scalars: Int
    private var passed = 0

    /// - Parameters:
    ///   - prompt: What is before the answer: a decoder's state goes on from there.
    ///   - offset: Scalars of text before the answer's.
    ///   - kept: Special tokens that are part of the text all the same.
    ///   - tellsEnd: Whether log-probabilities are told of an end token, too.
    init(
        _ tokenizer: Tokenizer, after prompt: [Int32], _ parameters: AnswerParameters,
        offset: Int = 0, keeping kept: Set<Int32> = [], tellsEnd: Bool = false
    ) {
        self.tellsEnd = tellsEnd
        stream = tokenizer.makeStream(
            skipSpecialTokens: parameters.skipsSpecialTokens, keeping: kept)
        // No decoder looks further back than a scalar's bytes and the first token.
        for id in prompt.suffix(16) { _ = stream.append(id) }
        stop = StopMatcher(parameters.stopTexts, includesFound: parameters.includesStopText)
        least = parameters.rules.least
        keepsTokens = parameters.sampling.logprobs != nil
        scalars = offset
    }

    /// Whether the answer is over.
    var hasStopped: Bool { stop.hasMatched }

    mutating func append(_ token: SampledToken) -> AnswerPiece {
        let text = stream.append(token.id)
        count += 1
        if keepsTokens {
            waiting.append(
                (
                    ScoredToken(
                        id: token.id, logprob: token.logprob, alternatives: token.alternatives,
                        offset: scalars), bytes, bytes + text.utf8.count
                ))
        }
        return pass(text)
    }

    /// What was held back.
    ///
    /// - Parameter ending: The end token that ended the answer, if one did.
    mutating func finish(_ ending: SampledToken? = nil) -> AnswerPiece {
        guard !hasStopped else { return AnswerPiece() }
        var piece = pass(stream.finish())
        if !hasStopped {
            piece.text += stop.finish()
            piece.tokens += waiting.map(\.token)
            if keepsTokens, tellsEnd, let ending {
                piece.tokens.append(
                    ScoredToken(
                        id: ending.id, logprob: ending.logprob, alternatives: ending.alternatives,
                        offset: scalars))
            }
        }
        waiting = []
        return piece
    }

    private mutating func pass(_ text: String) -> AnswerPiece {
        bytes += text.utf8.count
        scalars += text.unicodeScalars.count
        var piece = AnswerPiece(text: stop.append(text, mayEnd: count > least))
        passed += piece.text.utf8.count
        guard keepsTokens else { return piece }
        if hasStopped {
            // A token in whose middle the answer ends counts.
            piece.tokens = waiting.filter { $0.start < passed || $0.end <= passed }.map(\.token)
            waiting = []
        } else {
            while let first = waiting.first, first.end <= passed {
                piece.tokens.append(first.token)
                waiting.removeFirst()
            }
        }
        return piece
    }
}
