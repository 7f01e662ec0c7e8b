import MinimaCore
import MinimaKernels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// The kernels that propose and verify tokens; skipped where there is no GPU.
@Suite(
    "Drafts and verification on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0),
    .serialized)
struct CUDAVerificationGPUTests {
    let kernels: CUDAContext
    let stream: CUDAStream

    init() throws {
        kernels = try .forTests()
        stream = try CUDAStream(on: kernels)
    }

    @Test(arguments: [1, 3])
    func ngramProposalsAreTheHosts(_ suffix: Int) throws {
        var random = SplitMix(UInt64(suffix))
        let (slots, length, places) = (37, 3000, 6)
        let kernel = try NgramKernel(suffix: suffix, context: kernels)
        let state = try stream.use {
            try SamplingState(
                slots: slots, vocabulary: 50, places: places, sequenceLength: length,
                device: kernels.device)
        }
        var sequences: [[Int32]] = []
        for slot in 0..<slots {
            // Few different tokens: matches of every length; many: none.
            let vocabulary: Int32 = [2, 5, 40, 30_000][slot % 4]
            let count = slot < 3 ? slot + 1 : Int.random(in: 1...length, using: &random)
            sequences.append(random.tokens(count...count, below: vocabulary))
        }
        try stream.use {
            let table = sequences.flatMap { $0 + Array(repeating: 7, count: length - $0.count) }
            try #require(state.sequence).copy(from: Tensor(table, shape: [slots, length]))
            try state.positions.copy(from: Tensor(sequences.map { Int32($0.count - 1) }))
            let rows = try Tensor((0..<Int32(slots)).reversed() + [-1]).to(kernels.device)
            try kernel.launch(slots: rows, state: state, count: 4, on: stream)
            try stream.synchronize()
        }
        let found: [Int32] = try state.drafts.values()
        for slot in 0..<slots {
            let own = Array(found[slot * 5..<slot * 5 + 5])
            #expect(
                own == NGramDrafter.padded(sequences[slot], count: 4, suffix: suffix) + [-1],
                "slot \(slot), \(sequences[slot].count) tokens")
        }
    }

    /// The launches of a step choose, for every row, the tokens that one choice after the other gives,
    /// up to the first that was not proposed; whatever the proposals are.
    @Test(arguments: [(3, 5003, 3), (24, 1000, 7)])
    func verifiedTokensAreTheReference(_ rows: Int, _ vocabulary: Int, _ count: Int) throws {
        var generator = SamplingGenerator(state: UInt64(rows * vocabulary + count))
        let kernel = try SamplingKernel(context: kernels, vocabulary: vocabulary, rows: rows)
        let places = count + 2
        let state = try stream.use {
            try SamplingState(
                slots: rows + 2, vocabulary: vocabulary, places: places, sequenceLength: 40,
                device: kernels.device)
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
        for step in 0..<4 {
            let source = try RandomGenerator(seed: UInt64(step))
            let all = try Tensor.randn([rows * (count + 1), vocabulary], generator: source) * 3
            // The choices as if every proposal were right.
            var chosen = Array(repeating: [SampledToken](), count: rows)
            for (row, sequence) in sequences.enumerated() {
                var sequence = sequence
                for place in 0...count {
                    let index = row * (count + 1) + place
                    let token = try Sampler.sample(all.narrow(0, index..<index + 1), [sequence])[0]
                    chosen[row].append(token)
                    sequence.append(token.id)
                }
            }
            // Right ones up to some place, then one of another token, of none, or outside.
            var drafts = [Int32](repeating: -7, count: (rows + 2) * (places - 1))
            var expected: [[SampledToken]] = []
            for row in 0..<rows {
                let right = Int.random(in: 0...count, using: &generator)
                for place in 0..<count {
                    let id = chosen[row][place].id
                    let wrong = [(id + 1) % Int32(vocabulary), -1, Int32(vocabulary) + id]
                    drafts[Int(slots[row]) * (places - 1) + place] =
                        place < right ? id : wrong[Int.random(in: 0..<3, using: &generator)]
                }
                expected.append(Array(chosen[row][...right]))
            }
            let (emitted, counts, sums, logits, last, positions):
                (
                    [Int32], [Int32], [Float], [Float], [Int32], [Int32]
                ) = try stream.use {
                    try state.drafts.copy(from: Tensor(drafts, shape: [rows + 2, places - 1]))
                    let (device, order) = (
                        try all.to(kernels.device), try Tensor(slots).to(kernels.device)
                    )
                    for place in 0...count {
                        try kernel.launch(
                            device, slots: order, state: state, place: place, of: count + 1,
                            on: stream)
                    }
                    try stream.synchronize()
                    return (
                        try state.emitted.values(), try state.counts.values(),
                        try state.logSums.values(), try state.chosenLogits.values(),
                        try state.tokens.values(), try state.positions.values()
                    )
                }
            for row in 0..<rows {
                let slot = Int(slots[row])
                #expect(Int(counts[slot]) == expected[row].count)
                for (place, token) in expected[row].enumerated() {
                    let index = slot * places + place
                    #expect(emitted[index] == token.id, "place \(place) of row \(row)")
                    if let logprob = token.logprob {
                        #expect(abs(logits[index] - sums[index] - logprob) < 2e-5)
                    }
                    sequences[row].append(token.id)
                    tokens[row].append(token.id)
                }
                #expect(last[slot] == expected[row].last?.id)
                #expect(Int(positions[slot]) == tokens[row].count - 1)
            }
        }
        let stored: [Int32] = try #require(state.sequence).values()
        for row in 0..<rows {
            let first = Int(slots[row]) * 40
            let count = min(tokens[row].count, 40)
            #expect(Array(stored[first..<first + count]) == Array(tokens[row][..<count]))
        }
    }

    /// A token that is not finite ends a row's step, even where −1 was proposed.
    @Test func whatIsNotFiniteEndsTheStep() throws {
        let kernel = try SamplingKernel(context: kernels, vocabulary: 1000, rows: 1)
        let state = try SamplingState(
            slots: 1, vocabulary: 1000, places: 3, device: kernels.device)
        try kernel.open(
            slot: 0, SamplingSettings(), tokens: [1], promptCount: 1, state: state, on: stream)
        var logits = [Float](repeating: 1, count: 3000)
        logits[50] = .nan
        try stream.use {
            let device = try Tensor(logits, shape: [3, 1000]).to(kernels.device)
            for place in 0..<3 {
                try kernel.launch(device, state: state, place: place, of: 3, on: stream)
            }
            try stream.synchronize()
            #expect(try state.counts.values(as: Int32.self) == [1])
            #expect(try state.tokens.values(as: Int32.self) == [-1])
            #expect(try state.positions.values(as: Int32.self) == [1])
        }
    }

    /// Simulated acceptance: as many as the probabilities say, 4 standard deviations at most away.
    @Test func simulatedAcceptance() throws {
        let rates = [0.8, 0.5]
        let kernel = try SamplingKernel(
            context: kernels, vocabulary: 1000, rows: 64, simulating: rates)
        let state = try SamplingState(
            slots: 64, vocabulary: 1000, places: 3, device: kernels.device)
        var counts = [0, 0, 0]
        try stream.use {
            let logits = try Tensor.zeros([64 * 3, 1000], device: kernels.device)
            for _ in 0..<40 {
                for place in 0..<3 {
                    try kernel.launch(logits, state: state, place: place, of: 3, on: stream)
                }
                try stream.synchronize()
                for count in try state.counts.values(as: Int32.self) {
                    for place in 0..<Int(count) { counts[place] += 1 }
                }
            }
        }
        #expect(counts[0] == 64 * 40)
        for place in 0..<2 {
            let (all, rate) = (Double(counts[place]), rates[place])
            let deviation = (all * rate * (1 - rate)).squareRoot()
            #expect(abs(Double(counts[place + 1]) - all * rate) < 4 * deviation)
        }
    }
}

extension NGramDrafter {
    /// What it proposes, −1 for none.
    static func padded(_ tokens: [Int32], count: Int, suffix: Int) -> [Int32] {
        let found = proposal(after: tokens, count: count, suffix: suffix)
        return found.isEmpty ? Array(repeating: -1, count: count) : found
    }
}
