import MinimaCore

/// Keeps count, while a model is built, of the tensors it took, so that at the end every tensor
/// that is missing, unexpected or of a wrong shape is named in one error.
public struct TensorClaims: Sendable {
    private let checkpoint: Checkpoint
    private var claimed: Set<JSON.Name> = []
    private var missing: [String] = []
    private var misshapen: [String] = []

    /// No claims yet on the tensors of `checkpoint`.
    public init(_ checkpoint: Checkpoint) {
        self.checkpoint = checkpoint
    }

    /// Takes the tensor called `name`.
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
        if let shape, shape != info.shape {
            misshapen.append("\(displayed(name)) is \(info.shape), the model needs \(shape)")
            return nil
        }
        if let dtype, dtype != info.dtype {
            misshapen.append(
                "\(displayed(name)) is \(info.dtype.rawValue), the model needs \(dtype.rawValue)")
            return nil
        }
        return info
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
        let unexpected = unclaimed
        if missing.isEmpty && unexpected.isEmpty && misshapen.isEmpty { return }
        throw .tensors(
            path: checkpoint.path,
            TensorMismatch(missing: missing, unexpected: unexpected, misshapen: misshapen))
    }
}
