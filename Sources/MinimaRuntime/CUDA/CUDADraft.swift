import MinimaKernels
import MinimaModels

/// What proposes tokens on a CUDA device.
public enum CUDADraft: Sendable {
    /// The sequence itself: what followed its last tokens, at most `suffix` (1 to 8), when they stood
    /// in it before.
    case ngram(suffix: Int = 3)
    /// An EAGLE-3 head, in the public checkpoint layout.
    case head(any WeightSource)

    /// Loads what it needs.
    ///
    /// - Parameter target: What it drafts for.
    func loaded(target: any WeightSource, kernels: CUDAContext, context: Int) throws -> LoadedDraft
    {
        switch self {
        case .ngram(let suffix): .ngram(suffix: suffix)
        case .head(let source):
            .head(
                try DraftHead(source, target: target, kernels: kernels, context: context))
        }
    }
}

/// A draft with its weights on the device.
enum LoadedDraft: Sendable {
    case ngram(suffix: Int)
    case head(DraftHead)

    var head: DraftHead? {
        guard case .head(let head) = self else { return nil }
        return head
    }

    func drafter(for decoder: CUDADecoder) throws -> any CUDADrafter {
        switch self {
        case .ngram(let suffix):
            try CUDANgramDrafter(suffix: suffix, kernels: decoder.kernels)
        case .head(let head): try CUDAHeadDrafter(head, for: decoder)
        }
    }
}
