import MinimaCore
import MinimaRuntime

/// Bytes of a device that are in use, by anyone, and all it has.
public struct DeviceMemory: Sendable, Hashable {
    /// Bytes in use.
    public var used: Int
    /// All bytes.
    public var total: Int

    /// Memory of a device.
    public init(used: Int, total: Int) {
        self.used = used
        self.total = total
    }
}

/// What `/stats` and `/metrics` say of memory, in bytes.
struct MemoryUse: Sendable {
    /// This process's; `nil` where the system does not say.
    var resident: Int?
    /// The device's; `nil` on the CPU.
    var device: DeviceMemory?
}

extension InferenceServer {
    var memory: MemoryUse {
        MemoryUse(resident: ProcessMemory.resident(), device: deviceMemory())
    }

    /// `/stats`: what the page's panel shows, from the numbers of `/metrics`. Counters only grow, so
    /// rates are differences between two answers.
    func stats() -> JSON {
        let engine = engine.metrics
        let memory = memory
        let drafting = engine.speculation.steps.filter { $0.key > 0 }.values
        return [
            "status": .string(health.rawValue),
            "requests": [
                "running": Self.number(engine.running), "waiting": Self.number(engine.waiting),
                "slots": Self.number(self.engine.capacity.slots),
            ],
            "tokens": [
                "generated": Self.number(engine.generatedTokens),
                "prompt": Self.number(engine.promptTokens),
                "cached": Self.number(engine.cachedTokens),
            ],
            "pages": [
                "used": Self.number(engine.totalPages - engine.freePages),
                "total": Self.number(self.engine.capacity.pages),
                "cached": Self.number(engine.cachedPages),
                "tokens_each": Self.number(self.engine.capacity.pageTokens),
            ],
            "draft": self.engine.capacity.draftTokens.count > 1
                ? [
                    "rows": Self.number(drafting.reduce(0) { $0 + $1.rows }),
                    "tokens": Self.number(drafting.reduce(0) { $0 + $1.tokens }),
                    "proposed": Self.number(engine.speculation.drafted),
                    "accepted": Self.number(engine.speculation.accepted.reduce(0, +)),
                ] : .null,
            "memory": [
                "resident": memory.resident.map(Self.number) ?? .null,
                "device": memory.device.map {
                    ["used": Self.number($0.used), "total": Self.number($0.total)]
                } ?? .null,
            ],
        ]
    }

    private static func number(_ value: Int) -> JSON { .integer(Int64(value)) }
}
