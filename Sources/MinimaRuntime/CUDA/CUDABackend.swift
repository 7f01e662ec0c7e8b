import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// Decodes on a CUDA device with Minima's own kernels, one graph per step.
///
/// Tokens, positions and tables of pages stay on the device; the host learns a step's tokens while
/// the next one runs.
public final class CUDABackend: DecodeBackend {
    /// What fits.
    public let capacity: DecodeCapacity

    let decoder: CUDADecoder
    private var slots: [Slot]
    /// The rows of the last step, as the device has them.
    private var rows: [Int32] = []
    private var results: [Result] = []
    private var steps: [Int: [StepKernel]] = [:]
    private var graphs: [Int: CUDAGraph] = [:]
    private let firstToken: [StepKernel]

    private struct Slot {
        var sampling: SamplingParameters?
        var pages: [Int32] = []
    }

    /// A step whose tokens are on their way to the host.
    private struct Result {
        let slots: [Int]
        /// Per row how many likeliest tokens its request wants; `nil` for no log-probabilities.
        let wanted: [Int?]
        let tokens: Tensor
        let logSums, chosen: Tensor?
        let likeliest: (values: Tensor, ids: Tensor)?
        let done: CUDAEvent
    }

    /// Loads a model and makes everything that steps need, kernels and graphs among them.
    ///
    /// - Parameters:
    ///   - onProgress: Called while layers are loaded and kernels made; throws to cancel.
    /// - Throws: `RuntimeError` for a family or a layout that the kernels do not do.
    public convenience init(
        _ source: any WeightSource, layout: CUDALayout, kernels: CUDAContext,
        onProgress: (StageProgress) throws -> Void = { _ in }
    ) throws {
        let weights = try DecoderWeights(
            source, kernels: kernels, context: layout.context, onProgress: onProgress)
        try self.init(weights, layout: layout, kernels: kernels, onProgress: onProgress)
    }

