import MinimaCore
import MinimaKernels
import MinimaModels

/// What proposes tokens on a CUDA device.
public enum CUDADraft: Sendable {
    /// The sequence itself: what followed its last tokens, at most `suffix` (1 to 8), when they stood
    /// in it before.
    case ngram(suffix: Int = 3)
    /// An EAGLE-3 head, in the public checkpoint layout.
    case head(any WeightSource)
    /// A smaller model with the target's vocabulary.
    case model(any WeightSource)

    /// Loads what it needs.
    ///
    /// - Parameters:
    ///   - target: What it drafts for.
    ///   - onProgress: Called after each layer of a model; throws to cancel.
    /// - Throws: ``DraftingError`` for a model of another vocabulary; `RuntimeError` for a family whose
    ///   layers the kernels do not know.
    func loaded(
        target: any WeightSource, kernels: CUDAContext, context: Int,
        onProgress: (StageProgress) throws -> Void
    ) throws -> LoadedDraft {
        switch self {
        case .ngram(let suffix): return .ngram(suffix: suffix)
        case .head(let source):
            return .head(
                try DraftHead(source, target: target, kernels: kernels, context: context))
        case .model(let source):
            try Self.checkVocabulary(of: source, for: target)
            // Rotary frequencies that depend on the length are those of the draft's own context: further
            // on it guesses worse.
            let own = try source.config.int("max_position_embeddings")
            return .model(
                try DecoderWeights(
                    source, kernels: kernels, context: min(context, own), onProgress: onProgress))
        }
    }

    /// Throws ``DraftingError`` unless two models have as many tokens.
    public static func checkVocabulary(
        of draft: any WeightSource, for target: any WeightSource
    ) throws {
        let sizes = try [draft, target].map { try $0.config.int("vocab_size") }
        guard sizes[0] == sizes[1] else {
            throw DraftingError.otherVocabulary(draft: sizes[0], target: sizes[1])
        }
    }
}

/// A draft with its weights on the device.
enum LoadedDraft: Sendable {
    case ngram(suffix: Int)
    case head(DraftHead)
    case model(DecoderWeights)

    /// What decoding kernels multiply by.
    var matrices: [LinearMatrix] {
        switch self {
        case .ngram: []
        case .head(let head): head.matrices
        case .model(let model): model.matrices
        }
    }

    /// What memory depends on; `nil` where nothing of it is on the device.
    func memory() throws(KernelError) -> CUDAMemory.Draft? {
        switch self {
        case .ngram: nil
        case .head(let head): CUDAMemory.Draft(head)
        case .model(let model): try CUDAMemory.Draft(model)
        }
    }

    /// Bytes of weights that a round of `count` proposals reads.
    func readBytes(_ count: Int) -> Int {
        switch self {
        case .ngram: 0
        case .head(let head): head.readBytes(count)
        case .model(let model): count * model.readBytes
        }
    }

    func drafter(for decoder: CUDADecoder) throws -> any CUDADrafter {
        switch self {
        case .ngram(let suffix):
            try CUDANgramDrafter(suffix: suffix, kernels: decoder.kernels)
        case .head(let head): try CUDAHeadDrafter(head, for: decoder)
        case .model(let model): try CUDAModelDrafter(model, for: decoder)
        }
    }
}
