import MinimaCore
import MinimaKernels
import MinimaModels

/// What proposes tokens on a CUDA device.
public enum CUDADraft: Sendable {
    /// The sequence itself: what followed its last tokens, at most `suffix` (1 to 8), when they stood
    /// in it before.
    case ngram(suffix: Int = 3)
    /// An EAGLE-3 head, in the public checkpoint layout, and what it proposes: trees whose nodes have up to
    /// `width` children (at most 8), chains where that is 1.
    case head(any WeightSource, width: Int = 1)
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
        case .head(let source, let width):
            return .head(
                try DraftHead(source, target: target, kernels: kernels, context: context),
                width: min(max(width, 1), TreeKernels.mostWidth))
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
    case head(DraftHead, width: Int)
    case model(DecoderWeights)

    /// Children of a proposed token at most; 1: chains.
    var width: Int {
        if case .head(_, let width) = self { width } else { 1 }
    }

    /// What decoding kernels multiply by.
    var matrices: [LinearMatrix] {
        switch self {
        case .ngram: []
        case .head(let head, _): head.matrices
        case .model(let model): model.matrices
        }
    }

    /// What memory depends on; `nil` where nothing of it is on the device.
    func memory() throws(KernelError) -> CUDAMemory.Draft? {
        switch self {
        case .ngram: nil
        case .head(let head, let width): CUDAMemory.Draft(head, width: width)
        case .model(let model): try CUDAMemory.Draft(model)
        }
    }

    /// Bytes of weights that a round of `count` proposals reads; a tree of as many has as many levels.
    func readBytes(_ count: Int) -> Int {
        switch self {
        case .ngram: 0
        case .head(let head, _): head.readBytes(count)
        case .model(let model): count * model.readBytes
        }
    }

    func drafter(for decoder: CUDADecoder) throws -> any CUDADrafter {
        switch self {
        case .ngram(let suffix):
            try CUDANgramDrafter(suffix: suffix, kernels: decoder.kernels)
        case .head(let head, let width):
            try CUDAHeadDrafter(head, width: width, for: decoder)
        case .model(let model): try CUDAModelDrafter(model, for: decoder)
        }
    }
}
