import MinimaCore
import MinimaFormats
import MinimaTensor

/// Sees the linear layers work while a model runs: the name of the ``Site``, the input
/// `[batch, token, inputs]` and the outputs `[batch, token, outputs]` of each member.
public typealias LinearObserver = (_ site: String, _ input: Tensor, _ outputs: [Tensor]) throws ->
    Void

/// Sees the residual stream `[batch, token, hidden]` just before the output of a ``Site`` is added to
/// it, right before a ``LinearObserver`` sees the site's layer work.
public typealias ResidualObserver = (_ site: String, _ stream: Tensor) throws -> Void

/// Weights that stand in for those of a model's sites, by the site's name: the stacked weight
/// `[outputs, inputs]` of all its members.
public typealias Substitutes = [String: any LinearWeight]

/// What the layers of one forward pass share: positions, mask, cache.
public struct ForwardContext {
    /// Sequences.
    public let batch: Int
    /// New tokens per sequence.
    public let tokens: Int
    /// Cosines of the rotary angles, `[1 or batch, 1, token, rotaryDim / 2]`.
    public let cosines: Tensor
    /// Sines of the same angles.
    public let sines: Tensor

    private let mask: Tensor?
    private let isCausal: Bool
    private let cache: (any KeyValueStore)?
    private let observer: LinearObserver?
    private let residualObserver: ResidualObserver?
    private let substitutes: Substitutes

    /// The context of a pass over new tokens `[batch, tokens]`.
    ///
    /// - Parameters:
    ///   - cache: Keys and values of earlier tokens; `nil` when there are none to come either.
    ///   - padding: Padding tokens at the left of each sequence, counted from its very start; `nil`
    ///     when there are none.
    ///   - rotary: The model's rotary embedding.
    ///   - substitutes: Weights to use in place of the model's own.
    ///   - observer: Sees the linear layers work.
    ///   - residualObserver: Sees what their outputs are added to.
    public init(
        batch: Int, tokens: Int, cache: KVCache?, padding: [Int]?, rotary: RotaryEmbedding,
        device: Device, dtype: DType, substitutes: Substitutes = [:],
        observer: LinearObserver? = nil, residualObserver: ResidualObserver? = nil
    ) throws(TensorError) {
        self.batch = batch
        self.tokens = tokens
        self.cache = cache
        self.observer = observer
        self.residualObserver = residualObserver
        self.substitutes = substitutes
        let past = cache?.count ?? 0
        var positions = try Tensor.arange(past..<past + tokens, device: device).unsqueeze(0)
        var starts: Tensor?
        if let padding, padding.contains(where: { $0 > 0 }) {
            guard padding.count == batch else {
                throw .invalidArgument(
                    function: "ForwardContext",
                    reason: "\(padding.count) paddings for \(batch) sequences")
            }
            let column = try Tensor(padding.map { Int64($0) }, shape: [batch, 1]).to(device)
            starts = column
            positions = try (positions - column).clamp(min: 0)
        }
        (cosines, sines) = try rotary.table(
            positions, length: past + tokens, dtype: dtype)
        if let starts {
            mask = try Self.mask(past: past, tokens: tokens, starts: starts, device: device)
            isCausal = false
        } else if past > 0 && tokens > 1 {
            mask = try Self.mask(past: past, tokens: tokens, starts: nil, device: device)
            isCausal = false
        } else {
            mask = nil
            isCausal = tokens > 1
        }
    }

    /// The context of a pass whose keys and values `store` keeps, as a scheduler of many requests
    /// does: sequences of a batch may be of different lengths.
    ///
    /// - Parameters:
    ///   - cosines: Of the rotary angles at the new tokens' positions, see ``cosines``.
    ///   - sines: Of the same angles.
    ///   - mask: True where a query may see a key, broadcast to `[batch, 1, tokens, keys]` over the
    ///     keys that `store` returns; `nil` where each query may see all of them or, with several
    ///     tokens, where the keys are the new tokens' and each query sees those before it.
    public init(
        batch: Int, tokens: Int, cosines: Tensor, sines: Tensor, mask: Tensor?,
        store: any KeyValueStore
    ) {
        self.batch = batch
        self.tokens = tokens
        self.cosines = cosines
        self.sines = sines
        self.mask = mask
        isCausal = mask == nil && tokens > 1
        cache = store
        observer = nil
        residualObserver = nil
        substitutes = [:]
    }

    /// True where query `t` may see key `k`: `k` is not later, and not padding unless it is the
    /// query itself (so that no row is empty). `[1 or batch, 1, tokens, past + tokens]`.
    private static func mask(past: Int, tokens: Int, starts: Tensor?, device: Device)
        throws(TensorError) -> Tensor
    {
        let keys = try Tensor.arange(0..<past + tokens, device: device).reshape([1, 1, -1])
        let queries = try Tensor.arange(past..<past + tokens, device: device).reshape([1, -1, 1])
        var visible = try keys.isAtMost(queries)
        if let starts {
            let real = try starts.unsqueeze(2).isAtMost(keys)
            visible = try visible.and(real).or(keys.equals(queries))
        }
        return try visible.unsqueeze(1)
    }

    /// Applies linear layers to the input they share.
    public func apply(_ group: LinearGroup, _ x: Tensor) throws -> [Tensor] {
        let outputs = try group(x, substituting: substitutes[group.name])
        try observer?(group.name, x, outputs)
        return outputs
    }

    /// Applies one linear layer and adds its output to the residual stream, as sites with
    /// ``Site/addsToResidual`` do.
    ///
    /// - Parameter stream: The residual stream before, `[batch, token, hidden]`; it stays as it is.
    /// - Returns: The residual stream after, `[batch, token, hidden]`.
    public func apply(_ layer: Linear, _ x: Tensor, addingTo stream: Tensor) throws -> Tensor {
        try residualObserver?(layer.name, stream)
        let output = try layer(x, substituting: substitutes[layer.name])
        try observer?(layer.name, x, [output])
        try output.addInPlace(stream)
        return output
    }

    /// Causal attention of layer `layer` over the cached and the new tokens.
    ///
    /// - Parameters:
    ///   - query: `[batch, head, token, dim]`, rotated.
    ///   - key: `[batch, kvHead, token, dim]`, rotated.
    ///   - value: as `key`.
    /// - Returns: `[batch, token, head · dim]`.
    public func attend(layer: Int, query: Tensor, key: Tensor, value: Tensor)
        throws(TensorError) -> Tensor
    {
        var (key, value) = (key, value)
        if let cache { (key, value) = try cache.append(layer: layer, key: key, value: value) }
        let output = try query.attention(key: key, value: value, mask: mask, isCausal: isCausal)
        return try output.transpose(1, 2).reshape([batch, tokens, -1])
    }
}
