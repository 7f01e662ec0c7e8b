import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// Measures decoding of one model after the other on a CUDA device.
public struct DecodeBench {
    let kernels: CUDAContext
    let context: Int
    private let requests: [Int]
    let format: KeyValueFormat
    let steps: Int
    let repeats: Int
    let chunk: Int
    let seed: UInt64
    let tunesKernels: Bool
    private let speculation: Speculation?
    let progress: ProgressHandler

    /// Replays of a graph that are timed together.
    private static let replays = 4

    /// Tokens of a sequence at most: prompt, timed steps, one that warms up and one that may be queued
    /// behind, each with all that it may make.
    var longest: Int {
        let places = (speculation?.mostDraftTokens ?? 0) + 1
        return context + (max(steps, Self.replays) + 2) * places
    }

    /// - Parameters:
    ///   - context: Tokens in the cache when the timed steps begin.
    ///   - requests: Requests at once, each count measured in turn.
    ///   - format: The type of stored keys and values.
    ///   - steps: Decode steps of a repetition.
    ///   - chunk: Tokens of a prompt read at once.
    ///   - seed: Of the tokens.
    ///   - tunesKernels: Whether the linear kernels' cuts are searched for first.
    ///   - speculation: What is measured beside each run; `nil`: nothing.
    public init(
        kernels: CUDAContext, context: Int, requests: [Int], format: KeyValueFormat, steps: Int,
        repeats: Int, chunk: Int, seed: UInt64, tunesKernels: Bool,
        speculation: Speculation? = nil, progress: @escaping ProgressHandler
    ) {
        self.kernels = kernels
        self.context = context
        self.requests = requests
        self.format = format
        self.steps = steps
        self.repeats = repeats
        self.chunk = chunk
        self.seed = seed
        self.tunesKernels = tunesKernels
        self.speculation = speculation
        self.progress = progress
    }

    /// Loads a model and measures it with each number of requests.
    ///
    /// - Parameter onRun: Called with each measurement as it is made.
    public func run(
        _ source: any WeightSource, label: String, onRun: (BenchResult.Run) throws -> Void
    ) throws {
        let device = kernels.device
        try speculation.map { try check($0, target: source) }
        let weights = try DecoderWeights(
            source, kernels: kernels, context: longest, onProgress: progress)
        try device.emptyCache()
        var plain: [BenchResult.Run] = []
        for count in requests {
            try device.resetPeakMemory()
            let run = try measure(weights, label: label, requests: count)
            try onRun(run)
            plain.append(run)
            try device.emptyCache()
        }
        guard let speculation else { return }
        // What proposes is loaded only now: its memory counts with its own runs.
        let draft = try loadedDraft(speculation, target: source)
        for run in plain {
            let most = try mostDraftTokens(
                weights, speculation, draft, requests: run.requests)
            // How long a prompt takes does not depend on what steps propose.
            var reading: BenchResult.Spread?
            for choice in speculation.cases(atMost: most) {
                try device.emptyCache()
                try device.resetPeakMemory()
                try onRun(
                    measure(weights, speculation, draft, choice, reading: &reading, beside: run))
            }
        }
        try device.emptyCache()
    }

    private func measure(_ weights: DecoderWeights, label: String, requests count: Int) throws
        -> BenchResult.Run
    {
        let sizes = weights.architecture.dimensions
        let layout = layout(requests: count, draftTokens: [])
        try checkMemory(weights, nil, layout)
        let backend = try CUDABackend(
            weights, layout: layout, kernels: kernels, onProgress: progress)
        let prompt = tokens(context, vocabulary: sizes.vocabularySize)
        let firstToken = try readPrompts(prompt, backend)
        for slot in 1..<max(count, 1) {
            try backend.fill(slot, tokens: context, pages: Self.pages(of: slot, layout))
        }
        let step = try Self.spread(
            (0..<repeats).map { _ in
                try decode(prompt, count, backend, draftTokens: 0).seconds / Double(steps)
            })
        let bucket = layout.largestBucket
        let (kernelsOfStep, graph) = backend.step(StepSize(bucket: bucket, draftTokens: 0))
        let traffic = DecodeTraffic(
            sizes, weightBytes: weights.readBytes, cacheType: format.dtype, context: context,
            requests: count)
        let replays = try graph.map { graph in
            try (0..<max(repeats, 3)).map { _ in
                try reset(prompt, count, backend)
                return try replay(graph, backend)
            }
        }
        // Kernels alone are timed on streams of their own, for which libraries take more memory.
        let peak = try kernels.device.memory()?.peakAllocated
        return BenchResult.Run(
            label: label, parameters: weights.parameterCount, weightBytes: weights.byteCount,
            cacheType: format.dtype, context: context, requests: count, steps: steps,
            step: step, graph: replays.flatMap { BenchResult.Spread($0) },
            firstToken: count == 1 ? firstToken : nil,
            prefill: BenchResult.Run.Prefill(
                tokens: context, chunk: chunk, seconds: firstToken,
                flops: sizes.prefillFlops(
                    tokens: context, linearParameters: weights.linearParameterCount)),
            peakBytes: peak, predictedMemory: backend.memory, traffic: traffic,
            kernels: try profile(kernelsOfStep, backend, cache: ["attention": traffic.cache]) {
                try reset(prompt, count, backend)
            },
            settings: ["bucket": "\(bucket)"])
    }

