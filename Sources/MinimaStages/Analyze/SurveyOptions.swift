import MinimaCore

/// Which options a survey lists for each piece of a site.
public struct SurveyOptions: Sendable, Hashable {
    /// Formats that are considered; empty for all that are registered but CP and block terms, which
    /// lose to the others at every size (ref-qwen3-20m) and are there to compare with.
    public var formats: [String] = []
    /// Ranks that are listed for each format that has one rank.
    public var ranks = 24
    /// Ranks are multiples of this; `nil` takes ``alignment(side:)``.
    public var alignment: Int?
    /// Shares of a piece's parameters that tensor formats with truncated modes are fitted to.
    public var fractions = [0.35, 0.5, 0.65, 0.8, 0.9]
    /// Splits into modes that are truncated, at most.
    public var modes = 2
    /// Shares of a piece's parameters that trains over a split input are fitted to.
    public var splitFractions = [0.5, 0.75]
    /// Outputs of a piece that those are listed for, at most, and no more than its inputs: a sweep
    /// fits one of them, and it is with a long input that they win (down_proj of ref-qwen3-20m).
    public var largestSplit = 512
    /// Smaller side of a piece that formats other than low ranks and dense codes are listed for, at
    /// most: they need eigenvectors, not only eigenvalues.
    public var largestDecomposed = 2048
    /// Bits of dense codes.
    public var bits = [2, 3, 4, 5, 6, 8]
    /// Neighbours that share a scale.
    public var groups = [32, 64, 128]
    /// How the levels of codes are spaced, where codes of so many bits can be
    /// (`Levels.fitting(bits:)`).
    public var levels = FormatSpec.Levels.normal
    /// Bits of quantised cores.
    public var coreBits = [4, 8]
    /// Ranks that are listed with quantised cores.
    public var coreRanks = 2
    /// Ranks of low-rank parts beside a quantised residual: none, since at equal bytes smaller
    /// groups leave less error (ref-qwen3-20m, 3 and 4 bits).
    public var addedRanks: [Int] = []
    /// Shares of the entries that stay exact beside quantised ones; none, as for ``addedRanks``.
    public var outliers: [Double] = []
    /// Ways to cut; empty for all.
    public var cuts: [String] = []
    /// Options of a model's cut into patches, at most; that cut is left out where there would be
    /// more, and for patches of a smaller side than ``smallestPatch``.
    public var patchOptions = 24_000
    /// Smaller side of a patch that is planned on its own, at least.
    public var smallestPatch = 32
    /// Smaller side of a patch that is planned on its own, at most: its spectrum costs O(side³).
    public var largestPatch = 1536

    /// The defaults.
    public init() {}

    /// Multiples that ranks of a piece with this smaller side are taken from: 4 below 512, 8 below
    /// 4096, then 16. Multiples of 8 of 384 cost a plan 0.1% of perplexity (ref-qwen3-20m).
    static func alignment(side: Int) -> Int {
        side < 512 ? 4 : side < 4096 ? 8 : 16
    }

    func considers(_ format: String) -> Bool { formats.isEmpty || formats.contains(format) }

    /// About `count` ranks of 1…`limit`, multiples of the alignment where those exist, evenly
    /// spread.
    func ranks(_ count: Int, upTo limit: Int, side: Int) -> [Int] {
        let shares = (1...max(count, 1)).map { Double($0) / Double(max(count, 1)) }
        return aligned(shares.map { $0 * Double(limit) }, upTo: limit, side: side)
    }

    /// About `count` ranks r of a matrix below full rank, evenly spread in the r·(outputs + inputs
    /// − r) numbers that interpolative storage takes.
    func interpolativeRanks(_ count: Int, outputs: Int, inputs: Int) -> [Int] {
        let side = min(outputs, inputs)
        let (sum, product) = (Double(outputs + inputs), Double(outputs) * Double(inputs))
        let ranks = (1...max(count, 1)).map { index in
            let numbers = product * Double(index) / Double(max(count, 1))
            return (sum - max(sum * sum - 4 * numbers, 0).squareRoot()) / 2
        }
        return aligned(ranks, upTo: side - 1, side: side)
    }

    private func aligned(_ ranks: [Double], upTo limit: Int, side: Int) -> [Int] {
        guard limit >= 1 else { return [] }
        let unit = min(alignment ?? Self.alignment(side: side), limit)
        let taken = ranks.map { rank in
            unit * min(max(Int((rank / Double(unit)).rounded()), 1), limit / unit)
        }
        return Array(Set(taken)).sorted()
    }
}
