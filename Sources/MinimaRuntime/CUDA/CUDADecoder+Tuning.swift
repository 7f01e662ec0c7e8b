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
            let finding = try tuner.tune(
                kind, launches: launches.count,
                cuts: Self.compiled(tuner.candidates(kind), launches: Array(launches)))
            try onProgress(
                StageProgress(
                    stage: "tune", done: index + 1, total: kinds.count, unit: "kernels",
                    note: "\(kind): "
                        + (finding.usual.map { "\($0) to \(finding.time), \(finding.tuning)" }
                            ?? "\(finding.time), \(finding.tuning) as usual")))
        }
    }

    /// Compiles cuts, several at a time; leaves out those that the device cannot hold, except the first.
    private static func compiled(
        _ cuts: [LinearTuning], launches: [UntunedLinears.Launch]
    ) throws -> [(tuning: LinearTuning, queue: LinearTuner.Queue)] {
        try concurrentMap(cuts.count, threads: compilers) { index -> [StepKernel]? in
            do {
                return try launches.map { try $0(cuts[index]) }
            } catch KernelError.exceedsDevice where index > 0 {
                return nil
            }
        }
        .enumerated().compactMap { index, kernels in
            guard let kernels else { return nil }
            return (cuts[index], { stream, launch in try kernels[launch].queue(stream) })
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

    /// What is added while `body` runs, in the order of the kinds' descriptions.
    func collected(_ body: () throws -> Void) rethrows
        -> [(kind: LinearTuner.Kind, launches: [Launch])]
    {
        entries.withLock { $0 = [:] }
        defer { entries.withLock { $0 = nil } }
        try body()
        return entries.withLock { $0 ?? [:] }
            .map { (kind: $0.key, launches: $0.value.map(\.launch)) }
            .sorted { "\($0.kind)" < "\($1.kind)" }
    }
}