    /// Throws ``DeviceMemoryError`` where a layout does not fit beside what is loaded.
    func checkMemory(_ weights: DecoderWeights, _ draft: LoadedDraft?, _ layout: CUDALayout) throws
    {
        guard let memory = try kernels.device.memory() else { return }
        _ = try CUDAMemory(weights, draft: draft, limits: kernels.limits).fitted(
            layout, available: memory.available, leastPages: layout.pageCount)
    }

    static func spread(_ values: [Double]) -> BenchResult.Spread {
        BenchResult.Spread(values)
            ?? BenchResult.Spread(median: 0, lowest: 0, highest: 0, repetitions: 0)
    }

    func tokens(_ count: Int, vocabulary: Int) -> [Int32] {
        var state = seed &+ 0x9E37_79B9_7F4A_7C15
        return (0..<count).map { _ in
            // Knuth's multiplier; the upper bits are well mixed.
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int32((state >> 33) % UInt64(vocabulary))
        }
    }

    /// Seconds of readings of a prompt, after one that loads the library's kernels.
    func readPrompts(_ prompt: [Int32], _ backend: CUDABackend) throws -> BenchResult.Spread {
        _ = try readPrompt(prompt, backend)
        return try Self.spread(
            (0..<max(repeats / 2, 2)).map { _ in try readPrompt(prompt, backend) })
    }

    /// Seconds from a prompt to its first token: reading it, and the logits and choice behind it.
    func readPrompt(_ prompt: [Int32], _ backend: CUDABackend) throws -> Double {
        let clock = ContinuousClock()
        try backend.open(0, start(prompt))
        try backend.decoder.stream.synchronize()
        let pages = Self.pages(of: 0, backend.decoder.layout)
        let begin = clock.now
        for position in stride(from: 0, to: prompt.count, by: chunk) {
            let end = min(position + chunk, prompt.count)
            try backend.prefill(
                PrefillChunk(
                    slot: 0, position: position, tokens: prompt[position..<end], pages: pages,
                    samples: end == prompt.count))
        }
        _ = try backend.collect()
        return (clock.now - begin).totalSeconds
    }

    private func start(_ prompt: [Int32], seed: UInt64 = 0) throws -> SequenceStart {
        SequenceStart(
            tokens: prompt, promptCount: prompt.count,
            sampling: try SamplingParameters(seed: seed))
    }

    static func pages(of slot: Int, _ layout: CUDALayout) -> [Int32] {
        let first = slot * layout.pagesPerSlot
        return (first..<first + layout.pagesPerSlot).map(Int32.init)
    }

    /// Puts all requests back to the end of their prompts.
    ///
    /// - Parameter seed: Decides with position and slot which proposals count as right where that is left
    ///   to chance.
    func reset(_ prompt: [Int32], _ count: Int, _ backend: CUDABackend, seed: UInt64 = 0) throws {
        let start = try start(prompt, seed: seed)
        for slot in 0..<count { try backend.open(slot, start) }
    }

    /// Decodes ``steps`` steps as a user sees it: each step's tokens read while the next one runs.
    ///
    /// - Returns: Seconds, and tokens of all requests.
    func decode(
        _ prompt: [Int32], _ count: Int, _ backend: CUDABackend, draftTokens: Int
    ) throws -> (seconds: Double, tokens: Double) {
        try reset(prompt, count, backend)
        let layout = backend.decoder.layout
        let pages = (0..<count).map { Self.pages(of: $0, layout) }
        // The last token that was read of each request; at first the prompt's, which goes in again.
        var positions = Array(repeating: context - 1, count: count)
        var queued = 0
        func queue() throws {
            try backend.decode(
                DecodeBatch(
                    rows: (0..<count).map {
                        DecodeBatch.Row(
                            slot: $0, position: positions[$0] + queued, pages: pages[$0])
                    }, bucket: layout.largestBucket, draftTokens: draftTokens))
            queued += 1
        }
        func collect() throws -> Double {
            let tokens = try backend.collect().map(\.count)
            for (slot, count) in tokens.enumerated() { positions[slot] += count }
            queued -= 1
            return Double(tokens.reduce(0, +))
        }
        // The first step warms up.
        try queue()
        _ = try collect()
        let clock = ContinuousClock()
        let begin = clock.now
        var tokens = 0.0
        for step in 1...steps {
            try queue()
            if step > 1 { tokens += try collect() }
        }
        tokens += try collect()
        return ((clock.now - begin).totalSeconds, tokens)
    }

    /// Seconds of one replay, without the host; each replay goes a token further.
    func replay(_ graph: CUDAGraph, _ backend: CUDABackend) throws -> Double {
        let stream = backend.decoder.stream
        let (start, end) = (try CUDAEvent(on: kernels), try CUDAEvent(on: kernels))
        try start.record(on: stream)
        for _ in 0..<Self.replays { try graph.launch(on: stream) }
        try end.record(on: stream)
        try end.synchronize()
        return try end.elapsed(since: start) / 1000 / Double(Self.replays)
    }
}
