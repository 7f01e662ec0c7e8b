import MinimaTensor

/// A linear weight while it trains: the weight that runs, its leaves, and what is stored in the end.
///
/// Any format trains. Floating-point tensors in the model's own type are cloned into leaves;
/// quantised matrices have ``StraightThrough`` in place of them, float32; the parts of a composite
/// train as they would alone. Indices stay. What does not train is shared with the weight it comes
/// from and records nothing.
public struct TrainableWeight {
    /// The weight that runs, in the format of the one that training began with.
    public let weight: any LinearWeight
    /// Its leaves, by the names of ``LinearWeight/tensors``; those behind packed codes and scales have
    /// their names.
    public let tensors: [TrainedTensor]

    /// Leaves for the numbers of `weight` that have one of `roles`.
    ///
    /// - Parameter original: What quantised dense weights were rounded from, `[outputs, inputs]`: they
    ///   start as near to it as they can with the codes that they have.
    public init(
        _ weight: any LinearWeight, roles: Set<TrainedTensor.Role>, original: Tensor? = nil
    ) throws {
        if let original, original.shape != [weight.outputs, weight.inputs] {
            throw FormatError.wrongTensor(
                format: weight.spec.format, name: "an original weight", found: original.shape,
                needed: [weight.outputs, weight.inputs])
        }
        (self.weight, tensors) = try Self.training(weight, roles, original)
    }

    private static func training(
        _ weight: any LinearWeight, _ roles: Set<TrainedTensor.Role>, _ original: Tensor?
    ) throws -> (any LinearWeight, [TrainedTensor]) {
        switch weight {
        case let weight as Quantized: try weight.training(roles, original: original)
        case let weight as any CompositeWeight: try parts(weight, roles, original)
        default: try plain(weight, roles)
        }
    }

    private static func parts(
        _ weight: some CompositeWeight, _ roles: Set<TrainedTensor.Role>, _ original: Tensor?
    ) throws -> (any LinearWeight, [TrainedTensor]) {
        let originals = try original.flatMap(weight.shares)
        var (parts, tensors): ([any LinearWeight], [TrainedTensor]) = ([], [])
        for (index, part) in weight.parts.enumerated() {
            let (running, leaves) = try training(part, roles, originals?[index])
            parts.append(running)
            tensors += leaves.map { $0.under("\(type(of: weight).prefix).\(index)") }
        }
        return (weight.replacing(parts: parts), tensors)
    }

    private static func plain<Weight: LinearWeight>(
        _ weight: Weight, _ roles: Set<TrainedTensor.Role>
    ) throws -> (any LinearWeight, [TrainedTensor]) {
        let role: TrainedTensor.Role = weight is Dense ? .dense : .core
        guard roles.contains(role) else { return (weight, []) }
        let layout = try Weight.layout(
            weight.spec, outputs: weight.outputs, inputs: weight.inputs)
        var tensors = weight.tensors.map(\.tensor)
        var leaves: [TrainedTensor] = []
        for (index, item) in layout.enumerated() where item.dtype == nil {
            tensors[index] = try tensors[index].leaf()
            leaves.append(TrainedTensor(name: item.name, tensor: tensors[index], role: role))
        }
        return (try weight.replacing(tensors), leaves)
    }

    /// The weight as it is stored now; it shares the leaves' storage where nothing is packed.
    public func stored() throws -> any LinearWeight {
        try weight.detached()
    }
}

extension LinearWeight {
    /// This weight without leaves: its numbers, quantised ones packed.
    func detached() throws -> any LinearWeight {
        switch self {
        case let weight as Quantized: return try weight.packed()
        case let weight as any CompositeWeight:
            return weight.replacing(parts: try weight.parts.map { try $0.detached() })
        default: return try replacing(tensors.map { try $0.tensor.detach() })
        }
    }
}

extension TrainedTensor {
    /// This leaf with `prefix` and a dot before its name.
    public func under(_ prefix: String) -> TrainedTensor {
        TrainedTensor(name: "\(prefix).\(name)", tensor: tensor, role: role)
    }
}

extension Tensor {
    /// A copy of its own that gradients are taken for.
    public func leaf() throws(TensorError) -> Tensor {
        let leaf = try detach().clone()
        try leaf.setRequiresGrad()
        return leaf
    }
}
