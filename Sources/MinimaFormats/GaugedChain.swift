import MinimaCore
import MinimaTensor

/// A closed chain of cores in interpolative gauge, as trains and rings store it.
///
/// Every core but the last, unfolded to `[bond·output mode·input mode, next bond]`, is an
/// `InterpolativeFactor`; the last one carries the scale. A ring's first bond is left free: a change
/// of its basis would undo the gauge of the others.
///
/// Stored for core k: `cores.k` `[rows − r_{k+1}, r_{k+1}]` and `pivots.k` int32 `[r_{k+1}]`, nothing
/// where the rows are as many as the bond; last `cores.{d−1}` `[r_{d−1}, m_d, n_d, r₀]`.
struct GaugedChain: Sendable {
    let chain: CoreChain
    let factors: [InterpolativeFactor]
    let last: Tensor
    private let path: CoreChain.Path

    init(chain: CoreChain, factors: [InterpolativeFactor], last: Tensor) {
        self.chain = chain
        self.factors = factors
        self.last = last
        path = chain.cheapestPath()
    }

    /// Takes tensors in the order of ``layout(_:)``, their shapes checked before.
    init(_ chain: CoreChain, tensors: [Tensor], format: String) throws(FormatError) {
        var rest = tensors[...]
        var factors: [InterpolativeFactor] = []
        for index in 0..<chain.order - 1 {
            let (rows, rank) = (chain.rows(index), chain.bonds[index + 1])
            let taken = rank < rows ? 2 : 0
            factors.append(
                try InterpolativeFactor(
                    rows: rows, rank: rank, tensors: Array(rest.prefix(taken)), format: format))
            rest = rest.dropFirst(taken)
        }
        self.init(chain: chain, factors: factors, last: rest[rest.startIndex])
    }

    /// This chain with other values.
    func replacing(_ tensors: [Tensor]) -> GaugedChain {
        var rest = tensors[...]
        let factors = factors.map { $0.taking(from: &rest) }
        return GaugedChain(chain: chain, factors: factors, last: rest[rest.startIndex])
    }

    /// Everything stored.
    var tensors: [(name: String, tensor: Tensor)] {
        factors.enumerated().flatMap { index, factor in
            zip(["cores.\(index)", "pivots.\(index)"], factor.tensors).map { ($0, $1) }
        } + [("cores.\(chain.order - 1)", last)]
    }

    /// What a chain stores.
    static func layout(_ chain: CoreChain) -> [TensorLayout] {
        (0..<chain.order - 1).flatMap { index in
            InterpolativeFactor.layout(
                rows: chain.rows(index), rank: chain.bonds[index + 1], index: index)
        } + [
            TensorLayout(
                name: "cores.\(chain.order - 1)", shape: chain.coreShape(chain.order - 1))
        ]
    }
}

extension CoreChain {
    /// Rows of core `index` unfolded against the bond that follows; `Int.max` when it overflows.
    func rows(_ index: Int) -> Int {
        Sizes.saturatingProduct([bonds[index], outputModes[index], inputModes[index]])
    }

    /// Numbers in interpolative gauge, pivots included; `Int.max` when it overflows.
    var gaugedCount: Int {
        Sizes.saturatingSum(
            (0..<order - 1).map {
                InterpolativeFactor.count(rows: rows($0), rank: bonds[$0 + 1])
            } + [Sizes.saturatingProduct(coreShape(order - 1))])
    }

    /// Whether the last core is the input's and nothing else's.
    var hasInputCore: Bool {
        outputModes.last == 1 && inputModes.dropLast().allSatisfy { $0 == 1 }
    }
}

