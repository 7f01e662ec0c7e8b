import MinimaCore

extension Allocation {
    /// One cell for all that stand for the same linear layers, such as a layer's experts.
    static func merged(_ cells: [Cell]) -> [Cell] {
        var keys: [[JSON.Name]] = []
        var groups: [[JSON.Name]: [Cell]] = [:]
        for cell in cells {
            let key = cell.members.map { JSON.Name($0) }
            if groups[key] == nil { keys.append(key) }
            groups[key, default: []].append(cell)
        }
        return keys.compactMap { key in
            guard let group = groups[key], var merged = group.first else { return nil }
            guard group.count > 1 else { return merged }
            let formats = formats(group)
            merged.name = "\(group.count) modules like \(merged.name)"
            merged.pieces = formats.map {
                ($0.label, Double($0.count) / Double(group.count))
            }
            merged.label = formats.map { "\($0.count) \($0.label)" }.joined(separator: ", ")
            merged.bytes = group.reduce(0) { $0 + $1.bytes }
            merged.denseBytes = group.reduce(0) { $0 + $1.denseBytes }
            merged.predicted = Figure.sum(group.map(\.predicted))
            return merged
        }
    }

    /// Formats of the pieces that cells consist of.
    struct Share {
        var label: String
        /// Pieces.
        var count: Int
        /// Bytes stored.
        var bytes: Double
        /// Whether some of it is a part of a weight's bytes, divided by area: a result says only
        /// what the whole weight takes.
        var isEstimated: Bool
    }

    /// Pieces and bytes by format, most bytes first.
    static func shares(_ cells: [Cell]) -> [Share] {
        var shares: [JSON.Name: Share] = [:]
        for cell in cells {
            for piece in cell.pieces {
                let name = JSON.Name(piece.label)
                var share =
                    shares[name]
                    ?? Share(label: piece.label, count: 0, bytes: 0, isEstimated: false)
                share.count += 1
                share.bytes += cell.bytes * piece.share
                if cell.pieces.contains(where: { JSON.Name($0.label) != name }) {
                    share.isEstimated = true
                }
                shares[name] = share
            }
        }
        return shares.values.sorted {
            $0.bytes != $1.bytes ? $0.bytes > $1.bytes : $0.label < $1.label
        }
    }
}

/// Colours of formats, the same throughout a page.
struct FormatColors {
    /// Formats with colours of their own, in their order.
    let labels: [String]
    private let classes: [JSON.Name: String]

    /// The six formats with the most bytes get a colour; `dense` is grey, the others share one.
    init(_ allocations: [Allocation]) {
        let formats = Allocation.shares(allocations.flatMap(\.cells)).map(\.label)
        let colored = formats.filter { $0 != "dense" }.prefix(6)
        labels = formats.filter { $0 == "dense" || colored.contains($0) }
        var classes = [JSON.Name("dense"): "s0"]
        for (index, label) in colored.enumerated() { classes[JSON.Name(label)] = "s\(index + 1)" }
        self.classes = classes
        hasOthers = formats.count > labels.count
    }

    /// Whether some formats share the last colour.
    let hasOthers: Bool

    /// The class that sets a format's colour.
    func colorClass(_ label: String) -> String {
        classes[JSON.Name(label)] ?? "s7"
    }
}
