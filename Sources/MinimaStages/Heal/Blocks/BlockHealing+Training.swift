import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

extension BlockHealing {
    typealias Report = (_ note: String) throws -> Void

    /// Heals one block, ends its part and moves the activations behind it.
    ///
    /// - Parameters:
    ///   - source: The compressed model with the blocks before healed.
    ///   - chains: Activations before the block; after it when this returns.
    ///   - index: The block's number.
    func heal(
        _ block: Range<Int>, _ source: HealedWeights, _ chains: inout BlockChains,
        _ parts: WorkParts<BlockRecord>, _ index: Int, _ progress: ProgressHandler,
        _ report: Report
    ) throws -> BlockRecord {
        let store = TrainingStore(
            parts.directory.path, name: "\(parts.name)-\(index.zeroPadded(5))-training",
            key: parts.directory.key, group: group)
        try chains.advanceTeacher(to: block.upperBound, self, report)
        let before = try error(of: source, block, chains, report)
        guard before.isFinite else {
            throw StageError.notFinite(
                what: "the residual stream after \(name(of: block)) of one of the models")
        }
        var record = BlockRecord(before: before, after: before)
        var result = source
        // The mean square error of one rounding to the type, relative to the value's: uniform over
        // ε of its power of two. Below that there is nothing that weights could do.
        if before > dtype.epsilon * dtype.epsilon / 24 {
            let trained = try train(
                block, source, chains, store, learningRate(before), progress, report)
            record.phase = trained.phase
            try write(trained.stored.tensors, parts, index)
            let healed = try HealedWeights(
                source, files: [parts.tensorsPath(index)], specs: trained.stored.specs,
                removed: Set(trained.stored.removed))
            let after = try error(of: healed, block, chains, report)
            // What is stored is what counts: codes are packed by now, adapters merged.
            if after < before {
                record.after = after
                record.isHealed = true
                record.specs = trained.stored.specs
                record.removed = trained.stored.removed
                result = healed
            }
        }
        try chains.advanceStudent(to: block.upperBound, result, self, report)
        if block.upperBound < blocks[blocks.count - 1].upperBound { try chains.save(in: parts) }
        try group?.barrier()
        if group?.rank ?? 0 == 0 { try parts.finish(index, record) }
        try group?.barrier()
        chains.forget(in: parts)
        try store.remove()
        try report("\(name(of: block)) done")
        return record
    }

    /// The step size for a block of error `error`.
    ///
    /// What weights have to change by is in proportion to the error's root, and so is the noise that
    /// steps of one size leave; large models take smaller steps. Measured on a model of hidden size
    /// 192: 0.015 was the best of 0.005, 0.015 and 0.04 at errors of 0.2 (low rank, −35%); of 0.0005,
    /// 0.002 and 0.006, the last was at 0.03 (3 bits) and the second at 0.006 (4 bits).
    private func learningRate(_ error: Double) throws -> Double {
        let hidden = Double(try student.config.int("hidden_size"))
        return settings.learningRate ?? 0.45 * (min(error, 1) / hidden).squareRoot()
    }

    /// Trains a block; what it took on the device is free again when this returns.
    private func train(
        _ block: Range<Int>, _ source: HealedWeights, _ chains: BlockChains,
        _ store: TrainingStore, _ learningRate: Double, _ progress: ProgressHandler,
        _ report: Report
    ) throws -> (phase: HealingResult.Phase, stored: TrainableModelParts.Stored) {
        let trainable = TrainableModelParts(training, originals: originals)
        let layers = try load(source, block, adapter: trainable, report)
        let objective = try BlockObjective(
            layers, parameters: trainable.tensors, windows: windows, inputs: chains.student,
            targets: chains.teacher, group: group)
        let steps = settings.epochs * windows.steps.count
        // Nothing pulls weights towards zero that are fitted to given outputs.
        let loop = TrainingSettings(
            steps: steps, learningRate: learningRate, isRelative: true, weightDecay: 0,
            validationInterval: max(steps / 8, 1), patience: 3,
            checkpointInterval: settings.checkpointInterval)
        let phase = try TrainingLoop(name(of: block), loop, store: store, group: group)
            .run(objective, progress: progress)
        return (phase, try trainable.stored())
    }

    /// ``StreamError`` of a block over the held-out windows of all processes.
    private func error(
        of source: HealedWeights, _ block: Range<Int>, _ chains: BlockChains,
        _ report: Report
    ) throws -> Double {
        try load(source, block, report).error(
            windows.heldOut, inputs: BlockStates(chains.student, device, isResident: false),
            targets: BlockStates(chains.teacher, device, isResident: false), group)
    }

    private func load(
        _ source: any WeightSource, _ block: Range<Int>, adapter: (any WeightAdapter)? = nil,
        _ report: Report
    ) throws -> BlockLayers {
        try BlockLayers(source, block, device: device, dtype: dtype, adapter: adapter) {
            try report("loading \(name(of: block))")
        }
    }

    /// Writes the tensors of block `index`, in one process.
    private func write(
        _ tensors: [(name: String, tensor: Tensor)], _ parts: WorkParts<BlockRecord>, _ index: Int
    ) throws {
        if group?.rank ?? 0 == 0 {
            let descriptions = tensors.map {
                TensorDescription(
                    name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape)
            }
            try parts.writeTensors(index, descriptions) { writer in
                for (name, tensor) in tensors {
                    try tensor.withBytes { (bytes) throws(CheckpointError) in
                        try writer.write(bytes, to: name)
                    }
                }
            }
        }
        try group?.barrier()
    }

    private func name(of block: Range<Int>) -> String {
        block.count == 1
            ? "layer \(block.lowerBound)" : "layers \(block.lowerBound)-\(block.upperBound - 1)"
    }
}