extension GaugedChain {
    /// Fits a chain to `weight` `[outputs, inputs]` under the metric.
    ///
    /// A whitened decomposition, sweeps of alternating least squares, then the gauge from the first
    /// core to the last: each is rounded to the weight's type before the last one is solved for
    /// again, so that it makes up for the rounding of the others.
    ///
    /// Leading cores whose bond is full are identities; they are merged with the next core before
    /// the whitening, which is the more exact the fewer modes it splits.
    static func fit(
        _ weight: Tensor, exact: Tensor, chain: CoreChain, metric: Metric?, sweeps: Int,
        format: String
    ) throws -> GaugedChain {
        let (merged, skipped) = chain.merged()
        guard merged.order > 1 else {
            return try GaugedChain(
                chain: chain, factors: chain.identities(chain.order - 1, format: format),
                last: chain.paired(exact).reshape(chain.coreShape(chain.order - 1))
                    .stored(like: weight))
        }
        if merged.order == 2, merged.hasInputCore, merged.bonds[0] == 1 {
            // A matrix of low rank: nothing is left of the tensor.
            let basis = try WhitenedSVD(exact, metric: metric).factors(rank: merged.bonds[1]).a
            let (factors, _) = try gauged(
                [basis.unsqueeze(0)], merged, like: weight, format: format)
            let last = try merged.outputBasis(factors, like: exact)
                .inputFactor(of: exact, output: metric?.output)
            return GaugedChain(
                chain: chain, factors: try chain.identities(skipped, format: format) + factors,
                last: try last.reshape(chain.coreShape(chain.order - 1)).stored(like: weight))
        }
        let whitening = try Whitening(
            exact, outputModes: merged.outputModes, inputModes: merged.inputModes,
            metric: metric, solvesInput: merged.hasInputCore)
        var solver = try ChainSolver(bonds: merged.bonds, whitening: whitening)
        try solver.initialise()
        try solver.improve(sweeps: sweeps)

        var cores: [Tensor] = []
        for (index, core) in try solver.chain.split(solver.cores).dropLast().enumerated() {
            cores.append(try whitening.turned(core, mode: index, back: true))
        }
        let (factors, carry) = try gauged(cores, merged, like: weight, format: format)
        let last: Tensor
        if merged.hasInputCore {
            let basis = try merged.outputBasis(factors, like: exact)
            last = try merged.inputCore(basis.inputFactor(of: exact, output: metric?.output))
        } else {
            last = try resolved(
                &solver, whitening, merged: merged, factors: factors, carry: carry, like: weight)
        }
        return GaugedChain(
            chain: chain, factors: try chain.identities(skipped, format: format) + factors,
            last: try last.reshape(chain.coreShape(chain.order - 1)).stored(like: weight))
    }

    /// Fixes the gauge of all `cores` but the last, from the first on.
    ///
    /// - Returns: The factors, and what they leave to the last core, `[r, r]`.
    private static func gauged(
        _ cores: [Tensor], _ chain: CoreChain, like weight: Tensor, format: String
    ) throws -> (factors: [InterpolativeFactor], carry: Tensor?) {
        var factors: [InterpolativeFactor] = []
        var carry: Tensor?
        for (index, core) in cores.enumerated() {
            var core = core
            if let carry { core = try carry.tensordot(core, [1], [0]) }
            let (q, r) = try core.reshape([chain.rows(index), chain.bonds[index + 1]]).qr()
            let factor = try InterpolativeFactor.fixing(q, like: weight, format: format)
            carry = try factor.pivotRows(q).matmul(r)
            factors.append(factor)
        }
        return (factors, carry)
    }

    /// The last core of a split input, beside the others as they are stored.
    private static func resolved(
        _ solver: inout ChainSolver, _ whitening: Whitening, merged: CoreChain,
        factors: [InterpolativeFactor], carry: Tensor?, like weight: Tensor
    ) throws(TensorError) -> Tensor {
        let end = merged.order - 1
        if let carry {
            solver.cores[end] = try carry.tensordot(solver.cores[end], [1], [0])
        }
        for (index, factor) in factors.enumerated() {
            let core = try factor.expanded(like: solver.cores[end])
                .reshape(merged.coreShape(index))
            solver.cores[index] = try whitening.turned(core, mode: index, back: false)
                .reshape([merged.bonds[index], -1, merged.bonds[index + 1]])
        }
        if weight.dtype != .float64 { try solver.solve(end) }
        return try whitening.turned(
            solver.cores[end].reshape(solver.chain.coreShape(end)), mode: end, back: true)
    }
}

extension CoreChain {
    /// `count` square factors, of which nothing is stored.
    fileprivate func identities(_ count: Int, format: String) throws(FormatError)
        -> [InterpolativeFactor]
    {
        var factors: [InterpolativeFactor] = []
        for index in 0..<count {
            factors.append(
                try InterpolativeFactor(
                    rows: rows(index), rank: bonds[index + 1], tensors: [], format: format))
        }
        return factors
    }

