import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// Decodes on a CUDA device with Minima's own kernels, one graph per step.
///
/// Tokens, positions and tables of pages stay on the device; the host learns a step's tokens while
/// the next one runs. So do drafts: a step proposes tokens, verifies them and moves on by as many as it
/// has chosen, all of it in its graph.
public final class CUDABackend: DecodeBackend {
    /// What fits.
    public let capacity: DecodeCapacity

    let decoder: CUDADecoder
    private var slots: [Slot]
    /// The rows of the last step, as the device has them.
    private var rows: [Int32] = []
    private var results: [Result] = []
    private var steps: [StepSize: [StepKernel]] = [:]
    private var graphs: [StepSize: CUDAGraph] = [:]
    private var seconds: [StepSize: Double] = [:]
    private var lag: DraftLag
    private let firstToken: [StepKernel]
    /// The output projection of rows whose log-probabilities are told.
    private let scoringHead: [StepKernel]
    private var scores: [QueuedScores] = []
    private var opened = 0
    /// Each slot's mask, as the device has it.
    private var masks: [[UInt32]?]
    /// What its memory is predicted from.
    let memorySizes: CUDAMemory
    /// Where the time went until the first request could come.
    public private(set) var startup = StartupTimes()

    private struct Slot {
        var sampling: SamplingParameters?
        var pages: [Int32] = []
        /// Which of the sequences opened so far has it.
        var owner = 0
    }

    /// A step whose tokens are on their way to the host.
    private struct Result {
        let slots: [Int]
        /// Per row who had the slot, and how many likeliest tokens that request wants; `nil` for no
        /// log-probabilities.
        let owners: [Int]
        let wanted: [Int?]
        /// Tokens that were verified for each row.
        let draftTokens: Int
        /// int32 `[slots]` and `[slots, places]`.
        let counts, tokens: Tensor
        /// int32 `[slots, places]`, of a step that has verified trees and whose likeliest tokens are told.
        let path: Tensor?
        /// float32 `[slots, places]`.
        let logSums, chosen: Tensor?
        /// `[rows · (draftTokens + 1), any]`.
        let likeliest: (values: Tensor, ids: Tensor)?
        let done: CUDAEvent
    }

    /// Loads a model and makes everything that steps need, kernels and graphs among them.
    ///
    /// Once the weights are loaded, it is looked what room there is; where that is for fewer pages than the
    /// layout has, there are fewer.
    ///
    /// - Parameters:
    ///   - draft: What proposes the tokens that the layout's steps verify.
    ///   - limit: Bytes that everything may take at most; `nil`: what is free.
    ///   - leastPages: Pages that a request may need; `nil`: the layout's.
    ///   - onProgress: Called while layers are loaded and kernels made; throws to cancel.
    /// - Throws: `RuntimeError` for a family or a layout that the kernels do not do;
    ///   ``DeviceMemoryError`` before pages are allocated that do not fit.
    public convenience init(
        _ source: any WeightSource, layout: CUDALayout, draft: CUDADraft? = nil,
        kernels: CUDAContext, limit: Int? = nil, leastPages: Int? = nil,
        onProgress: (StageProgress) throws -> Void = { _ in }
    ) throws {
        var times = StartupTimes()
        let device = kernels.device
        let before = try device.memory()?.allocated ?? 0
        let (weights, loaded) = try times.measure("weights") {
            let weights = try DecoderWeights(
                source, kernels: kernels, context: layout.context, onProgress: onProgress)
            let loaded = try draft?.loaded(
                target: source, kernels: kernels, context: layout.context, onProgress: onProgress)
            // What loading left over.
            try device.synchronize()
            try device.emptyCache()
            return (weights, loaded)
        }
        var layout = layout
        if let memory = try device.memory() {
            let left = (limit ?? .max) - (memory.allocated - before)
            layout = try CUDAMemory(weights, draft: loaded, limits: kernels.limits).fitted(
                layout, available: min(memory.available, left),
                leastPages: leastPages ?? layout.pageCount)
        }
        try self.init(
            weights, layout: layout, draft: loaded, kernels: kernels, startup: times,
            onProgress: onProgress)
    }

