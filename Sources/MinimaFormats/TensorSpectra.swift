import MinimaCore
import MinimaTensor

/// What the errors of tensor formats are estimated from: a weight, its metric and its whitened
/// spectrum, shared by formats, modes and ranks.
public struct TensorSpectra: Sendable {
    /// W and W·C `[outputs, inputs]`, float64.
    private let weight, weighted: Tensor
    private let metric: Metric?
    /// The unfolding against the input, exact under both C and H.
    let matrix: WhitenedSVD

    /// Rows of W.
    var outputs: Int { weight.shape[0] }
    /// Columns of W.
    var inputs: Int { weight.shape[1] }

    /// Prepares a weight `[outputs, inputs]`.
    ///
    /// - Parameter svd: Its whitened SVD where that is at hand.
    /// - Complexity: O(outputs·inputs²) flops, and those of the SVD.
    public init(_ weight: Tensor, metric: Metric?, svd: WhitenedSVD? = nil) throws {
        matrix = try svd ?? WhitenedSVD(weight, metric: metric)
        let exact = try Tucker.exact(weight)
        self.weight = exact
        self.metric = try Tucker.prepared(metric, for: weight)
        weighted =
            try self.metric.map { (metric) throws(TensorError) in
                try exact.matmul(metric.input)
            } ?? exact
    }

    /// Energies past every rank of the unfoldings against the two output modes, and of the rotated
    /// core's fibres along the input.
    struct Pair {
        /// At r, the energy past rank r.
        let tails: [[Double]]
        /// Energies `[o₁·o₂]` of the HOSVD's core, row-major.
        let fibres: [Double]
    }

    /// Spectra of the three-way tensor `[o₁, o₂, inputs]`.
    ///
    /// Measured with C and a Kronecker product near H, and scaled so that the whole is what H says.
    func pair(_ modes: [Int]) throws -> Pair {
        let roots = try Whitening.outputRoots(metric?.output, modes: modes)
        var (plain, turned) = (weight, weighted)
        if !roots.isEmpty {
            plain = try Whitening.along(plain, modes, roots)
            turned = try Whitening.along(turned, modes, roots)
        }
        let shape = modes + [inputs]
        (plain, turned) = (try plain.reshape(shape), try turned.reshape(shape))
        var (tails, bases) = ([[Double]](), [Tensor]())
        for dims in [[1, 2], [0, 2]] {
            let (values, vectors) = try plain.tensordot(turned, dims, dims).eigh()
            bases.append(try vectors.flip([1]))
            tails.append(Self.tails(try values.values(as: Double.self).reversed()))
        }
        let fibres = try
            (TuckerSolver.project(plain, bases, except: nil)
            * TuckerSolver.project(turned, bases, except: nil)).sum([2])
            .values(as: Double.self)
        let (whole, surrogate) = (matrix.squaredError(rank: 0), tails[0][0])
        let scale = surrogate > 0 ? whole / surrogate : 0
        return Pair(
            tails: tails.map { $0.map { $0 * scale } }, fibres: fibres.map { max($0, 0) * scale })
    }

    /// Sums of the energies past each rank of a split chain's unfoldings, bond by bond, scaled as in
    /// ``pair(_:)``.
    func bonds(_ modes: TensorModes) throws -> [[Double]] {
        let whitening = try Whitening(
            weight, outputModes: modes.outputModes, inputModes: modes.inputModes, metric: metric,
            solvesInput: false)
        let pairs = zip(modes.outputModes, modes.inputModes).map(*)
        let chain = CoreChain(
            outputModes: modes.outputModes, inputModes: modes.inputModes,
            bonds: pairs.map { _ in 1 })
        let tensor = try chain.paired(whitening.target)
        var tails: [[Double]] = []
        for bond in 1..<pairs.count {
            let unfolding = try tensor.reshape([pairs[..<bond].reduce(1, *), -1])
            let isWide = unfolding.shape[0] <= unfolding.shape[1]
            let small = try isWide ? unfolding : unfolding.transpose()
            let values = try small.matmul(small.transpose()).eigh().values
            tails.append(Self.tails(try values.values(as: Double.self).reversed()))
        }
        let (whole, surrogate) = (matrix.squaredError(rank: 0), tails[0][0])
        return tails.map { $0.map { surrogate > 0 ? $0 * whole / surrogate : 0 } }
    }

