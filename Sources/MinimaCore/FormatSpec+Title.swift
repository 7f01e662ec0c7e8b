extension FormatSpec {
    /// A short name for tables and charts: `interpolative`, `int4`, `int4u` (equally spaced
    /// levels), `fp8`, `int8 tt`, `lowrank + sparse`, `blocks of tt, tucker`.
    public var title: String {
        title(depth: 1)
    }

    private func title(depth: Int) -> String {
        guard depth <= Self.deepest else { return "…" }
        let inner = parts.map { $0.title(depth: depth + 1) }
        switch format {
        case "quantized":
            let kind = levels == .float8 ? "fp" : "int"
            let spacing = levels == .uniform ? "u" : ""
            let codes = "\(kind)\(bits.map(String.init) ?? "")\(spacing)"
            return ([codes] + inner.filter { $0 != "dense" }).joined(separator: " ")
        case "sum": return inner.joined(separator: " + ")
        case "blocks":
            var kinds: [String] = []
            for title in inner where !kinds.contains(title) { kinds.append(title) }
            return "blocks of " + kinds.joined(separator: ", ")
        default: return isLowRank ? "\(format) \(Self.lowRankMark)" : format
        }
    }

    /// What a title says of a tensor format that holds a low rank.
    public static let lowRankMark = "as a low rank"

    /// Whether this tensor network keeps its output modes whole and its input in one piece: every
    /// matrix of its last rank has this form, so it is a low rank under another name.
    public var isLowRank: Bool {
        switch format {
        case "tucker": outputModes.count == 2 && Array(ranks.prefix(2)) == outputModes
        case "tt": isWhole(ranks)
        case "tr": ranks.first == 1 && isWhole(Array(ranks.dropFirst()))
        default: false
        }
    }

    /// Whether all `bonds` but the last are as large as the outputs before them.
    private func isWhole(_ bonds: [Int]) -> Bool {
        guard outputModes.count == bonds.count + 1, outputModes.last == 1,
            inputModes.dropLast().allSatisfy({ $0 == 1 })
        else { return false }
        var outputs = 1
        for (bond, mode) in zip(bonds.dropLast(), outputModes) {
            let (product, overflows) = outputs.multipliedReportingOverflow(by: mode)
            guard !overflows, bond == product else { return false }
            outputs = product
        }
        return true
    }
}
