import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Lists what could be done with a site: the ways to cut its stacked weight, and for every piece the
/// formats it could take, with exact sizes and the closed form of the damage, ½·tr(Δᵀ·H·Δ·C).
public struct Survey {
    /// Which options are listed.
    public let options: SurveyOptions
    /// The type that the model is stored in.
    public let dtype: DType
    /// Whether patches are planned on their own.
    private let cutsPatches: Bool

    /// A rectangle of a stacked weight with all that its options are judged by.
    struct Piece {
        /// W of the piece, in its stored type.
        let weight: Tensor
        let metric: Metric
        let spectrum: WeightedSpectrum
        /// The decomposition behind the spectrum; `nil` for pieces that only the spectrum is
        /// computed of.
        let svd: WhitenedSVD?
        /// Rows that belong together.
        let unit: Int
        /// Share of the usual number of options.
        let share: Double
        var outputs: Int { weight.shape[0] }
        var inputs: Int { weight.shape[1] }
    }

    /// A survey of a model of `sites` stored in `dtype`.
    public init(_ options: SurveyOptions, dtype: DType, sites: [Site]) {
        self.options = options
        self.dtype = dtype
        let patches = sites.flatMap(\.members).reduce(0) { $0 + $1.patches.count }
        cutsPatches = patches * Self.optionsPerPatch <= options.patchOptions
    }

    /// About how many options ``list(_:)`` finds for a patch.
    private static let optionsPerPatch = 30

    /// The ways to cut `site`, options measured, damage taken from the closed form.
    ///
    /// A site of one member is not cut into members, one whose patches are its members not into
    /// patches.
    ///
    /// - Parameters:
    ///   - weight: The stacked weight `[outputs, inputs]`.
    ///   - metric: Of the stacked weight.
    public func cuts(_ site: Site, weight: Tensor, metric: Metric) throws -> [SiteAnalysis.Cut] {
        let columns = 0..<site.inputs
        var ways = [("stacked", [(rows: 0..<site.outputs, columns: columns)])]
        if site.members.count > 1 {
            ways.append(("members", site.rows.map { (rows: $0, columns: columns) }))
        }
        let patches = Self.patches(site)
        let sides = patches.map { min($0.rows.count, $0.columns.count) }
        if cutsPatches, patches.count > site.members.count,
            (sides.min() ?? 0) >= options.smallestPatch, (sides.max() ?? 0) <= options.largestPatch
        {
            ways.append(("patches", patches))
        }
        return try withoutGradients {
            try ways.filter { options.cuts.isEmpty || options.cuts.contains($0.0) }.map { way in
                let share = way.0 == "patches" ? 0.4 : 1
                let unit = patches.first { $0.columns == columns }?.rows.count ?? 0
                return SiteAnalysis.Cut(
                    kind: way.0,
                    pieces: try way.1.map { rows, columns in
                        let metric = try metric.narrow(rows: rows, columns: columns)
                        let part = try weight.narrow(0, rows).narrow(1, columns)
                        let piece = try piece(part, metric, unit: unit, share: share)
                        return SiteAnalysis.Piece(
                            row: rows.lowerBound, rows: rows.count, column: columns.lowerBound,
                            columns: columns.count, options: try list(piece))
                    })
            }
        }
    }

    /// The rectangles of all patches of `site` in its stacked weight.
    static func patches(_ site: Site) -> [(rows: Range<Int>, columns: Range<Int>)] {
        zip(site.members, site.rows).flatMap { member, rows in
            member.patches.ranges(outputs: member.outputs, inputs: member.inputs).map {
                (
                    rows: rows.lowerBound + $0.rows.lowerBound..<rows.lowerBound
                        + $0.rows.upperBound,
                    columns: $0.columns
                )
            }
        }
    }

