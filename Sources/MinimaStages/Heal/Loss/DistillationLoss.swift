import MinimaModels
import MinimaTensor

private let backwardOperator = Operator("aten::_log_softmax_backward_data")
private let dotOperator = Operator("aten::dot")
private let scatterOperator = Operator("aten::scatter_", "src")
private let scatterValueOperator = Operator("aten::scatter_", "value")
private let scatterAddOperator = Operator("aten::scatter_add_")
private let xlogyOperator = Operator("aten::xlogy", "Tensor")

/// Next-token loss against a teacher's distribution and the text, with its gradient at the hidden
/// states; logits exist for a bounded number of rows at a time.
///
/// - Note: Hinton, Vinyals & Dean 2015, section 2: KL at a temperature, times its square.
public struct DistillationLoss: Sendable, Hashable {
    /// Weight of KL(teacher ‖ student) times temperature².
    public var klWeight = 1.0
    /// Weight of the cross-entropy of the text.
    public var crossEntropyWeight = 0.0
    /// What logits are divided by before the softmax of the KL.
    public var temperature = 1.0
    /// Logits that exist at one time; `nil`: 2²² on the CPU, 2²⁷ on a GPU.
    var logitsPerChunk: Int?

    /// KL at temperature 1.
    public init() {}

    /// Where the teacher's distribution comes from.
    enum Teacher: Sendable {
        /// A model and its normalised hidden states `[rows, hidden]`.
        case model(any LanguageModel, hidden: Tensor)
        /// Its most probable tokens at this loss's temperature.
        case cached(TeacherRows)
    }

    /// What the rows predict, on the student's device.
    struct Targets: Sendable {
        /// int64 `[rows]`.
        var tokens: Tensor
        /// float32 `[rows]`: 1 where the row counts for cross-entropy, else 0; `nil`: all count.
        var mask: Tensor?
        /// What the KL's sum is divided by: predicted tokens over all processes.
        var tokenCount: Int
        /// What the cross-entropy's sum is divided by: tokens that count over all processes.
        var targetCount: Int

        /// Targets.
        init(tokens: Tensor, mask: Tensor? = nil, tokenCount: Int, targetCount: Int) {
            self.tokens = tokens
            self.mask = mask
            self.tokenCount = tokenCount
            self.targetCount = targetCount
        }
    }

    /// Loss and gradients on the student's device; nothing waits for them.
    struct Result: Sendable {
        /// klWeight · T² · ``kl`` / tokenCount + crossEntropyWeight · ``crossEntropy`` / targetCount,
        /// a float32 scalar.
        let loss: Tensor
        /// Summed KL(teacher ‖ student) at the temperature, in nats, a float32 scalar; 0 without a
        /// teacher.
        let kl: Tensor
        /// Summed negative log-likelihood of the targets that count, in nats, a float32 scalar.
        let crossEntropy: Tensor
        /// Gradient of ``loss`` at the hidden states: `[rows, hidden]`, their dtype.
        let hidden: Tensor
        /// Gradients of ``loss`` at the leaves, float32; `nil` where the logits do not depend on one.
        let leaves: [Tensor?]
    }

