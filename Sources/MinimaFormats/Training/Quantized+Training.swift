import MinimaTensor

extension Quantized {
    /// This weight with leaves behind what trains, and the leaves.
    ///
    /// - Parameters:
    ///   - roles: `quantised` for the codes, `scale` for the scales, `core` for what is not packed.
    ///   - original: What a dense part was quantised from, `[outputs, inputs]`.
    func training(_ roles: Set<TrainedTensor.Role>, original: Tensor?) throws(TensorError) -> (
        weight: Quantized, tensors: [TrainedTensor]
    ) {
        let original = spec.parts[0].format == Dense.name ? original : nil
        let (trainsValues, trainsScales) = (roles.contains(.quantised), roles.contains(.scale))
        var (replaced, trained): ([Piece], [TrainedTensor]) = ([], [])
        func add(_ leaf: Tensor?, _ name: String, _ role: TrainedTensor.Role) {
            guard let leaf else { return }
            trained.append(TrainedTensor(name: name, tensor: leaf, role: role))
        }
        var names = tensors.map(\.name)[...]
        for piece in pieces {
            switch piece {
            case .matrix(let matrix, let shape):
                let (codes, scales) = (names[names.startIndex], names[names.startIndex + 1])
                names = names.dropFirst(matrix.tensors.count)
                guard trainsValues || trainsScales else {
                    replaced.append(piece)
                    continue
                }
                let latent = try StraightThrough(
                    matrix, trainsValues: trainsValues, trainsScales: trainsScales,
                    original: original)
                add(latent.latents, codes, .quantised)
                add(latent.exponents, scales, .scale)
                replaced.append(.trained(latent, shape: shape))
            case .plain(let tensor, let isFloating):
                let name = names.removeFirst()
                guard isFloating, roles.contains(.core) else {
                    replaced.append(piece)
                    continue
                }
                let leaf = try tensor.leaf()
                add(leaf, name, .core)
                replaced.append(.plain(leaf, isFloating: true))
            case .trained(let latent, _):
                names = names.dropFirst(latent.start.tensors.count)
                replaced.append(piece)
            }
        }
        return (Quantized(self, pieces: replaced), trained)
    }

    /// The weight that is stored: the numbers that the last forward computed with, packed.
    func packed() throws -> Quantized {
        var tensors: [Tensor] = []
        for piece in pieces {
            switch piece {
            case .matrix(let matrix, _): tensors += matrix.tensors
            case .trained(let matrix, _): tensors += try matrix.packed().tensors
            case .plain(let tensor, _): tensors.append(try tensor.detach())
            }
        }
        return try Quantized(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
    }
}