    /// What a chain misses after so many sweeps.
    func squaredError(of chain: CoreChain, sweeps: Int) throws -> Double {
        let fitted = try GaugedChain.fit(
            weight, exact: weight, chain: chain, metric: metric, sweeps: sweeps,
            format: TensorTrain.name)
        let difference = try fitted.reconstruct() - weight
        return try metric?.squaredNorm(difference) ?? difference.square().sum().item()
    }

    private static func tails(_ descending: [Double]) -> [Double] {
        var tails = [0.0]
        for value in descending.reversed() { tails.append((tails.last ?? 0) + max(value, 0)) }
        return tails.reversed()
    }
}

extension TensorSpectra {
    /// Values between 1 and `size` at which a mode's rank is tried: all of it, then eighths.
    static func grid(_ size: Int) -> [Int] {
        var ranks: [Int] = []
        for eighths in stride(from: 8, through: 2, by: -1) {
            let rank = (size * eighths + 7) / 8
            if ranks.last != rank { ranks.append(rank) }
        }
        return ranks
    }

    /// For each fraction the best of `options` at its largest last rank.
    ///
    /// - Parameters:
    ///   - count: Parameters with given ranks of the output modes and of the input.
    ///   - bound: The error's bound there.
    func best(
        _ fractions: [Double], options: [[Int]], largest: @escaping ([Int]) -> Int,
        count: @escaping ([Int], Int) -> Int, bound: ([Int], Int) -> Double
    ) -> [(ranks: [Int], last: Int, squaredError: Double)] {
        fractions.compactMap { fraction in
            let budget = Int(fraction * Double(outputs * inputs))
            var best: (ranks: [Int], last: Int, squaredError: Double)?
            for ranks in options {
                let search = RankSearch(
                    caps: [largest(ranks)], limit: { _, _ in largest(ranks) },
                    count: { count(ranks, $0[0]) })
                guard let last = search.ranks(fitting: budget)?.first else { continue }
                let error = bound(ranks, last)
                if error < best?.squaredError ?? .infinity { best = (ranks, last, error) }
            }
            return best
        }
    }
}

extension Tucker {
    /// Over ranks of the output modes in eighths: the sum of the three tails.
    public static func candidates(
        _ spectra: TensorSpectra, fractions: [Double], modes: [TensorModes]
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        try modes.flatMap { choice in
            let sizes = choice.outputModes
            let pair = try spectra.pair(sizes)
            let options = TensorSpectra.grid(sizes[0]).flatMap { first in
                TensorSpectra.grid(sizes[1]).map { [first, $0] }
            }
            return spectra.best(
                fractions, options: options, largest: { min($0[0] * $0[1], spectra.inputs) },
                count: { count($0 + [$1], modes: sizes + [spectra.inputs]) },
                bound: { ranks, last in
                    pair.tails[0][ranks[0]] + pair.tails[1][ranks[1]]
                        + spectra.matrix.squaredError(rank: last)
                }
            ).compactMap { found -> (spec: FormatSpec, squaredError: Double)? in
                let ranks = found.ranks + [found.last]
                guard (0..<3).allSatisfy({ ranks[$0] <= limit(ranks, $0) }) else { return nil }
                let spec = FormatSpec(
                    format: name, outputModes: sizes, inputModes: choice.inputModes, ranks: ranks)
                return (spec, found.squaredError)
            }
        }
    }
}

