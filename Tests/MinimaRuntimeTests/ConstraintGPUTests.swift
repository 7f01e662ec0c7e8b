import MinimaCheckpoint
import MinimaCore
import MinimaKernels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// Masks in the sampling kernel and in steps; skipped where there is no GPU.
@Suite("Constraints on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct ConstraintGPUTests {
    let kernels: CUDAContext
    let stream: CUDAStream

    init() throws {
        kernels = try .forTests()
        stream = try CUDAStream(on: kernels)
    }

    /// The tokens of all ways of sampling are the reference's, with masks that change, go and come back;
    /// of a step's proposals a masked row verifies none, though they are right.
    @Test(arguments: [(1, 5003), (24, 1000), (300, 9), (3, 151_936)])
    func tokensAreTheReference(_ rows: Int, _ vocabulary: Int) throws {
        var generator = SamplingGenerator(state: UInt64(rows + vocabulary))
        let kernel = try SamplingKernel(context: kernels, vocabulary: vocabulary, rows: rows)
        let state = try stream.use {
            try SamplingState(
                slots: rows, vocabulary: vocabulary, places: 3, device: kernels.device)
        }
        var sequences: [SamplingSequence] = []
        for slot in 0..<rows {
            let parameters = try generator.parameters(vocabulary: vocabulary)
            let tokens = generator.tokens(6, vocabulary: vocabulary)
            sequences.append(SamplingSequence(parameters, tokens: tokens, promptCount: 4))
            try kernel.open(
                slot: slot, parameters.settings, tokens: tokens, promptCount: 4, state: state,
                on: stream)
        }
        for step in 0..<4 {
            let source = try RandomGenerator(seed: UInt64(step))
            let logits = try Tensor.randn([rows * 2, vocabulary], generator: source) * 3
            var drafts: [Int32] = []
            var expected: [[SampledToken]] = []
            try stream.use {
                for slot in 0..<rows {
                    let isMasked = Bool.random(using: &generator)
                    let mask: [UInt32]? =
                        isMasked ? random(vocabulary, &generator) : nil
                    sequences[slot].mask = mask
                    try HostTransfer.upload(
                        SamplingState.maskRow(mask), to: state.masks.select(0, slot))
                    var own: [SampledToken] = []
                    for place in 0..<(isMasked ? 1 : 2) {
                        let row = 2 * slot + place
                        let token = try Sampler.sample(
                            logits.narrow(0, row..<row + 1), [sequences[slot]])[0]
                        own.append(token)
                        sequences[slot].append(token.id)
                    }
                    drafts += [own[0].id, -1]
                    expected.append(own)
                }
                try HostTransfer.upload(drafts, to: state.drafts)
                let device = try logits.to(kernels.device)
                for place in 0..<2 {
                    try kernel.launch(device, state: state, place: place, of: 2, on: stream)
                }
            }
            try stream.synchronize()
            let counts: [Int32] = try state.counts.values()
            let emitted: [Int32] = try state.emitted.values()
            let sums: [Float] = try state.logSums.values()
            let chosen: [Float] = try state.chosenLogits.values()
            for slot in 0..<rows {
                #expect(Int(counts[slot]) == expected[slot].count)
                for (place, token) in expected[slot].enumerated() {
                    let index = 3 * slot + place
                    #expect(emitted[index] == token.id, "\(sequences[slot].parameters)")
                    if let logprob = token.logprob {
                        #expect(abs(chosen[index] - sums[index] - logprob) < 2e-5)
                    }
                }
            }
        }
        let positions: [Int32] = try state.positions.values()
        #expect(positions.map(Int.init) == sequences.map { $0.position - 1 })
    }

    /// A few tokens, or all of them; bits behind the vocabulary say nothing.
    private func random(_ vocabulary: Int, _ generator: inout SamplingGenerator) -> [UInt32] {
        let words = SamplingState.maskWords(vocabulary)
        if Int.random(in: 0..<4, using: &generator) == 0 {
            return Array(repeating: .max, count: words)
        }
        var mask = [UInt32](repeating: 0, count: words)
        for token in generator.tokens(5, vocabulary: vocabulary) {
            mask[Int(token) / 32] |= 1 << UInt32(token % 32)
        }
        return mask
    }

    /// Through the engine, with and without proposals, in slots that are used again: every token is
    /// allowed, the constraint hears of each once, others run beside.
    @Test(arguments: [Speculation.off, .fixed(3)])
    func everyTokenIsAllowed(_ speculation: Speculation) throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let kernels = try CUDAContext.forTests(ofModels: true)
        let engine = try Engine(EngineOptions(speculation: speculation)) {
            try CUDABackend(
                checkpoint,
                layout: CUDALayout(
                    slots: 4, context: 128, chunk: 64, buckets: [4], draftTokens: [1, 3]),
                draft: .ngram(), kernels: kernels)
        }
        var random = SplitMix(6)
        let phrase = random.tokens(10...10, below: 500)
        let count = underRacecheck(12, otherwise: 30)
        let requests = try (0..<underRacecheck(10, otherwise: 18)).map { index in
            let rule = index % 4 == 3 ? nil : ConstraintRule.allCases[index % 6]
            return try GenerationRequest(
                prompt: phrase + phrase + random.tokens(1...9, below: 500), maxTokens: count,
                sampling: SamplingParameters(
                    temperature: index % 2 == 0 ? 0 : 0.9, topP: 0.95, logitBias: [7: 3],
                    seed: UInt64(index)),
                stop: rule == .text ? [ConstraintRule.end] : [], constraint: rule?.constraint)
        }
        let outcomes = try requests.map { try engine.submit($0) }.map { try $0.wait() }
        engine.shutDown(.drain)
        for (index, outcome) in outcomes.enumerated() {
            #expect(requests[index].constraintIsUpheld(outcome.ids))
            guard index % 4 < 3, ConstraintRule.allCases[index % 6] == .text else {
                #expect(outcome.ids.count == count && outcome.reason == .length)
                continue
            }
            #expect(outcome.ids == ConstraintRule.answer && outcome.reason == .stop)
        }
        #expect(engine.metrics.failures == 0)
    }
}
