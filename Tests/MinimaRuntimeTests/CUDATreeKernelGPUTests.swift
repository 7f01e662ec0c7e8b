import Glibc
import MinimaCore
import MinimaKernels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// The kernels that grow and verify trees of proposals; skipped where there is no GPU.
@Suite(
    "Trees of proposals: kernels on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0),
    .serialized)
struct CUDATreeKernelGPUTests {
    let kernels: CUDAContext
    let stream: CUDAStream

    init() throws {
        kernels = try .forTests()
        stream = try CUDAStream(on: kernels)
    }

    /// Where a walk goes on from `row` with `token`: the first of the nodes behind that follows it; `nil`
    /// without one.
    private func step(
        _ row: Int, _ token: Int32, tokens: [Int32], parents: [Int32]
    ) -> Int? {
        guard token >= 0 else { return nil }
        return (row..<max(tokens.count, row)).first {
            Int(parents[$0]) == row && tokens[$0] == token
        }.map { $0 + 1 }
    }

    /// The launches of a step choose, for every row, the tokens that one choice after the other gives along
    /// its tree, up to the first that no child holds; whatever the tree is. Penalties, biases and filters
    /// see the branch that was gone along.
    @Test(arguments: [(3, 5003, 5), (24, 1000, 7)])
    func verifiedTokensAreTheReference(_ rows: Int, _ vocabulary: Int, _ count: Int) throws {
        var generator = SamplingGenerator(state: UInt64(rows * vocabulary + count))
        let kernel = try SamplingKernel(
            context: kernels, vocabulary: vocabulary, rows: rows, verifiesTrees: true)
        let places = count + 2
        let state = try stream.use {
            try SamplingState(
                slots: rows + 2, vocabulary: vocabulary, places: places, sequenceLength: 80,
                holdsTrees: true, device: kernels.device)
        }
        let slots = Array((0..<Int32(rows + 2)).shuffled(using: &generator).prefix(rows))
        var sequences: [SamplingSequence] = []
        var tokens: [[Int32]] = []
        for row in 0..<rows {
            let parameters = try generator.parameters(vocabulary: vocabulary)
            tokens.append(generator.tokens(6, vocabulary: vocabulary))
            sequences.append(SamplingSequence(parameters, tokens: tokens[row], promptCount: 4))
            try kernel.open(
                slot: Int(slots[row]), parameters.settings, tokens: tokens[row], promptCount: 4,
                state: state, on: stream)
        }
        var longest = 0
        for round in 0..<4 {
            let source = try RandomGenerator(seed: UInt64(round))
            let all = try Tensor.randn([rows * (count + 1), vocabulary], generator: source) * 3
            var drafts = [Int32](repeating: -7, count: (rows + 2) * (places - 1))
            var parents = [Int32](repeating: -7, count: drafts.count)
            var expected: [(tokens: [SampledToken], path: [Int])] = []
            for row in 0..<rows {
                func choice(_ node: Int, _ sequence: SamplingSequence) throws -> SampledToken {
                    let index = row * (count + 1) + node
                    return try Sampler.sample(all.narrow(0, index..<index + 1), [sequence])[0]
                }
                // A tree that holds the right tokens at any places, and others of all kinds.
                var (walk, sequence) = (0, sequences[row])
                var right = try choice(0, sequence).id
                var (own, above): ([Int32], [Int32]) = ([], [])
                for node in 0..<count {
                    if Int.random(in: 0..<5, using: &generator) < 2, right >= 0 {
                        own.append(right)
                        above.append(Int32(walk))
                        sequence.append(right)
                        walk = node + 1
                        right = try choice(walk, sequence).id
                    } else {
                        let wrong = [
                            (right + 1) % Int32(vocabulary), -1, Int32(vocabulary) + 1, right,
                        ]
                        own.append(wrong[Int.random(in: 0..<4, using: &generator)])
                        above.append(.random(in: -1...Int32(count) + 1, using: &generator))
                    }
                }
                let first = Int(slots[row]) * (places - 1)
                drafts.replaceSubrange(first..<first + count, with: own)
                parents.replaceSubrange(first..<first + count, with: above)
                // What comes of it, by the definition.
                (walk, sequence) = (0, sequences[row])
                var found: (tokens: [SampledToken], path: [Int]) = ([], [])
                while true {
                    let token = try choice(walk, sequence)
                    found.tokens.append(token)
                    found.path.append(walk)
                    sequence.append(token.id)
                    guard let next = step(walk, token.id, tokens: own, parents: above) else {
                        break
                    }
                    walk = next
                }
                longest = max(longest, found.tokens.count)
                expected.append(found)
            }
            let device = try all.to(kernels.device)
            let order = try Tensor(slots).to(kernels.device)
            try stream.use {
                try state.drafts.copy(from: Tensor(drafts, shape: [rows + 2, places - 1]))
                try #require(state.parents)
                    .copy(from: Tensor(parents, shape: [rows + 2, places - 1]))
                for place in 0...count {
                    try kernel.launch(
                        device, slots: order, state: state, place: place, of: count + 1,
                        inTree: true, on: stream)
                }
                try stream.synchronize()
            }
            let (emitted, counts): ([Int32], [Int32]) = (
                try state.emitted.values(), try state.counts.values()
            )
            let path: [Int32] = try #require(state.path).values()
            let (sums, logits): ([Float], [Float]) = (
                try state.logSums.values(), try state.chosenLogits.values()
            )
            for row in 0..<rows {
                let slot = Int(slots[row])
                let right = expected[row]
                #expect(Int(counts[slot]) == right.tokens.count)
                for (place, token) in right.tokens.enumerated() {
                    let index = slot * places + place
                    #expect(emitted[index] == token.id, "place \(place) of row \(row)")
                    #expect(Int(path[index]) == right.path[place])
                    if let logprob = token.logprob {
                        #expect(abs(logits[index] - sums[index] - logprob) < 2e-5)
                    }
                    sequences[row].append(token.id)
                }
            }
        }
        #expect(longest > 3, "no branch was gone along")
    }

