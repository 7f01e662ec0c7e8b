import MinimaCore

/// How a draft is trained.
public struct DraftSettings: Sendable, Hashable {
    /// Training tokens, repeated ones counted again.
    public var tokens: Int
    /// Windows of a step of the optimiser.
    public var batch: Int
    /// Tokens that are guessed in a row while it trains.
    public var unroll = 5
    /// What each further guess counts less than the one before.
    public var decay = 0.8
    /// What takes the steps.
    public var optimiser = TrainingSettings.Optimiser.adamW
    /// The largest step size.
    public var learningRate = 3e-4
    /// Seconds after which it ends; `nil` for never.
    public var timeLimit: Double?
    /// Seconds from one checkpoint to the next, about.
    public var checkpointInterval = 300.0
    /// Seed of the first weights.
    public var seed: UInt64 = 0
    /// Tokens of a pass, at most; `nil`: 4096 on the CPU, as many as fit on a GPU.
    var tokensPerPass: Int?

    /// Settings of a training on `tokens` tokens.
    public init(tokens: Int, batch: Int) {
        self.tokens = max(tokens, 1)
        self.batch = max(batch, 1)
    }

    /// A step size for a short training of a draft of `hidden` numbers per token: 3e-4, where the
    /// authors train for long with 5e-5, and more for narrow ones. At a width of 192, 100,000 tokens
    /// bring the first guess to 6% acceptance with 3e-4, to 24%, 27% and 28% with 2e-3, 4e-3, 8e-3.
    public static func learningRate(hidden: Int) -> Double {
        3e-4 * max(2048 / Double(max(hidden, 1)), 1)
    }

    /// What the result depends on.
    var summary: String {
        """
        tokens \(tokens), batch \(batch), unroll \(unroll), decay \(decay), \
        \(optimiser.rawValue), learning rate \(learningRate), seed \(seed)
        """
    }

    /// The loop's settings for windows of `window` tokens.
    ///
    /// - Note: AdamW with (0.9, 0.95) and gradients of at most 0.5, as the authors train.
    func training(window: Int) -> TrainingSettings {
        let steps = max(tokens / max(Saturating.product([batch, window]), 1), 1)
        var training = TrainingSettings(
            steps: steps, learningRate: learningRate,
            // Adam's first steps go by the sign of few gradients; short trainings have few steps.
            warmUpShare: max(0.03, min(20 / Double(steps), 0.2)), floor: 0.05, weightDecay: 0,
            maximumNorm: 0.5, patience: nil, checkpointInterval: checkpointInterval)
        training.optimiser = optimiser
        training.timeLimit = timeLimit
        return training
    }
}

/// How many tokens a step of the target makes, by the shares of guesses that are right.
public enum AcceptanceLength {
    /// The expected length 1 + Σₖ Πⱼ≤ₖ aⱼ: the target's own token, and guesses up to the first wrong
    /// one.
    ///
    /// - Parameter acceptance: Share of right guesses at each place among those whose guesses before
    ///   were right.
    public static func of(_ acceptance: [Double]) -> Double {
        var (length, all) = (1.0, 1.0)
        for share in acceptance {
            all *= share
            length += all
        }
        return length
    }
}

/// Which tokens a draft can propose.
public enum DraftVocabulary {
    /// The tokens that a draft of a usual size proposes.
    public static let usualSize = 32_000

    /// The most frequent tokens of some texts, ascending.
    ///
    /// Of prompts with completions, completions count. Where the texts have fewer different tokens,
    /// the lowest ids of the others follow.
    ///
    /// - Parameters:
    ///   - count: How many, at most the vocabulary.
    ///   - vocabulary: Tokens that the target knows; ids beyond it do not count.
    public static func mostFrequent(
        of texts: [TokenizedText], count: Int, vocabulary: Int
    ) -> [Int32] {
        var frequencies = [Int](repeating: 0, count: vocabulary)
        for text in texts {
            for (index, id) in text.tokens.enumerated()
            where id >= 0 && id < vocabulary && text.isTarget?[index] != 0 {
                frequencies[Int(id)] += 1
            }
        }
        let ordered = frequencies.indices.sorted {
            frequencies[$0] == frequencies[$1] ? $0 < $1 : frequencies[$0] > frequencies[$1]
        }
        return ordered.prefix(count).sorted().map(Int32.init)
    }

    /// The share of the texts' tokens that are among `ids`.
    public static func coverage(of texts: [TokenizedText], by ids: [Int32]) -> Double {
        let known = Set(ids)
        let all = texts.reduce(0) { $0 + $1.tokens.count }
        let covered = texts.reduce(0) { sum, text in
            sum + text.tokens.count { known.contains($0) }
        }
        return all > 0 ? Double(covered) / Double(all) : 0
    }
}

/// Why a draft cannot be trained.
public enum DraftTrainingError: Error, Hashable, CustomStringConvertible {
    case windowTooShort(tokens: Int, unroll: Int)
    case badUnroll(Int)
    case nothingMeasured

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .windowTooShort(let tokens, let unroll):
            """
            windows of \(tokens) tokens are too short to guess \(unroll) in a row; take windows of \
            at least \(2 * unroll) tokens
            """
        case .badUnroll(let unroll):
            "\(unroll) guesses in a row; give 1 to \(DraftTraining.longestUnroll)"
        case .nothingMeasured:
            "no place of the held-out windows could be measured; give more text"
        }
    }
}
