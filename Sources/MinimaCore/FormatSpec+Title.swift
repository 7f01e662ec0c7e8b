extension FormatSpec {
    /// A short name for tables and charts: `interpolative`, `int4`, `int8 tt`, `lowrank + sparse`,
    /// `blocks of tt, tucker`.
    public var title: String {
        title(depth: 1)
    }

    private func title(depth: Int) -> String {
        guard depth <= Self.deepest else { return "…" }
        let inner = parts.map { $0.title(depth: depth + 1) }
        switch format {
        case "quantized":
            let bits = "int\(bits.map(String.init) ?? "")"
            return ([bits] + inner.filter { $0 != "dense" }).joined(separator: " ")
        case "sum": return inner.joined(separator: " + ")
        case "blocks":
            var kinds: [String] = []
            for title in inner where !kinds.contains(title) { kinds.append(title) }
            return "blocks of " + kinds.joined(separator: ", ")
        default: return format
        }
    }
}
