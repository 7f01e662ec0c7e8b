import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

extension DecodeBench {
    /// Layers of a model whose sites are timed: more weights than any cache holds, fewer than a card.
    public static let timedLayers = 6

    /// Times the linear layers of a model site by site, each behind the same site of other layers, with
    /// every launch that the site takes: norms, copies and SwiGLU among them where they are no part of
    /// the products.
    ///
    /// - Parameters:
    ///   - source: A model of ``timedLayers`` layers or more.
    ///   - modules: The formats of its sites; dense ones are not listed.
    ///   - name: What results call this way of storing the sites.
    ///   - tokens: Rows of a step.
    public func costs(
        of source: any WeightSource, modules: [CompressionPlan.Module], label name: String,
        tokens: Int
    ) throws -> [DecodeCosts.Row] {
        let weights = try DecoderWeights(
            source, kernels: kernels, context: PagedKeyValues.pageTokens, onProgress: progress)
        let decoder = try CUDADecoder(
            weights,
            layout: CUDALayout(
                slots: tokens, context: PagedKeyValues.pageTokens, format: format, chunk: 16,
                buckets: [tokens]), kernels: kernels)
        let size = StepSize(bucket: tokens, draftTokens: 0)
        if tunesKernels { try decoder.tune([size], onProgress: progress) }
        let step = try decoder.makeStep(size)
        return try weights.layers[0].sites.compactMap { site in
            guard let module = modules.first(where: { $0.name == site.name }),
                let label = Self.labels.first(where: { site.name.hasSuffix($0.key) })?.value
            else { return nil }
            let launches = step.filter { $0.site == label }
            let time = try kernels.time(repeats: 10, perReplay: launches.count) { stream, call in
                try launches[call].queue(stream)
            }
            // Times are per launch; a site may have several.
            let scale = 1000 * Double(launches.count) / Double(weights.layers.count)
            return DecodeCosts.Row(
                spec: module.spec, outputs: site.outputs, inputs: site.inputs, tokens: tokens,
                nanoseconds: BenchResult.Spread(
                    median: time.median * scale, lowest: time.minimum * scale,
                    highest: time.maximum * scale, repetitions: time.count),
                bytes: site.byteCount, label: name, site: label)
        }
    }

    /// What a site's launches are called.
    private static let labels = [
        "qkv_proj": "qkv", "o_proj": "o", "gate_up_proj": "gate_up", "down_proj": "down",
    ]
}
