import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// A patch of a site's stacked weight with other values than the model's.
public struct PatchSubstitute: Sendable {
    /// Where, and what made the values.
    public var entry: ProbeDesign.Entry
    /// The values `[rows, columns]`.
    public var values: Tensor
    /// ½·tr(Δᵀ·H·Δ·C), nats per token.
    public var error: Double

    /// `entry`'s patch of `weight` in `entry`'s format.
    ///
    /// - Parameters:
    ///   - weight: The stacked weight of its site.
    ///   - metric: Of the stacked weight.
    public init(_ entry: ProbeDesign.Entry, weight: Tensor, metric: Metric) throws {
        self.entry = entry
        let patch = try weight.narrow(0, entry.rowRange).narrow(1, entry.columnRange)
        let metric = try metric.narrow(rows: entry.rowRange, columns: entry.columnRange)
        let format = try FormatRegistry.format(entry.spec.format)
        values = try format.decompose(patch, spec: entry.spec, metric: metric).reconstruct()
        let difference = try values.to(dtype: .float64) - patch.to(dtype: .float64)
        error = try 0.5 * metric.squaredNorm(difference)
    }

    /// Values that were made before.
    init(entry: ProbeDesign.Entry, values: Tensor, error: Double) {
        self.entry = entry
        self.values = values
        self.error = error
    }
}

/// Measures KL(dense ‖ model) per token when one patch of the model is replaced, for many patches in
/// one pass over the layers.
///
/// A layer is loaded once; the residual stream of the dense model and of every probe whose patch lies
/// at or below that layer move up through it. A probe begins as a copy of the dense stream at its own
/// layer. Memory: one layer (or the whole model where it takes at most a quarter of what is free), and
/// tokens·hidden values for each probe.
public struct ProbeRunner {
    private let source: any WeightSource
    private let device: Device
    private let dtype: DType
    private let batches: [[[Int32]]]
    private let whole: (any LanguageModel)?

    /// A runner over `windows` of token ids.
    ///
    /// Windows of fewer than two tokens predict nothing and are left out.
    ///
    /// - Parameters:
    ///   - dtype: The type to compute in; `nil` takes ``WeightSource/defaultDType(on:)``.
    ///   - tokensPerPass: Tokens that go through a layer together.
    ///   - keepsModel: Whether the whole model stays on the device; `nil` decides by its memory.
    /// - Throws: `StageError.tooLittleText` without such windows.
    public init(
        _ source: any WeightSource, windows: [[Int32]], device: Device, dtype: DType? = nil,
        tokensPerPass: Int? = nil, keepsModel: Bool? = nil
    ) throws {
        let windows = windows.filter { $0.count >= 2 }
        guard !windows.isEmpty else {
            throw StageError.tooLittleText(tokens: 0, needed: 2, purpose: "probing")
        }
        let dtype = try dtype ?? source.defaultDType(on: device)
        self.source = source
        self.device = device
        self.dtype = dtype
        let perPass = tokensPerPass ?? (device == .cpu ? 2048 : 16384)
        batches = TokenWindows.batches(windows, tokens: perPass)
        let bytes = try Saturating.sum(
            source.checkModel().map { Saturating.product($0.shape + [dtype.byteCount]) })
        let free = try device.memory()?.free ?? HostMemory.available() ?? 0
        let keepsModel = keepsModel ?? (bytes <= free / 4)
        whole = keepsModel ? try source.loadModel(device: device, dtype: dtype) : nil
        let ends = try whole ?? source.loadPart(.ends, device: device, dtype: dtype)
        try ends.requireTokens(windows.joined())
    }

