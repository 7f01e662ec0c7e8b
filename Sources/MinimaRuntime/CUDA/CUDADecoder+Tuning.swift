import MinimaCore
import MinimaKernels
import Synchronization

extension CUDADecoder {
    /// Finds the fastest cuts of the linear kernels of `steps` that were not timed on this card before.
    /// The residual stream, the cache and the buffers hold nothing afterwards.
    func tune(_ steps: [StepSize], onProgress: (StageProgress) throws -> Void) throws {
        guard let tuner = products.tuner else { return }
        let kinds = try products.untuned.collected {
            for step in steps { _ = try makeStep(step) }
        }
        for (index, (kind, found)) in kinds.enumerated() {
            // Larger steps repeat the weights of the first that has the kind.
            let launches = found.prefix(max(weights.layers.count, 1))
            let finding = try tuner.tune(kind, launches: launches.count) { tuning in
                let kernels = try launches.map { try $0(tuning) }
                return { stream, launch in try kernels[launch].queue(stream) }
            }
            try onProgress(
                StageProgress(
                    stage: "tune", done: index + 1, total: kinds.count, unit: "kernels",
                    note: finding.usual.map { "\($0) to \(finding.time): \(kind)" }
                        ?? "usual cut: \(kind)"))
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

    /// `nil` while nothing is collected.
    private let entries = Mutex<[LinearTuner.Kind: [Entry]]?>(nil)

    /// Adds a launch to those that are collected.
    func add(_ kind: LinearTuner.Kind, _ launch: @escaping Launch) {
        let entry = Entry(launch: launch)
        entries.withLock { $0?[kind, default: []].append(entry) }
    }

    /// What is added while `body` runs.
    func collected(_ body: () throws -> Void) rethrows
        -> [(kind: LinearTuner.Kind, launches: [Launch])]
    {
        entries.withLock { $0 = [:] }
        defer { entries.withLock { $0 = nil } }
        try body()
        return entries.withLock { $0 ?? [:] }.map { ($0.key, $0.value.map(\.launch)) }
    }
}