    /// - Parameter acceptance: Per place the probability with which a proposal counts as right,
    ///   whatever it is: to time steps, not to serve; `nil`: proposals are compared.
    init(
        _ weights: DecoderWeights, layout: CUDALayout, draft: LoadedDraft? = nil,
        kernels: CUDAContext, simulating acceptance: [Double]? = nil,
        startup: StartupTimes = StartupTimes(), onProgress: (StageProgress) throws -> Void
    ) throws {
        var times = startup
        let decoder = try CUDADecoder(
            weights, layout: layout, draft: draft, kernels: kernels, simulating: acceptance)
        let layout = decoder.layout
        if layout.mostDraftTokens > 0 { decoder.drafter = try draft?.drafter(for: decoder) }
        self.decoder = decoder
        slots = Array(repeating: Slot(), count: layout.slots)
        masks = Array(repeating: nil, count: layout.slots)
        lag = DraftLag(slots: layout.slots)
        let keeping = layout.buckets.filter { (decoder.drafter?.rereads($0, layout) ?? 0) > 1 }
        let sizes =
            keeping.map { StepSize(bucket: $0, draftTokens: 0, leavesDraft: true) } + layout.steps
        capacity = DecodeCapacity(
            slots: layout.slots, pages: layout.pageCount,
            pageTokens: PagedKeyValues.pageTokens, context: layout.context,
            vocabulary: weights.architecture.dimensions.vocabularySize,
            prefillChunk: layout.chunk, buckets: layout.buckets,
            deterministicBucket: layout.largestBucket, queuedSteps: 2,
            draftTokens: layout.draftTokens, prefixes: decoder.drafter?.prefixes ?? PrefixReuse())
        memorySizes = try CUDAMemory(weights, draft: draft, limits: kernels.limits)
        if layout.tunesKernels {
            try times.measure("tuning") { try decoder.tune(sizes, onProgress: onProgress) }
        }
        (firstToken, scoringHead, steps) = try times.measure("kernels") {
            let first = try decoder.layers.head(
                decoder.buffers.residual.narrow(0, 0..<1),
                into: decoder.buffers.logits.narrow(0, 0..<1))
            let scoring = try decoder.scoringHead()
            return (first, scoring, try Self.makeSteps(sizes, decoder, onProgress: onProgress))
        }
        try times.measure("graphs") {
            // The largest first: what libraries need of workspaces for them serves the others.
            for (index, size) in sizes.reversed().enumerated() {
                graphs[size] = try record(steps[size] ?? [])
                try onProgress(
                    StageProgress(
                        stage: "graphs", done: index + 1, total: sizes.count, unit: "graphs"))
            }
        }
        if layout.mostDraftTokens > 0 {
            seconds = try times.measure("timing") { try timeSteps(graphs) }
        }
        self.startup = times
    }

    /// Steps whose kernels are compiled at one time, each by several threads.
    private static let stepsAtOnce = 8

    /// Makes the kernels of all steps, several at a time: those of one step alone are few to compile.
    private static func makeSteps(
        _ sizes: [StepSize], _ decoder: CUDADecoder, onProgress: (StageProgress) throws -> Void
    ) throws -> [StepSize: [StepKernel]] {
        var steps: [StepSize: [StepKernel]] = [:]
        for first in stride(from: 0, to: sizes.count, by: stepsAtOnce) {
            let group = sizes[first..<min(first + stepsAtOnce, sizes.count)]
            let made = try concurrentMap(group.count, threads: stepsAtOnce) { index in
                try decoder.makeStep(group[first + index])
            }
            for (size, step) in zip(group, made) { steps[size] = step }
            try onProgress(
                StageProgress(
                    stage: "kernels", done: first + group.count, total: sizes.count, unit: "steps"))
        }
        return steps
    }

    /// Records a step. It runs once before, on padding, so that libraries have what they allocate.
    private func record(_ step: [StepKernel]) throws -> CUDAGraph {
        let stream = decoder.stream
        try upload(rows: Array(repeating: -1, count: decoder.layout.largestBucket))
        try stream.use { for kernel in step { try kernel.queue(stream) } }
        try stream.synchronize()
        return try CUDAGraph.capture(on: stream) {
            for kernel in step { try kernel.queue(stream) }
        }
    }

    /// The kernels of a step, and the graph that they were recorded into.
    func step(_ size: StepSize) -> (kernels: [StepKernel], graph: CUDAGraph?) {
        (steps[size] ?? [], graphs[size])
    }

    func upload(rows: [Int32]) throws {
        guard rows != self.rows else { return }
        try decoder.stream.use { try HostTransfer.upload(rows, to: decoder.rows) }
        self.rows = rows
    }