    /// The loss of a student's rows.
    ///
    /// - Parameters:
    ///   - student: The model, or a part of it, that makes logits.
    ///   - hidden: Its normalised hidden states `[rows, hidden]`; what made them is not gone into.
    ///   - teacher: `nil` where only the text counts.
    ///   - leaves: Tensors that the logits depend on and that train, such as an output projection.
    /// - Throws: `StageError.vocabulariesDiffer`, `TensorError`.
    func evaluate(
        _ student: any LanguageModel, hidden: Tensor, teacher: Teacher?, targets: Targets,
        leaves: [Tensor] = []
    ) throws -> Result {
        let vocabulary = student.dimensions.vocabulary
        if case .model(let model, _) = teacher, model.dimensions.vocabulary != vocabulary {
            throw StageError.vocabulariesDiffer(model.dimensions.vocabulary, vocabulary)
        }
        let weights = Weights(self, targets, hasTeacher: teacher != nil)
        let head = try withoutGradients { try student.head.expanded(student.dtype) }
        let limit = logitsPerChunk ?? GradientChain.logitsPerChunk(hidden.device)
        let step = max(limit / vocabulary, 1)
        var sums = Sums(
            kl: try .zeros([], device: hidden.device),
            crossEntropy: try .zeros([], device: hidden.device),
            leaves: leaves.map { _ in nil })
        var atHidden: [Tensor] = []
        for start in stride(from: 0, to: hidden.shape[0], by: step) {
            let rows = start..<min(start + step, hidden.shape[0])
            atHidden.append(
                try chunk(rows, head, hidden, teacher, targets, leaves, weights, &sums))
        }
        return Result(
            loss: try sums.kl * (weights.kl * temperature * temperature)
                + sums.crossEntropy * weights.crossEntropy,
            kl: sums.kl, crossEntropy: sums.crossEntropy, hidden: try .cat(atHidden),
            leaves: sums.leaves)
    }

    /// Weights of the summed terms.
    private struct Weights {
        let kl: Double
        let crossEntropy: Double
        /// What gradients of logits are divided by: one of them has weight 1, whatever the counts.
        let scale: Double

        init(_ loss: DistillationLoss, _ targets: Targets, hasTeacher: Bool) {
            kl = hasTeacher ? loss.klWeight / Double(max(targets.tokenCount, 1)) : 0
            crossEntropy = loss.crossEntropyWeight / Double(max(targets.targetCount, 1))
            // d/dz of T²·KL(softmax(t/T) ‖ softmax(z/T)) is T·(q − p).
            scale = kl != 0 ? kl * loss.temperature : crossEntropy
        }
    }

    private struct Sums {
        var kl: Tensor
        var crossEntropy: Tensor
        var leaves: [Tensor?]
    }

    /// Adds up the terms of `rows`; returns the gradient at their hidden states.
    private func chunk(
        _ rows: Range<Int>, _ head: Linear, _ hidden: Tensor, _ teacher: Teacher?,
        _ targets: Targets, _ leaves: [Tensor], _ weights: Weights, _ sums: inout Sums
    ) throws -> Tensor {
        let x = try hidden.narrow(0, rows).detach()
        try x.setRequiresGrad()
        let logits = try withGradients { try head(x) }
        let descent = try withoutGradients {
            try self.descent(
                logits.detach(), teacher?.narrow(rows), targets.narrow(rows), weights, &sums)
        }
        let gradients = try Tensor.gradients(of: [logits], along: [descent], [x] + leaves)
        guard let atHidden = gradients[0] else {
            throw CalibrationError.noGradient(what: "the hidden states")
        }
        for (index, gradient) in gradients.dropFirst().enumerated() {
            guard let gradient = try gradient?.to(dtype: .float32) else { continue }
            let sum = try sums.leaves[index] ?? .zeros(gradient.shape, device: gradient.device)
            try sum.addInPlace(gradient, scale: -weights.scale)
            sums.leaves[index] = sum
        }
        return try atHidden * -weights.scale
    }

