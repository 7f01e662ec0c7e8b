import MinimaModels
import MinimaTensor

private let backwardOperator = Operator("aten::_log_softmax_backward_data")

/// Cross-entropy of a draft's guesses with the target's distribution, its gradient, and which guesses
/// are right; logits exist for a bounded number of rows at a time.
///
/// The guess at place i of step j is of token i + 2 + j, about which the target speaks at place
/// i + 1 + j. The target's softmax is taken over the tokens that the draft knows; where the target's
/// first choice is none of them, the guess does not count for the loss and is wrong.
struct DraftLoss {
    let draft: EagleDraft
    let target: any LanguageModel
    /// By token of the target, 1 where the draft knows it: float32 `[vocabulary]`.
    private let isKnown: Tensor

    /// - Parameters:
    ///   - draft: Whose vocabulary counts.
    ///   - target: The model that it was made for.
    init(_ draft: EagleDraft, target: any LanguageModel) throws {
        self.draft = draft
        self.target = target
        let known = try Tensor.ones([draft.config.draftVocabulary], device: draft.device)
        isKnown = try Tensor.zeros([draft.config.vocabulary], device: draft.device)
            .scatter(0, draft.targetIds, known)
    }

    /// Rows of logits that exist at one time.
    static func rowsPerChunk(vocabulary: Int, device: Device, among rows: Int) -> Int {
        min(max(GradientChain.logitsPerChunk(device) / max(vocabulary, 1), 1), max(rows, 1))
    }

    /// What is known of a pass: gradients where they were asked for, right guesses where those were.
    struct Result {
        /// Σⱼ weightⱼ · summed cross-entropy of step j, a float32 scalar on the device.
        var loss: Tensor
        /// By step, the gradient at its hidden states, of their shape and type.
        var atHidden: [Tensor] = []
        /// Gradients at the leaves that the logits depend on, float32.
        var atLeaves: [Tensor?] = []
        /// By step, 1 where the guess is the target's first choice: float32 `[window, place]`.
        var isRight: [Tensor] = []
    }

    /// Goes through a pass's places.
    ///
    /// - Parameters:
    ///   - steps: By step, the draft's hidden states before the norm, `[window, places, hidden]`;
    ///     step j has the first `tokens` − 1 − j places.
    ///   - hidden: The target's normalised hidden states `[window, token, hidden]`.
    ///   - mask: float32 `[window, token]`: 1 where what the target says there counts; `nil`: all.
    ///   - weights: By step, what a place counts.
    ///   - leaves: Tensors that logits depend on; gradients are taken where there are any.
    func evaluate(
        _ steps: [Tensor], hidden: Tensor, mask: Tensor?, weights: [Double], leaves: [Tensor] = [],
        findsRight: Bool = false
    ) throws -> Result {
        let (windows, tokens) = (hidden.shape[0], hidden.shape[1])
        var result = Result(loss: try .zeros([], device: draft.device))
        let head = try target.head.expanded(target.dtype)
        if !leaves.isEmpty {
            result.atHidden = try steps.map {
                try .zeros($0.shape, dtype: $0.dtype, device: $0.device)
            }
            result.atLeaves = leaves.map { _ in nil }
        }
        var right: [[Tensor]] = steps.map { _ in [] }
        let rows = Self.rowsPerChunk(
            vocabulary: draft.config.vocabulary, device: draft.device, among: windows * tokens)
        let length = max(rows / windows, 1)
        // Place 0 says what follows the first token, which no guess is about.
        for start in stride(from: 1, to: tokens, by: length) {
            let places = start..<min(start + length, tokens)
            let aim = try withoutGradients { try self.aim(head, hidden, places, mask) }
            for (step, states) in steps.enumerated() {
                let from = max(places.lowerBound, step + 1)
                guard from < places.upperBound else { continue }
                let own = from - 1 - step..<places.upperBound - 1 - step
                let part = from - places.lowerBound..<places.count
                let x = try states.narrow(1, own).detach()
                if !leaves.isEmpty { try x.setRequiresGrad() }
                let logits =
                    try leaves.isEmpty
                    ? withoutGradients { try draft.logits(x) }
                    : withGradients { try draft.logits(x) }
                let descent = try withoutGradients {
                    let found = try logits.detach()
                    let logQ = try found.logSoftmax(dtype: .float32)
                    let share = try aim.distribution.narrow(1, part)
                    try result.loss.addInPlace((share * logQ).sum(), scale: -weights[step])
                    if findsRight {
                        let guess = try draft.targetIds.selectingAny(found.argmax(-1))
                        right[step].append(
                            try guess.equals(aim.choice.narrow(1, part)).to(dtype: .float32))
                    }
                    // aim − softmax · Σ aim: minus the gradient of the cross-entropy.
                    return leaves.isEmpty
                        ? nil
                        : try backwardOperator(
                            .tensor(share), .tensor(logQ), .int(-1), .dtype(.float32)
                        ).to(dtype: logits.dtype)
                }
                guard let descent else { continue }
                let gradients = try Tensor.gradients(
                    of: [logits], along: [descent], [x] + leaves)
                try add(gradients, weight: -weights[step], step: step, places: own, to: &result)
            }
        }
        if findsRight { result.isRight = try right.map { try .cat($0, dim: 1) } }
        return result
    }

    /// What the target says at some places.
    private struct Aim {
        /// Its softmax over the draft's tokens, 0 where the place does not count: float32
        /// `[window, place, draft vocabulary]`.
        let distribution: Tensor
        /// Its first choice, int64 `[window, place]`.
        let choice: Tensor
    }

    private func aim(
        _ head: Linear, _ hidden: Tensor, _ places: Range<Int>, _ mask: Tensor?
    ) throws -> Aim {
        let logits = try head(hidden.narrow(1, places))
        let choice = try logits.argmax(-1)
        var counts = try isKnown.selectingAny(choice)
        if let mask { counts = try counts * mask.narrow(1, places) }
        let distribution = try logits.selecting(2, draft.targetIds).softmax(dtype: .float32)
        try distribution.multiplyInPlace(counts.unsqueeze(2))
        return Aim(distribution: distribution, choice: choice)
    }

    private func add(
        _ gradients: [Tensor?], weight: Double, step: Int, places: Range<Int>,
        to result: inout Result
    ) throws {
        guard let atHidden = gradients[0] else {
            throw CalibrationError.noGradient(what: "the draft's hidden states")
        }
        try withoutGradients {
            try result.atHidden[step].narrow(1, places).copy(from: atHidden * weight)
            for (index, gradient) in gradients.dropFirst().enumerated() {
                guard let gradient = try gradient?.to(dtype: .float32) else { continue }
                let sum =
                    try result.atLeaves[index] ?? .zeros(gradient.shape, device: gradient.device)
                try sum.addInPlace(gradient, scale: weight)
                result.atLeaves[index] = sum
            }
        }
    }
}

extension Tensor {
    /// Elements of this vector at int64 `indices` of any shape.
    fileprivate func selectingAny(_ indices: Tensor) throws(TensorError) -> Tensor {
        try selecting(0, indices.reshape([-1])).reshape(indices.shape)
    }
}