    func upload(pages: [Int32], of slot: Int) throws {
        guard slots[slot].pages != pages else { return }
        try decoder.stream.use {
            try HostTransfer.upload(pages, to: decoder.tables.select(0, slot))
        }
        slots[slot].pages = pages
    }

    /// Queues what says which tokens may come next in a slot.
    private func upload(mask: [UInt32]?, of slot: Int) throws {
        guard masks[slot] != mask else { return }
        let needed = SamplingState.maskWords(capacity.vocabulary)
        guard mask?.count ?? needed == needed else {
            throw SamplingError.badMask(words: mask?.count ?? 0, needed: needed)
        }
        try decoder.stream.use {
            try HostTransfer.upload(
                SamplingState.maskRow(mask), to: decoder.state.masks.select(0, slot))
        }
        masks[slot] = mask
    }

    /// Sets the slot's way of sampling and position.
    public func open(_ slot: Int, _ sequence: SequenceStart) throws {
        opened += 1
        lag.open(slot)
        slots[slot] = Slot(sampling: sequence.sampling, owner: opened)
        try decoder.sampling.open(
            slot: slot, sequence.sampling.settings, tokens: sequence.tokens,
            promptCount: sequence.promptCount, state: decoder.state, on: decoder.stream)
    }

    /// Queues a chunk of a prompt and, where they are asked for, its scores and the choice of the token
    /// after it.
    public func prefill(_ chunk: PrefillChunk) throws {
        try upload(pages: chunk.pages, of: chunk.slot)
        let stream = decoder.stream
        try stream.use {
            try decoder.prefill(chunk.tokens, at: chunk.position, slot: chunk.slot)
            let scored = try chunk.scoring.map { try queueScores($0) }
            if chunk.samples { try sample(after: chunk) }
            if let scored { scores.append(scored) }
        }
    }

    /// Queues the choice of the token after a prompt's last chunk.
    private func sample(after chunk: PrefillChunk) throws {
        let stream = decoder.stream
        let residual = decoder.buffers.residual
        let last = chunk.tokens.count - 1
        if last > 0 {
            try residual.narrow(0, 0..<1).copy(from: residual.narrow(0, last..<last + 1))
        }
        for kernel in firstToken { try kernel.queue(stream) }
        var row = [Int32](repeating: -1, count: decoder.layout.largestBucket)
        row[0] = Int32(chunk.slot)
        try upload(rows: row)
        try upload(mask: chunk.mask, of: chunk.slot)
        try decoder.sampling.launch(
            decoder.buffers.logits.narrow(0, 0..<1), slots: decoder.rows.narrow(0, 0..<1),
            state: decoder.state, on: stream, overlapping: false)
        try queueResult([chunk.slot], draftTokens: 0)
    }

    private func queueScores(_ scoring: PromptScoring) throws -> QueuedScores {
        let scores = try decoder.score(scoring, through: scoringHead).download()
        let queued = QueuedScores(
            scores: scores, tokens: scoring.tokens, done: try CUDAEvent(on: decoder.kernels))
        try queued.done.record(on: decoder.stream)
        return queued
    }

    /// Waits for the oldest scores.
    public func collectScores() throws -> [SampledToken] {
        let oldest = scores.removeFirst()
        try oldest.done.synchronize()
        return try oldest.scores.tokens(oldest.tokens)
    }

    /// Queues one step: of as many proposals as were asked for, or the most that there is a graph for.
    ///
    /// - Throws: `RuntimeError.pagesTooFew` where a row's pages may not hold what the step writes.
    public func decode(_ batch: DecodeBatch) throws {
        let known = capacity.draftTokens.last {
            $0 <= batch.draftTokens
                && graphs[StepSize(bucket: batch.bucket, draftTokens: $0)] != nil
        }
        let own = batch.rows.map(\.slot)
        var size = StepSize(bucket: batch.bucket, draftTokens: known ?? 0)
        if known == 0, let places = decoder.drafter?.rereads(batch.bucket, decoder.layout) {
            size.leavesDraft = lag.mayLeave(own, places: places)
        }
        guard let draftTokens = known, let graph = graphs[size] else {
            throw RuntimeError.noSuchBucket(batch.bucket, known: capacity.buckets)
        }
        var row = [Int32](repeating: -1, count: decoder.layout.largestBucket)
        for (index, entry) in batch.rows.enumerated() {
            row[index] = Int32(entry.slot)
            let needed = entry.position + unreadDrafts(entry.slot) + draftTokens + 1
            guard capacity.pages(for: needed) <= entry.pages.count else {
                throw RuntimeError.pagesTooFew(
                    slot: entry.slot, tokens: needed, pages: entry.pages.count)
            }
            try upload(pages: entry.pages, of: entry.slot)
            try upload(mask: entry.mask, of: entry.slot)
        }
        try upload(rows: row)
        try graph.launch(on: decoder.stream)
        lag.queued(own, draftTokens: draftTokens, leavesDraft: size.leavesDraft)
        try decoder.stream.use { try queueResult(own, draftTokens: draftTokens) }
    }

