import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// A family whose decoder layer is the common one, so that Minima's own kernels can run it: RMSNorm,
/// grouped-query attention with rotary embedding and perhaps normalised queries and keys, SwiGLU.
///
/// Loaded with ``WeightSource/loadPart(_:device:dtype:adapter:onTensor:)``, a model has the tensors of
/// that part only.
public protocol DecoderModel: LanguageModel {
    /// The decoder of the model that `config` describes.
    static func decoder(_ config: ModelConfig) throws -> DecoderArchitecture

    /// The weights of decoder layer `index`.
    func decoderLayer(_ index: Int) -> DecoderLayerWeights

    /// Embedding, final norm and output projection.
    var ends: DecoderEnds { get }
}

/// What fixes a decoder of the common kind beside its weights.
public struct DecoderArchitecture: Sendable, Hashable {
    /// Its sizes.
    public var dimensions: DecoderDimensions
    /// ε of every norm.
    public var epsilon: Double
    /// Rotary embedding.
    public var rope: RoPEParameters
    /// Whether queries and keys are normalised per head.
    public var normalisesQueriesAndKeys: Bool
}

/// The weights of a decoder layer of the common kind.
public struct DecoderLayerWeights: Sendable {
    /// Weight of the norm before attention, `[hidden]`.
    public var inputNorm: Tensor
    /// Query, key and value.
    public var qkv: LinearGroup
    /// Weight of the norm of each query head, `[headDim]`; `nil` where there is none.
    public var queryNorm: Tensor?
    /// Weight of the norm of each key head, `[headDim]`; `nil` where there is none.
    public var keyNorm: Tensor?
    /// Attention's output projection.
    public var output: Linear
    /// Weight of the norm before the feed-forward network, `[hidden]`.
    public var postNorm: Tensor
    /// Gate and up.
    public var gateUp: LinearGroup
    /// Down.
    public var down: Linear
}

/// What stands around a decoder's layers.
public struct DecoderEnds: Sendable {
    /// `[vocabulary, hidden]`.
    public var embedding: Tensor
    /// Weight of the final norm, `[hidden]`.
    public var norm: Tensor
    /// Output projection; its weight is the embedding itself where they are tied.
    public var head: Linear
}
