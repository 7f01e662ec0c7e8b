import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

/// What block-wise healing takes at its peak, foreseen from shapes alone.
struct BlockRequirements: Sendable, Hashable, CustomStringConvertible {
    /// Bytes on the device: one block with its optimiser, and a batch's activations inside it.
    var deviceBytes: Int
    /// Bytes of the machine's memory: activations of both models at a layer boundary, a block's last
    /// good and best state, and what is written of it.
    var hostBytes: Int
    /// Bytes on the output's disk: healed tensors and what a killed run resumes from.
    var diskBytes: Int

    /// One line.
    var description: String {
        "\(deviceBytes >> 20) MiB on the device, \(hostBytes >> 20) MiB of memory, "
            + "\(diskBytes >> 20) MiB of disk at most"
    }

    /// - Parameter windows: One process's share; the others' are alike.
    init(
        student: any WeightSource, teacher: any WeightSource, blocks: [Range<Int>],
        windows: BlockWindows, dtype: DType, processes: Int
    ) throws {
        let family = try FamilyRegistry.family(student.config)
        let hidden = try student.config.int("hidden_size")
        let sites = Dictionary(grouping: try student.sites(), by: \.layer)
        let stored = try student.checkModel()
        let dense = try teacher.checkModel()
        func numbers(_ requests: [TensorRequest], _ layer: Int) -> Int {
            let prefix = family.layerPrefix(layer)
            return Saturating.sum(
                requests.filter { $0.name.hasPrefix(prefix) }.map { Saturating.product($0.shape) })
        }
        // Behind packed codes there train as many numbers as in the dense layer, at most.
        let trained = blocks.map { block in
            Saturating.sum(block.map { max(numbers(stored, $0), numbers(dense, $0)) })
        }
        // The compressed weights and their gradients; sums of these, masters and two moments in
        // float32.
        let weights = trained.map { Saturating.product([$0, 2 * dtype.byteCount + 4 * 4]) }
        let tokens = windows.batches.map(\.tokens).max() ?? 0
        let activations = blocks.map { block in
            Saturating.product([
                tokens,
                Saturating.sum(
                    block.map {
                        TrainingMemory.bytesPerToken(sites[$0] ?? [], hidden: hidden, dtype: dtype)
                    }),
            ])
        }
        // Beside the graph, the comparison has the stream a few times in float32.
        let comparison = Saturating.product([tokens, hidden, 6 * 4])
        deviceBytes = Saturating.sum([
            zip(weights, activations).map { Saturating.sum([$0, $1]) }.max() ?? 0, comparison,
        ])
        let chain = ActivationChain.byteCount(windows.batches, hidden: hidden, dtype: dtype)
        let largest = trained.max() ?? 0
        // Masters and moments of the last good state, masters of the best one; what is written.
        hostBytes = Saturating.sum([
            Saturating.product([chain, 2]),
            Saturating.product([largest, dtype.byteCount + 4 * 4]),
        ])
        // Two boundaries of both models and two checkpoints of the optimiser exist at a time.
        diskBytes = Saturating.sum([
            Saturating.product([chain, 4, processes]),
            Saturating.product([Saturating.sum(trained), dtype.byteCount]),
            Saturating.product([largest, 2 * 4 * 4]), 16 << 20,
        ])
    }

    /// Throws `StageError.notEnoughMemory` or `CheckpointError.noSpace` where something is short.
    func check(on device: Device, work: String) throws {
        try device.checkMemory(
            stage: "block-wise healing", content: "a block, its optimiser and a batch",
            deviceBytes: deviceBytes, hostBytes: hostBytes)
        guard let free = WorkDirectory.freeBytes(work), diskBytes > free else { return }
        throw CheckpointError.noSpace(path: work, neededBytes: diskBytes, freeBytes: free)
    }
}
