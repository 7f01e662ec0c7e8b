import MinimaCore
import Synchronization

/// The fastest cuts of linear kernels on one card, found by timing and kept beside the compiled
/// kernels: under the card's name, the kernel's source and the kind of linear, so that none is stale.
public struct LinearTuner: Sendable {
    /// Linears for which one cut is best: equal in sizes, stored type, tokens and prologue.
    public struct Kind: Sendable, Hashable, CustomStringConvertible {
        let problem: LinearProblem

        /// Sizes, type, tokens and prologue: `51200 × 5120 int4u, 1 token, norm`.
        public var description: String {
            let type =
                switch problem.bits {
                case 16: "bf16"
                case 8: problem.isUniform ? "int8" : "fp8"
                default: "int\(problem.bits)\(problem.isUniform ? "u" : "")"
                }
            let tokens = problem.tokens == 1 ? "1 token" : "\(problem.tokens) tokens"
            return "\(problem.slots) × \(problem.columns) \(type), \(tokens)"
                + (problem.normalised ? ", norm" : "")
        }

        /// The kind of a product.
        public init(_ matrix: LinearMatrix, tokens: Int, normalised: Bool) {
            problem = matrix.problem(tokens: tokens, normalised: normalised)
        }
    }

    private let context: CUDAContext
    private let cache: KernelCache
    /// Hash of the card and of the kernel's source: keys begin with it.
    private let place: String
    /// What the files said: many launches of a model are of one kind.
    private let read = Memory()

    /// Cuts by kind; `nil` for a kind of which none is kept.
    private final class Memory: Sendable {
        let cuts = Mutex<[Kind: LinearTuning?]>([:])
    }

    /// A tuner that remembers in the context's cache; `nil` where it has none.
    public init?(context: CUDAContext) throws(KernelError) {
        guard let cache = context.cache else { return nil }
        self.context = context
        self.cache = cache
        let source = try KernelSource("linear.cu")
        let headers = KernelSource.headers.map { $0.name + $0.text }.joined()
        place = Self.hash(
            "\(context.name) \(context.multiprocessors)\n\(headers)\n\(source.text)")
    }

    /// The cut that was found for a kind; `nil` where none was, or it is none for this kernel.
    public func known(_ kind: Kind) -> LinearTuning? {
        read.cuts.withLock { cuts in
            if let cut = cuts[kind] { return cut }
            let cut = kept(kind)
            cuts[kind] = .some(cut)
            return cut
        }
    }

    /// What the file of a kind says.
    private func kept(_ kind: Kind) -> LinearTuning? {
        guard let bytes = cache.cubin(key(kind)),
            let tuning = LinearTuning(text: String(decoding: bytes, as: UTF8.self)),
            tuning.blocks <= context.multiprocessors, kind.problem.allows(tuning)
        else { return nil }
        return tuning
    }

    /// What timing the cuts of a kind found.
    public struct Finding: Sendable {
        /// The cut that is kept.
        public let tuning: LinearTuning
        /// Its time per launch.
        public let time: DeviceTime
        /// That of the usual cut; `nil` where this is the one that is kept.
        public let usual: DeviceTime?

        /// Of timed cuts, the usual one first, that with the lowest median among those that are faster than the
        /// usual one by more than their spread; the usual one where there are none of these; `nil` of no cuts.
        init?(_ timed: [(tuning: LinearTuning, time: DeviceTime)]) {
            guard let usual = timed.first else { return nil }
            let faster = timed.dropFirst().filter {
                $0.time.quartiles.upperBound < usual.time.quartiles.lowerBound
            }
            let best = faster.min { $0.time.median < $1.time.median }
            (tuning, time) = best ?? usual
            self.usual = best == nil ? nil : usual.time
        }
    }

    /// Queues one of several launches, which read different weights.
    public typealias Queue = (CUDAStream, _ launch: Int) throws -> Void

    /// The cuts of a kind that are worth timing, the usual one first.
    public func candidates(_ kind: Kind) -> [LinearTuning] {
        kind.problem.candidates(
            multiprocessors: context.multiprocessors,
            limit: DecodeLinear.sharedLimit(context, tokens: kind.problem.tokens))
    }

    /// Times cuts of a kind, and keeps the one that ``Finding`` names.
    ///
    /// - Parameters:
    ///   - launches: How many different weights there are to launch with, so that no cache holds them.
    ///   - cuts: Those to time, the usual one first, with what queues one of the launches.
    /// - Returns: The cut that is kept, with its time and the usual one's.
    /// - Throws: `KernelError` where a launch fails, or there are no cuts.
    public func tune(
        _ kind: Kind, launches: Int, cuts: [(tuning: LinearTuning, queue: Queue)]
    ) throws -> Finding {
        let timed = try cuts.map { cut in
            (
                tuning: cut.tuning,
                time: try context.time(repeats: 5, perReplay: launches) { stream, launch in
                    try cut.queue(stream, launch)
                }
            )
        }
        guard let finding = Finding(timed) else {
            throw KernelError.invalidLaunch(
                kernel: "linear.cu", reason: "there is no cut for \(kind.problem)")
        }
        try cache.store(Array(finding.tuning.text.utf8), for: key(kind))
        read.cuts.withLock { $0[kind] = .some(finding.tuning) }
        return finding
    }

    private func key(_ kind: Kind) -> String { Self.hash("\(place) \(kind.problem)") }

    private static func hash(_ text: String) -> String {
        var hash = SHA256()
        Array(text.utf8).withUnsafeBytes { hash.update($0) }
        return hash.hexadecimalDigest()
    }
}

extension LinearTuning {
    /// The numbers in the order of the properties.
    var text: String { "\(stage) \(grain) \(chunk) \(readsAhead ? 1 : 0) \(blocks)" }

    /// Reads what ``text`` wrote.
    init?(text: String) {
        let numbers = text.split(separator: " ", omittingEmptySubsequences: false).map { Int($0) }
        guard numbers.count == 5, let stage = numbers[0], let grain = numbers[1],
            let chunk = numbers[2], let ahead = numbers[3], let blocks = numbers[4],
            [0, 1].contains(ahead),
            [stage, grain, chunk, blocks].allSatisfy((1...1 << 24).contains)
        else { return nil }
        self.init(
            stage: stage, grain: grain, chunk: chunk, readsAhead: ahead == 1, blocks: blocks)
    }
}
