import MinimaCore
import MinimaTensor

private let conv1d = Operator("aten::conv1d")
private let conv2d = Operator("aten::conv2d")
private let tanh = Operator("aten::tanh")

/// A convolutional network from a model's patches and an option's description to a correction of the
/// closed form of the damage.
///
/// Two 1-D convolutions read the spectra of each patch, 2 → 8 → 8 channels over 32 values; their means
/// over quarters of the spectrum and the patch's statistics give 16 features. Two residual 2-D
/// convolutions, 3 × 3, mix the features of neighbours on the map of layers and slots. The head sees
/// the mean features of a piece's patches and the option's descriptor. About 9,000 parameters.
///
/// The last layer begins at zero: an untrained network repeats the closed form.
struct SensitivityNetwork: Sendable {
    static let channels = 16
    private static let spectral = 8
    /// Values per channel that are left of a spectrum.
    private static let bins = 4
    private static let hidden = 32
    /// Corrections stay within e^±this.
    private static let largestCorrection = 5.0

    /// Shapes by name, in the order of ``parameters``.
    static let shapes: [(name: String, shape: [Int])] = [
        ("spectrum.0.weight", [spectral, 2, 5]), ("spectrum.0.bias", [spectral]),
        ("spectrum.1.weight", [spectral, spectral, 5]), ("spectrum.1.bias", [spectral]),
        ("patch.weight", [channels, spectral * bins + PatchMap.statisticsCount]),
        ("patch.bias", [channels]),
        ("map.0.weight", [channels, channels, 3, 3]), ("map.0.bias", [channels]),
        ("map.1.weight", [channels, channels, 3, 3]), ("map.1.bias", [channels]),
        ("head.0.weight", [hidden, channels + Candidate.descriptorCount]),
        ("head.0.bias", [hidden]),
        ("head.1.weight", [1, hidden]), ("head.1.bias", [1]),
    ]

    /// float32, in the order of ``shapes``.
    let parameters: [Tensor]

    /// Random weights, normal with variance 1 / inputs; biases and the last layer are zero.
    init(seed: UInt64) throws {
        let generator = try RandomGenerator(seed: seed)
        parameters = try Self.shapes.map { name, shape in
            if shape.count == 1 || name == "head.1.weight" { return try .zeros(shape) }
            let inputs = shape.dropFirst().reduce(1, *)
            return try Tensor.randn(shape, generator: generator)
                * (1 / Double(inputs).squareRoot())
        }
    }

    /// Weights in the order of ``shapes``.
    init(parameters: [Tensor]) {
        self.parameters = parameters
    }

    /// A network with values of its own.
    func copy() throws(TensorError) -> SensitivityNetwork {
        var copies: [Tensor] = []
        for parameter in parameters { copies.append(try parameter.detach().clone()) }
        return SensitivityNetwork(parameters: copies)
    }

    /// Features of every patch of a model, `[patch, channels]`.
    func features(_ map: PatchMap) throws(TensorError) -> Tensor {
        let p = parameters
        let first = try conv1d(
            .tensor(map.spectra), .tensor(p[0]), .tensor(p[1]), .ints([1]), .ints([2])
        ).silu()
        let second = try conv1d(
            .tensor(first), .tensor(p[2]), .tensor(p[3]), .ints([1]), .ints([2])
        ).silu()
        let patches = second.shape[0]
        let pooled = try second.reshape([patches, Self.spectral, Self.bins, -1]).mean([3])
            .reshape([patches, Self.spectral * Self.bins])
        let own = try Tensor.cat([pooled, map.statistics], dim: 1).linear(p[4], bias: p[5]).silu()
        var laid = try map.laidOut(own)
        for layer in [6, 8] {
            let mixed = try conv2d(
                .tensor(laid), .tensor(p[layer]), .tensor(p[layer + 1]), .ints([1, 1]),
                .ints([1, 1])
            ).silu()
            laid = try laid + mixed
        }
        return try map.gathered(laid)
    }

    /// Corrections `[candidates]`, added to the logarithm of the closed form.
    ///
    /// - Parameters:
    ///   - features: Of the map, from ``features(_:)``.
    ///   - shares: `[candidates, patch]`: which patches each candidate concerns.
    ///   - descriptors: `[candidates, descriptorCount]`.
    func corrections(_ features: Tensor, shares: Tensor, descriptors: Tensor) throws(TensorError)
        -> Tensor
    {
        let p = parameters
        let concerned = try shares.matmul(features)
        let inner = try Tensor.cat([concerned, descriptors], dim: 1)
            .linear(p[10], bias: p[11]).silu()
        let raw = try inner.linear(p[12], bias: p[13]).reshape([-1])
        return try tanh(.tensor(raw / Self.largestCorrection)) * Self.largestCorrection
    }
}

/// Candidates of one model as tensors.
struct CandidateBatch {
    let shares: Tensor
    let descriptors: Tensor
    let logErrors: [Double]

    init(_ candidates: [Candidate], patches: Int) throws(TensorError) {
        var shares = [Float](repeating: 0, count: candidates.count * patches)
        for (row, candidate) in candidates.enumerated() {
            for patch in candidate.patches {
                shares[row * patches + patch.index] += Float(patch.share)
            }
        }
        self.shares = try Tensor(shares, shape: [candidates.count, patches])
        descriptors = try Tensor(
            candidates.flatMap(\.descriptor), shape: [candidates.count, Candidate.descriptorCount])
        logErrors = candidates.map(\.logError)
    }
}