extension CoreChain {
    /// Candidates of a chain whose closing bond is 1; see `TensorFormat`.
    ///
    /// The tails of a chain with an input core bound its error. Those of other chains are measured in
    /// Kronecker-whitened coordinates and say too much (1.5 and 1.7 times the error, on two sites of
    /// a trained Qwen3 of 20 M parameters): they are scaled by what one sweep leaves of them at the
    /// middle fraction.
    ///
    /// - Parameter spec: The ranks and modes as a specification of the format, from the inner bonds.
    fileprivate static func candidates(
        _ spectra: TensorSpectra, fractions: [Double], modes: TensorModes,
        spec: (TensorModes, [Int]) -> FormatSpec
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        func chain(_ ranks: [Int]) -> CoreChain {
            CoreChain(
                outputModes: modes.outputModes, inputModes: modes.inputModes, bonds: [1] + ranks)
        }
        guard modes.outputModes.count == 3, chain([1, 1]).hasInputCore else {
            let tails = try spectra.bonds(modes)
            let found = fractions.compactMap { fraction -> (ranks: [Int], tails: Double)? in
                let budget = Int(fraction * Double(spectra.outputs * spectra.inputs))
                guard
                    let ranks = try? TensorTrain.spec(
                        fitting: budget, outputModes: modes.outputModes,
                        inputModes: modes.inputModes
                    ).ranks
                else { return nil }
                let sum = zip(tails, ranks).reduce(0) { $0 + $1.0[min($1.1, $1.0.count - 1)] }
                return (ranks, sum)
            }
            guard !found.isEmpty else { return [] }
            let middle = found[found.count / 2]
            let reached = try spectra.squaredError(of: chain(middle.ranks), sweeps: 1)
            let whole = spectra.matrix.squaredError(rank: 0)
            // Where nothing is cut off there is nothing to compare.
            let share = middle.tails > 1e-9 * whole ? reached / middle.tails : 1
            return found.map { (spec(modes, $0.ranks), $0.tails * share) }
        }
        let pair = try spectra.pair(Array(modes.outputModes[..<2]))
        return spectra.best(
            fractions, options: TensorSpectra.grid(modes.outputModes[0]).map { [$0] },
            largest: { min($0[0] * modes.outputModes[1], spectra.inputs) },
            count: { chain($0 + [$1]).gaugedCount },
            bound: { pair.tails[0][$0[0]] + spectra.matrix.squaredError(rank: $1) }
        ).filter { $0.ranks[0] <= modes.outputModes[1] * $0.last }
            .map { (spec(modes, $0.ranks + [$0.last]), $0.squaredError) }
    }
}

extension TensorTrain {
    /// Over the first bond in eighths: the sum of the tails.
    public static func candidates(
        _ spectra: TensorSpectra, fractions: [Double], modes: [TensorModes]
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        try modes.flatMap { choice in
            try CoreChain.candidates(spectra, fractions: fractions, modes: choice) { modes, ranks in
                FormatSpec(
                    format: name, outputModes: modes.outputModes, inputModes: modes.inputModes,
                    ranks: ranks)
            }
        }
    }
}

extension TensorRing {
    /// Those of a train, which is a ring whose closing bond is 1.
    public static func candidates(
        _ spectra: TensorSpectra, fractions: [Double], modes: [TensorModes]
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        try modes.flatMap { choice in
            try CoreChain.candidates(spectra, fractions: fractions, modes: choice) { modes, ranks in
                FormatSpec(
                    format: name, outputModes: modes.outputModes, inputModes: modes.inputModes,
                    ranks: [1] + ranks)
            }
        }
    }
}

extension TensorSpectra {
    /// Candidates of sums whose first rank counts tiles l × m of the HOSVD's core: what the chosen
    /// tiles leave.
    fileprivate func tiles(
        _ fractions: [Double], _ choice: TensorModes, ranks: [Int],
        spec: (Int) throws(FormatError) -> FormatSpec
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        let fibres = try pair(choice.outputModes).fibres
        let energies = KroneckerSum.tiles(fibres, modes: choice.outputModes, ranks: ranks)
            .map(\.energy).sorted(by: >)
        let whole = fibres.reduce(0, +)
        return fractions.compactMap { fraction in
            guard let spec = try? spec(Int(fraction * Double(outputs * inputs))) else { return nil }
            let kept = energies.prefix(spec.ranks[0]).reduce(0, +)
            return (spec, max(whole - kept, 0))
        }
    }
}

extension CP {
    /// What the largest fibres of the HOSVD's core leave.
    public static func candidates(
        _ spectra: TensorSpectra, fractions: [Double], modes: [TensorModes]
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        try modes.flatMap { choice in
            try spectra.tiles(fractions, choice, ranks: [1, 1]) { (budget) throws(FormatError) in
                try spec(
                    fitting: budget, outputModes: choice.outputModes, inputModes: choice.inputModes)
            }
        }
    }
}

extension BlockTerm {
    /// What the fullest tiles of the HOSVD's core leave.
    public static func candidates(
        _ spectra: TensorSpectra, fractions: [Double], modes: [TensorModes]
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        try modes.flatMap { choice in
            let ranks = choice.outputModes.map { min($0, blockRank) }
            return try spectra.tiles(fractions, choice, ranks: ranks) {
                (budget) throws(FormatError) in
                try spec(
                    fitting: budget, outputModes: choice.outputModes, inputModes: choice.inputModes)
            }
        }
    }
}
