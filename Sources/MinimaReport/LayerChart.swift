import Glibc
import MinimaCore

/// Output errors of one submodule (`mlp.up_proj`) over the layers, a line per compression.
struct LayerChart {
    /// One compression's errors.
    struct Line {
        var series: Lineage.Series
        /// By ascending layer; only finite errors.
        var points: [(layer: Int, error: Double)]
    }

    /// The name behind the layer's number, other numbers replaced by `*`.
    var submodule: String
    /// The lines, none empty.
    var lines: [Line]

    /// First to last layer of all lines.
    var layers: ClosedRange<Int> {
        let layers = lines.flatMap { $0.points.map(\.layer) }
        return (layers.min() ?? 0)...(layers.max() ?? 0)
    }

    /// The largest error.
    var highest: Double {
        lines.flatMap { $0.points.map(\.error) }.max() ?? 0
    }

    /// Charts in the order in which submodules first appear; modules outside numbered layers are
    /// left to the table.
    static func all(
        _ compressions: [(series: Lineage.Series, modules: [CompressionResult.Module])]
    ) -> [LayerChart] {
        struct Place: Hashable {
            var submodule: JSON.Name
            var compression: Int
        }
        var submodules: [JSON.Name] = []
        var errors: [Place: [Int: [Double]]] = [:]
        for (index, compression) in compressions.enumerated() {
            for module in compression.modules {
                guard let (layer, name) = place(module.name), module.outputError.isFinite,
                    module.outputError >= 0
                else { continue }
                let submodule = JSON.Name(name)
                if !submodules.contains(submodule) { submodules.append(submodule) }
                let place = Place(submodule: submodule, compression: index)
                errors[place, default: [:]][layer, default: []].append(module.outputError)
            }
        }
        return submodules.map { submodule in
            let lines = compressions.indices.compactMap { index -> Line? in
                let place = Place(submodule: submodule, compression: index)
                guard let layers = errors[place] else { return nil }
                let points = layers.sorted { $0.key < $1.key }.map { layer, values in
                    (layer, values.reduce(0) { $0 + $1 / Double(values.count) })
                }
                return Line(series: compressions[index].series, points: points)
            }
            return LayerChart(submodule: submodule.text, lines: lines)
        }
    }

    /// `model.layers.12.mlp.experts.3.up_proj` is layer 12 of `mlp.experts.*.up_proj`.
    static func place(_ module: String) -> (layer: Int, submodule: String)? {
        let parts = module.unicodeScalars.split(separator: ".").map(String.init)
        guard let index = parts.firstIndex(where: { Int($0) != nil }),
            let layer = Int(parts[index]), (0...1_000_000).contains(layer),
            index + 1 < parts.count
        else { return nil }
        let rest = parts[(index + 1)...].map { Int($0) == nil ? $0 : "*" }
        return (layer, rest.joined(separator: "."))
    }
}

/// A linear axis from 0 to a round number.
struct Axis {
    /// The last tick.
    let end: Double
    /// Round numbers from 0 to `end`.
    let ticks: [Double]

    init(upTo highest: Double) {
        guard highest > 1e-290, highest < 1e290 else {
            // All errors are 0, or beyond drawing.
            end = highest > 1 ? highest : 1
            ticks = [0, end]
            return
        }
        let power = pow(10, log10(highest).rounded(.down))
        let step = [0.1, 0.2, 0.5, 1, 2, 5].map { $0 * power }.first { $0 * 4 >= highest }
        let tick = step ?? 5 * power
        let count = Swift.max(1, Int((highest / tick - 1e-9).rounded(.up)))
        end = Double(count) * tick
        ticks = (0...count).map { Double($0) * tick }
    }
}