    private func piece(_ weight: Tensor, _ metric: Metric, unit: Int, share: Double) throws -> Piece
    {
        let side = min(weight.shape[0], weight.shape[1])
        let svd =
            side <= options.largestDecomposed && share == 1
            ? try WhitenedSVD(weight, metric: metric) : nil
        let spectrum =
            try svd.map { WeightedSpectrum(values: $0.eigenvalues) }
            ?? WeightedSpectrum(weight, metric: metric)
        return Piece(
            weight: weight, metric: metric, spectrum: spectrum, svd: svd, unit: unit, share: share)
    }

    private func list(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        let dense = try option(FormatSpec(format: Dense.name), of: piece, error: 0)
        var found: [SiteAnalysis.Option] = []
        found += try oneRank(piece)
        found += try tensors(piece)
        found += try quantised(piece)
        return [dense] + Self.undominated(found.filter { $0.bytes < dense.bytes })
    }

    /// An option with its exact size, numbers rounded as files keep them.
    func option(_ spec: FormatSpec, of piece: Piece, error: Double) throws -> SiteAnalysis.Option {
        let format = try FormatRegistry.format(spec.format)
        let error = significant(max(error, 0))
        return SiteAnalysis.Option(
            spec: spec,
            parameters: try format.parameterCount(
                spec, outputs: piece.outputs, inputs: piece.inputs),
            bytes: try format.byteCount(
                spec, outputs: piece.outputs, inputs: piece.inputs, dtype: dtype),
            error: error, damage: error)
    }

    /// Formats that hold any matrix of one rank: the spectrum says what each rank costs.
    private func oneRank(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        let (m, n) = (piece.outputs, piece.inputs)
        return try Self.oneRankFormats(options).flatMap { format in
            // Below full rank, and below the dense size.
            let ranks =
                format == LowRank.name
                ? options.ranks(rankCount(piece), upTo: (m * n - 1) / (m + n), side: min(m, n))
                : interpolativeRanks(piece)
            return try ranks.map { rank in
                try option(
                    FormatSpec(format: format, ranks: [rank]), of: piece,
                    error: 0.5 * piece.spectrum.tail(rank))
            }
        }
    }

    /// Ranks that are listed where any below the full one can be stored.
    func interpolativeRanks(_ piece: Piece) -> [Int] {
        options.interpolativeRanks(
            rankCount(piece), outputs: piece.outputs, inputs: piece.inputs)
    }

    private func rankCount(_ piece: Piece) -> Int {
        max(Int(Double(options.ranks) * piece.share), 4)
    }

    /// Names of the formats that are one rank and hold any matrix of it.
    static func oneRankFormats(_ options: SurveyOptions) -> [String] {
        [LowRank.name, Interpolative.name].filter(options.considers)
    }

    /// What no other option of the same format beats or equals in parameters, bytes and error.
    static func undominated(_ options: [SiteAnalysis.Option]) -> [SiteAnalysis.Option] {
        let byFormat = Dictionary(grouping: options.indices) { options[$0].spec.signature }
        let kept = byFormat.values.flatMap { group -> [Int] in
            group.filter { index in
                let option = options[index]
                return !group.contains { other in
                    let rival = options[other]
                    guard other != index, rival.bytes <= option.bytes,
                        rival.parameters <= option.parameters, rival.error <= option.error
                    else { return false }
                    let isEqual =
                        rival.bytes == option.bytes && rival.parameters == option.parameters
                        && rival.error == option.error
                    return !isEqual || other < index
                }
            }
        }
        return kept.sorted().map { options[$0] }
    }
}

extension FormatSpec {
    /// The formats in it without their sizes: `sum(lowrank+quantized)`.
    var signature: String {
        parts.isEmpty ? format : "\(format)(\(parts.map(\.signature).joined(separator: "+")))"
    }
}

extension Metric {
    /// The metric of a rectangle whose rows and columns are these, when all else is exact.
    func narrow(rows: Range<Int>, columns: Range<Int>) throws(TensorError) -> Metric {
        let output = try output.map { output throws(TensorError) in try output.narrow(rows) }
        return try Metric(
            input: input.narrow(0, columns).narrow(1, columns), output: output)
    }
}
