import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// Steps that grow trees from an EAGLE-3 head and verify them; skipped where there is no GPU.
@Suite(
    "Trees of proposals on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct CUDATreeGPUTests {
    let kernels: CUDAContext
    let checkpoint: Checkpoint

    init() throws {
        kernels = try .forTests(ofModels: true)
        checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
    }

    /// A draft that begins near the target.
    private func draft(_ tokens: Int) throws -> DraftWeights {
        try DraftWeights(
            for: checkpoint.loadModel(), checkpoint, vocabulary: (0..<Int32(tokens)).map { $0 })
    }

    private static func pages(_ slot: Int) -> [Int32] {
        (slot * 4..<slot * 4 + 4).map { Int32($0) }
    }

    /// Trees that hold the right tokens among wrong ones, in branches of any order, and trees of anything,
    /// change the number of steps, not the tokens, up to near-ties: greedy and drawn, with penalties.
    @Test(arguments: KeyValueFormat.allCases)
    func treesDoNotChangeTokens(_ format: KeyValueFormat) throws {
        let (count, nodes, bucket) = (underRacecheck(8, otherwise: 40), 6, 4)
        let layout = CUDALayout(
            slots: bucket, context: 256, format: format, chunk: 64, buckets: [bucket],
            isDeterministic: true, draftTokens: [nodes])
        let weights = try DecoderWeights(checkpoint, kernels: kernels, context: 256) { _ in }
        let loaded = try CUDADraft.head(draft(500), width: 3).loaded(
            target: checkpoint, kernels: kernels, context: 256
        ) { _ in }
        // Without a drafter: proposals are what is written there.
        let decoder = try CUDADecoder(weights, layout: layout, draft: loaded, kernels: kernels)
        let steps = try [0, nodes].map {
            try decoder.makeStep(StepSize(bucket: bucket, draftTokens: $0))
        }
        let vocabulary = Int32(weights.architecture.dimensions.vocabularySize)
        var random = SplitMix(21)
        let prompts = [3, 61, 130, 64].map { random.tokens($0...$0, below: vocabulary) }
        let sampling = try [
            SamplingParameters(),
            SamplingParameters(temperature: 0.8, topP: 0.9, seed: 5),
            SamplingParameters(
                repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: 0.2),
            SamplingParameters(temperature: 1.2, topK: 40, frequencyPenalty: 0.4, seed: 9),
        ]
        func run(_ propose: ((_ slot: Int, _ text: [Int32]) -> DraftTree)?) throws -> (
            texts: [[Int32]], steps: Int
        ) {
            let (stream, state) = (decoder.stream, decoder.state)
            return try stream.use {
                for (slot, prompt) in prompts.enumerated() {
                    try HostTransfer.upload(
                        Self.pages(slot), to: decoder.tables.select(0, slot))
                    try decoder.sampling.open(
                        slot: slot, sampling[slot].settings, tokens: prompt,
                        promptCount: prompt.count, state: state, on: stream)
                    let known = prompt.count - 1
                    for start in stride(from: 0, to: known, by: 64) {
                        try decoder.prefill(
                            prompt[start..<min(start + 64, known)], at: start, slot: slot)
                    }
                }
                try HostTransfer.upload(prompts.map { $0[$0.count - 1] }, to: state.tokens)
                try HostTransfer.upload((0..<Int32(bucket)).map { $0 }, to: decoder.rows)
                var texts = prompts
                var taken = 0
                while texts.indices.contains(where: { texts[$0].count < prompts[$0].count + count })
                {
                    if let propose {
                        var drafts = [Int32](repeating: -1, count: bucket * nodes)
                        var parents = [Int32](repeating: -1, count: bucket * nodes)
                        for slot in 0..<bucket {
                            let tree = propose(slot, texts[slot])
                            for node in 0..<min(tree.count, nodes) {
                                drafts[slot * nodes + node] = tree.tokens[node]
                                parents[slot * nodes + node] = Int32(tree.parents[node] + 1)
                            }
                        }
                        try HostTransfer.upload(drafts, to: state.drafts)
                        try HostTransfer.upload(parents, to: #require(state.parents))
                    }
                    for kernel in steps[propose == nil ? 0 : 1] { try kernel.queue(stream) }
                    try stream.synchronize()
                    let (counts, emitted): ([Int32], [Int32]) = (
                        try state.counts.values(), try state.emitted.values()
                    )
                    for slot in 0..<bucket {
                        let first = slot * state.places
                        texts[slot] += emitted[first..<first + Int(counts[slot])]
                    }
                    taken += 1
                }
                return (zip(texts, prompts).map { Array($0[$1.count..<$1.count + count]) }, taken)
            }
        }
        let (expected, slow) = try run(nil)
        #expect(slow == count)
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        for hostile in [HostileDraft.secondBranch, .bush, .oracle] {
            let scripts = prompts.indices.map { slot in
                let all = prompts[slot] + expected[slot]
                return hostile.script(vocabulary: vocabulary) {
                    $0.count < all.count ? all[$0.count] : nil
                }
            }
            let (found, fast) = try run { scripts[$0]($1, nodes) }
            for slot in found.indices where found[slot] != expected[slot] {
                // What pages hold in e4m3 is no near-tie of what libtorch computes.
                let isExplained = try NearTie.explains(
                    (found[slot], expected[slot]), prompt: prompts[slot], sampling[slot], exact)
                #expect(isExplained || format == .float8, "\(hostile), \(slot)")
            }
            let common = zip(found, expected).reduce(0) { sum, pair in
                sum + zip(pair.0, pair.1).prefix { $0 == $1 }.count
            }
            #expect(common >= bucket * count / 4, "\(hostile): \(common) tokens")
            #expect(fast < slow, "\(hostile): no proposal was right")
            if found == expected {
                // Three right tokens of six nodes, or six, and the one after them.
                if hostile == .secondBranch { #expect(fast == count / 4) }
                if hostile == .oracle { #expect(fast == (count + nodes) / (nodes + 1)) }
            }
        }
    }

    /// With trees of a head or without the tokens are the same, up to near-ties, in steps of changing numbers
    /// of nodes, none among them.
    @Test func headsTreesDoNotChangeTokens() throws {
        let (count, bucket) = (underRacecheck(8, otherwise: 50), 4)
        var random = SplitMix(1)
        let prompts = (0..<bucket).map { _ in random.tokens(20...20, below: 8000) }
        let sampling = try (0..<bucket).map {
            try SamplingParameters(
                temperature: $0 < 2 ? 0 : 0.5, logprobs: $0 == 1 ? 2 : nil, seed: UInt64($0))
        }
        func decode(_ draft: CUDADraft?, _ numbers: [Int]) throws -> [[SampledToken]] {
            let backend = try CUDABackend(
                checkpoint,
                layout: CUDALayout(
                    slots: bucket, context: 128, chunk: 64, buckets: [bucket],
                    isDeterministic: true, draftTokens: draft == nil ? [] : [2, 5]), draft: draft,
                kernels: kernels)
            var texts: [[SampledToken]] = []
            for (slot, prompt) in prompts.enumerated() {
                try backend.open(
                    slot,
                    SequenceStart(tokens: prompt, promptCount: 20, sampling: sampling[slot]))
                try backend.prefill(
                    PrefillChunk(
                        slot: slot, position: 0, tokens: prompt[...], pages: pages(slot),
                        samples: true))
                texts.append(try backend.collect()[0])
            }
            func pages(_ slot: Int) -> [Int32] { [Int32(2 * slot), Int32(2 * slot + 1)] }
            var steps = 0
            while texts.contains(where: { $0.count < count }) {
                let open = (0..<bucket).filter { texts[$0].count < count }
                try backend.decode(
                    DecodeBatch(
                        rows: open.map {
                            .init(slot: $0, position: 19 + texts[$0].count, pages: pages($0))
                        }, bucket: bucket, draftTokens: numbers[steps % numbers.count]))
                for (slot, tokens) in zip(open, try backend.collect()) { texts[slot] += tokens }
                steps += 1
            }
            return texts.map { Array($0.prefix(count)) }
        }
        let expected = try decode(nil, [0])
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let found = try decode(.head(draft(8192), width: 3), [5, 5, 2, 0, 0, 5])
        // As for alternatives: a logit's and the normaliser's own two roundings.
        let tolerance = Float(try 2 * NearTie.margin(exact.lastLogits(prompts[0])))
        for slot in found.indices {
            let ids = (found[slot].map(\.id), expected[slot].map(\.id))
            if ids.0 != ids.1 {
                #expect(
                    try NearTie.explains(ids, prompt: prompts[slot], sampling[slot], exact))
            }
            // The likeliest tokens are those of the node that was gone to.
            for (token, peer) in zip(found[slot], expected[slot]).prefix(while: { $0.id == $1.id })
            {
                #expect(abs((token.logprob ?? 0) - (peer.logprob ?? 0)) <= tolerance)
                #expect(token.alternatives.count == peer.alternatives.count)
                for (own, other) in zip(token.alternatives, peer.alternatives) {
                    #expect(abs(own.logprob - other.logprob) <= tolerance)
                }
            }
        }
    }
}
