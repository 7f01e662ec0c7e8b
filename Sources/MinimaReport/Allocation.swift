import MinimaCore

/// What a plan gives, or a compression gave, to each linear weight.
struct Allocation {
    /// A weight in one format.
    struct Cell {
        /// The module's name.
        var name: String
        /// Its decoder layer; `nil` outside numbered layers.
        var layer: Int?
        /// The name behind the layer's number.
        var role: String
        /// Names behind the layer's number of the linear layers that it stands for.
        var members: [String]
        /// What it is made of, with shares of its area.
        var pieces: [(label: String, share: Double)]
        /// Its format; `dense` where the plan leaves it.
        var label: String
        /// Bytes stored.
        var bytes: Double
        /// Bytes before.
        var denseBytes: Double
        /// Predicted KL(dense ‖ model) from it alone, nats per token.
        var predicted: Double?
        /// ½·tr(ΔᵀHΔC), nats per token.
        var damage: Double?
    }

    /// The plan's or the compressed model's name, and its colour.
    var series: Lineage.Series
    /// The dense model.
    var model: ModelPath
    /// What was asked for.
    var target: String
    /// Place of the dense model's analysis in the report.
    var analysis: Int?
    /// Weights in forward order; those that stay dense only where an analysis lists them.
    var cells: [Cell]
    /// Bytes of dense linear weights that no cell stands for.
    var restBytes: Double
    /// Predicted KL(dense ‖ model) of the whole, nats per token.
    var predicted: Double?

    /// Allocations of all compressions, then of plans that no compression executed.
    static func all(of report: Report) -> [Allocation] {
        var all = report.compressions.indices.map { index -> Allocation in
            let result = report.compressions[index]
            return Allocation(
                series: report.lineage.series(ofCompression: index), plan: result.plan,
                parent: result.parent, hashes: result.parentHashes,
                modules: result.modules.map { module in
                    Source(
                        name: module.name, outputs: module.outputs, inputs: module.inputs,
                        spec: module.spec, bytes: module.bytes,
                        predicted: module.predictedDamage, damage: module.damage)
                },
                before: (result.totals.linearParametersBefore, result.totals.linearBytesBefore),
                report)
        }
        for plan in report.plans where !report.compressions.contains(where: { $0.plan == plan }) {
            let parent = report.lineage.label(ModelPath(plan.model))
            all.append(
                Allocation(
                    series: .init(label: "plan for \(parent), \(plan.target)", color: 0),
                    plan: plan, parent: plan.model, hashes: plan.fingerprints,
                    modules: plan.modules.map { module in
                        Source(
                            name: module.name, outputs: module.outputs, inputs: module.inputs,
                            spec: module.spec, bytes: module.bytes, predicted: module.damage,
                            damage: nil)
                    },
                    before: (plan.linearParametersBefore, plan.linearBytesBefore), report))
        }
        return all.filter { !$0.cells.isEmpty }
    }

    /// What cells are made from.
    private struct Source {
        var name: String
        var outputs: Int
        var inputs: Int
        var spec: FormatSpec
        var bytes: Int
        var predicted: Double?
        var damage: Double?
    }

