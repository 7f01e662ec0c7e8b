import MinimaCore

private let stack = Operator("aten::stack")
private let unbind = Operator("aten::unbind", "int")
private let lerp = Operator("aten::lerp", "Scalar")
private let whereOperator = Operator("aten::where", "self")
private let vectorNorm = Operator("aten::linalg_vector_norm")
private let batchedMultiplyAdd = Operator("aten::baddbmm")

/// Momentum orthogonalised by Newton–Schulz iterations for matrices, AdamW for all other parameters.
///
/// A matrix `[m, n]` moves by 0.2·√max(m, n) times the orthogonalised momentum, whose entries then
/// have the root mean square of AdamW's steps, so that both share one learning rate.
///
/// - Note: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale
///   is that of Liu et al. 2025, "Muon is scalable for LLM training", section 2.2.
public final class Muon: Optimizer {
    /// An optimiser of `parameters`, which have different names and lie on one device.
    ///
    /// - Parameters:
    ///   - momentum: Decay rate of the momentum, which is Nesterov's.
    ///   - others: AdamW's settings for parameters that are not orthogonalised.
    ///   - group: The processes that train together, each with all parameters in the same order;
    ///     `nil` for this one alone.
    ///   - orthogonalises: Which matrices to orthogonalise; embeddings and output projections are
    ///     better left to AdamW.
    /// - Throws: `TensorError.invalidArgument` for names that repeat, other devices and types that
    ///   are not floating point.
    /// - Complexity: As `AdamW` with four bytes less per number of a matrix; beside a step's update
    ///   30·min(m, n)·m·n flops per matrix at most.
    public init(
        _ parameters: [AdamW.Parameter], momentum: Double = 0.95,
        others: AdamW.Configuration = AdamW.Configuration(), group: ProcessGroup? = nil,
        orthogonalises: (AdamW.Parameter) -> Bool = { _ in true }
    ) throws(TensorError) {
        let shard = try ParameterShard(parameters, group: group)
        var (matrices, rest) = ([Int](), [Int]())
        for place in shard.owned.indices {
            let parameter = shard.parameter(at: place)
            if parameter.tensor.rank == 2 && orthogonalises(parameter) {
                matrices.append(place)
            } else {
                rest.append(place)
            }
        }
        super.init(
            shard,
            [
                try MuonRule(shard, places: matrices, momentum: momentum),
                try AdamWRule(shard, places: rest, others),
            ])
    }
}

/// Muon's update of some matrices of a shard, those of one shape together.
private struct MuonRule: UpdateRule {
    private let momentum: Double
    private let batches: [Batch]

    /// Matrices of one shape and type that share learning rate and decay.
    private struct Batch {
        let places: [Int]
        /// Their momenta, `[k, m, n]`.
        let momenta: Tensor
        /// Those one by one; views.
        let views: [Tensor]
    }

    /// Elements that are taken together at most: one 4096 × 4096 matrix keeps a GPU busy by itself.
    private static let elementLimit = 1 << 24

    init(_ shard: ParameterShard, places: [Int], momentum: Double) throws(TensorError) {
        self.momentum = momentum
        var batches: [Batch] = []
        for kind in shard.batches(places, key: \.shape) {
            let master = shard.masters[places[kind[0]]]
            let limit = max(Self.elementLimit / max(master.count, 1), 1)
            for start in stride(from: 0, to: kind.count, by: limit) {
                let members = kind[start..<min(start + limit, kind.count)].map { places[$0] }
                let momenta = try Tensor.zeros(
                    [members.count] + master.shape, dtype: master.dtype, device: master.device)
                batches.append(
                    Batch(
                        places: members, momenta: momenta,
                        views: try unbind.tensors(.tensor(momenta), .int(0))))
            }
        }
        self.batches = batches
    }

    var moments: [(name: String, places: [Int], tensors: [Tensor])] {
        batches.map { ("momentum", $0.places, $0.views) }
    }

    func update(_ shard: ParameterShard, _ clipping: GradientSum.Clipping, learningRate: Double)
        throws(TensorError)
    {
        let skips = try clipping.skips.equals(1)
        for batch in batches {
            let (parameter, shape) = (shard.parameter(at: batch.places[0]), batch.momenta.shape)
            var gradients = try stack(.tensors(batch.places.map { shard.gradient(at: $0) }))
            if let divisor = clipping.divisor { gradients = try gradients / divisor }
            let momenta = try lerp(
                .tensor(batch.momenta), .tensor(gradients), .double(1 - momentum))
            let ahead = try lerp(.tensor(gradients), .tensor(momenta), .double(momentum))
            let rate = learningRate * parameter.learningRateScale
            let masters = batch.places.map { shard.masters[$0] }
            let before = try stack(.tensors(masters))
            let after = try before * (1 - rate * parameter.weightDecay)
            try after.addInPlace(
                ahead.orthogonalised(),
                scale: -rate * 0.2 * Double(max(shape[1], shape[2])).squareRoot())
            let kept = try whereOperator(.tensor(skips), .tensor(before), .tensor(after))
            try masters.copy(from: unbind.tensors(.tensor(kept), .int(0)))
            try batch.momenta.copy(
                from: whereOperator(.tensor(skips), .tensor(batch.momenta), .tensor(momenta)))
        }
    }
}

extension Tensor {
    /// About U·Vᵀ of each matrix U·S·Vᵀ of this batch `[k, m, n]`: five quintic iterations bring
    /// singular values above 0.0015 of the Frobenius norm to 0.68…1.21.
    ///
    /// float32 is computed in bfloat16 on CUDA, as in the source.
    ///
    /// - Note: Jordan et al. 2024, with its coefficients.
    fileprivate func orthogonalised() throws(TensorError) -> Tensor {
        let isTall = shape[1] > shape[2]
        let source = isTall ? try transpose() : self
        let norm = try vectorNorm(.tensor(source), .double(2), .ints([1, 2]), .bool(true))
        var x = try source / norm.clamp(min: 1e-7)
        if device.isCUDA && dtype == .float32 { x = try x.to(dtype: .bfloat16) }
        for _ in 0..<5 {
            let gram = try x.matmul(x.transpose())
            let polynomial = try batchedMultiplyAdd(
                .tensor(gram), .tensor(gram), .tensor(gram), .double(-4.7750), .double(2.0315))
            x = try batchedMultiplyAdd(
                .tensor(x), .tensor(polynomial), .tensor(x), .double(3.4445), .double(1))
        }
        return isTall ? try x.transpose() : x
    }
}
