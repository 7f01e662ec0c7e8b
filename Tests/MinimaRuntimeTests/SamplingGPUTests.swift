import MinimaCore
import MinimaKernels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// The sampling kernel against the reference; skipped where there is no GPU.
@Suite("Sampling on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct SamplingGPUTests {
    let context: CUDAContext
    let stream: CUDAStream

    init() throws {
        context = try .forTests()
        stream = try CUDAStream(on: context)
    }

    /// Sequences of one test in slots that are not in the order of the rows.
    private struct Batch {
        var sequences: [SamplingSequence] = []
        var slots: [Int32] = []
        let state: SamplingState
    }

    private func batch(
        rows: Int, vocabulary: Int, kernel: SamplingKernel, _ generator: inout SamplingGenerator
    ) throws -> Batch {
        var batch = Batch(
            state: try stream.use {
                try SamplingState(slots: rows + 3, vocabulary: vocabulary, device: context.device)
            })
        batch.slots = Array((0..<Int32(rows + 3)).shuffled(using: &generator).prefix(rows))
        for row in 0..<rows {
            let parameters = try generator.parameters(vocabulary: vocabulary)
            let prompt = generator.tokens(6, vocabulary: vocabulary)
            let answer = generator.tokens(row % 5, vocabulary: vocabulary)
            batch.sequences.append(
                SamplingSequence(
                    parameters, tokens: prompt + answer, promptCount: prompt.count))
            try kernel.open(
                slot: Int(batch.slots[row]), parameters.settings, tokens: prompt + answer,
                promptCount: prompt.count, state: batch.state, on: stream)
        }
        return batch
    }

    /// Tokens are equal, not close: weights and noise are the same bits on both sides.
    @Test(arguments: [(1, 5003), (24, 1000), (64, 777), (3, 40_004), (300, 9), (1, 151_936)])
    func tokensAreTheReference(_ rows: Int, _ vocabulary: Int) throws {
        var generator = SamplingGenerator(state: UInt64(rows * vocabulary))
        let kernel = try SamplingKernel(context: context, vocabulary: vocabulary, rows: rows)
        var batch = try batch(rows: rows, vocabulary: vocabulary, kernel: kernel, &generator)
        for step in 0..<4 {
            let source = try RandomGenerator(seed: UInt64(step))
            let logits = try Tensor.randn([rows, vocabulary], generator: source) * 3
            let expected = try Sampler.sample(logits, batch.sequences)
            let (tokens, sums, chosen): ([Int32], [Float], [Float]) = try stream.use {
                let slots = try Tensor(batch.slots).to(context.device)
                try kernel.launch(
                    logits.to(context.device), slots: slots, state: batch.state, on: stream)
                try stream.synchronize()
                return (
                    try batch.state.tokens.values(), try batch.state.logSums.values(),
                    try batch.state.chosenLogits.values()
                )
            }
            for row in 0..<rows {
                let slot = Int(batch.slots[row])
                #expect(tokens[slot] == expected[row].id, "\(batch.sequences[row].parameters)")
                if let logprob = expected[row].logprob {
                    // Sums of exponentials in float32, with fast exponentials.
                    #expect(abs(chosen[slot] - sums[slot] - logprob) < 2e-5)
                }
                batch.sequences[row].append(expected[row].id)
            }
        }
        let positions: [Int32] = try batch.state.positions.values()
        for row in 0..<rows {
            #expect(positions[Int(batch.slots[row])] == batch.sequences[row].position - 1)
        }
    }

    @Test func aCapturedLaunchCanBeReplayed() throws {
        let (rows, vocabulary) = (4, 2048)
        var generator = SamplingGenerator(state: 5)
        let kernel = try SamplingKernel(context: context, vocabulary: vocabulary, rows: rows)
        var batch = try batch(rows: rows, vocabulary: vocabulary, kernel: kernel, &generator)
        let logits = try Tensor.randn([rows, vocabulary], generator: RandomGenerator(seed: 1)) * 3
        let (device, slots) = try stream.use {
            (try logits.to(context.device), try Tensor(batch.slots).to(context.device))
        }
        try stream.synchronize()
        let graph = try CUDAGraph.capture(on: stream) {
            try kernel.launch(device, slots: slots, state: batch.state, on: stream)
        }
        for _ in 0..<5 {
            let expected = try Sampler.sample(logits, batch.sequences).map(\.id)
            for row in 0..<rows { batch.sequences[row].append(expected[row]) }
            try graph.launch(on: stream)
            try stream.synchronize()
            let tokens: [Int32] = try batch.state.tokens.values()
            #expect(batch.slots.map { tokens[Int($0)] } == expected)
        }
    }

    @Test func rowsThatAreSkippedOrNotFinite() throws {
        let kernel = try SamplingKernel(context: context, vocabulary: 100, rows: 3)
        let state = try SamplingState(slots: 3, vocabulary: 100, device: context.device)
        for slot in 0..<3 {
            try kernel.open(
                slot: slot, SamplingSettings(temperature: slot == 0 ? 0 : 1), tokens: [1],
                promptCount: 1, state: state, on: stream)
        }
        var logits = [Float](repeating: 1, count: 300)
        logits[50] = .nan
        logits[250] = .infinity
        try stream.use {
            try kernel.launch(
                Tensor(logits, shape: [3, 100]).to(context.device),
                slots: Tensor([0, -1, 2] as [Int32]).to(context.device), state: state, on: stream)
            try stream.synchronize()
            #expect(try state.tokens.values(as: Int32.self) == [-1, 0, -1])
            #expect(try state.positions.values(as: Int32.self) == [1, 0, 1])
        }
    }

    @Test func whatDoesNotFitIsRefused() throws {
        #expect(throws: KernelError.self) {
            try SamplingKernel(context: context, vocabulary: 1 << 19, rows: 1)
        }
        let kernel = try SamplingKernel(context: context, vocabulary: 100, rows: 2)
        let state = try SamplingState(
            slots: 2, vocabulary: 100, keepsHistory: false, device: context.device)
        let wrong = try [
            Tensor.zeros([3, 100], device: context.device),
            Tensor.zeros([1, 99], device: context.device),
            Tensor.zeros([1, 100], dtype: .bfloat16, device: context.device),
        ]
        for logits in wrong {
            #expect(throws: KernelError.self) {
                try kernel.launch(logits, state: state, on: stream)
            }
        }
        let settings: [(Int, SamplingSettings, [Int32], Int)] = [
            (2, SamplingSettings(), [1], 1), (0, SamplingSettings(), [], 0),
            (0, SamplingSettings(), [1], 2), (0, SamplingSettings(logitBias: [100: 1]), [1], 1),
            (0, SamplingSettings(presencePenalty: 1), [1], 1),
        ]
        for (slot, settings, tokens, count) in settings {
            #expect(throws: KernelError.self) {
                try kernel.open(
                    slot: slot, settings, tokens: tokens, promptCount: count, state: state,
                    on: stream)
            }
        }
    }
}
