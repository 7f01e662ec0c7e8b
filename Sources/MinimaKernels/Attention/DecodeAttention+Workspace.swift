import MinimaCore
import MinimaTensor
import Synchronization

extension DecodeAttention {
    /// What new tokens see that are a tree's; see `attention.cu`.
    public struct Tree: Sendable {
        /// int32 `[requests · queries, maskWords]`: a bit for each place of the tree, the lowest of a row's
        /// first word its first place.
        public let seen: Tensor
        /// The tree's places before the new ones, in the pages already.
        public let older: Int

        /// The masks of a launch.
        public init(seen: Tensor, older: Int = 0) {
            self.seen = seen
            self.older = older
        }
    }

    /// What thread blocks of a launch hand each other. Launches of one stream share a workspace; it
    /// grows as kernels are made, before anything runs.
    public final class Workspace: Sendable {
        private let device: Device
        private let latest = Mutex(Latest())

        /// What a kernel keeps of it.
        enum Room: Sendable {
            /// float32 of any content, and int32, all 0 between launches.
            case parts(Tensor, counters: Tensor)
            /// What `attention_exchange.cu` sends: int32, all -1 between launches.
            case exchange(Tensor)
        }

        private struct Latest: Sendable {
            var parts, counters, exchange: Tensor?
        }

        /// Empty.
        public init(device: Device) {
            self.device = device
        }

        /// Bytes on the device that new kernels use.
        public var bytes: Int {
            latest.withLock { latest in
                [latest.parts, latest.counters, latest.exchange].reduce(0) {
                    $0 + 4 * ($1?.count ?? 0)
                }
            }
        }

        /// Bytes of a workspace that launches share, one after the other; those that the device cannot run
        /// are left out.
        public static func bytes(_ launches: [Launch], limits: DeviceLimits) -> Int {
            let needs = Needs(launches, limits)
            return 4 * (needs.parts + needs.counters + needs.exchange)
        }

        /// Allocates what all of `launches` need, so that it does not grow as their kernels are made.
        public func reserve(_ launches: [Launch], limits: DeviceLimits) throws(KernelError) {
            let needs = Needs(launches, limits)
            let result = latest.withLock { latest -> Result<Void, KernelError> in
                do throws(TensorError) {
                    try grow(&latest, needs)
                    return .success(())
                } catch {
                    return .failure(.tensor(error))
                }
            }
            try result.get()
        }

        /// 32-bit words of each tensor.
        private struct Needs {
            var (parts, counters, exchange) = (0, 0, 0)

            init(_ plan: Plan, counters: Int) {
                if let own = plan.exchange {
                    exchange = own.bytes / 4
                } else {
                    (parts, self.counters) = (plan.parts * plan.partFloats, counters)
                }
            }

            init(_ launches: [Launch], _ limits: DeviceLimits) {
                for launch in launches {
                    let plan = try? DecodeAttention.plan(
                        launch.shape, format: launch.format, queries: launch.queries,
                        requests: launch.requests, maxPages: launch.maxPages,
                        splitTokens: launch.splitTokens, multiprocessors: limits.multiprocessors,
                        sharedPerBlock: limits.sharedPerBlock)
                    guard let plan else { continue }
                    let own = Needs(plan, counters: launch.requests * launch.shape.kvHeads)
                    parts = max(parts, own.parts)
                    counters = max(counters, own.counters)
                    exchange = max(exchange, own.exchange)
                }
            }
        }

        func reserve(_ plan: Plan, counters: Int) throws(KernelError) -> Room {
            let result = latest.withLock { latest -> Result<Room, KernelError> in
                do throws(TensorError) {
                    try grow(&latest, Needs(plan, counters: counters))
                } catch {
                    return .failure(.tensor(error))
                }
                if plan.exchange != nil, let space = latest.exchange {
                    return .success(.exchange(space))
                }
                guard let parts = latest.parts, let zeros = latest.counters else {
                    return .failure(
                        .invalidLaunch(
                            kernel: "attention.cu", reason: "its workspace has no parts"))
                }
                return .success(.parts(parts, counters: zeros))
            }
            return try result.get()
        }

        private func grow(_ latest: inout Latest, _ needs: Needs) throws(TensorError) {
            func room(
                _ held: Tensor?, _ count: Int, _ made: () throws(TensorError) -> Tensor
            ) throws(TensorError) -> Tensor? {
                if count == 0 { return held }
                if let held, held.count >= count { return held }
                let tensor = try made()
                // Other streams may use it from now on.
                try device.synchronize()
                return tensor
            }
            latest.exchange = try room(latest.exchange, needs.exchange) { () throws(TensorError) in
                try Tensor.full([needs.exchange], -1, dtype: .int32, device: device)
            }
            latest.parts = try room(latest.parts, needs.parts) { () throws(TensorError) in
                try Tensor.empty([needs.parts], device: device)
            }
            latest.counters = try room(latest.counters, needs.counters) { () throws(TensorError) in
                try Tensor.zeros([needs.counters], dtype: .int32, device: device)
            }
        }
    }

    /// What fixes a kernel's launches.
    public struct Launch: Sendable, Hashable {
        /// Heads and their sizes.
        public var shape: AttentionShape
        /// How keys and values are stored.
        public var format: KeyValueFormat
        /// New tokens of each request.
        public var queries: Int
        /// Requests of a step.
        public var requests: Int
        /// Columns of the page table.
        public var maxPages: Int
        /// Tokens of a part where they are fixed.
        public var splitTokens: Int?

        /// A launch.
        public init(
            _ shape: AttentionShape, format: KeyValueFormat, queries: Int, requests: Int,
            maxPages: Int, splitTokens: Int?
        ) {
            self.shape = shape
            self.format = format
            self.queries = queries
            self.requests = requests
            self.maxPages = maxPages
            self.splitTokens = splitTokens
        }
    }
}