    private init(
        series: Lineage.Series, plan: CompressionPlan, parent: String, hashes: [String: String],
        modules: [Source], before: (parameters: Int, bytes: Int), _ report: Report
    ) {
        self.series = series
        model = ModelPath(parent)
        target = plan.target
        predicted = plan.damage
        let path = model
        analysis = report.analyses.lastIndex {
            ModelPath($0.model) == path || (!hashes.isEmpty && $0.fingerprints == hashes)
        }
        let width = Figure.quotient(before.bytes, before.parameters) ?? 0
        var unseen = Dictionary(modules.map { (JSON.Name($0.name), $0) }) { first, _ in first }
        func cell(_ source: Source, members: [String]) -> Cell {
            let place = LayerChart.place(source.name)
            let dense = Double(source.outputs) * Double(source.inputs) * width
            return Cell(
                name: source.name, layer: place?.layer, role: place?.submodule ?? source.name,
                members: members.map { LayerChart.place($0)?.submodule ?? $0 },
                pieces: Self.pieces(source.spec), label: source.spec.title,
                bytes: Swift.max(0, Double(source.bytes)), denseBytes: Swift.max(0, dense),
                predicted: source.predicted, damage: source.damage)
        }
        var cells: [Cell] = []
        for site in analysis.map({ report.analyses[$0].sites }) ?? [] {
            let members = site.members.map(\.name)
            if let source = unseen.removeValue(forKey: JSON.Name(site.name)) {
                cells.append(cell(source, members: members.isEmpty ? [site.name] : members))
                continue
            }
            for member in site.members {
                let dense = Double(member.outputs) * Double(site.inputs) * width
                let source =
                    unseen.removeValue(forKey: JSON.Name(member.name))
                    ?? Source(
                        name: member.name, outputs: member.outputs, inputs: site.inputs,
                        spec: FormatSpec(format: "dense"), bytes: Figure.integer(dense))
                var part = cell(source, members: [member.name])
                part.role = LayerChart.place(site.name)?.submodule ?? site.name
                cells.append(part)
            }
        }
        for module in modules where unseen.removeValue(forKey: JSON.Name(module.name)) != nil {
            cells.append(cell(module, members: [module.name]))
        }
        self.cells = cells
        let listed = cells.reduce(0) { $0 + $1.denseBytes }
        restBytes = Swift.max(0, Double(before.bytes) - listed)
    }

    /// Pieces in more numbers than this are not worth drawing one by one.
    private static let mostPieces = 64

    private static func pieces(_ spec: FormatSpec) -> [(label: String, share: Double)] {
        let whole = [(label: spec.title, share: 1.0)]
        guard spec.format == "blocks", (1...mostPieces).contains(spec.parts.count) else {
            return whole
        }
        let rows = spec.outputModes.isEmpty ? [1] : spec.outputModes
        let columns = spec.inputModes.isEmpty ? [1] : spec.inputModes
        let areas = rows.flatMap { row in columns.map { Double(row) * Double($0) } }
        let sum = areas.reduce(0, +)
        guard areas.count == spec.parts.count, areas.allSatisfy({ $0 > 0 }), sum.isFinite else {
            return whole
        }
        return zip(spec.parts, areas).map { ($0.title, $1 / sum) }
    }
}

extension Allocation {
    /// Cells by role, in forward order.
    var roles: [(name: String, cells: [Cell])] {
        var names: [JSON.Name] = []
        var groups: [JSON.Name: [Cell]] = [:]
        for cell in cells {
            let name = JSON.Name(cell.role)
            if groups[name] == nil { names.append(name) }
            groups[name, default: []].append(cell)
        }
        return names.map { ($0.text, groups[$0] ?? []) }
    }

    /// Cells by layer, ascending; without those outside numbered layers.
    var layers: [(layer: Int, cells: [Cell])] {
        var groups: [Int: [Cell]] = [:]
        for cell in cells {
            if let layer = cell.layer { groups[layer, default: []].append(cell) }
        }
        return groups.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// Formats and their modules and bytes, most bytes first.
    static func formats(_ cells: [Cell]) -> [(label: String, count: Int, bytes: Double)] {
        var totals: [JSON.Name: (count: Int, bytes: Double)] = [:]
        for cell in cells {
            let total = totals[JSON.Name(cell.label)] ?? (0, 0)
            totals[JSON.Name(cell.label)] = (total.count + 1, total.bytes + cell.bytes)
        }
        return totals.map { ($0.key.text, $0.value.count, $0.value.bytes) }.sorted {
            $0.2 != $1.2 ? $0.2 > $1.2 : $0.0 < $1.0
        }
    }
}
