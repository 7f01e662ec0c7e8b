import MinimaModels
import MinimaTensor

/// What proposes tokens to a ``TorchBackend``.
public enum TorchDraft: Sendable {
    /// What followed the sequence's last tokens, as many as these at most, when they stood in it
    /// before: nothing to train or to load.
    case ngram(suffix: Int = 3)
    /// A smaller model with the target's vocabulary.
    case model(any LanguageModel)
    /// An EAGLE-3 head, which reads the target's residual stream, and what it proposes: trees whose
    /// nodes have up to `width` children, chains where that is 1.
    case eagle(EagleDraft, width: Int = 1)

    /// Bytes of one token's keys and values.
    public func bytesPerToken() throws -> Int {
        switch self {
        case .ngram: 0
        case .model(let model): try TorchBackend.bytesPerToken(of: model)
        case .eagle(let draft, _): PagedStorage.bytesPerToken([EagleDrafter.shape(of: draft)])
        }
    }

    /// A drafter for the sequences of a backend.
    func drafter(_ capacity: DecodeCapacity) throws -> any Drafter {
        switch self {
        case .ngram(let suffix): NGramDrafter(suffix: suffix)
        case .model(let model): try ModelDrafter(model, capacity)
        case .eagle(let draft, let width): try EagleDrafter(draft, capacity, width: width)
        }
    }
}

/// Guesses what the sequences of a backend will say next.
///
/// A wrong guess costs time and nothing else, so a drafter may forget, or propose any ids. It keeps
/// what it needs per slot, keys and values in pages of its own under the target's page numbers.
protocol Drafter: AnyObject {
    /// Decoder layers of the target whose inputs it reads.
    var featureLayers: [Int] { get }
    /// Bytes of one token's keys and values.
    var bytesPerToken: Int { get }

    /// Tokens behind a place that what it keeps there depends on.
    var lookahead: Int { get }

    /// Begins a sequence, which comes with its prompt.
    ///
    /// - Parameter cached: Tokens at its beginning that do not come: another sequence has filled their
    ///   pages, the drafter's, too.
    func open(_ slot: Int, cached: ArraySlice<Int32>)

    /// Ends a sequence.
    func close(_ slot: Int)

    /// Takes a part of a prompt that the target has computed.
    ///
    /// - Parameter features: Inputs of ``featureLayers``, concatenated, `[1, token, layers · hidden]`.
    func prefill(_ chunk: PrefillChunk, features: Tensor?) throws

    /// Takes tokens that have turned out right and were computed by the target: the sequence's from
    /// the row's position; what it proposed beyond them was wrong. Of pages that are full, also where
    /// nothing is proposed, it computes what it keeps there: other sequences may begin with them.
    ///
    /// - Parameter features: As in ``prefill(_:features:)``, of these tokens.
    func observe(_ row: DecodeBatch.Row, _ tokens: [Int32], features: Tensor?) throws

    /// Up to `count` tokens that may follow each row's last one and each other.
    func propose(_ rows: [DraftRow], count: Int) throws -> [DraftTree]
}

extension Drafter {
    var featureLayers: [Int] { [] }
    var bytesPerToken: Int { 0 }
    var lookahead: Int { 0 }
}

/// A sequence that tokens are proposed for.
struct DraftRow {
    let slot: Int
    /// The token sampled last.
    let last: Int32
    /// Where it stands.
    let position: Int
    /// Pages with room for all proposals.
    let pages: [Int32]
    /// How the tokens after it will be chosen; a draft that draws from the same numbers agrees more
    /// often (Daliri, Musco & Suresh 2024, "Coupling without communication").
    let sampling: SamplingSequence
}

/// Why a draft cannot work for a model.
public enum DraftingError: Error, Hashable, CustomStringConvertible {
    case otherVocabulary(draft: Int, target: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .otherVocabulary(let draft, let target):
            """
            the draft's vocabulary has \(draft) tokens and the model's \(target); a draft proposes \
            tokens of the model's own vocabulary, so take a smaller model of the same family
            """
        }
    }
}
