import MinimaCore
import MinimaTensor

/// A tensor ring of matrices of order d, 2 ≤ d ≤ 64: a tensor train whose ends are joined.
///
/// With outputs = m₁⋯m_d and inputs = n₁⋯n_d, row major,
/// W[m₁…m_d, n₁…n_d] = tr(G₁[m₁, n₁]·G₂[m₂, n₂]⋯G_d[m_d, n_d]), each G_k[m, n] a matrix
/// `[r_{k−1}, r_k]`, r_d = r₀.
///
/// Specification: output modes `[m₁, …, m_d]`, input modes `[n₁, …, n_d]`, ranks the bonds
/// `[r₀, …, r_{d−1}]`. Stored in interpolative gauge: for k < d − 1, unless its r_k·m·n rows are as
/// many as r_{k+1}, `cores.k` `[r_k·m_{k+1}·n_{k+1} − r_{k+1}, r_{k+1}]` and `pivots.k` int32
/// `[r_{k+1}]`; last `cores.{d−1}` `[r_{d−1}, m_d, n_d, r₀]`. The closing bond r₀ stays without gauge.
///
/// Decomposed in whitened coordinates by TR-SVD (Zhao et al. 2016, algorithm 1), whose first
/// truncation keeps r₀·r₁ directions and whose others are those of TT-SVD; then by alternating least
/// squares (algorithm 2) under the metric itself, which never raises the error.
public struct TensorRing: BudgetedFormat {
    /// `tr`.
    public static let name = "tr"
    /// Sweeps of alternating least squares at most.
    public static let sweeps = 4

    /// Modes and bonds.
    public let spec: FormatSpec
    let gauged: GaugedChain

    /// m₁⋯m_d.
    public var outputs: Int { spec.outputModes.reduce(1, *) }
    /// n₁⋯n_d.
    public var inputs: Int { spec.inputModes.reduce(1, *) }
    /// The cores, first to last, with their pivots.
    public var tensors: [(name: String, tensor: Tensor)] { gauged.tensors }
    /// Those of the factors one by one, or where the input is split of the cheapest path.
    public var multiplyAdds: Int { gauged.multiplyAdds }

    private static func chain(_ spec: FormatSpec) -> CoreChain {
        CoreChain(
            outputModes: spec.outputModes, inputModes: spec.inputModes, bonds: spec.ranks)
    }

    /// One core per pair of modes.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        let order = min(max(spec.outputModes.count, 2), CoreChain.longest)
        try check(
            spec, outputs: outputs, inputs: inputs, modeCounts: (order, order),
            rankCount: order)
        try checkRanks(spec.ranks, limits: spec.ranks.map { _ in outputs * inputs })
        let chain = chain(spec)
        try checkRanks(spec.ranks, limits: (0..<order).map { chain.limit(ofBond: $0) })
        _ = try cores(chain.coreShapes)
        return GaugedChain.layout(chain)
    }

    /// Three cores: over a balanced pair of output modes, and over the input as one mode.
    ///
    /// An input that is not split takes in the metric exactly. The closing bond is 1: a larger one
    /// has no gauge and costs r₀² numbers, and r₀ times the input's core.
    public static func spec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        let modes = CoreChain.inputCore(outputs: outputs, inputs: inputs)
        return try spec(
            fitting: parameters, outputModes: modes.outputs, inputModes: modes.inputs)
    }

    /// The largest common bound of the bonds that fits, with given modes.
    public static func spec(fitting parameters: Int, outputModes: [Int], inputModes: [Int])
        throws(FormatError) -> FormatSpec
    {
        let pairs = try CoreChain.pairs(outputModes, inputModes, format: name)
        let search = RankSearch(
            caps: bondCaps(pairs, inputModes: inputModes),
            limit: { ranks, position in
                CoreChain(outputModes: outputModes, inputModes: inputModes, bonds: ranks)
                    .limit(ofBond: position)
            },
            count: { ranks in
                CoreChain(outputModes: outputModes, inputModes: inputModes, bonds: ranks)
                    .gaugedCount
            })
        guard let ranks = search.ranks(fitting: parameters) else {
            throw .budgetTooSmall(
                format: name, parameters: parameters, smallest: search.count(search.smallest))
        }
        return FormatSpec(
            format: name, outputModes: outputModes, inputModes: inputModes, ranks: ranks)
    }

    /// Bonds with which TR-SVD is exact: r₀·r₁ holds the first core's full rank, split evenly, and
    /// the others are full beside them.
    ///
    /// With an input core of its own the closing bond is 1, see ``spec(fitting:outputs:inputs:)``.
    private static func bondCaps(_ pairs: [Int], inputModes: [Int]) -> [Int] {
        let rank = min(pairs[0], pairs[1...].reduce(1, *))
        let isSplit = inputModes.count { $0 > 1 } > 1
        let closing = isSplit ? max(Int(Double(rank).squareRoot()), 1) : 1
        var bonds = [closing, (rank + closing - 1) / closing]
        for index in 1..<(pairs.count - 1) {
            bonds.append(
                min(
                    Sizes.saturatingProduct([bonds[index], pairs[index]]),
                    Sizes.saturatingProduct(pairs[(index + 1)...] + [closing])))
        }
        return bonds
    }

    /// TR-SVD of the whitened weight, then at most ``sweeps`` sweeps under the metric.
    ///
    /// - Complexity: O(outputs·inputs·r) flops per core and step of its conjugate gradients, and
    ///   where the input is split O(outputs·inputs²) more.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> TensorRing
    {
        try decompose(weight, spec: spec, metric: metric, sweeps: sweeps)
    }

    /// TR-SVD of the whitened weight, then at most `sweeps` sweeps under the metric.
    static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?, sweeps: Int) throws
        -> TensorRing
    {
        _ = try checkWeight(weight, spec)
        let exact = try exact(weight)
        return TensorRing(
            spec: spec,
            gauged: try .fit(
                weight, exact: exact, chain: chain(spec),
                metric: prepared(metric, for: weight), sweeps: sweeps, format: name))
    }

    private init(spec: FormatSpec, gauged: GaugedChain) {
        self.spec = spec
        self.gauged = gauged
    }

    /// Takes the tensors of ``layout(_:outputs:inputs:)``.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.init(
            spec: spec,
            gauged: try GaugedChain(Self.chain(spec), tensors: tensors, format: Self.name))
    }

    /// Keeps the pivots.
    public func replacing(_ tensors: [Tensor]) throws(FormatError) -> TensorRing {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        return TensorRing(spec: spec, gauged: gauged.replacing(tensors))
    }

    /// `x` through the cores, the input's first.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        let (matrix, shape) = try rows(x)
        return try gauged.forward(matrix).reshape(shape)
    }

    /// The trace of the product of the cores.
    public func reconstruct() throws(TensorError) -> Tensor {
        try gauged.reconstruct()
    }
}
