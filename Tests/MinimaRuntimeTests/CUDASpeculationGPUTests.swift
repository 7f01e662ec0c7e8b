import MinimaCheckpoint
import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// Steps that propose tokens and verify them on the GPU; skipped where there is no GPU.
@Suite("Speculation on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct CUDASpeculationGPUTests {
    let kernels: CUDAContext

    init() throws {
        kernels = try .forTests(ofModels: true)
    }

    /// What a sequence is asked for.
    private struct Request {
        let prompt: [Int32]
        let sampling: SamplingParameters
    }

    /// Decodes requests side by side until each has `count` new tokens.
    ///
    /// - Parameters:
    ///   - numbers: K of each step in turn.
    ///   - propose: The proposals for request `index`, which has `tokens` so far; `nil`: the drafter's.
    /// - Returns: The tokens, and how many steps it took.
    private func decode(
        _ backend: CUDABackend, _ requests: [Request], count: Int, numbers: [Int],
        propose: ((_ index: Int, _ tokens: [Int32]) -> [Int32])?
    ) throws -> (tokens: [[SampledToken]], steps: Int) {
        let decoder = backend.decoder
        let width = decoder.layout.pagesPerSlot
        let pages = requests.indices.map { slot in
            (slot * width..<(slot + 1) * width).map { Int32($0) }
        }
        var results: [[SampledToken]] = []
        for (slot, request) in requests.enumerated() {
            try backend.open(
                slot,
                SequenceStart(
                    tokens: request.prompt, promptCount: request.prompt.count,
                    sampling: request.sampling))
            let chunk = backend.capacity.prefillChunk
            for start in stride(from: 0, to: request.prompt.count, by: chunk) {
                let end = min(start + chunk, request.prompt.count)
                try backend.prefill(
                    PrefillChunk(
                        slot: slot, position: start, tokens: request.prompt[start..<end],
                        pages: pages[slot], samples: end == request.prompt.count))
            }
            results.append(try backend.collect()[0])
        }
        var steps = 0
        while results.contains(where: { $0.count < count }) {
            let open = results.indices.filter { results[$0].count < count }
            let number = numbers[steps % numbers.count]
            steps += 1
            if let propose, number > 0 {
                let most = decoder.state.drafts.shape[1]
                var drafts = [Int32](repeating: -1, count: requests.count * most)
                for slot in open {
                    let tokens = requests[slot].prompt + results[slot].map(\.id)
                    for (place, token) in propose(slot, tokens).prefix(number).enumerated() {
                        drafts[slot * most + place] = token
                    }
                }
                try decoder.stream.use { try HostTransfer.upload(drafts, to: decoder.state.drafts) }
            }
            try backend.decode(
                DecodeBatch(
                    rows: open.map { slot in
                        let position = requests[slot].prompt.count + results[slot].count - 1
                        return DecodeBatch.Row(
                            slot: slot, position: position, pages: pages[slot])
                    }, bucket: backend.capacity.buckets[0], draftTokens: number))
            for (slot, tokens) in zip(open, try backend.collect()) {
                #expect((1...number + 1).contains(tokens.count))
                results[slot] += tokens
            }
        }
        for slot in requests.indices { backend.close(slot) }
        return (results.map { Array($0.prefix(count)) }, steps)
    }

    private func requests(_ vocabulary: Int) throws -> [Request] {
        var random = SplitMix(11)
        return try [3, 61, 130, 64].enumerated().map { index, length in
            Request(
                prompt: random.tokens(length...length, below: Int32(vocabulary)),
                sampling: [
                    try SamplingParameters(),
                    try SamplingParameters(temperature: 0.8, topP: 0.9, logprobs: 2, seed: 5),
                    try SamplingParameters(
                        repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: 0.2),
                    try SamplingParameters(
                        temperature: 1.2, topK: 40, minP: 0.01, frequencyPenalty: 0.4,
                        logitBias: [7: 3], logprobs: 0, seed: 9),
                ][index])
        }
    }

    /// Proposals change the number of steps, not the tokens: none, all right, right to some place,
    /// outside of the vocabulary; also as their number changes from step to step.
    ///
    /// A token's place in its step changes the order in which attention's sums are merged, and the
    /// number of rows that of every product, so where two runs part there must be a near-tie. What is
    /// chosen from given logits is the same bit by bit, see the test after this.
    @Test func proposalsDoNotChangeTokens() throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: 4, context: 256, chunk: 64, isDeterministic: true, draftTokens: [1, 3]),
            kernels: kernels)
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let vocabulary = backend.capacity.vocabulary
        let requests = try requests(vocabulary)
        let count = underRacecheck(12, otherwise: 60)
        let (expected, slow) = try decode(
            backend, requests, count: count, numbers: [3], propose: { _, _ in [] })
        #expect(slow == count - 1)
        let right = expected.enumerated().map { requests[$0.offset].prompt + $0.element.map(\.id) }
        // A logit's and the normaliser's own two roundings of a bfloat16 stream at logits of this size.
        let tolerance = Float(try 2 * NearTie.margin(exact.lastLogits(requests[1].prompt)))
        func oracle(_ index: Int, _ tokens: [Int32]) -> [Int32] {
            Array(right[index].dropFirst(tokens.count).prefix(3))
        }
        func check(
            _ numbers: [Int], _ propose: ((Int, [Int32]) -> [Int32])?
        ) throws -> (isSame: Bool, steps: Int) {
            let (found, steps) = try decode(
                backend, requests, count: count, numbers: numbers, propose: propose)
            let common = zip(found, expected).reduce(0) { sum, pair in
                sum + zip(pair.0, pair.1).prefix { $0.id == $1.id }.count
            }
            #expect(common >= requests.count * count / 4, "\(numbers): \(common) tokens")
            for ((own, other), request) in zip(zip(found, expected), requests) {
                let ids = (own.map(\.id), other.map(\.id))
                if ids.0 != ids.1 {
                    #expect(
                        try NearTie.explains(ids, prompt: request.prompt, request.sampling, exact),
                        "\(numbers)")
                }
                for (token, peer) in zip(own, other).prefix(while: { $0.id == $1.id }) {
                    #expect((token.logprob == nil) == (peer.logprob == nil))
                    #expect(token.alternatives.count == peer.alternatives.count)
                    #expect(abs((token.logprob ?? 0) - (peer.logprob ?? 0)) <= tolerance)
                }
            }
            return (common == requests.count * count, steps)
        }
        let all = try check([3], oracle)
        if all.isSame { #expect(all.steps == (count - 1 + 3) / 4) }
        let half = try check([3]) { index, tokens in
            var proposals = oracle(index, tokens)
            let place = (tokens.count + index) % 4
            if place < proposals.count {
                proposals[place] = [-1, Int32(vocabulary), 0, .max][tokens.count % 4]
            }
            return proposals
        }
        #expect(half.steps < count - 1)
        _ = try check([1, 0, 3], oracle)
        _ = try check([0], nil)
    }

    /// Every token of a step that verifies is what the host's sampler chooses from the step's logits,
    /// and these are those of libtorch's forward pass over the tokens before.
    ///
    /// Tolerance of logits: twice the error of a bfloat16 forward pass, as the root of the mean square over
    /// all steps for each place in a step; single rows' errors scatter by a factor of ten in texts that
    /// repeat themselves, in the forward pass as here.
    @Test func ngramStepsAreTheReference() throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let model = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let rounding = try checkpoint.loadModel(device: .cuda(0), dtype: .bfloat16)
        let (number, bucket) = (3, 4)
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: bucket, context: 256, chunk: 64, buckets: [bucket],
                draftTokens: [number]), draft: .ngram(), kernels: kernels)
        #expect(backend.decodeSeconds(bucket: bucket, draftTokens: number).map { $0 > 0 } == true)
        #expect(backend.decodeSeconds(bucket: bucket, draftTokens: 1) == .infinity)
        var random = SplitMix(4)
        let phrase = random.tokens(12...12, below: 500)
        let prompts = [phrase + phrase + phrase, phrase + [3] + phrase, phrase, [5]]
        let pages = (0..<bucket).map { slot in (slot * 4..<slot * 4 + 4).map { Int32($0) } }
        var sequences: [[Int32]] = []
        var sampling: [SamplingSequence] = []
        for (slot, prompt) in prompts.enumerated() {
            let parameters = try SamplingParameters(
                temperature: slot == 1 ? 0.7 : 0, frequencyPenalty: slot == 2 ? 0.3 : 0, seed: 2)
            try backend.open(
                slot,
                SequenceStart(tokens: prompt, promptCount: prompt.count, sampling: parameters))
            try backend.prefill(
                PrefillChunk(
                    slot: slot, position: 0, tokens: prompt[...], pages: pages[slot],
                    samples: true))
            let token = try backend.collect()[0][0].id
            var sequence = SamplingSequence(parameters, tokens: prompt)
            sequence.append(token)
            sampling.append(sequence)
            sequences.append(prompt + [token])
        }
        var most = 0
        var errors = [Double](repeating: 0, count: number + 1)
        var usual = errors
        for _ in 0..<20 {
            try backend.decode(
                DecodeBatch(
                    rows: (0..<bucket).map {
                        .init(slot: $0, position: sequences[$0].count - 1, pages: pages[$0])
                    }, bucket: bucket, draftTokens: number))
            let found = try backend.collect()
            let logits = try backend.decoder.buffers.logits
                .narrow(0, 0..<bucket * (number + 1)).to(.cpu)
            for slot in 0..<bucket {
                let proposals = NGramDrafter.padded(sequences[slot], count: number, suffix: 3)
                most = max(most, found[slot].count)
                for (place, token) in found[slot].enumerated() {
                    let row = slot * (number + 1) + place
                    let own = try logits.narrow(0, row..<row + 1)
                    let square = try squares(own, model, rounding, sequences[slot])
                    errors[place] += square.found
                    usual[place] += square.usual
                    let chosen = try Sampler.sample(own, [sampling[slot]])[0].id
                    #expect(token.id == chosen)
                    if place > 0 { #expect(found[slot][place - 1].id == proposals[place - 1]) }
                    sampling[slot].append(token.id)
                    sequences[slot].append(token.id)
                }
                let place = found[slot].count - 1
                if place < number { #expect(found[slot][place].id != proposals[place]) }
            }
        }
        #expect(most == number + 1, "proposals were never all right")
        for place in 0...number {
            #expect(errors[place] <= 4 * usual[place], "place \(place) of a step")
        }
    }

    /// Squares of the relative errors of logits `[1, vocabulary]` after `sequence`: of `found`, and of
    /// the forward pass of `rounding`, against that of `model`.
    private func squares(
        _ found: Tensor, _ model: any LanguageModel, _ rounding: any LanguageModel,
        _ sequence: [Int32]
    ) throws -> (found: Double, usual: Double) {
        let expected = try model.lastLogits(sequence)
        let size = try expected.norm().item()
        let error = try (found - expected).norm().item() / size
        let usual = try (rounding.lastLogits(sequence) - expected).norm().item() / size
        return (error * error, usual * usual)
    }

    /// The engine with proposals gives what it gives without, up to near-ties, to the limits of tokens
    /// and of the context, and ends at stop tokens.
    @Test func theEngineGivesTheSame() throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let kernels = kernels
        var random = SplitMix(6)
        let phrase = random.tokens(10...10, below: 500)
        let (context, count) = underRacecheck((64, 8), otherwise: (128, 40))
        let prompts = (0..<6).map { index in
            (0...index % 3).flatMap { _ in phrase } + random.tokens(1...9, below: 500)
        }
        func sampling(_ index: Int) throws -> SamplingParameters {
            try SamplingParameters(frequencyPenalty: index == 2 ? 0.3 : 0)
        }
        func run(_ speculation: Speculation) throws -> [[Int32]] {
            let engine = try Engine(EngineOptions(speculation: speculation)) {
                try CUDABackend(
                    checkpoint,
                    layout: CUDALayout(
                        slots: 4, context: context, chunk: 64, buckets: [4], draftTokens: [1, 3]),
                    draft: .ngram(), kernels: kernels)
            }
            defer { engine.shutDown(.drain) }
            let handles = try prompts.enumerated().map { index, prompt in
                try engine.submit(
                    GenerationRequest(
                        prompt: prompt, maxTokens: index == 1 ? 500 : count,
                        sampling: sampling(index), stop: index == 3 ? [0] : []))
            }
            return try handles.map { try $0.wait().ids }
        }
        let expected = try run(.off)
        for speculation in underRacecheck(
            [.fixed(3)], otherwise: [Speculation.fixed(3), .automatic])
        {
            let found = try run(speculation)
            var same = 0
            for (index, (own, other)) in zip(found, expected).enumerated() {
                same += zip(own, other).prefix { $0 == $1 }.count
                guard own != other else { continue }
                #expect(
                    try NearTie.explains(
                        (own, other), prompt: prompts[index], sampling(index), exact),
                    "\(speculation): request \(index)")
            }
            #expect(same > 0, "\(speculation)")
            // To the end of the context, one; as many as it asked for, others.
            #expect(found[1].count == context - prompts[1].count)
            for index in [0, 2, 4, 5] { #expect(found[index].count == count) }
        }
    }

    /// A step whose writes would leave a row's pages is refused, with the steps that were not read.
    @Test func pagesMustHoldWhatAStepWrites() throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(slots: 4, context: 128, chunk: 64, buckets: [4], draftTokens: [3]),
            draft: .ngram(), kernels: kernels)
        var random = SplitMix(58)
        let prompt = random.tokens(58...58, below: 500)
        try backend.open(
            0, SequenceStart(tokens: prompt, promptCount: 58, sampling: try SamplingParameters()))
        try backend.prefill(
            PrefillChunk(slot: 0, position: 0, tokens: prompt[...], pages: [0], samples: true))
        _ = try backend.collect()
        func step(_ position: Int, _ pages: [Int32]) throws {
            try backend.decode(
                DecodeBatch(
                    rows: [.init(slot: 0, position: position, pages: pages)], bucket: 4,
                    draftTokens: 3))
        }
        // Tokens 58 to 61 fit into a page; the next step may begin at 62.
        try step(58, [0])
        #expect(throws: RuntimeError.pagesTooFew(slot: 0, tokens: 66, pages: 1)) {
            try step(59, [0])
        }
        try step(59, [0, 1])
        _ = try backend.collect()
        _ = try backend.collect()
    }
}
