import MinimaTensor

/// A leaf that gradients are taken for.
public struct TrainedTensor: Sendable {
    /// What its numbers are to the model.
    public enum Role: String, Sendable, Hashable, CaseIterable {
        /// A core or a factor of a decomposed weight.
        case core
        /// A weight that is stored whole.
        case dense
        /// Weights behind packed codes.
        case quantised
        /// Scales of packed codes.
        case scale
        /// A low-rank adapter beside a frozen weight.
        case adapter
        /// The scale of a normalisation.
        case norm
        /// What a linear layer adds to its product.
        case bias
        /// An embedding or output projection.
        case embedding
    }

    /// Its name in the checkpoint, or that of the tensor that it stands for.
    public let name: String
    /// The leaf; the optimiser changes it in place.
    public let tensor: Tensor
    /// What its numbers are to the model.
    public let role: Role

    /// A leaf.
    public init(name: String, tensor: Tensor, role: Role) {
        self.name = name
        self.tensor = tensor
        self.role = role
    }
}