    init(
        _ weights: DecoderWeights, layout: CUDALayout, kernels: CUDAContext,
        onProgress: (StageProgress) throws -> Void
    ) throws {
        let decoder = try CUDADecoder(weights, layout: layout, kernels: kernels)
        self.decoder = decoder
        slots = Array(repeating: Slot(), count: layout.slots)
        let buckets = layout.buckets
        capacity = DecodeCapacity(
            slots: layout.slots, pages: layout.pageCount,
            pageTokens: PagedKeyValues.pageTokens, context: layout.context,
            vocabulary: weights.architecture.dimensions.vocabularySize,
            prefillChunk: layout.chunk, buckets: buckets,
            deterministicBucket: layout.largestBucket, queuedSteps: 2)
        if layout.tunesKernels { try decoder.tune(layout.buckets, onProgress: onProgress) }
        firstToken = try decoder.head(
            decoder.buffers.residual.narrow(0, 0..<1),
            into: decoder.buffers.logits.narrow(0, 0..<1))
        for (index, bucket) in buckets.enumerated() {
            let step = try decoder.makeStep(bucket)
            steps[bucket] = step
            graphs[bucket] = try record(step)
            try onProgress(
                StageProgress(
                    stage: "kernels", done: index + 1, total: buckets.count, unit: "graphs"))
        }
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

    /// The kernels of a step of `bucket` rows, and the graph that they were recorded into.
    func step(_ bucket: Int) -> (kernels: [StepKernel], graph: CUDAGraph?) {
        (steps[bucket] ?? [], graphs[bucket])
    }

    private func upload(rows: [Int32]) throws {
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

    /// Sets the slot's way of sampling and position.
    public func open(_ slot: Int, _ sequence: SequenceStart) throws {
        slots[slot] = Slot(sampling: sequence.sampling)
        try decoder.sampling.open(
            slot: slot, sequence.sampling.settings, tokens: sequence.tokens,
            promptCount: sequence.promptCount, state: decoder.state, on: decoder.stream)
    }

    /// Queues a chunk of a prompt and, at its end, the choice of the token after it.
    public func prefill(_ chunk: PrefillChunk) throws {
        try upload(pages: chunk.pages, of: chunk.slot)
        let stream = decoder.stream
        try stream.use {
            try decoder.prefill(chunk.tokens, at: chunk.position, slot: chunk.slot)
            guard chunk.samples else { return }
            let residual = decoder.buffers.residual
            let last = chunk.tokens.count - 1
            if last > 0 {
                try residual.narrow(0, 0..<1).copy(from: residual.narrow(0, last..<last + 1))
            }
            for kernel in firstToken { try kernel.queue(stream) }
            var row = [Int32](repeating: -1, count: decoder.layout.largestBucket)
            row[0] = Int32(chunk.slot)
            try upload(rows: row)
            try decoder.sampling.launch(
                decoder.buffers.logits.narrow(0, 0..<1), slots: decoder.rows.narrow(0, 0..<1),
                state: decoder.state, on: stream, overlapping: false)
            try queueResult([chunk.slot])
        }
    }

    /// Queues one step.
    public func decode(_ batch: DecodeBatch) throws {
        guard let graph = graphs[batch.bucket] else {
            throw RuntimeError.noSuchBucket(batch.bucket, known: capacity.buckets)
        }
        var row = [Int32](repeating: -1, count: decoder.layout.largestBucket)
        for (index, entry) in batch.rows.enumerated() {
            row[index] = Int32(entry.slot)
            try upload(pages: entry.pages, of: entry.slot)
        }
        try upload(rows: row)
        try graph.launch(on: decoder.stream)
        try decoder.stream.use { try queueResult(batch.rows.map(\.slot)) }
    }

    /// Queues the way of a step's tokens to the host.
    private func queueResult(_ rows: [Int]) throws {
        let state = decoder.state
        let wanted = rows.map { slots[$0].sampling?.logprobs }
        var likeliest: (Tensor, Tensor)?
        if let count = wanted.compactMap(\.self).max(), count > 0 {
            let found = try decoder.buffers.logits.narrow(0, 0..<rows.count).topK(count)
            likeliest = (
                try HostTransfer.download(found.values), try HostTransfer.download(found.indices)
            )
        }
        let isWanted = wanted.contains { $0 != nil }
        let result = Result(
            slots: rows, wanted: wanted, tokens: try HostTransfer.download(state.tokens),
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
        let tokens: [Int32] = try result.tokens.values()
        guard let logSums: [Float] = try result.logSums?.values(),
            let chosen: [Float] = try result.chosen?.values()
        else {
            return result.slots.map { [SampledToken(id: tokens[$0])] }
        }
        let values: [Float] = try result.likeliest?.values.values() ?? []
        let ids: [Int64] = try result.likeliest?.ids.values() ?? []
        let width = values.count / max(result.slots.count, 1)
        return result.slots.enumerated().map { row, slot in
            guard let count = result.wanted[row] else {
                return [SampledToken(id: tokens[slot])]
            }
            let token = SampledToken(
                id: tokens[slot], logprob: chosen[slot] - logSums[slot],
                alternatives: (0..<min(count, width)).map { place in
                    SampledToken.Alternative(
                        id: Int32(truncatingIfNeeded: ids[row * width + place]),
                        logprob: values[row * width + place] - logSums[slot])
                })
            return [token]
        }
    }

    /// Forgets the sequence.
    public func close(_ slot: Int) {
        slots[slot] = Slot()
    }

    /// Queues copies of pages in all layers.
    public func copyPages(from sources: [Int32], to destinations: [Int32]) throws {
        let (device, stream) = (decoder.kernels.device, decoder.stream)
        // Memory of this stream, which gets it back behind the kernels that read it.
        try stream.use {
            let (from, to) = (try Tensor(sources).to(device), try Tensor(destinations).to(device))
            for pages in decoder.cache.layers {
                try decoder.keyValues.copy(pages: pages, from: from, to: to, on: stream)
            }
        }
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

/// What the engine on a CUDA device cannot do.
public enum RuntimeError: Error, Hashable, CustomStringConvertible {
    case unsupportedFamily(String, known: [String])
    case noSuchBucket(Int, known: [Int])
    case unsupportedSize(name: String, found: Int, needed: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .unsupportedFamily(let type, let known):
            """
            the decoding kernels do not know the layers of "\(type)"; they know \
            \(known.joined(separator: ", ")); decode through libtorch
            """
        case .noSuchBucket(let bucket, let known):
            "a step of \(bucket) rows was asked for; there are graphs for \(known)"
        case .unsupportedSize(let name, let found, let needed):
            "\(name) is \(found), the decoding kernels need \(needed); decode through libtorch"
        }
    }
}
