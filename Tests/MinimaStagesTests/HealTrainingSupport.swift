import Foundation
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import Synchronization

@testable import MinimaStages

/// The example model, one that was compressed from it, and text that the first one wrote.
final class HealCase: Sendable {
    /// Made once for all tests.
    static let shared = Result { try HealCase() }

    let teacher: any LanguageModel
    let text: HealingText
    /// The compressed model.
    let source: any WeightSource
    let sites: [Site]

    private init() throws {
        let dense = try exampleModel()
        teacher = try dense.loadModel()
        // Eight of the 42 modules, some of them quantised.
        var plan = try CompressionPlan.uniform(
            dense, ratio: 0.6, format: LowRank.name, version: "test")
        plan.modules = plan.modules.filter { module in
            [1, 4].contains { module.name.hasPrefix("model.layers.\($0).") }
                && ["q_proj", "o_proj", "down_proj", "up_proj"].contains {
                    module.name.hasSuffix($0)
                }
        }
        plan.modules[3].spec = FormatSpec(
            format: "quantized", bits: 3, parts: [FormatSpec(format: Dense.name)])
        // What is open stays when its directory goes.
        let scratch = try Scratch()
        _ = try Compressor(dense, compression(dense, plan)).run(output: "\(scratch.path)/small")
        source = try Checkpoint(path: "\(scratch.path)/small")
        sites = try source.sites()
        let written = try sampledText(teacher, windows: 16, length: 64, seed: 1)
        var settings = HealingText.Settings(context: 16)
        settings.heldOutShare = 0.1
        text = try HealingText(
            [TokenizedText(name: "own", documents: 16, tokens: written.flatMap(\.self))],
            settings: settings)
    }

    func heldOut(_ group: ProcessGroup? = nil) throws -> HeldOutText {
        try HeldOutText(text.heldOut, teacher: teacher, tokensPerPass: 64, group: group)
    }

    /// A compressed model with leaves.
    func objective(
        _ options: TrainingOptions = TrainingOptions(), teacher: EndToEnd.Teacher? = nil,
        group: ProcessGroup? = nil, _ change: (inout EndToEnd.Settings) -> Void = { _ in }
    ) throws -> EndToEnd {
        let parts = TrainableModelParts(options)
        let student = try source.loadModel(adapter: parts)
        var settings = EndToEnd.Settings(batch: 4)
        settings.loss.crossEntropyWeight = 0.1
        settings.checkpointing = .off
        change(&settings)
        return try EndToEnd(
            student: student, parameters: parts.tensors, sites: sites,
            teacher: teacher ?? .model(self.teacher), text: text, heldOut: heldOut(group),
            settings: settings, group: group)
    }
}

/// What two processes of one group give, each on a thread of its own.
func twoProcesses<Value>(_ body: @escaping @Sendable (ProcessGroup) throws -> Value) throws
    -> [Value]
{
    let turn = groupTurn()
    defer { close(turn) }
    let port = freePort()
    let results = ResultsOfThreads<Value>()
    for rank in 0..<2 {
        Thread.detachNewThread {
            results.add(
                rank,
                Result {
                    let launch = Launch(rank: rank, size: 2, localRank: rank, port: port)
                    return try body(ProcessGroup(launch, device: .cpu, timeout: .seconds(60)))
                })
        }
    }
    return try results.wait(for: 2).map { try $0.get() }
}

/// Waits until no other test of this process has groups, and is one's turn until it is closed: gloo
/// is made for one group per process and fails when many connect at once.
private func groupTurn() -> Int32 {
    let turn = open("/tmp/minima-test-groups-\(getpid())", O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
    flock(turn, LOCK_EX)
    return turn
}

/// Counts the ports that were given out.
private let portsGiven = Atomic(0)

/// A port that nothing listens at and that is below those the kernel gives out itself: one of those
/// could become somebody else's before the group listens at it.
private func freePort() -> Int {
    while true {
        let number = portsGiven.add(1, ordering: .relaxed).newValue
        let port = 25_000 + (Int(getpid()) * 16 + number) % 5000
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        address.sin_port = UInt16(port).bigEndian
        let isFree = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        if isFree { return port }
    }
}

private final class ResultsOfThreads<Value>: @unchecked Sendable {
    private let condition = NSCondition()
    private var results: [Int: Result<Value, any Error>] = [:]

    func add(_ index: Int, _ result: Result<Value, any Error>) {
        condition.withLock {
            results[index] = result
            condition.signal()
        }
    }

    func wait(for count: Int) -> [Result<Value, any Error>] {
        condition.withLock {
            while results.count < count { condition.wait() }
            return results.sorted { $0.key < $1.key }.map(\.value)
        }
    }
}