    /// Minus the gradient at `logits` `[rows, vocabulary]`, divided by `weights.scale`, in their
    /// dtype; adds the rows' terms to `sums`.
    private func descent(
        _ logits: Tensor, _ teacher: Teacher?, _ targets: Targets, _ weights: Weights,
        _ sums: inout Sums
    ) throws -> Tensor {
        let logQ = try logits.logSoftmax(dtype: .float32)
        let labels = try targets.tokens.unsqueeze(1)
        let chosen = try logQ.gather(1, labels)
        let mask = try targets.mask?.unsqueeze(1) ?? .ones(chosen.shape, device: chosen.device)
        try sums.crossEntropy.addInPlace((chosen * mask).sum(), scale: -1)
        var (aim, atTemperature): (Tensor?, Tensor?)
        if let teacher, weights.kl != 0 {
            let softened = try temperature == 1 ? logQ : self.softened(logits)
            let (distribution, kl) = try aimOf(teacher, softened)
            try sums.kl.addInPlace(kl)
            if temperature == 1 {
                aim = distribution
            } else {
                let part = try Self.descent(from: softened, to: distribution)
                guard weights.crossEntropy != 0 else { return try part.to(dtype: logits.dtype) }
                atTemperature = part
            }
        }
        let whole = try aim ?? .zeros(logQ.shape, device: logQ.device)
        if weights.crossEntropy != 0 {
            let share = weights.crossEntropy / weights.scale
            _ = try scatterAddOperator(
                .tensor(whole), .int(1), .tensor(labels), .tensor(mask * share))
        }
        let part = try Self.descent(from: logQ, to: whole)
        if let atTemperature { try part.addInPlace(atTemperature) }
        return try part.to(dtype: logits.dtype)
    }

    /// Log-probabilities of `logits` at the temperature, in float32.
    private func softened(_ logits: Tensor) throws(TensorError) -> Tensor {
        guard temperature != 1 else { return try logits.logSoftmax(dtype: .float32) }
        return try (logits.to(dtype: .float32) / temperature).logSoftmax()
    }

    /// The distribution that a student with log-probabilities `logQ` is pulled to, float32
    /// `[rows, vocabulary]`, and the summed KL from it.
    ///
    /// What a cached teacher has left for all other tokens is shared among them as the student
    /// shares it: the KL over k + 1 classes, the last of which is all other tokens, has that very
    /// value and gradient.
    private func aimOf(_ teacher: Teacher, _ logQ: Tensor) throws -> (Tensor, kl: Tensor) {
        switch teacher {
        case .model(let model, let hidden):
            let difference = try softened(model.logits(hidden))
            let p = try difference.exp()
            try difference.addInPlace(logQ, scale: -1)
            return (p, try dotOperator(.tensor(p.reshape([-1])), .tensor(difference.reshape([-1]))))
        case .cached(let rows):
            let p = try rows.logProbabilities.exp()
            let q = try logQ.exp()
            _ = try scatterValueOperator(.tensor(q), .int(1), .tensor(rows.ids), .double(0))
            let rest = try q.sum([1]).clamp(min: Double(Float.leastNormalMagnitude))
            let ratio = try rows.tail / rest
            try q.multiplyInPlace(ratio.unsqueeze(1))
            _ = try scatterOperator(.tensor(q), .int(1), .tensor(rows.ids), .tensor(p))
            let difference = try rows.logProbabilities - logQ.gather(1, rows.ids)
            // 0 · log 0 is 0: a row whose k tokens hold all of the teacher's mass.
            let ofTail = try xlogyOperator(.tensor(rows.tail), .tensor(ratio))
            return (q, try (p * difference).sum() + ofTail.sum())
        }
    }

    /// aim − softmax · Σ aim by rows: minus the gradient of the aim's cross-entropy at the logits.
    private static func descent(from logQ: Tensor, to aim: Tensor) throws(TensorError) -> Tensor {
        try backwardOperator(.tensor(aim), .tensor(logQ), .int(-1), .dtype(.float32))
    }
}

extension DistillationLoss.Teacher {
    fileprivate func narrow(_ rows: Range<Int>) throws(TensorError) -> Self {
        switch self {
        case .model(let model, let hidden): .model(model, hidden: try hidden.narrow(0, rows))
        case .cached(let cached): .cached(try cached.narrow(rows))
        }
    }
}

extension DistillationLoss.Targets {
    fileprivate func narrow(_ rows: Range<Int>) throws(TensorError) -> Self {
        var part = self
        part.tokens = try tokens.narrow(0, rows)
        part.mask = try mask?.narrow(0, rows)
        return part
    }
}
