import MinimaCore

/// Predicted sensitivities by layer and patch: rows are layers, columns the patches of each role.
struct SensitivityMap {
    /// One patch, or the mean over experts.
    struct Cell {
        /// Mean sensitivity; `nil` when none is finite.
        var sensitivity: Double?
        /// Mean standard deviation of the prediction.
        var uncertainty: Double?
        /// Patches behind it.
        var count: Int
        /// The first of them.
        var patch: PatchAnalysis
    }

    /// The patches of one role (`mlp.gate_proj`).
    struct Role {
        var name: String
        /// Numbers of its patches, ascending.
        var patches: [Int]

        /// `gate` of `mlp.gate_proj`.
        var short: String {
            let last = name.unicodeScalars.split(separator: ".").last.map(String.init) ?? name
            return last.hasSuffix("_proj") ? String(last.dropLast(5)) : last
        }
    }

    /// Layers, ascending.
    let layers: [Int]
    /// Roles in forward order.
    let roles: [Role]
    private let cells: [Place: Cell]

    private struct Place: Hashable {
        var layer: Int
        var role: JSON.Name
        var patch: Int
    }

    /// More cells than this are not drawn: no screen shows them.
    static let mostCells = 20_000

    init(_ analysis: Analysis) {
        var names: [JSON.Name] = []
        var patches: [JSON.Name: Set<Int>] = [:]
        var groups: [Place: [PatchAnalysis]] = [:]
        for site in analysis.sites {
            for patch in site.patches {
                let role = JSON.Name(LayerChart.place(patch.module)?.submodule ?? patch.module)
                if patches[role] == nil { names.append(role) }
                patches[role, default: []].insert(patch.index)
                let place = Place(layer: site.layer, role: role, patch: patch.index)
                groups[place, default: []].append(patch)
            }
        }
        layers = Set(groups.keys.map(\.layer)).sorted()
        roles = names.map { Role(name: $0.text, patches: (patches[$0] ?? []).sorted()) }
        cells = groups.compactMapValues { group in
            guard let first = group.first else { return nil }
            return Cell(
                sensitivity: Figure.mean(group.map(\.sensitivity)),
                uncertainty: Figure.mean(group.map(\.uncertainty)), count: group.count,
                patch: first)
        }
    }

    /// Columns of all roles.
    var columns: Int { roles.reduce(0) { $0 + $1.patches.count } }

    /// Whether there is something to draw that a screen can show.
    var isDrawable: Bool {
        let (count, overflows) = columns.multipliedReportingOverflow(by: layers.count)
        return !overflows && (1...Self.mostCells).contains(count)
    }

    /// The cell of a patch.
    func cell(layer: Int, role: Role, patch: Int) -> Cell? {
        cells[Place(layer: layer, role: JSON.Name(role.name), patch: patch)]
    }

    /// Every cell of a role.
    func cells(of role: Role) -> [Cell] {
        layers.flatMap { layer in
            role.patches.compactMap { cell(layer: layer, role: role, patch: $0) }
        }
    }
}

/// Rows of the maps: as high as the number of layers allows, so that maps of one model stand beside
/// each other line by line.
struct MapRows {
    /// Above the first row, for the columns' names.
    static let top = 20
    /// Left of the first column, for the layers' numbers.
    static let left = 34
    /// Layers from top to bottom.
    let layers: [Int]
    /// Height of a row.
    let height: Int

    init(_ layers: [Int]) {
        self.layers = layers
        height = Swift.min(Swift.max(560 / Swift.max(layers.count, 1), 9), 20)
    }

    /// Height of the map.
    var total: Int { Self.top + height * layers.count + 4 }

    /// Where a row begins.
    func y(_ index: Int) -> Int { Self.top + height * index }

    /// Rows whose layer is written: all, or every fourth where they are many.
    var labelled: [(index: Int, layer: Int)] {
        let step = layers.count > 32 ? 4 : 1
        return layers.enumerated().filter { index, _ in
            index % step == 0 || index == layers.count - 1 && index % step > 1
        }.map { ($0.offset, $0.element) }
    }
}
