import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// The EAGLE-3 head's kernels against the module on libtorch; skipped where there is no GPU.
@Suite("EAGLE-3 head on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct CUDAHeadDrafterGPUTests {
    let kernels: CUDAContext
    let checkpoint: Checkpoint

    init() throws {
        kernels = try .forTests(ofModels: true)
        checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
    }

    /// A head whose every matrix is random, for 3,000 of the target's tokens.
    private func weights() throws -> DraftWeights {
        let target = try checkpoint.loadModel()
        var draft = try DraftWeights(
            for: target, checkpoint, vocabulary: (0..<3000).map { Int32(2 * $0 + $0 % 2) })
        let generator = try RandomGenerator(seed: 3)
        for (name, inputs, outputs) in [
            ("fc", 576, 192), ("midlayer.self_attn.o_proj", 192, 192),
            ("midlayer.mlp.down_proj", 576, 192),
        ] {
            let values = try Tensor.randn([outputs, inputs], generator: generator)
            draft = try draft.replacing(
                name, with: Dense(values * (1 / Double(inputs).squareRoot())))
        }
        return draft
    }

    /// What the head says after `guesses` behind `sequence`, float32 `[draft vocabulary]`.
    private func logits(
        _ target: any LanguageModel, _ draft: EagleDraft, _ sequence: [Int32],
        _ guesses: some Sequence<Int32>
    ) throws -> Tensor {
        func ids(_ tokens: some Sequence<Int32>) throws -> Tensor {
            let tokens = tokens.map { Int64($0) }
            return try Tensor(tokens, shape: [1, tokens.count]).to(target.device)
        }
        let cache = KVCache(layers: 1)
        func context(_ tokens: Int, _ cache: KVCache?, _ rotary: RotaryEmbedding) throws
            -> ForwardContext
        {
            try ForwardContext(
                batch: 1, tokens: tokens, cache: cache, padding: nil, rotary: rotary,
                device: target.device, dtype: target.dtype)
        }
        return try withoutGradients {
            let count = sequence.count - 1
            let features = try target.features(
                of: ids(sequence.dropLast()), entering: draft.featureLayers,
                context(count, nil, target.rotary)
            ).features
            var hidden = try draft.layer(
                embedding: draft.embed(ids(sequence.dropFirst())), hidden: draft.fuse(features),
                context: context(count, cache, draft.rotary))
            cache.advance(by: count)
            hidden = try hidden.narrow(1, count - 1..<count)
            for guess in guesses {
                hidden = try draft.layer(
                    embedding: draft.embed(ids([guess])), hidden: hidden,
                    context: context(1, cache, draft.rotary))
                cache.advance(by: 1)
            }
            return try draft.logits(hidden).reshape([-1]).to(dtype: .float32)
        }
    }

    /// Prompts of several lengths, shorter than a round and longer than a chunk among them, continued by
    /// steps of changing numbers of proposals: the logits of each step's last proposal are the module's
    /// over the whole sequence, and the proposal is what they say.
    ///
    /// Tolerance: twice the error of the module in bfloat16, behind a target in bfloat16, which rounds
    /// at the same places in another order.
    @Test func proposalsAreTheModules() throws {
        let numbers = [3, 3, 1, 0, 1, 3, 0, 0, 3]
        let weights = try weights()
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let rounding = try checkpoint.loadModel(device: .cuda(0), dtype: .bfloat16)
        let draft = try EagleDraft(weights, target: exact)
        let roundingDraft = try EagleDraft(weights, target: rounding)
        let bucket = 4
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: bucket, context: 256, chunk: 64, buckets: [bucket],
                draftTokens: [1, 3]), draft: .head(weights), kernels: kernels)
        let drafter = try #require(backend.decoder.drafter as? CUDAHeadDrafter)
        let targetIds: [Int32] = try drafter.head.targetIds.values()
        #expect(targetIds.count == 3000 && targetIds[1] == 3)
        var random = SplitMix(8)
        let pages = (0..<bucket).map { slot in (slot * 4..<slot * 4 + 4).map { Int32($0) } }
        var sequences: [[Int32]] = []
        var parameters: [SamplingParameters] = []
        for (slot, length) in [1, 2, 70, 150].enumerated() {
            let prompt = random.tokens(length...length, below: 8000)
            parameters.append(
                try SamplingParameters(temperature: slot == 2 ? 0.9 : 0, seed: 77))
            try backend.open(
                slot,
                SequenceStart(
                    tokens: prompt, promptCount: length, sampling: parameters[slot]))
            for start in stride(from: 0, to: length, by: 64) {
                let end = min(start + 64, length)
                try backend.prefill(
                    PrefillChunk(
                        slot: slot, position: start, tokens: prompt[start..<end],
                        pages: pages[slot], samples: end == length))
            }
            sequences.append(prompt + [try backend.collect()[0][0].id])
        }
        for number in numbers {
            try backend.decode(
                DecodeBatch(
                    rows: (0..<bucket).map {
                        .init(slot: $0, position: sequences[$0].count - 1, pages: pages[$0])
                    }, bucket: bucket, draftTokens: number))
            let found = try backend.collect()
            let drafts: [Int32] = try backend.decoder.state.drafts.values()
            for slot in 0..<bucket where number > 0 {
                let guesses = drafts[slot * 3..<slot * 3 + number]
                let own = try drafter.buffers.logits.select(0, slot)
                let expected = try logits(exact, draft, sequences[slot], guesses.dropLast())
                let size = try expected.norm().item()
                let error = try (own - expected).norm().item() / size
                let usual =
                    try
                    (logits(rounding, roundingDraft, sequences[slot], guesses.dropLast())
                    - expected).norm().item() / size
                #expect(
                    error <= 2 * usual,
                    "\(error) of \(2 * usual): \(number) behind \(sequences[slot].count) tokens")
                let chosen = try Self.choice(
                    own, parameters[slot], targetIds,
                    position: sequences[slot].count + number - 1)
                #expect(guesses.last == targetIds[chosen])
            }
            for slot in 0..<bucket { sequences[slot] += found[slot].map(\.id) }
        }
    }

    /// Trees are the likeliest nodes by the module's confidence, by the rule of the host, in steps of changing
    /// numbers of nodes behind prompts of several lengths, over a page's end too.
    ///
    /// Tolerance: a confidence of the kernels is as far from the module's in float32 as twice the module's in
    /// bfloat16 is at most, behind a target in bfloat16; a node's score adds up to as many as it has tokens,
    /// and it is compared with another's.
    @Test func treesAreTheModules() throws {
        let (width, bucket, most) = (3, 2, 5)
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let rounding = try checkpoint.loadModel(device: .cuda(0), dtype: .bfloat16)
        let weights = try weights()
        let draft = try EagleDraft(weights, target: exact)
        let roundingDraft = try EagleDraft(weights, target: rounding)
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: bucket, context: 256, chunk: 64, buckets: [bucket],
                draftTokens: [2, most]), draft: .head(weights, width: width), kernels: kernels)
        let drafter = try #require(backend.decoder.drafter as? CUDAHeadDrafter)
        let targetIds: [Int32] = try drafter.head.targetIds.values()
        var random = SplitMix(18)
        let pages = (0..<bucket).map { slot in (slot * 4..<slot * 4 + 4).map { Int32($0) } }
        var sequences: [[Int32]] = []
        for (slot, length) in [59, 130].enumerated() {
            let prompt = random.tokens(length...length, below: 8000)
            try backend.open(
                slot,
                SequenceStart(
                    tokens: prompt, promptCount: length, sampling: SamplingParameters()))
            for start in stride(from: 0, to: length, by: 64) {
                let end = min(start + 64, length)
                try backend.prefill(
                    PrefillChunk(
                        slot: slot, position: start, tokens: prompt[start..<end],
                        pages: pages[slot], samples: end == length))
            }
            sequences.append(prompt + [try backend.collect()[0][0].id])
        }
        var same = 0
        for number in [5, 2, 0, 5, 5] {
            try backend.decode(
                DecodeBatch(
                    rows: (0..<bucket).map {
                        .init(slot: $0, position: sequences[$0].count - 1, pages: pages[$0])
                    }, bucket: bucket, draftTokens: number))
            let found = try backend.collect()
            let drafts: [Int32] = try backend.decoder.state.drafts.values()
            let parents: [Int32] = try #require(backend.decoder.state.parents).values()
            for slot in 0..<bucket where number > 0 {
                var error = 0.0
                func confidence(_ branch: [Int32]) throws -> [Int32: Double] {
                    func own(_ target: any LanguageModel, _ draft: EagleDraft) throws -> [Double] {
                        try logits(target, draft, sequences[slot], branch).logSoftmax()
                            .to(dtype: .float64).values()
                    }
                    let (right, usual) = (
                        try own(exact, draft), try own(rounding, roundingDraft)
                    )
                    let best = right.indices.sorted { right[$0] > right[$1] }.prefix(2 * width)
                    for index in best { error = max(error, abs(right[index] - usual[index])) }
                    return Dictionary(
                        zip(targetIds, right), uniquingKeysWith: { first, _ in first })
                }
                // The host's rule, with these confidences.
                var all: [(text: [Int32], score: Double)] = []
                var open: [(text: [Int32], score: Double)] = [([], 0)]
                var known: [[Int32]: [Int32: Double]] = [:]
                for _ in 0..<number {
                    var level: [(text: [Int32], score: Double)] = []
                    for node in open {
                        let own = try confidence(node.text)
                        known[node.text] = own
                        level += own.sorted { $0.value > $1.value }.prefix(width).map {
                            (node.text + [$0.key], node.score + $0.value)
                        }
                    }
                    all += level
                    open = Array(level.sorted { $0.score > $1.score }.prefix(width))
                }
                let best = all.sorted { $0.score > $1.score }.prefix(number)
                let worst = best.last?.score ?? 0
                // The device's.
                var texts: [[Int32]] = []
                for node in 0..<number {
                    let parent = Int(parents[slot * most + node])
                    #expect((0...node).contains(parent))
                    guard (0...node).contains(parent) else { break }
                    let before = parent == 0 ? [] : texts[parent - 1]
                    texts.append(before + [drafts[slot * most + node]])
                    if known[before] == nil { known[before] = try confidence(before) }
                }
                #expect(Set(texts).count == number)
                let tolerance = 2 * 2 * Double(number) * error
                for text in texts {
                    let score = text.indices.reduce(0.0) {
                        $0 + (known[Array(text[..<$1])]?[text[$1]] ?? -.infinity)
                    }
                    #expect(score >= worst - tolerance, "\(text): \(score) of \(worst)")
                }
                same += Set(texts) == Set(best.map(\.text)) ? 1 : 0
            }
            for slot in 0..<bucket { sequences[slot] += found[slot].map(\.id) }
        }
        // Rounding moves the last node of some.
        #expect(same >= 4, "\(same) of 8 trees are the module's")
    }

    /// The draft's token by the sampler's arithmetic.
    private static func choice(
        _ logits: Tensor, _ parameters: SamplingParameters, _ targetIds: [Int32], position: Int
    ) throws -> Int {
        let values: [Float] = try logits.values()
        guard parameters.temperature > 0 else {
            return values.indices.reduce(0) { values[$1] > values[$0] ? $1 : $0 }
        }
        let draws = HostNoise.logDraws(
            seed: parameters.seed, position: position, vocabulary: Int(targetIds.max() ?? 0) + 1)
        let inverse = Float(1 / parameters.temperature)
        let scores = values.indices.map { values[$0] * inverse - draws[Int(targetIds[$0])] }
        return scores.indices.reduce(0) { scores[$1] > scores[$0] ? $1 : $0 }
    }

    /// With or without a head the tokens are the same, up to near-ties.
    @Test func theHeadDoesNotChangeTokens() throws {
        let count = underRacecheck(8, otherwise: 50)
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        var random = SplitMix(1)
        let prompts = (0..<4).map { _ in random.tokens(20...20, below: 8000) }
        let sampling = try (0..<4).map {
            try SamplingParameters(temperature: $0 < 2 ? 0 : 0.5, seed: UInt64($0))
        }
        func decode(_ draft: CUDADraft?) throws -> (tokens: [[Int32]], steps: Int) {
            let backend = try CUDABackend(
                checkpoint,
                layout: CUDALayout(
                    slots: 4, context: 128, chunk: 64, buckets: [4], isDeterministic: true,
                    draftTokens: [3]), draft: draft, kernels: kernels)
            var sequences: [[Int32]] = []
            for (slot, prompt) in prompts.enumerated() {
                try backend.open(
                    slot,
                    SequenceStart(tokens: prompt, promptCount: 20, sampling: sampling[slot]))
                try backend.prefill(
                    PrefillChunk(
                        slot: slot, position: 0, tokens: prompt[...], pages: pages(slot),
                        samples: true))
                sequences.append(prompt + (try backend.collect()[0].map(\.id)))
            }
            var steps = 0
            while sequences.contains(where: { $0.count < 20 + count }) {
                let open = (0..<4).filter { sequences[$0].count < 20 + count }
                try backend.decode(
                    DecodeBatch(
                        rows: open.map {
                            .init(
                                slot: $0, position: sequences[$0].count - 1, pages: pages($0))
                        }, bucket: 4, draftTokens: 3))
                for (slot, tokens) in zip(open, try backend.collect()) {
                    sequences[slot] += tokens.map(\.id)
                }
                steps += 1
            }
            return (sequences.map { Array($0[20..<20 + count]) }, steps)
        }
        func pages(_ slot: Int) -> [Int32] { [Int32(2 * slot), Int32(2 * slot + 1)] }
        let (expected, most) = try decode(nil)
        #expect(most == count - 1)
        // A draft that is not trained begins near the target; a random one is nearly always wrong.
        let near = try DraftWeights(
            for: checkpoint.loadModel(), checkpoint, vocabulary: Array(0..<8192))
        for draft in [near, try weights()] {
            let found = try decode(.head(draft)).tokens
            for slot in found.indices where found[slot] != expected[slot] {
                #expect(
                    try NearTie.explains(
                        (found[slot], expected[slot]), prompt: prompts[slot], sampling[slot], exact)
                )
            }
        }
    }
}
