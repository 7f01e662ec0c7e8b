import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels

/// A module that is compressed: rows of one site's stacked weight, and the format they take.
struct PlannedModule {
    /// The plan's entry.
    let entry: CompressionPlan.Module
    let format: any LinearWeight.Type
    /// Linear layers that it replaces.
    let members: [LinearShape]
    /// Where it lies in the site's stacked weight.
    let rows: Range<Int>
    /// What is stored for it.
    let tensors: [TensorDescription]
    /// The type of the weight that it replaces.
    let dtype: DType
}

/// A site with modules that are compressed.
struct PlannedSite {
    let site: Site
    /// In the order of the stacked weight; members without one stay dense.
    let modules: [PlannedModule]
}

/// A plan laid over the model that it is for: what is compressed layer by layer, and every tensor
/// of the output.
struct PlannedModel {
    let stored: StoredModel
    /// Sites of each decoder layer with modules to compress, in forward order.
    let layers: [[PlannedSite]]
    /// The output projection, where it is compressed.
    let head: PlannedSite?
    /// Tensors of the output: of each decoder layer, then the rest.
    let parts: [[TensorDescription]]

    /// Checks a plan against the model.
    ///
    /// - Throws: `CompressionError` for modules that the model does not have, modules that
    ///   overlap, other shapes and specifications that do not suit them.
    init(_ plan: CompressionPlan, _ source: any WeightSource) throws {
        let stored = try StoredModel(source)
        self.stored = stored
        var entries = try Self.entries(plan)
        var layers = Array(repeating: [PlannedSite](), count: stored.layers)
        for site in stored.sites {
            var modules: [PlannedModule] = []
            let whole = entries.removeValue(forKey: JSON.Name(site.name))
            if let whole {
                modules.append(
                    try Self.module(whole, site.members, rows: 0..<site.outputs, stored))
            }
            for (member, rows) in zip(site.members, site.rows) {
                guard let entry = entries.removeValue(forKey: JSON.Name(member.name)) else {
                    continue
                }
                if let whole { throw CompressionError.plannedTwice(entry.name, and: whole.name) }
                modules.append(try Self.module(entry, [member], rows: rows, stored))
            }
            let compressed = modules.filter { $0.entry.spec.format != Dense.name }
            if !compressed.isEmpty {
                layers[site.layer].append(PlannedSite(site: site, modules: compressed))
            }
        }
        head = try entries.removeValue(forKey: JSON.Name(LinearShape.headName)).flatMap {
            try Self.head($0, stored)
        }
        if let unknown = entries.keys.min() {
            let names = stored.sites.prefix(4).flatMap { [$0.name] + $0.members.map(\.name) }
            throw CompressionError.unknownModule(
                unknown.text, examples: Array(names.prefix(4)))
        }
        let ends = head.map { [$0] } ?? []
        guard (layers + [ends]).contains(where: { !$0.isEmpty }) else {
            throw CompressionError.nothingToDo
        }
        self.layers = layers
        var parts = zip(stored.parts, layers + [ends]).map(Self.output)
        // A tied model's embedding stays where it is, beside the output projection.
        if !stored.storesHead {
            parts[stored.layers] += ends.flatMap(\.modules).flatMap(\.tensors)
        }
        self.parts = parts
    }

    /// All sites with modules to compress, in forward order.
    var sites: [PlannedSite] { layers.flatMap(\.self) + (head.map { [$0] } ?? []) }

    /// All modules in forward order.
    var modules: [PlannedModule] { sites.flatMap(\.modules) }

    /// The output projection as `entry` says; `nil` where it stays dense.
    private static func head(_ entry: CompressionPlan.Module, _ stored: StoredModel) throws
        -> PlannedSite?
    {
        let site = try stored.source.config.headSite()
        let module = try module(entry, site.members, rows: 0..<site.outputs, stored)
        guard entry.spec.format != Dense.name else { return nil }
        guard entry.spec.format == Quantized.name, entry.spec.parts[0].format == Dense.name else {
            throw CompressionError.unusable(
                name: entry.name,
                reason: """
                    \(entry.spec.title) was asked for; the output projection takes codes of the dense \
                    matrix: \(Quantized.name) with a part that is \(Dense.name)
                    """)
        }
        return PlannedSite(site: site, modules: [module])
    }

    private static func entries(_ plan: CompressionPlan) throws -> [JSON.Name:
        CompressionPlan.Module]
    {
        var entries: [JSON.Name: CompressionPlan.Module] = [:]
        for module in plan.modules {
            guard entries.updateValue(module, forKey: JSON.Name(module.name)) == nil else {
                throw CompressionError.plannedTwice(module.name, and: module.name)
            }
        }
        return entries
    }

    private static func module(
        _ entry: CompressionPlan.Module, _ members: [LinearShape], rows: Range<Int>,
        _ stored: StoredModel
    ) throws -> PlannedModule {
        let shape = [rows.count, members[0].inputs]
        guard [entry.outputs, entry.inputs] == shape else {
            throw CompressionError.otherShape(
                name: entry.name, planned: [entry.outputs, entry.inputs], found: shape)
        }
        let dtype = stored.dtype(of: members[0])
        do throws(FormatError) {
            let format = try FormatRegistry.format(entry.spec.format)
            let layout = try format.layout(entry.spec, outputs: shape[0], inputs: shape[1])
            return PlannedModule(
                entry: entry, format: format, members: members, rows: rows,
                tensors: layout.map {
                    TensorDescription(
                        name: "\(entry.name).\($0.name)", dtype: $0.dtype ?? dtype,
                        shape: $0.shape)
                },
                dtype: dtype)
        } catch {
            throw CompressionError.unusable(name: entry.name, reason: "\(error)")
        }
    }

    /// The tensors of one part, with those of compressed modules in place of the weights.
    private static func output(_ tensors: [TensorDescription], _ sites: [PlannedSite])
        -> [TensorDescription]
    {
        var replaced: [JSON.Name: [TensorDescription]] = [:]
        for module in sites.flatMap(\.modules) {
            for (index, member) in module.members.enumerated() {
                replaced[JSON.Name("\(member.name).weight")] = index == 0 ? module.tensors : []
            }
        }
        return tensors.flatMap { replaced[JSON.Name($0.name)] ?? [$0] }
    }
}
