import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// A causal language model of one family.
///
/// A family is one file and one line in `FamilyRegistry.all`. Its initialiser asks the loader for
/// every tensor by the name it has in Hugging Face checkpoints.
public protocol LanguageModel: Sendable {
    /// Values of `model_type` that this family reads.
    static var modelTypes: [String] { get }

    /// The linear layers that may be compressed, by the input they share, in forward order.
    static func sites(_ config: ModelConfig) throws -> [Site]

    /// What the names of decoder layer `index`'s tensors begin with: `model.layers.0.`.
    static func layerPrefix(_ index: Int) -> String

    /// Builds the model from a checkpoint's tensors.
    init(_ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader) throws

    /// Sizes that the rest of Minima asks for.
    var dimensions: ModelDimensions { get }
    /// The model's rotary embedding.
    var rotary: RotaryEmbedding { get }
    /// Where the weights are.
    var device: Device { get }
    /// The type that the model computes in.
    var dtype: DType { get }

    /// Token ids `[batch, token]` (int64) to the residual stream `[batch, token, hidden]`.
    func embed(_ tokens: Tensor) throws -> Tensor

    /// The residual stream `[batch, token, hidden]` after decoder layer `index`.
    func layer(_ index: Int, _ x: Tensor, _ context: ForwardContext) throws -> Tensor

    /// The residual stream after the last layer, normalised: what ``logits(_:)`` takes.
    func normed(_ x: Tensor) throws -> Tensor

    /// The output projection; its weight is the embedding itself where they are tied.
    var head: Linear { get }

    /// Hidden states `[…, hidden]` to logits `[…, vocabulary]`.
    func logits(_ hidden: Tensor) throws -> Tensor
}

/// Sizes of a model.
public struct ModelDimensions: Sendable, Hashable {
    /// Decoder layers.
    public var layers: Int
    /// Width of the residual stream.
    public var hidden: Int
    /// Rows of the embedding.
    public var vocabulary: Int
    /// Longest context that the model was made for, in tokens.
    public var context: Int
}

extension LanguageModel {
    /// What ``head`` makes of them.
    ///
    /// For many calls take `head.expanded(_:)` once: what is no dense matrix is unpacked on each.
    public func logits(_ hidden: Tensor) throws -> Tensor { try head(hidden) }

    /// Throws `ModelError.tokenOutOfRange` at the first id without a row in the embedding; on a GPU
    /// such an id would end every later operator, too.
    public func requireTokens(_ ids: some Sequence<Int32>) throws(ModelError) {
        let vocabulary = dimensions.vocabulary
        for id in ids where id < 0 || id >= vocabulary {
            throw .tokenOutOfRange(id: id, vocabulary: vocabulary)
        }
    }

    /// Runs the model over new tokens.
    ///
    /// - Parameters:
    ///   - tokens: int64 `[batch, token]`; left-padded sequences say so in `padding`.
    ///   - cache: Extended by the new tokens; `nil` when no pass will follow.
    ///   - padding: Padding tokens at the left of each sequence.
    ///   - substitutes: Weights to use in place of the model's own.
    ///   - observer: Sees the linear layers work.
    /// - Returns: Normalised hidden states `[batch, token, hidden]`.
    /// - Throws: `ModelError.badTokens` or `.contextExceeded` before anything is computed. Token
    ///   ids are not read: who makes them checks them against `dimensions.vocabulary`.
    public func run(
        _ tokens: Tensor, cache: KVCache? = nil, padding: [Int]? = nil,
        substitutes: Substitutes = [:], observer: LinearObserver? = nil
    ) throws -> Tensor {
        let shape = tokens.shape
        guard shape.count == 2, shape[0] > 0, shape[1] > 0 else {
            throw ModelError.badTokens(shape: shape)
        }
        let length = (cache?.count ?? 0) + shape[1]
        guard length <= dimensions.context else {
            throw ModelError.contextExceeded(length: length, context: dimensions.context)
        }
        let context = try ForwardContext(
            batch: shape[0], tokens: shape[1], cache: cache, padding: padding, rotary: rotary,
            device: device, dtype: dtype, substitutes: substitutes, observer: observer)
        var x = try embed(tokens.to(device))
        for index in 0..<dimensions.layers { x = try layer(index, x, context) }
        cache?.advance(by: shape[1])
        return try normed(x)
    }
}

/// What a model cannot be asked.
public enum ModelError: Error, Hashable, CustomStringConvertible {
    case unknownFamily(String, path: String, known: [String])
    case unsupported(path: String, key: String, found: String, supported: String)
    case badTokens(shape: [Int])
    case contextExceeded(length: Int, context: Int)
    case tokenOutOfRange(id: Int32, vocabulary: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .unknownFamily(let type, let path, let known):
            """
            \(path): the model type "\(type)" is not supported; supported are \
            \(known.joined(separator: ", "))
            """
        case .unsupported(let path, let key, let found, let supported):
            "\(path): \"\(key)\" is \(found); Minima supports \(supported)"
        case .badTokens(let shape):
            "tokens must be [batch, token] and not empty; their shape is \(shape)"
        case .contextExceeded(let length, let context):
            "\(length) tokens do not fit the model's context of \(context)"
        case .tokenOutOfRange(let id, let vocabulary):
            """
            the token id \(id) is outside the model's vocabulary of \(vocabulary); the tokenizer \
            belongs to another model
            """
        }
    }
}
