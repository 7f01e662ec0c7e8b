import MinimaCore
import MinimaKernels
import Synchronization

extension CUDADecoder {
    /// Finds the fastest cuts of the linear kernels of `steps` that were not timed on this card before.
    /// The residual stream, the cache and the buffers hold nothing afterwards.
    func tune(_ steps: [StepSize], onProgress: (StageProgress) throws -> Void) throws {
        guard let tuner else { return }
        let untuned = UntunedLinears()
        self.untuned = untuned
        defer { self.untuned = nil }
        for step in steps { _ = try makeStep(step) }
        let kinds = untuned.all
        for (index, (kind, found)) in kinds.enumerated() {
            // Larger steps repeat the weights of the first that has the kind.
            let launches = found.prefix(max(weights.layers.count, 1))
            try tuner.tune(kind, launches: launches.count) { tuning in
                let kernels = try launches.map { try $0(tuning) }
                return { stream, launch in try kernels[launch].queue(stream) }
            }
            try onProgress(
                StageProgress(stage: "tune", done: index + 1, total: kinds.count, unit: "kernels"))
        }
    }
}

/// Launches of the decoding kernel by kind; those of a kind read different weights.
final class UntunedLinears: Sendable {
    /// Makes a launch with some cut.
    typealias Launch = (LinearTuning?) throws -> StepKernel

    private struct Entry: @unchecked Sendable {
        let launch: Launch
    }

    private let entries = Mutex<[LinearTuner.Kind: [Entry]]>([:])

    /// Adds a launch.
    func add(_ kind: LinearTuner.Kind, _ launch: @escaping Launch) {
        let entry = Entry(launch: launch)
        entries.withLock { $0[kind, default: []].append(entry) }
    }

    /// All of them.
    var all: [(kind: LinearTuner.Kind, launches: [Launch])] {
        entries.withLock { $0.map { ($0.key, $0.value) } }.map { ($0, $1.map(\.launch)) }
    }
}
