import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Which patches are replaced by what, so that their true damage can be measured.
///
/// The design depends on the sites and a seed only, not on the weights. It is a Latin hypercube per
/// role (McKay, Beckman & Conover 1979): the probes of a role, such as `q_proj`, are spread evenly
/// over layers, formats and degrees of compression, paired at random.
public struct ProbeDesign: Sendable, Hashable {
    /// A patch and what becomes of it.
    public struct Entry: Sendable, Hashable, Codable {
        /// The site's name.
        public var site: String
        /// Its decoder layer.
        public var layer: Int
        /// Number of the patch among the site's patches.
        public var patch: Int
        /// First row in the stacked weight.
        public var row: Int
        /// Rows.
        public var rows: Int
        /// First column.
        public var column: Int
        /// Columns.
        public var columns: Int
        /// What replaces it.
        public var spec: FormatSpec

        var rowRange: Range<Int> { row..<row + rows }
        var columnRange: Range<Int> { column..<column + columns }
    }

    /// What is replaced, layer by layer in no particular order.
    public let entries: [Entry]

    /// Shares of a patch's parameters that formats with ranks keep.
    static let fractions = [0.25, 0.4, 0.5, 0.65, 0.8, 0.9]
    /// Numbers of a patch above which only low ranks and dense codes are probed.
    static let largestDecomposed = 1 << 21
    /// Formats that are probed where they are registered.
    static let formats = ["lowrank", "tucker", "tt", "tr", "quantized"]
    /// Bits of dense codes; with more, the damage drowns in rounding errors of the forward pass.
    static let bits = [2, 3, 4]

    /// A design of about `count` probes.
    ///
    /// - Parameter formats: Formats to draw from; empty for all of ``formats``.
    public init(
        _ sites: [Site], count: Int, seed: UInt64, formats: [String] = []
    ) throws {
        let places = sites.flatMap { site in
            zip(Survey.patches(site), Self.roles(site)).enumerated().map { index, patch in
                Place(
                    site: site, index: index, role: patch.1, rows: patch.0.rows,
                    columns: patch.0.columns)
            }
        }
        let byRole = Dictionary(grouping: places, by: \.role)
        var random = SplitMix(seed)
        var entries: [Entry] = []
        for (number, role) in byRole.keys.sorted().enumerated() {
            guard let all = byRole[role] else { continue }
            let share = count * (number + 1) / byRole.count - count * number / byRole.count
            let layers = random.shuffled(share)
            let kinds = random.shuffled(share)
            let levels = random.shuffled(share)
            for index in 0..<share {
                let place = all[(2 * layers[index] + 1) * all.count / (2 * share)]
                let spec = Self.spec(
                    place, kind: kinds[index], level: Double(levels[index]) / Double(share),
                    formats: formats)
                guard let spec else { continue }
                entries.append(
                    Entry(
                        site: place.site.name, layer: place.site.layer, patch: place.index,
                        row: place.rows.lowerBound, rows: place.rows.count,
                        column: place.columns.lowerBound, columns: place.columns.count, spec: spec))
            }
        }
        self.entries = entries
    }

    /// What each layer's visit has to replace.
    public func entries(layer: Int) -> [Entry] { entries.filter { $0.layer == layer } }

    private struct Place {
        var site: Site
        var index: Int
        var role: String
        var rows: Range<Int>
        var columns: Range<Int>
    }

    /// The role of every patch of a site.
    private static func roles(_ site: Site) -> [String] {
        site.members.flatMap { Array(repeating: $0.role, count: $0.patches.count) }
    }

    /// The specification number `kind` of those that suit the patch, at `level` 0..<1 of the degrees.
    private static func spec(_ place: Place, kind: Int, level: Double, formats allowed: [String])
        -> FormatSpec?
    {
        let (m, n) = (place.rows.count, place.columns.count)
        // A low rank stands for every format of which nothing is probed: their errors are alike.
        let asked = formats.filter { allowed.isEmpty || allowed.contains($0) }
        let names = (asked.isEmpty ? [LowRank.name] : asked).filter { name in
            FormatRegistry.all.contains { $0.name == name }
                && (["lowrank", "quantized"].contains(name) || m * n <= largestDecomposed)
        }
        let fraction = fractions[Int(level * Double(fractions.count))]
        for offset in names.indices {
            let name = names[(kind + offset) % names.count]
            if name == Quantized.name {
                return FormatSpec(
                    format: name, bits: bits[Int(level * Double(bits.count))],
                    groupSize: min(64, n), parts: [FormatSpec(format: Dense.name)])
            }
            let format = FormatRegistry.all.first { $0.name == name }
            let spec = try? (format as? any BudgetedFormat.Type)?.spec(
                fitting: Int(fraction * Double(m * n)), outputs: m, inputs: n)
            if let spec { return spec }
        }
        return nil
    }
}

extension SplitMix {
    /// 0..<count in random order.
    mutating func shuffled(_ count: Int) -> [Int] { Array(0..<count).shuffled(using: &self) }
}
