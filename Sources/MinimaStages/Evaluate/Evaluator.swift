import Glibc
import MinimaCore
import MinimaModels
import MinimaTensor

/// Perplexity of a model on a text, and its distance from a dense model.
public struct Evaluator {
    /// Sums over predicted tokens.
    public struct Measurement: Sendable, Hashable {
        /// Predicted tokens: all but the first of each window.
        public var tokens = 0
        /// Negative log-likelihood of those tokens, in nats.
        public var negativeLogLikelihood = 0.0
        /// KL(dense ‖ model) over those tokens, in nats; `nil` without a dense model.
        public var divergence: Double?

        /// The dense model's negative log-likelihood of the tokens, in nats; `nil` without one.
        public var denseNegativeLogLikelihood: Double?

        /// exp of the mean negative log-likelihood.
        public var perplexity: Double {
            exp(negativeLogLikelihood / Double(max(tokens, 1)))
        }
        /// Mean KL(dense ‖ model) per token, in nats.
        public var kl: Double? { divergence.map { $0 / Double(max(tokens, 1)) } }
    }

    /// The model that is measured.
    public let model: any LanguageModel
    /// The model that KL refers to.
    public let dense: (any LanguageModel)?
    /// Tokens that one pass takes, over all its windows.
    public let tokensPerPass: Int
    /// Logits that exist at one time, over all rows: 16 MiB in float32 on the CPU, 512 MiB on a GPU.
    ///
    /// 16 MiB is below the 32 MiB from which malloc returns memory to the kernel at once.
    private static func logitsPerChunk(_ device: Device) -> Int {
        device == .cpu ? 1 << 22 : 1 << 27
    }

    /// An evaluator of `model`, against `dense` where given.
    ///
    /// - Throws: `StageError.vocabulariesDiffer`.
    public init(
        _ model: any LanguageModel, against dense: (any LanguageModel)? = nil,
        tokensPerPass: Int? = nil
    ) throws {
        if let dense, dense.dimensions.vocabulary != model.dimensions.vocabulary {
            throw StageError.vocabulariesDiffer(
                dense.dimensions.vocabulary, model.dimensions.vocabulary)
        }
        self.model = model
        self.dense = dense
        self.tokensPerPass = tokensPerPass ?? (model.device == .cpu ? 4096 : 32768)
    }

    /// Measures over `windows` of token ids, each predicted from its own beginning.
    ///
    /// Windows of fewer than two tokens predict nothing and are left out.
    ///
    /// - Throws: `StageError.tooLittleText` where that leaves none, `ModelError.tokenOutOfRange`
    ///   for foreign token ids.
    public func measure(_ windows: [[Int32]], progress: ProgressHandler = { _ in }) throws
        -> Measurement
    {
        let windows = windows.filter { $0.count >= 2 }
        let total = windows.reduce(0) { $0 + $1.count - 1 }
        guard total > 0 else {
            throw StageError.tooLittleText(tokens: 0, needed: 2, purpose: "evaluation")
        }
        try model.requireTokens(windows.joined())
        var sum = Measurement()
        if dense != nil { (sum.divergence, sum.denseNegativeLogLikelihood) = (0, 0) }
        for batch in TokenWindows.batches(windows, tokens: tokensPerPass) {
            try withoutGradients { try add(batch, to: &sum) }
            try progress(
                StageProgress(
                    stage: "evaluate", done: sum.tokens, total: total, unit: "tokens",
                    note: "perplexity \(rounded(sum.perplexity))"))
        }
        guard sum.negativeLogLikelihood.isFinite, sum.divergence?.isFinite != false else {
            throw StageError.notFinite(what: "the likelihood of the text")
        }
        return sum
    }

    private func add(_ batch: [[Int32]], to sum: inout Measurement) throws {
        let ids = try TokenWindows.tensor(batch).to(model.device)
        let predicted = batch[0].count - 1
        let targets = try ids.narrow(1, 1..<predicted + 1).reshape([-1])
        let hidden = try rows(model, ids, predicted)
        let reference = try dense.map { (try rows($0, ids, predicted), $0) }
        try Self.add(hidden, of: model, targets, against: reference, to: &sum)
    }

    /// Adds what some rows say.
    ///
    /// - Parameters:
    ///   - hidden: Normalised hidden states `[row, hidden]`.
    ///   - targets: The token after each row, int64 `[row]`.
    ///   - reference: The dense model's hidden states at the same tokens, and that model.
    static func add(
        _ hidden: Tensor, of model: any LanguageModel, _ targets: Tensor,
        against reference: (hidden: Tensor, model: any LanguageModel)?, to sum: inout Measurement
    ) throws {
        let count = hidden.shape[0]
        let head = try model.head.expanded(model.dtype)
        let denseHead = try reference.map { try $0.model.head.expanded($0.model.dtype) }
        let step = max(logitsPerChunk(model.device) / model.dimensions.vocabulary, 1)
        var likelihood = try Tensor.zeros([], dtype: .float64, device: model.device)
        var (divergence, denseLikelihood) = (likelihood, likelihood)
        for start in stride(from: 0, to: count, by: step) {
            let range = start..<min(start + step, count)
            let logits = try head(hidden.narrow(0, range)).to(dtype: .float32)
            let target = try targets.narrow(0, range)
            if let reference, let denseHead {
                let q = try logits.logSoftmax()
                let p = try denseHead(reference.hidden.narrow(0, range))
                    .to(dtype: .float32).logSoftmax()
                let chosen = try target.unsqueeze(1)
                likelihood = try likelihood - q.gather(1, chosen).sum(dtype: .float64)
                denseLikelihood = try denseLikelihood - p.gather(1, chosen).sum(dtype: .float64)
                divergence = try divergence + (p.exp() * (p - q)).sum(dtype: .float64)
            } else {
                likelihood = try likelihood + logits.crossEntropy(target).sum(dtype: .float64)
            }
        }
        sum.tokens += count
        sum.negativeLogLikelihood += try likelihood.item()
        guard reference != nil else { return }
        sum.divergence = try (sum.divergence ?? 0) + divergence.item()
        sum.denseNegativeLogLikelihood =
            try (sum.denseNegativeLogLikelihood ?? 0) + denseLikelihood.item()
    }

    /// Hidden states `[windows · predicted, hidden]` of all positions that predict a token.
    private func rows(_ model: any LanguageModel, _ ids: Tensor, _ predicted: Int) throws -> Tensor
    {
        let hidden = try model.run(ids.narrow(1, 0..<predicted))
        return try hidden.reshape([-1, model.dimensions.hidden])
    }
}

/// Two decimals, for progress notes.
func rounded(_ value: Double) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
    let hundredths = Int((value * 100).rounded())
    let fraction = abs(hundredths % 100)
    return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
}
