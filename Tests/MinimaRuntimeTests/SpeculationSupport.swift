import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

@testable import MinimaRuntime

/// Proposes what a function says, and checks what it is told.
final class ScriptedDrafter: Drafter {
    typealias Script = @Sendable (_ tokens: [Int32], _ count: Int) -> DraftTree

    private let script: Script
    private var known: [Int: [Int32]] = [:]
    /// What the backend did that the protocol forbids.
    private(set) var violations: [String] = []

    init(_ script: @escaping Script) {
        self.script = script
    }

    func open(_ slot: Int, cached: ArraySlice<Int32>) {
        if known[slot] != nil { violations.append("slot \(slot) was opened twice") }
        known[slot] = Array(cached)
    }

    func close(_ slot: Int) { known[slot] = nil }

    func prefill(_ chunk: PrefillChunk, features: Tensor?) {
        take(chunk.slot, at: chunk.position, Array(chunk.tokens), features: features)
    }

    func observe(_ row: DecodeBatch.Row, _ tokens: [Int32], features: Tensor?) {
        take(row.slot, at: row.position, tokens, features: features)
    }

    private func take(_ slot: Int, at position: Int, _ tokens: [Int32], features: Tensor?) {
        if known[slot]?.count != position { violations.append("slot \(slot) at \(position)") }
        if tokens.isEmpty || features != nil { violations.append("nothing, or features") }
        known[slot, default: []] += tokens
    }

    func propose(_ rows: [DraftRow], count: Int) -> [DraftTree] {
        rows.map { row in
            if known[row.slot]?.count != row.position {
                violations.append("slot \(row.slot) proposes at \(row.position)")
            }
            if row.sampling.position != row.position + 1 { violations.append("a wrong draw") }
            return script((known[row.slot] ?? []) + [row.last], count)
        }
    }
}

/// Proposals for any model, from right to hostile.
enum HostileDraft: String, CaseIterable {
    case oracle, mostlyRight, uniform, wrong, constant, negative, huge, tooMany,
        secondBranch, bush

    /// - Parameter truth: The token after a sequence, where it is known.
    func script(vocabulary: Int32, truth: @escaping @Sendable ([Int32]) -> Int32?)
        -> ScriptedDrafter.Script
    {
        { tokens, count in
            var random = SplitMix(
                UInt64(tokens.count) << 32 | UInt64(UInt32(bitPattern: tokens[0])))
            func right(_ count: Int) -> [Int32] {
                var all = tokens
                while all.count < tokens.count + count, let next = truth(all) { all.append(next) }
                return Array(all[tokens.count...])
            }
            switch self {
            case .oracle: return DraftTree(chain: right(count))
            case .mostlyRight:
                return DraftTree(
                    chain: right(count).map {
                        Int.random(in: 0..<4, using: &random) == 0 ? ($0 + 1) % vocabulary : $0
                    })
            case .uniform:
                return DraftTree(
                    chain: (0..<count).map { _ in .random(in: 0..<vocabulary, using: &random) })
            case .wrong: return DraftTree(chain: right(count).map { ($0 + 1) % vocabulary })
            case .constant: return DraftTree(chain: Array(repeating: 7, count: count))
            case .negative: return DraftTree(chain: Array(repeating: -1, count: count))
            case .huge:
                return DraftTree(chain: [Int32.max, vocabulary, Int32.min] + right(count))
            case .tooMany: return DraftTree(chain: right(count + 3))
            case .secondBranch:
                // The right token is each node's second child; the first goes astray.
                var tree = DraftTree()
                var node = -1
                for token in right((count + 1) / 2) {
                    tree.append((token + 1) % vocabulary, after: node)
                    tree.append(token, after: node)
                    node = tree.count - 1
                }
                return tree
            case .bush:
                // Any tokens after any node, the right ones among them at places of no order.
                var tree = DraftTree()
                let right = right(3)
                for _ in 0..<count {
                    let parent = Int.random(in: -1..<tree.count, using: &random)
                    let isRight = Bool.random(using: &random)
                    let token = isRight ? right.randomElement(using: &random) : nil
                    tree.append(
                        token ?? .random(in: -1...vocabulary, using: &random), after: parent)
                }
                return tree
            }
        }
    }
}

/// A backend that says of other numbers of proposals with every question that it has no such steps, and
/// other times of those that it has, so that another number is best each time.
final class RestlessBackend: DecodeBackend {
    private let backend: any DecodeBackend
    private var random = SplitMix(17)

    init(_ backend: any DecodeBackend) { self.backend = backend }

    var capacity: DecodeCapacity { backend.capacity }
    func open(_ slot: Int, _ sequence: SequenceStart) throws { try backend.open(slot, sequence) }
    func close(_ slot: Int) { backend.close(slot) }
    func prefill(_ chunk: PrefillChunk) throws { try backend.prefill(chunk) }
    func decode(_ batch: DecodeBatch) throws { try backend.decode(batch) }
    func collect() throws -> [[SampledToken]] { try backend.collect() }
    func collectScores() throws -> [SampledToken] { try backend.collectScores() }
    func decodeSeconds(bucket: Int, draftTokens: Int) -> Double? {
        draftTokens > 0 && Bool.random(using: &random)
            ? .infinity : .random(in: 1...3, using: &random)
    }
}

/// Weights with noise on every matrix and vector.
struct NoisySource: WeightSource {
    let base: any WeightSource
    let spread: Double

    var path: String { base.path }
    var config: ModelConfig { base.config }
    func holds(_ name: String) -> Bool { base.holds(name) }
    func claims() -> TensorClaims? { base.claims() }
    func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    { try base.fingerprints(onProgress: onProgress) }

    func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        let tensor = try base.tensor(name, shape: shape, on: device)
        guard tensor.dtype.isFloatingPoint else { return tensor }
        let seed = name.utf8.reduce(UInt64(7)) { $0 &* 31 &+ UInt64($1) }
        let noise = try Tensor.randn(shape, generator: RandomGenerator(seed: seed))
        return try tensor.to(dtype: .float32) + noise * spread
    }
}

extension TorchBackend {
    /// Runs one sequence with as many proposals per step as `counts` say, over and over.
    ///
    /// - Returns: Its new tokens, and of each step how many it made.
    func drive(
        _ prompt: [Int32], tokens: Int, sampling: SamplingParameters, counts: [Int]
    ) throws -> (tokens: [SampledToken], made: [Int]) {
        let pages = (0..<Int32(capacity.pages)).reversed() as [Int32]
        try open(
            0, SequenceStart(tokens: prompt, promptCount: prompt.count, sampling: sampling))
        defer { close(0) }
        for start in stride(from: 0, to: prompt.count, by: capacity.prefillChunk) {
            let end = min(start + capacity.prefillChunk, prompt.count)
            try prefill(
                PrefillChunk(
                    slot: 0, position: start, tokens: prompt[start..<end], pages: pages,
                    samples: end == prompt.count))
        }
        var found = try collect()[0]
        var made: [Int] = []
        while found.count < tokens {
            let position = prompt.count + found.count - 1
            try decode(
                DecodeBatch(
                    rows: [.init(slot: 0, position: position, pages: pages)], bucket: 1,
                    draftTokens: counts[made.count % counts.count]))
            let new = try collect()[0]
            made.append(new.count)
            found += new
        }
        return (Array(found.prefix(tokens)), made)
    }
}
