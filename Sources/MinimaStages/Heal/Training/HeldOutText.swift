import Glibc
import MinimaCore
import MinimaModels
import MinimaTensor

/// Held-out windows and what a teacher says about them, which is computed once: what a student is
/// measured on again and again.
final class HeldOutText {
    /// Predicted tokens, over all processes.
    let tokens: Int
    private let group: ProcessGroup?
    private let head: any LanguageModel
    /// This process's windows, and the teacher's normalised hidden states
    /// `[windows, token, hidden]` at all tokens that predict, on the host.
    private let batches: [(ids: Tensor, reference: Tensor)]

    /// Runs the teacher over this process's share of `windows`.
    ///
    /// - Parameters:
    ///   - windows: Of all processes, those of fewer than two tokens are left out.
    ///   - head: The teacher's `ModelPart.ends`, where the whole teacher is not to be kept.
    ///   - tokensPerPass: Tokens of a pass, at most.
    ///   - onBatch: Called after each pass; throws to stop.
    /// - Throws: `StageError.tooLittleText`, `ModelError.tokenOutOfRange`.
    init(
        _ windows: [[Int32]], teacher: any LanguageModel, head: (any LanguageModel)? = nil,
        tokensPerPass: Int, group: ProcessGroup? = nil, onBatch: () throws -> Void = {}
    ) throws {
        let windows = windows.filter { $0.count >= 2 }
        tokens = windows.reduce(0) { $0 + $1.count - 1 }
        guard tokens > 0 else {
            throw StageError.tooLittleText(tokens: 0, needed: 2, purpose: "a held-out measurement")
        }
        try teacher.requireTokens(windows.joined())
        let (rank, size) = (group?.rank ?? 0, group?.size ?? 1)
        let own = windows.enumerated().filter { $0.offset % size == rank }.map(\.element)
        self.group = group
        self.head = head ?? teacher
        batches = try TokenWindows.batches(own, tokens: tokensPerPass).map { batch in
            let ids = try TokenWindows.tensor(batch)
            let hidden = try withoutGradients {
                try teacher.run(ids.narrow(1, 0..<batch[0].count - 1)).to(.cpu)
            }
            try onBatch()
            return (ids, hidden)
        }
    }

    /// KL from the teacher and perplexity of `student`, over the windows of all processes; NaN where
    /// its logits are not finite.
    func measure(_ student: any LanguageModel) throws -> HealingResult.Measurement {
        guard head.dimensions.vocabulary == student.dimensions.vocabulary else {
            throw StageError.vocabulariesDiffer(
                head.dimensions.vocabulary, student.dimensions.vocabulary)
        }
        var own = Evaluator.Measurement(divergence: 0)
        try withoutGradients {
            for (ids, reference) in batches {
                let length = reference.shape[1]
                let ids = try ids.to(student.device)
                try Evaluator.add(
                    student.run(ids.narrow(1, 0..<length)).flatten(0, 1), of: student,
                    ids.narrow(1, 1..<length + 1).reshape([-1]),
                    against: (reference.to(student.device).flatten(0, 1), head), to: &own)
            }
        }
        let sums = try group.sum([own.divergence ?? 0, own.negativeLogLikelihood])
        return HealingResult.Measurement(
            kl: sums[0] / Double(tokens), perplexity: exp(sums[1] / Double(tokens)))
    }
}
