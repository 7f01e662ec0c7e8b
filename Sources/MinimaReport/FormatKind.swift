import MinimaCore

/// On which side of the question "do tensor networks beat their rivals?" a set of formats stands.
enum FormatKind: Hashable {
    /// Nothing but dense weights.
    case dense
    /// Tensor networks only, their cores quantised or not, that are more than a low rank.
    case tensorNetwork
    /// Matrix factors and quantised weights only.
    case rival
    /// Both, or formats whose inside is not known.
    case mixture

    private static let networks: Set = ["tucker", "tt", "tr", "cp", "blockterm"]
    /// Composites that do not say what they are made of.
    private static let opaque: Set = ["quantized", "sum", "blocks"]

    /// What these names, as ``FormatSpec/title`` writes them, have in common.
    init(labels: some Sequence<String>) {
        var kinds: Set<FormatKind> = []
        for label in labels { kinds.formUnion(Self.kinds(of: label)) }
        kinds.remove(.dense)
        self = kinds.count > 1 ? .mixture : kinds.first ?? .dense
    }

    private static func kinds(of label: String) -> [FormatKind] {
        let text = label.hasPrefix("blocks of ") ? String(label.dropFirst(10)) : label
        return text.split { $0 == "," || $0 == "+" }.map { piece in
            let words = piece.split(separator: " ").map(String.init)
            if words == ["dense"] { return .dense }
            if piece.contains(FormatSpec.lowRankMark) { return .rival }
            if words.count == 1, opaque.contains(words[0]) { return .mixture }
            return words.contains { networks.contains($0) } ? .tensorNetwork : .rival
        }
    }
}
