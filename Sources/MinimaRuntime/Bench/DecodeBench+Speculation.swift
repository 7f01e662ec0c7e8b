import MinimaCore
import MinimaKernels
import MinimaModels

extension DecodeBench {
    /// What proposes tokens in a benchmark, and how many are verified.
    public struct Speculation: Sendable {
        /// What proposes.
        public enum Draft: Sendable {
            /// The sequence itself.
            case ngram
            /// A head of the model's sizes with random weights: bfloat16, or codes of so many bits.
            case random(bits: Int?)
            /// An EAGLE-3 head.
            case head(any WeightSource)
            /// A smaller model with the same vocabulary.
            case model(any WeightSource)
        }

        /// What proposes.
        public var draft: Draft
        /// What results call it.
        public var label: String
        /// Numbers of proposals, each measured in turn; where steps verify fewer, as many as they do.
        public var draftTokens: [Int]
        /// Tokens that a step is to make on average, each measured in turn, proposals counting as right
        /// by chance; empty: proposals are compared.
        public var lengths: [Double]

        /// What is measured.
        public init(draft: Draft, label: String, draftTokens: [Int], lengths: [Double]) {
            self.draft = draft
            self.label = label
            self.draftTokens = draftTokens
            self.lengths = lengths
        }

        /// Each number of proposals, `most` for larger ones, with each length that it can reach.
        func cases(atMost most: Int) -> [(count: Int, length: Double?)] {
            Set(draftTokens.map { min($0, most) }).sorted().flatMap { count in
                lengths.isEmpty
                    ? [(count, nil)]
                    : lengths.filter { SimulatedAcceptance.rate(length: $0, count: count) != nil }
                        .map { (count, $0) }
            }
        }
    }

    /// Throws where what proposes cannot draft for `target`; reads no weight.
    func check(_ speculation: Speculation, target: any WeightSource) throws {
        guard case .model(let source) = speculation.draft else { return }
        try CUDADraft.checkVocabulary(of: source, for: target)
        _ = try CUDABackend.architecture(of: source)
    }

    /// Loads what proposes.
    func loadedDraft(_ speculation: Speculation, target: any WeightSource) throws -> LoadedDraft {
        let draft: CUDADraft =
            switch speculation.draft {
            case .ngram: .ngram()
            case .random(let bits):
                .head(try RandomDraft(for: target, bits: bits, seed: seed))
            case .head(let source): .head(source)
            case .model(let source): .model(source)
            }
        return try draft.loaded(
            target: target, kernels: kernels, context: longest, onProgress: progress)
    }

    /// Proposals that steps of so many requests verify at most, for which there is a graph; at least 1.
    func mostDraftTokens(
        _ weights: DecoderWeights, _ speculation: Speculation, _ draft: LoadedDraft, requests: Int
    ) throws -> Int {
        let layout = try layout(
            requests: requests, draftTokens: Array(0...max(speculation.draftTokens.max() ?? 0, 0))
        ).limited(to: weights.attentionShape(), draft: draft.memory(), by: kernels.limits)
        return max(layout.mostDraftTokens(layout.largestBucket), 1)
    }

    /// Slots and steps for so many requests, in one bucket.
    func layout(requests: Int, draftTokens: [Int]) -> CUDALayout {
        CUDALayout(
            slots: requests, context: longest, format: format, chunk: chunk,
            buckets: [CUDALayout(slots: requests, context: context).largestBucket],
            tunesKernels: tunesKernels, draftTokens: draftTokens)
    }

    /// Measures steps that verify `count` proposals beside `plain`, the run without.
    ///
    /// All requests get random keys and values.
    func measure(
        _ weights: DecoderWeights, _ speculation: Speculation, _ draft: LoadedDraft, count: Int,
        length: Double?, beside plain: BenchResult.Run
    ) throws -> BenchResult.Run {
        let requests = plain.requests
        let layout = layout(requests: requests, draftTokens: [count])
        let rate = length.flatMap { SimulatedAcceptance.rate(length: $0, count: count) }
        try checkMemory(weights, draft, layout)
        let backend = try CUDABackend(
            weights, layout: layout, draft: draft, kernels: kernels,
            simulating: rate.map { Array(repeating: $0, count: count) }, onProgress: progress)
        let size = StepSize(bucket: layout.largestBucket, draftTokens: count)
        guard let graph = backend.step(size).graph else {
            throw RuntimeError.unsupportedSize(
                name: "tokens to verify for each of \(requests) requests", found: count,
                needed: "at most \(backend.decoder.layout.mostDraftTokens(size.bucket))")
        }
        let prompt = tokens(
            context, vocabulary: weights.architecture.dimensions.vocabularySize)
        for slot in 0..<requests {
            try backend.fill(slot, tokens: context, pages: Self.pages(of: slot, layout))
        }
        let runs = try (0..<repeats).map { _ in
            try decode(prompt, requests, backend, draftTokens: count)
        }
        let replays = try (0..<max(repeats, 3)).map { _ in
            try reset(prompt, requests, backend)
            return try replay(graph, backend)
        }
        let peak = try kernels.device.memory()?.peakAllocated
        // What stands before the step's own launches, norms and the like among it; it changes nothing that
        // the next proposals depend on.
        let drafting = backend.step(size).kernels.prefix { $0.name != "begin" }
        let round = try kernels.time(repeats: 10) { stream, _ in
            for kernel in drafting { try kernel.queue(stream) }
        }
        let keys = try draft.memory().map {
            $0.pageBytes(format) * PagedKeyValues.pages(forTokens: context) * count * requests
        }
        let dimensions = weights.architecture.dimensions
        var run = plain
        let whole = Self.spread(replays).median
        run.label = "\(plain.label), \(speculation.label) draft"
        // A step takes as long whatever it accepts, and a few steps draw a mean far from what is asked.
        run.step = Self.spread(
            runs.map {
                $0.seconds / (length.map { Double(steps) * $0 } ?? $0.tokens / Double(requests))
            })
        run.graph = BenchResult.Spread(replays)
        run.firstToken = nil
        run.prefill = nil
        run.peakBytes = peak
        run.predictedMemory = backend.memory
        run.traffic = DecodeTraffic(
            dimensions, weightBytes: weights.readBytes, cacheType: format.dtype,
            context: context, requests: requests)
        run.kernels = try profile(backend.step(size).kernels, traffic: run.traffic)
        let verified = Int(run.traffic.total)
        let proposed = draft.readBytes(count) + (keys ?? 0)
        run.traffic.weights += proposed
        let mean = runs.reduce(0) { $0 + $1.tokens } / Double(runs.count * steps * requests)
        run.speculation = BenchResult.Run.Speculation(
            draft: speculation.label, draftTokens: count, acceptanceLength: length ?? mean,
            simulatedLength: length,
            addedBytes: backend.memory.total - (plain.predictedMemory?.total ?? 0),
            round: .init(seconds: round.median / 1e6, bytes: proposed),
            verification: .init(
                seconds: max(whole - round.median / 1e6, 0), bytes: verified))
        run.settings = ["bucket": "\(size.bucket)", "draft_tokens": "\(count)"]
        if let rate { run.settings["simulated_acceptance"] = "\(rate)" }
        return run
    }
}
