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
            /// A head of the model's sizes with random weights, its linear layers stored so; `nil`: in
            /// bfloat16.
            case random(FormatSpec?)
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
        /// The most proposals of steps that propose as many as an engine would choose, also measured;
        /// `nil`: none are.
        public var automatic: Int?
        /// Tokens that a step is to make on average, each measured in turn, proposals counting as right
        /// by chance, of a tree the first of those for a place; empty: proposals are compared.
        public var lengths: [Double]
        /// Children of a head's proposals at most; 1: chains.
        public var width: Int

        /// What is measured.
        public init(
            draft: Draft, label: String, draftTokens: [Int], automatic: Int? = nil,
            lengths: [Double], width: Int = 1
        ) {
            self.draft = draft
            self.label = label
            self.draftTokens = draftTokens
            self.automatic = automatic
            self.lengths = lengths
            self.width = width
        }

        /// Proposals of a step at most.
        var mostDraftTokens: Int { max(draftTokens.max() ?? 0, automatic ?? 0) }

        /// One measurement.
        struct Case: Hashable {
            /// Proposals of each step, or the most of those that are chosen from.
            let count: Int
            let isAutomatic: Bool
            /// Tokens that a step with `count` proposals is to make.
            let length: Double?
        }

        /// Each number of proposals, `most` for larger ones, with each length that it can reach; then
        /// what is chosen from, of which an engine has the numbers up to `most`.
        func cases(atMost most: Int) -> [Case] {
            let chosen = CUDALayout.chosenDraftTokens.last { $0 <= most }
            let counts =
                Set(draftTokens.map { min($0, most) }).sorted().map { ($0, false) }
                + (automatic.map { [($0 <= most ? $0 : chosen ?? most, true)] } ?? [])
            return counts.flatMap { count, isAutomatic in
                lengths.isEmpty
                    ? [Case(count: count, isAutomatic: isAutomatic, length: nil)]
                    : lengths.filter { SimulatedAcceptance.rate(length: $0, count: count) != nil }
                        .map { Case(count: count, isAutomatic: isAutomatic, length: $0) }
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
            case .random(let spec):
                .head(
                    try RandomDraft(for: target, spec: spec, seed: seed),
                    width: speculation.width)
            case .head(let source): .head(source, width: speculation.width)
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
            requests: requests, draftTokens: Array(0...max(speculation.mostDraftTokens, 0))
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

    /// Measures steps that propose tokens beside `plain`, the run without.
    ///
    /// All requests get random keys and values.
    ///
    /// - Parameter reading: Seconds of a prompt with this draft, where they are known, and then in any
    ///   case.
    func measure(
        _ weights: DecoderWeights, _ speculation: Speculation, _ draft: LoadedDraft,
        _ choice: Speculation.Case, reading: inout BenchResult.Spread?,
        beside plain: BenchResult.Run
    ) throws -> BenchResult.Run {
        let requests = plain.requests
        let fewer = CUDALayout.chosenDraftTokens.filter { $0 < choice.count }
        let layout = layout(
            requests: requests, draftTokens: (choice.isAutomatic ? fewer : []) + [choice.count])
        let rate = choice.length.flatMap {
            SimulatedAcceptance.rate(length: $0, count: choice.count)
        }
        try checkMemory(weights, draft, layout)
        let backend = try CUDABackend(
            weights, layout: layout, draft: draft, kernels: kernels,
            simulating: rate.map { Array(repeating: $0, count: choice.count) },
            onProgress: progress)
        let prompt = tokens(
            context, vocabulary: weights.architecture.dimensions.vocabularySize)
        let seconds = try reading ?? readPrompts(prompt, backend)
        reading = seconds
        for slot in 0..<requests {
            try backend.fill(slot, tokens: context, pages: Self.pages(of: slot, layout))
        }
        var run = plain
        run.label = "\(plain.label), \(speculation.label) draft"
        run.firstToken = requests == 1 ? seconds : nil
        run.prefill?.seconds = seconds
        run.predictedMemory = backend.memory
        run.traffic = DecodeTraffic(
            weights.architecture.dimensions, weightBytes: weights.readBytes,
            cacheType: format.dtype, context: context, requests: requests)
        run.settings = ["bucket": "\(layout.largestBucket)"]
        if draft.width > 1 { run.settings["draft_tree"] = "\(draft.width)" }
        if let rate { run.settings["simulated_acceptance"] = "\(rate)" }
        let parts = SpeculationParts(
            label: speculation.label, draft: draft, choice: choice, rate: rate, prompt: prompt,
            addedBytes: backend.memory.total - (plain.predictedMemory?.total ?? 0))
        return choice.isAutomatic
            ? try measureChosen(parts, backend, run) : try measureFixed(parts, backend, run)
    }

    /// What measurements with proposals have in common.
    struct SpeculationParts {
        let label: String
        let draft: LoadedDraft
        let choice: Speculation.Case
        /// With which a proposal counts as right; `nil`: it is compared.
        let rate: Double?
        let prompt: [Int32]
        /// Memory beside that of the run without.
        let addedBytes: Int

        /// Tokens that a step with `count` proposals makes, expected from ``rate``.
        func length(_ count: Int) -> Double? {
            rate.map { rate in (0..<count).reduce(1) { sum, _ in 1 + rate * sum } }
        }
    }

    /// Keys and values that a round of `count` proposals reads.
    private func draftKeys(_ parts: SpeculationParts, _ count: Int, requests: Int) throws -> Int {
        try parts.draft.memory().map {
            $0.pageBytes(format) * PagedKeyValues.pages(forTokens: context) * count * requests
        } ?? 0
    }

    /// What a step with `count` proposals takes to propose them.
    ///
    /// What stands before the step's own launches, norms and the like among it; it changes nothing that
    /// the next proposals depend on.
    func round(_ parts: SpeculationParts, _ backend: CUDABackend, count: Int, requests: Int) throws
        -> BenchResult.Run.Speculation.Part
    {
        let size = StepSize(bucket: backend.decoder.layout.largestBucket, draftTokens: count)
        let drafting = backend.step(size).kernels.prefix { $0.name != "begin" }
        let time = try kernels.time(repeats: 10) { stream, _ in
            for kernel in drafting { try kernel.queue(stream) }
        }
        return .init(
            seconds: time.median / 1e6,
            bytes: parts.draft.readBytes(count)
                + (try draftKeys(parts, count, requests: requests)))
    }

    /// Steps that verify as many proposals each.
    private func measureFixed(
        _ parts: SpeculationParts, _ backend: CUDABackend, _ prepared: BenchResult.Run
    ) throws -> BenchResult.Run {
        var run = prepared
        let (requests, count, prompt) = (run.requests, parts.choice.count, parts.prompt)
        let size = StepSize(bucket: backend.decoder.layout.largestBucket, draftTokens: count)
        guard let graph = backend.step(size).graph else {
            throw RuntimeError.unsupportedSize(
                name: "tokens to verify for each of \(requests) requests", found: count,
                needed: "at most \(backend.decoder.layout.mostDraftTokens(size.bucket))")
        }
        let runs = try (0..<repeats).map { _ in
            try decode(prompt, requests, backend, draftTokens: count)
        }
        let replays = try (0..<max(repeats, 3)).map { _ in
            try reset(prompt, requests, backend)
            return try replay(graph, backend)
        }
        run.peakBytes = try kernels.device.memory()?.peakAllocated
        let round = try round(parts, backend, count: count, requests: requests)
        // A step takes as long whatever it accepts, and a few steps draw a mean far from what is asked. What
        // a tree makes depends on its form, too, and is counted.
        let asked = parts.draft.width == 1 ? parts.choice.length : nil
        run.step = Self.spread(
            runs.map {
                $0.seconds
                    / (asked.map { Double(steps) * $0 }
                        ?? $0.tokens / Double(requests))
            })
        run.graph = BenchResult.Spread(replays)
        run.kernels = try profile(
            backend.step(size).kernels, backend,
            cache: [
                "attention": run.traffic.cache,
                "draft attention": draftKeys(parts, count, requests: requests),
                // Each request's tokens are looked through, int32.
                "draft ngram": 4 * context * requests,
            ]
        ) { try reset(prompt, requests, backend) }
        let verified = Int(run.traffic.total)
        run.traffic.weights += round.bytes
        let mean = runs.reduce(0) { $0 + $1.tokens } / Double(runs.count * steps * requests)
        run.speculation = BenchResult.Run.Speculation(
            draft: parts.label, draftTokens: count, acceptanceLength: asked ?? mean,
            simulatedLength: parts.choice.length, addedBytes: parts.addedBytes, round: round,
            verification: .init(
                seconds: max(Self.spread(replays).median - round.seconds, 0), bytes: verified))
        run.settings["draft_tokens"] = "\(count)"
        return run
    }
}
