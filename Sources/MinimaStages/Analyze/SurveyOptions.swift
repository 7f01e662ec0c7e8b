import MinimaCore

/// Which options a survey lists for each piece of a site.
public struct SurveyOptions: Sendable, Hashable {
    /// Formats that are considered; empty for all that are registered.
    public var formats: [String] = []
    /// Ranks that are listed for each format that has one rank.
    public var ranks = 20
    /// Ranks are multiples of this; `nil` takes ``alignment(side:)``.
    public var alignment: Int?
    /// Shares of a piece's parameters that tensor formats are fitted to.
    public var fractions = [0.35, 0.5, 0.6, 0.7, 0.8, 0.9]
    /// Smaller side of a piece that formats other than low ranks and dense codes are listed for, at
    /// most: they need eigenvectors, not only eigenvalues.
    public var largestDecomposed = 2048
    /// Bits of dense codes.
    public var bits = [2, 3, 4, 5, 6, 8]
    /// Neighbours that share a scale.
    public var groups = [64, 128]
    /// Bits of quantised cores.
    public var coreBits = [4, 8]
    /// Ranks that are listed with quantised cores.
    public var coreRanks = 6
    /// Ranks of low-rank parts beside a quantised residual.
    public var addedRanks = [16]
    /// Shares of the entries that stay exact beside quantised ones.
    public var outliers = [0.005]
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

    /// Multiples that ranks of a piece with this smaller side are taken from: 8 below 1024, 16 below
    /// 4096, then 64; what kernels like, at no more than 2% of the side.
    static func alignment(side: Int) -> Int {
        side < 1024 ? 8 : side < 4096 ? 16 : 64
    }

    func considers(_ format: String) -> Bool { formats.isEmpty || formats.contains(format) }

    /// About `count` ranks of 1…`limit`, multiples of the alignment where those exist, evenly spread.
    func ranks(_ count: Int, upTo limit: Int, side: Int) -> [Int] {
        guard limit >= 1 else { return [] }
        let unit = min(alignment ?? Self.alignment(side: side), limit)
        let multiples = limit / unit
        let taken = (1...max(count, 1)).map { index in
            unit * max((index * multiples + count / 2) / max(count, 1), 1)
        }
        return Array(Set(taken)).sorted()
    }
}