    /// How much further than the host knows a slot's sequence may have come.
    private func unreadDrafts(_ slot: Int) -> Int {
        results.reduce(0) { sum, result in
            guard let row = result.slots.firstIndex(of: slot),
                result.owners[row] == slots[slot].owner
            else { return sum }
            return sum + result.draftTokens
        }
    }

    /// Queues the way of a step's tokens to the host.
    private func queueResult(_ rows: [Int], draftTokens: Int) throws {
        let state = decoder.state
        let wanted = rows.map { slots[$0].sampling?.logprobs }
        var likeliest: (Tensor, Tensor)?
        if let count = wanted.compactMap(\.self).max(), count > 0 {
            let logits = try decoder.buffers.logits.narrow(0, 0..<rows.count * (draftTokens + 1))
            let found = try logits.topK(count)
            likeliest = (
                try HostTransfer.download(found.values), try HostTransfer.download(found.indices)
            )
        }
        let isWanted = wanted.contains { $0 != nil }
        let result = Result(
            slots: rows, owners: rows.map { slots[$0].owner }, wanted: wanted,
            draftTokens: draftTokens, counts: try HostTransfer.download(state.counts),
            tokens: try HostTransfer.download(state.emitted),
            path: draftTokens > 0 && likeliest != nil
                ? try state.path.map { try HostTransfer.download($0) } : nil,
            logSums: isWanted ? try HostTransfer.download(state.logSums) : nil,
            chosen: isWanted ? try HostTransfer.download(state.chosenLogits) : nil,
            likeliest: likeliest, done: try CUDAEvent(on: decoder.kernels))
        try result.done.record(on: decoder.stream)
        results.append(result)
    }

    /// Waits for the oldest step.
    public func collect() throws -> [[SampledToken]] {
        let result = results.removeFirst()
        try result.done.synchronize()
        let emitted = EmittedTokens(
            counts: try result.counts.values(), tokens: try result.tokens.values(),
            path: try result.path?.values(),
            logSums: try result.logSums?.values(), chosen: try result.chosen?.values(),
            likeliest: try result.likeliest.map {
                (try $0.ids.values(), try $0.values.values(), $0.values.shape[1])
            },
            places: decoder.state.places, rowsOfLogits: result.draftTokens + 1)
        return zip(result.slots, result.wanted).enumerated().map { row, entry in
            emitted.tokens(row: row, slot: entry.0, wanted: entry.1)
        }
    }

    /// Seconds of a step in the middle of the context, measured as the backend was made, where steps
    /// verify drafts; infinite for one that there is no graph for.
    public func decodeSeconds(bucket: Int, draftTokens: Int) -> Double? {
        guard !seconds.isEmpty else { return nil }
        var size = StepSize(bucket: bucket, draftTokens: draftTokens)
        guard let whole = seconds[size] else { return .infinity }
        size.leavesDraft = true
        guard let less = seconds[size] else { return whole }
        // One of as many steps as a round reads places again has a round.
        let places = decoder.drafter?.rereads(bucket, decoder.layout) ?? 1
        return less + (whole - less) / Double(max(places, 1))
    }

    /// Forgets the sequence.
    public func close(_ slot: Int) {
        slots[slot] = Slot()
    }
}

extension CUDABackend {
    /// The decoder that a model is; reads its configuration only.
    ///
    /// - Throws: `RuntimeError.unsupportedFamily` for a family whose layers the kernels do not know.
    public static func architecture(of source: any WeightSource) throws -> DecoderArchitecture {
        guard let family = try FamilyRegistry.family(source.config) as? any DecoderModel.Type
        else {
            throw try unsupportedFamily(source)
        }
        return try family.decoder(source.config)
    }

    static func unsupportedFamily(_ source: any WeightSource) throws -> RuntimeError {
        .unsupportedFamily(
            try source.config.modelType,
            known: FamilyRegistry.all.compactMap { $0 as? any DecoderModel.Type }
                .flatMap { $0.modelTypes })
    }
}