    /// The divergence of each of `substitutes`, nats per token, in their order.
    ///
    /// - Parameter progress: Called after each layer and each batch of logits; throws to cancel.
    public func measure(
        _ substitutes: [PatchSubstitute], progress: ProgressHandler = { _ in }
    ) throws -> [Double] {
        try withoutGradients {
            let ends = try whole ?? source.loadPart(.ends, device: device, dtype: dtype)
            let layers = ends.dimensions.layers
            var steps = Steps(total: layers + batches.count)
            var dense: [Tensor] = []
            for batch in batches {
                // The last token of a window predicts nothing that could be compared.
                let ids = try TokenWindows.tensor(batch.map { Array($0.dropLast()) })
                dense.append(try ends.embed(ids.to(device)))
            }
            var chains: [Int: [Tensor]] = [:]
            let sites = Dictionary(
                try source.sites().map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
            for layer in 0..<layers {
                let model =
                    try whole ?? source.loadPart(.layer(layer), device: device, dtype: dtype)
                for (index, substitute) in substitutes.enumerated()
                where substitute.entry.layer <= layer {
                    var weights: Substitutes = [:]
                    if substitute.entry.layer == layer, let site = sites[substitute.entry.site] {
                        weights[site.name] = try weight(of: site, with: substitute)
                    }
                    chains[index] = try advance(chains[index] ?? dense, layer, model, weights)
                }
                dense = try advance(dense, layer, model, [:])
                try steps.next(progress)
            }
            return try divergences(dense, chains, substitutes.count, ends, &steps, progress)
        }
    }

    private struct Steps {
        var done = 0
        let total: Int

        mutating func next(_ report: ProgressHandler) throws {
            done += 1
            try report(StageProgress(stage: "probe", done: done, total: total, unit: "steps"))
        }
    }

    /// The stacked weight of `site` with one patch replaced.
    private func weight(of site: Site, with substitute: PatchSubstitute) throws -> Dense {
        let stacked = try source.stackedWeight(site, on: device).to(dtype: dtype).clone()
        let patch = try stacked.narrow(0, substitute.entry.rowRange)
            .narrow(1, substitute.entry.columnRange)
        try patch.copy(from: substitute.values.to(device, dtype: dtype))
        return try Dense(
            spec: FormatSpec(format: Dense.name), outputs: site.outputs, inputs: site.inputs,
            tensors: [stacked])
    }

    private func advance(
        _ chain: [Tensor], _ layer: Int, _ model: any LanguageModel, _ substitutes: Substitutes
    ) throws -> [Tensor] {
        try chain.map { x in
            let context = try ForwardContext(
                batch: x.shape[0], tokens: x.shape[1], cache: nil, padding: nil,
                rotary: model.rotary, device: device, dtype: dtype, substitutes: substitutes)
            return try model.layer(layer, x, context)
        }
    }

    private func divergences(
        _ dense: [Tensor], _ chains: [Int: [Tensor]], _ count: Int, _ ends: any LanguageModel,
        _ steps: inout Steps, _ progress: ProgressHandler
    ) throws -> [Double] {
        let dimensions = ends.dimensions
        // 16 MiB of float32 logits on the CPU, 512 MiB on a GPU, as in ``Evaluator``.
        let rows = max((device == .cpu ? 1 << 22 : 1 << 27) / dimensions.vocabulary, 1)
        let zero = try Tensor.zeros([], dtype: .float64, device: device)
        var sums = Array(repeating: zero, count: count)
        var tokens = 0
        for (number, final) in dense.enumerated() {
            let all = final.shape[0] * final.shape[1]
            for start in stride(from: 0, to: all, by: rows) {
                let range = start..<min(start + rows, all)
                let p = try logProbabilities(final, range, ends)
                let probabilities = try p.exp()
                for index in 0..<count {
                    guard let chain = chains[index] else { continue }
                    let q = try logProbabilities(chain[number], range, ends)
                    sums[index] =
                        try sums[index] + (probabilities * (p - q)).sum(dtype: .float64)
                }
            }
            tokens += all
            try steps.next(progress)
        }
        return try sums.map { try $0.item() / Double(tokens) }
    }

    private func logProbabilities(_ x: Tensor, _ range: Range<Int>, _ ends: any LanguageModel)
        throws -> Tensor
    {
        let states = try x.reshape([-1, ends.dimensions.hidden]).narrow(0, range)
        return try ends.logits(ends.normed(states)).to(dtype: .float32).logSoftmax()
    }
}

extension WeightSource {
    /// The weights of a site's members, stacked along the outputs `[outputs, inputs]`, as stored.
    func stackedWeight(_ site: Site, on device: Device) throws -> Tensor {
        let parts = try site.members.map { member in
            try tensor("\(member.name).weight", shape: [member.outputs, member.inputs], on: device)
        }
        return parts.count == 1 ? parts[0] : try Tensor.cat(parts)
    }
}
