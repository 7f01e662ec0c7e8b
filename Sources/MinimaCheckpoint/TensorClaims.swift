import MinimaCore

/// Keeps count, while a model is built, of the tensors it took, so that at the end every tensor
/// that is missing, unexpected or of a wrong shape is named in one error.
public struct TensorClaims: Sendable {
    private let checkpoint: Checkpoint
    /// Whose weights have scales; a configuration that is wrong about them has none here, for it is
    /// refused elsewhere.
    private let blocks: Float8Blocks?
    private var claimed: Set<JSON.Name> = []
    private var missing: [String] = []
    private var misshapen: [String] = []

    /// No claims yet on the tensors of `checkpoint`.
    public init(_ checkpoint: Checkpoint) {
        self.checkpoint = checkpoint
        blocks = try? Float8Blocks(checkpoint.config)
    }

    /// Takes the tensor called `name`, with its scales where it is a weight in blocks of float8.
    ///
    /// - Parameters:
    ///   - shape: The shape the model needs; `nil` takes any.
    ///   - dtype: The type the model needs; `nil` takes any.
    /// - Returns: The tensor, or `nil` after noting that it is missing or of another kind.
    public mutating func claim(_ name: String, shape: [Int]? = nil, dtype: DType? = nil)
        -> TensorInfo?
    {
        guard let info = checkpoint.info(name) else {
            missing.append(name)
            return nil
        }
        claimed.insert(JSON.Name(name))
        let hasScales = claimScales(of: info)
        if let shape, shape != info.shape {
            misshapen.append("\(displayed(name)) is \(info.shape), the model needs \(shape)")
            return nil
        }
        if let dtype, dtype != info.dtype {
            misshapen.append(
                "\(displayed(name)) is \(info.dtype.rawValue), the model needs \(dtype.rawValue)")
            return nil
        }
        return hasScales ? info : nil
    }

    /// Takes the scales of a weight in blocks of float8, whatever is wrong with the weight.
    ///
    /// - Returns: Whether it has the scales that it needs, after noting what is wrong with them.
    private mutating func claimScales(of weight: TensorInfo) -> Bool {
        guard let blocks, Float8Blocks.describes(weight) else { return true }
        let name = Float8Blocks.scaleName(of: weight.name)
        guard let info = checkpoint.info(name) else {
            missing.append(name)
            return false
        }
        claimed.insert(JSON.Name(name))
        let shape = blocks.scaleShape(of: weight.shape)
        guard info.shape == shape else {
            misshapen.append("\(displayed(name)) is \(info.shape), the model needs \(shape)")
            return false
        }
        guard [.float32, .bfloat16, .float16].contains(info.dtype) else {
            misshapen.append(
                "\(displayed(name)) is \(info.dtype.rawValue), scales need F32, BF16 or F16")
            return false
        }
        return true
    }

    /// Takes the tensor called `name` if it is there.
    public mutating func claimIfPresent(_ name: String, shape: [Int]? = nil) -> TensorInfo? {
        checkpoint.info(name) == nil ? nil : claim(name, shape: shape)
    }

    /// Marks tensors as known and not needed, such as `lm_head.weight` beside tied embeddings.
    public mutating func ignore(where isNotNeeded: (String) -> Bool) {
        for tensor in checkpoint.tensors where isNotNeeded(tensor.name) {
            claimed.insert(JSON.Name(tensor.name))
        }
    }

    /// Tensors nobody has claimed, in file order.
    public var unclaimed: [String] {
        checkpoint.tensors.map(\.name).filter { !claimed.contains(JSON.Name($0)) }
    }

    /// Throws `CheckpointError.tensors` unless every claim was met and every tensor claimed.
    public func finish() throws(CheckpointError) {
        try finish(unexpected: unclaimed)
    }

    /// Throws `CheckpointError.tensors` unless every claim was met.
    public func check() throws(CheckpointError) {
        try finish(unexpected: [])
    }

    private func finish(unexpected: [String]) throws(CheckpointError) {
        if missing.isEmpty && unexpected.isEmpty && misshapen.isEmpty { return }
        throw .tensors(
            path: checkpoint.path,
            TensorMismatch(missing: missing, unexpected: unexpected, misshapen: misshapen))
    }
}
