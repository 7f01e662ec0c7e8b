import MinimaCore
import MinimaTensor
import Testing

@Suite("Sharded optimiser")
struct ShardedOptimizerTests {
    enum Kind: CaseIterable {
        case adamW, muon

        func callAsFunction(_ parameters: [AdamW.Parameter], _ group: ProcessGroup?) throws
            -> Optimizer
        {
            switch self {
            case .adamW: try AdamW(parameters, TrainingRun.configuration, group: group)
            case .muon: try Muon(parameters, others: TrainingRun.configuration, group: group)
            }
        }
    }

    /// What a process holds at the end.
    struct Outcome: Sendable {
        var parameters: [Tensor]
        var state: [(name: String, tensor: Tensor)]
        var norms: [Double]
    }

    /// Steps of a process that sees micro-batches `rank`, `rank + size`, … of each step's two.
    static func train(
        _ steps: Range<Int>, dtypes: [DType], from state: [String: Tensor]? = nil,
        _ group: ProcessGroup?, spoiled: Int? = nil, _ kind: Kind = .adamW
    ) throws -> Outcome {
        let run = try TrainingRun("float32")
        var parameters = try run.parameters()
        for (index, dtype) in dtypes.enumerated() {
            let leaf = try parameters[index].tensor.detach().to(dtype: dtype)
            try leaf.setRequiresGrad()
            parameters[index].tensor = leaf
        }
        let optimiser = try kind(parameters, group)
        if let state { try optimiser.restore(state) }
        let norms = try steps.map { step in
            for micro in stride(from: group?.rank ?? 0, to: 2, by: group?.size ?? 1) {
                var gradients = try run.gradients(step, micro)
                if step == spoiled, micro == 1 { gradients[0] = try gradients[0] * .nan }
                try optimiser.accumulate(gradients)
            }
            return try optimiser.step(learningRate: 0.01, maximumNorm: 2).item()
        }
        return Outcome(
            parameters: try parameters.map { try $0.tensor.detach() }, state: optimiser.state,
            norms: norms)
    }

    static func merged(_ outcomes: [Outcome]) -> [String: Tensor] {
        Dictionary(
            outcomes.flatMap(\.state).map { ($0.name, $0.tensor) }, uniquingKeysWith: { $1 })
    }

    static func isSame(_ left: [Tensor], _ right: [Tensor]) throws -> Bool {
        try left.count == right.count && zip(left, right).allSatisfy { try $0.isIdentical(to: $1) }
    }

    /// A sum of two numbers has no order, so two processes agree with one in every bit; a third has
    /// nothing to add and takes a share of the state nevertheless.
    @Test(arguments: [2, 3, 4], Kind.allCases)
    func processesAgreeWithOne(size: Int, kind: Kind) throws {
        let dtypes = [DType.bfloat16, .float32, .bfloat16]
        let alone = try Self.train(0..<6, dtypes: dtypes, nil, spoiled: 2, kind)
        let shards = try processes(size) { group in
            try Self.train(0..<6, dtypes: dtypes, group, spoiled: 2, kind)
        }
        #expect(alone.norms.map(\.isFinite) == [true, true, false, true, true, true])
        for shard in shards {
            #expect(try Self.isSame(shard.parameters, alone.parameters))
            #expect(zip(shard.norms, alone.norms).allSatisfy { $0 == $1 || $0.isNaN && $1.isNaN })
        }
        // Each part of the state is in one shard, the number of steps in all.
        let names = shards.flatMap(\.state).map(\.name).filter { $0 != "step" }
        #expect(names.sorted() == alone.state.map(\.name).filter { $0 != "step" }.sorted())
        let merged = Self.merged(shards)
        #expect(try merged["step"]?.item() == 5)
        for (name, tensor) in alone.state {
            #expect(try merged[name]?.isIdentical(to: tensor) ?? false, "\(name)")
        }
    }

    @Test(arguments: Kind.allCases) func shardsRestoreAnyNumberOfProcesses(kind: Kind) throws {
        let dtypes = [DType.bfloat16, .float32, .float16]
        let saved = try processes(2) { group in
            try Self.train(0..<4, dtypes: dtypes, group, kind)
        }
        // Each process by its own part, or any number of them by all parts.
        let states = saved.map { Self.merged([$0]) }
        let all = Self.merged(saved)
        let resumed = try processes(2) { group in
            try Self.train(4..<7, dtypes: dtypes, from: states[group.rank], group, kind)
        }
        let three = try processes(3) { group in
            try Self.train(4..<7, dtypes: dtypes, from: all, group, kind)
        }
        let one = try Self.train(4..<7, dtypes: dtypes, from: all, nil, kind)
        let uninterrupted = try Self.train(0..<7, dtypes: dtypes, nil, kind)
        for outcome in resumed + three + [one] {
            #expect(try Self.isSame(outcome.parameters, uninterrupted.parameters))
        }
    }
}