    /// Of 25,600 steps with a tree of fixed logits, first tokens, second ones behind its children and third
    /// ones behind a grandchild come as often as the target says. χ² of 20 degrees of freedom: above 62
    /// once in 280,000 times.
    @Test func sampledTokensAreTheTargets() throws {
        let (slots, launches, vocabulary) = (128, 200, 6)
        let kernel = try SamplingKernel(
            context: kernels, vocabulary: vocabulary, rows: slots, verifiesTrees: true)
        let state = try SamplingState(
            slots: slots, vocabulary: vocabulary, places: 4, holdsTrees: true,
            device: kernels.device)
        for slot in 0..<slots {
            try kernel.open(
                slot: slot, SamplingSettings(temperature: 1, seed: UInt64(slot) * 77 + 5),
                tokens: [1], promptCount: 1, state: state, on: stream)
        }
        // Behind the text; behind nodes 0 (token 2), 1 (token 4) and, behind node 0, 2 (token 3).
        let probabilities: [[Double]] = [
            [0.1, 0.2, 0.3, 0.05, 0.25, 0.1], [0.2, 0.1, 0.1, 0.4, 0.1, 0.1],
            [0.3, 0.05, 0.15, 0.2, 0.2, 0.1], [0.15, 0.25, 0.1, 0.1, 0.2, 0.2],
        ]
        var seen: [[Int32]: Int] = [:]
        try stream.use {
            let row = probabilities.flatMap { $0.map { Float(log($0)) } }
            let logits = try Tensor(
                (0..<slots).flatMap { _ in row }, shape: [slots * 4, vocabulary]
            ).to(kernels.device)
            try state.drafts.copy(
                from: Tensor((0..<slots).flatMap { _ in [2, 4, 3] as [Int32] }, shape: [slots, 3]))
            try #require(state.parents).copy(
                from: Tensor((0..<slots).flatMap { _ in [0, 0, 1] as [Int32] }, shape: [slots, 3]))
            for _ in 0..<launches {
                for place in 0..<4 {
                    try kernel.launch(
                        logits, state: state, place: place, of: 4, inTree: true, on: stream)
                }
                try stream.synchronize()
                let (counts, emitted): ([Int32], [Int32]) = (
                    try state.counts.values(), try state.emitted.values()
                )
                for slot in 0..<slots {
                    seen[Array(emitted[slot * 4..<slot * 4 + Int(counts[slot])]), default: 0] += 1
                }
            }
        }
        var expected: [[Int32]: Double] = [:]
        for first in 0..<Int32(vocabulary) {
            let share = probabilities[0][Int(first)]
            guard let node = [2: 1, 4: 2][first] else {
                expected[[first]] = share
                continue
            }
            for second in 0..<Int32(vocabulary) {
                let both = share * probabilities[node][Int(second)]
                guard node == 1, second == 3 else {
                    expected[[first, second]] = both
                    continue
                }
                for third in 0..<Int32(vocabulary) {
                    expected[[first, second, third]] = both * probabilities[3][Int(third)]
                }
            }
        }
        #expect(Set(seen.keys) == Set(expected.keys) && expected.count == 21)
        let total = Double(slots * launches)
        let chiSquare = expected.reduce(0.0) { sum, entry in
            let (mean, found) = (total * entry.value, Double(seen[entry.key] ?? 0))
            return sum + (found - mean) * (found - mean) / mean
        }
        #expect(chiSquare < 62)
    }

    /// Trees grown on the device are those of the host's rule, from the same logits: greedy and drawn, of a
    /// vocabulary of the draft's own or not, of rows that have few tokens to go on with.
    @Test(arguments: [(3, 5, 3000, true), (2, 3, 20_000, false), (8, 15, 500, true)])
    func grownTreesAreTheHosts(_ width: Int, _ count: Int, _ vocabulary: Int, _ maps: Bool) throws {
        let rows = 3
        let target = maps ? 2 * vocabulary : vocabulary
        let ids = (0..<Int32(vocabulary)).map { maps ? 2 * $0 + $0 % 2 : $0 }
        let shape = TreeKernels.Shape(count: count, width: width)
        let growth = try TreeKernels(shape, context: kernels)
        let sampling = try SamplingKernel(context: kernels, vocabulary: target, rows: 1)
        let state = try SamplingState(
            slots: rows, vocabulary: target, places: count + 1, holdsTrees: true,
            device: kernels.device)
        let parameters = try [0, 0.8, 0].map {
            try SamplingParameters(temperature: $0, seed: 41)
        }
        let text: [Int32] = [5, 1, 3]
        for slot in 0..<rows {
            try sampling.open(
                slot: slot, parameters[slot].settings, tokens: text, promptCount: 3,
                state: state, on: stream)
        }
        /// The draft's logits behind a branch; the last row's has two tokens.
        func logits(_ row: Int, _ branch: [Int32]) throws -> Tensor {
            let seed = branch.reduce(UInt64(row) + 9) { $0 &* 1_000_003 &+ UInt64($1 + 1) }
            let all = try Tensor.randn([vocabulary], generator: RandomGenerator(seed: seed)) * 2
            guard row == rows - 1 else { return all }
            let few = try Tensor((0..<vocabulary).map { UInt8($0 % (vocabulary / 2) == 7 ? 0 : 1) })
                .to(.cpu, dtype: .bool)
            return try all.maskedFill(few, -.infinity)
        }
        // The host's.
        let sequences = parameters.map { SamplingSequence($0, tokens: text, promptCount: 3) }
        var growing = DraftBranches(sequences, count: count, width: width)
        var branches: [[Int32]] = Array(repeating: [], count: rows)
        let columns = try Tensor(ids.map { Int64($0) })
        func add(_ nodes: Int) throws {
            let own = try Tensor.cat(
                try branches.enumerated().map { index, branch in
                    try logits(index / nodes, branch).unsqueeze(0)
                })
            let all = try Tensor.full(
                [branches.count, target], -.infinity, dtype: .float32, device: .cpu
            ).scatter(1, columns.unsqueeze(0).expand([branches.count, vocabulary]), own)
            try growing.add(Sampler.scores(all, growing.sequences))
        }
        try add(1)
        while let level = growing.next() {
            let before = branches
            let tokens = level.tokens.flatMap(\.self)
            branches = tokens.indices.map { before[Int(level.parents[$0])] + [tokens[$0]] }
            try add(width)
        }
        let right = growing.trees
        // The device's.
        let slots = try Tensor((0..<Int32(rows)).map { $0 }).to(kernels.device)
        let targetIds = maps ? try Tensor(ids).to(kernels.device) : nil
        let round = try TreeKernels.Round(
            shape, rows: rows, pages: 2, firstPage: 9, vocabulary: vocabulary,
            device: kernels.device)
        branches = Array(repeating: [], count: rows)
        for level in 0..<count {
            let nodes = level == 0 ? 1 : shape.width
            let own = try Tensor.cat(
                try branches.enumerated().map { index, branch in
                    try logits(index / nodes, branch).unsqueeze(0)
                }
            ).to(kernels.device)
            try stream.use {
                try growth.top(
                    own, slots: slots, state: state, targetIds: targetIds, round: round,
                    level: level, on: stream)
                try growth.grow(round, slots: slots, state: state, level: level, on: stream)
                try stream.synchronize()
            }
            let (next, sources): ([Int32], [Int32]) = (
                try round.next.values(), try round.sources.values()
            )
            guard level < count - 1 else { break }
            let before = branches
            branches = next.indices.map { before[Int(sources[$0])] + [next[$0]] }
        }
        let drafts: [Int32] = try state.drafts.values()
        let parents: [Int32] = try #require(state.parents).values()
        for row in 0..<rows {
            let own = row * count..<(row + 1) * count
            let tree = right[row]
            #expect(Array(drafts[own].prefix(tree.count)) == tree.tokens, "row \(row)")
            #expect(parents[own].prefix(tree.count).map { Int($0) - 1 } == tree.parents)
            #expect(drafts[own].dropFirst(tree.count).allSatisfy { $0 == -1 })
        }
    }
}