    /// This chain with its leading identities merged into the core that follows, and their number.
    ///
    /// Only where the closing bond is 1 and the merged input modes are: others would change the
    /// order of the columns.
    fileprivate func merged() -> (chain: CoreChain, skipped: Int) {
        var skipped = 0
        while bonds[0] == 1, skipped < order - 1, inputModes[...skipped].allSatisfy({ $0 == 1 }),
            rows(skipped) == bonds[skipped + 1]
        {
            skipped += 1
        }
        guard skipped > 0 else { return (self, 0) }
        let merged = CoreChain(
            outputModes: [outputModes[...skipped].reduce(1, *)] + outputModes[(skipped + 1)...],
            inputModes: Array(inputModes[skipped...]), bonds: [1] + bonds[(skipped + 1)...])
        return (merged, skipped)
    }

    /// The product of all cores but the last, for cores without input modes:
    /// `[outputs, last bond · closing bond]`.
    fileprivate func outputBasis(_ factors: [InterpolativeFactor], like other: Tensor)
        throws(TensorError) -> Tensor
    {
        var product = try factors[0].expanded(like: other)
            .reshape([bonds[0], outputModes[0], bonds[1]])
        for (index, factor) in factors.enumerated().dropFirst() {
            let core = try factor.expanded(like: other)
                .reshape([bonds[index], outputModes[index], bonds[index + 1]])
            product = try product.tensordot(core, [2], [0])
                .reshape([bonds[0], -1, bonds[index + 1]])
        }
        return try product.permute([1, 2, 0]).reshape([product.shape[1], -1])
    }

    /// The last core `[last bond, inputs, closing bond]` from the factor `[last · closing, inputs]`
    /// beside ``outputBasis(_:like:)``.
    fileprivate func inputCore(_ factor: Tensor) throws(TensorError) -> Tensor {
        try factor.reshape([bonds[order - 1], bonds[0], factor.shape[1]]).permute([0, 2, 1])
    }
}

extension GaugedChain {
    /// Multiply-adds of ``forward(_:)`` per vector.
    var multiplyAdds: Int {
        guard chain.hasInputCore else { return path.multiplyAdds }
        var (total, passed) = (last.count, chain.bonds[0])
        for index in factors.indices.reversed() {
            let factor = InterpolativeFactor.multiplyAdds(
                rows: factors[index].rows, rank: factors[index].rank)
            total = Sizes.saturatingSum([total, Sizes.saturatingProduct([passed, factor])])
            passed = Sizes.saturatingProduct([passed, chain.outputModes[index]])
        }
        return total
    }

    /// `x` `[tokens, inputs]` times the transposed matrix: `[tokens, outputs]`.
    ///
    /// From the input's core to the others one by one; where the input is split the cores are
    /// expanded and absorbed along the cheapest path.
    func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        guard chain.hasInputCore else {
            return try chain.forward(x, expanded(like: last), along: path)
        }
        let (tokens, order, closing) = (x.shape[0], chain.order, chain.bonds[0])
        // [tokens, r₀, outputs so far, bond].
        let core = try last.permute([3, 0, 1, 2])
            .reshape([closing * chain.bonds[order - 1], x.shape[1]])
        var state = try x.linear(core).reshape([tokens, closing, 1, chain.bonds[order - 1]])
        var passed = 1
        for index in factors.indices.reversed() {
            let mode = chain.outputModes[index]
            state = try factors[index].apply(state)
                .reshape([tokens, closing, passed, chain.bonds[index], mode])
                .permute([0, 1, 4, 2, 3])
                .reshape([tokens, closing, mode * passed, chain.bonds[index]])
            passed *= mode
        }
        guard closing > 1 else { return try state.reshape([tokens, passed]) }
        return try Tensor.einsum("taoa->to", state)
    }

    /// The matrix `[outputs, inputs]`.
    func reconstruct() throws(TensorError) -> Tensor {
        try chain.reconstruct(expanded(like: last))
    }

    /// The input's core and the product of all others; `nil` where the input has no core of its own.
    func mergedFactors() throws(TensorError) -> (outer: Tensor, inner: Tensor)? {
        guard chain.hasInputCore else { return nil }
        let bond = chain.bonds[chain.order - 1] * chain.bonds[0]
        return (
            try chain.outputBasis(factors, like: last),
            try last.permute([0, 3, 1, 2]).reshape([bond, chain.inputModes[chain.order - 1]])
        )
    }

    private func expanded(like other: Tensor) throws(TensorError) -> [Tensor] {
        var cores: [Tensor] = []
        for (index, factor) in factors.enumerated() {
            cores.append(try factor.expanded(like: other).reshape(chain.coreShape(index)))
        }
        return cores + [last]
    }
}
