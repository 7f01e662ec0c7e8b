import MinimaCore
import MinimaModels

/// The residual stream of this process's windows in both models, at the boundaries of a block.
struct BlockChains {
    /// What the dense model makes of the windows.
    private(set) var teacher: ActivationChain
    /// What the compressed model makes of them.
    private(set) var student: ActivationChain
    private let prefix: String
    private let share: String

    /// The activations before layer `boundary`: those that an earlier run saved, or new ones.
    ///
    /// Where some are missing, as after a change of the number of processes, the models run again.
    ///
    /// - Parameter source: The compressed model with the layers before `boundary` healed.
    init(
        _ healing: BlockHealing, _ source: HealedWeights, boundary: Int,
        in parts: WorkParts<BlockRecord>, report: (_ note: String) throws -> Void
    ) throws {
        let batches = healing.windows.batches
        func start(_ name: String, _ model: any WeightSource) throws -> ActivationChain {
            let saved = try parts.chain(name, boundary: boundary, batches: batches)
            if let saved { return saved }
            let ends = try model.loadPart(
                .ends, device: healing.device, dtype: healing.dtype,
                onTensor: { try report("loading the embedding") })
            return try ActivationChain(
                batches, embeddedBy: ends, onBatch: { _ in try report("embedding") })
        }
        prefix = parts.name
        share = "\(healing.group?.rank ?? 0)-of-\(healing.group?.size ?? 1)"
        teacher = try start("\(prefix)-dense-\(share)", healing.teacher)
        student = try start("\(prefix)-healed-\(share)", source)
        try advanceTeacher(to: boundary, healing, report)
        try advanceStudent(to: boundary, source, healing, report)
    }

    /// Runs the dense model on to layer `boundary`, one layer at a time.
    mutating func advanceTeacher(
        to boundary: Int, _ healing: BlockHealing, _ report: (_ note: String) throws -> Void
    ) throws {
        try Self.advance(&teacher, of: healing.teacher, to: boundary, healing, report)
    }

    /// Runs the compressed model on to layer `boundary`, one layer at a time.
    mutating func advanceStudent(
        to boundary: Int, _ source: HealedWeights, _ healing: BlockHealing,
        _ report: (_ note: String) throws -> Void
    ) throws {
        try Self.advance(&student, of: source, to: boundary, healing, report)
    }

    private static func advance(
        _ chain: inout ActivationChain, of source: any WeightSource, to boundary: Int,
        _ healing: BlockHealing, _ report: (_ note: String) throws -> Void
    ) throws {
        while chain.boundary < boundary {
            let index = chain.boundary
            let layer = try source.loadPart(
                .layer(index), device: healing.device, dtype: healing.dtype,
                onTensor: { try report("loading layer \(index)") })
            try chain.advance(layer: layer, onBatch: { _ in try report("layer \(index)") })
        }
    }

    /// Saves both, for a run that goes on from here.
    func save(in parts: WorkParts<BlockRecord>) throws { try parts.save(named) }

    /// Removes what was saved at earlier boundaries.
    func forget(in parts: WorkParts<BlockRecord>) { parts.forget(before: named) }

    private var named: [(name: String, chain: ActivationChain)] {
        [("\(prefix)-dense-\(share)", teacher), ("\(prefix)-healed-\(share)", student)]
    }
}
