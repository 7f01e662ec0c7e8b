import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Statistics of layers in a directory, `layer-000.safetensors` and so on.
///
/// Every file carries the key of the calibration that made it: SHA-256 of the weights' fingerprints,
/// the tokens and the settings. Files of another key are as if they were not there, and so are
/// damaged ones: both are replaced when their layer is calibrated again.
public struct StatisticsStore: Sendable {
    /// The directory, which must exist when something is written.
    public let directory: String
    /// Content of the calibration, 64 hexadecimal digits.
    public let key: String
    private let layers: [Int: [Site]]

    /// The store of calibration `key` for a model's sites.
    public init(directory: String, key: String, sites: [Site]) {
        self.directory = directory
        self.key = key
        layers = Dictionary(grouping: sites, by: \.layer)
    }

    /// The statistics of a layer.
    ///
    /// - Returns: `nil` where there are none of this calibration, or none with input moments.
    public func load(layer: Int, to device: Device = .cpu) throws -> LayerStatistics? {
        try content(layer, device) { file, sites, summaries in
            var result: [SiteStatistics] = []
            for (index, (site, summary)) in zip(sites, summaries).enumerated() {
                guard
                    let moment = try tensor(
                        file, "\(index).input", [site.inputs, site.inputs], .float64, device)
                else { return nil }
                guard let metric = try metric(file, index, site, summary.runs, device) else {
                    return nil
                }
                result.append(
                    SiteStatistics(
                        site: site, input: moment, output: metric.value,
                        activations: summary.activations, tokens: summary.tokens))
            }
            return LayerStatistics(layer: layer, sites: result)
        }
    }

    /// Metrics H of the stacked outputs of a layer's sites, by name; also where input moments were
    /// not stored.
    ///
    /// - Returns: `nil` where there are none of this calibration.
    public func outputMetrics(layer: Int, to device: Device = .cpu) throws -> [String:
        OutputMetric]?
    {
        try content(layer, device) { file, sites, summaries in
            var result: [String: OutputMetric] = [:]
            for (index, (site, summary)) in zip(sites, summaries).enumerated() {
                guard let value = try metric(file, index, site, summary.runs, device)?.value
                else { return nil }
                result[site.name] = value
            }
            return result
        }
    }

    /// Whether there is a file of this calibration for a layer; reads no tensor.
    public func holds(layer: Int) -> Bool {
        (try? content(layer, .cpu) { _, _, _ in true }) != nil
    }

    /// Writes a layer's statistics, with its input moments or without.
    func save(_ statistics: LayerStatistics, withMoments: Bool) throws {
        var tensors: [(name: String, value: Tensor)] = []
        var summaries: [JSON] = []
        for (index, site) in statistics.sites.enumerated() {
            if withMoments { tensors.append(("\(index).input", site.input)) }
            let runs = site.output?.runs ?? []
            for (number, run) in runs.enumerated() {
                // Exact: metrics are rounded to float32 when they are made.
                tensors.append(("\(index).output.\(number)", try run.to(dtype: .float32)))
            }
            summaries.append(
                Summary(tokens: site.tokens, runs: runs.count, activations: site.activations)
                    .json(site.site.name))
        }
        let writer = try SafetensorsWriter(
            file: path(statistics.layer),
            tensors: tensors.map {
                TensorDescription(name: $0.name, dtype: $0.value.dtype, shape: $0.value.shape)
            },
            metadata: [
                "minima": "statistics", "key": key,
                "sites": JSON.array(summaries).text(indent: nil),
            ])
        for (name, value) in tensors { try value.withBytes { try writer.write($0, to: name) } }
        try writer.finish()
    }

    private func path(_ layer: Int) -> String {
        "\(directory)/\(Self.name("layer", layer))"
    }

    /// `kind-000.safetensors`.
    static func name(_ kind: String, _ number: Int) -> String {
        "\(kind)-\(number.zeroPadded(3)).safetensors"
    }

    /// What `body` makes of a layer's file; `nil` where that is absent, foreign or damaged.
    private func content<Result>(
        _ layer: Int, _ device: Device,
        _ body: (SafetensorsFile, [Site], [Summary]) throws -> Result?
    ) throws -> Result? {
        guard let sites = layers[layer], let file = try? SafetensorsFile(path: path(layer)),
            file.metadata["minima"] == "statistics", file.metadata["key"] == key,
            let text = file.metadata["sites"], let json = try? JSON(parsing: Array(text.utf8)),
            let entries = json.array, entries.count == sites.count
        else { return nil }
        let summaries = zip(entries, sites).compactMap { Summary($0, name: $1.name) }
        guard summaries.count == sites.count else { return nil }
        return try body(file, sites, summaries)
    }

    /// A stored tensor on `device`; `nil` unless it has this shape and type and is finite.
    private func tensor(
        _ file: SafetensorsFile, _ name: String, _ shape: [Int], _ dtype: DType, _ device: Device
    ) throws -> Tensor? {
        guard let info = file.info(name), info.shape == shape, info.dtype == dtype else {
            return nil
        }
        let bytes = try file.bytes(of: name)
        let stored = try bytes.withUnsafeBytes { (buffer) throws(TensorError) in
            try Tensor(bytes: buffer, shape: shape, dtype: dtype)
        }
        bytes.mapping.release(bytes.range)
        let tensor = try stored.to(device)
        // A sum is finite only where its terms are.
        return try tensor.sum(dtype: .float64).item().isFinite ? tensor : nil
    }

    /// The stored metric of a site, `nil` inside where there is none; `nil` where it is damaged.
    private func metric(
        _ file: SafetensorsFile, _ index: Int, _ site: Site, _ count: Int, _ device: Device
    ) throws -> (value: OutputMetric?, Void)? {
        guard count > 0 else { return (nil, ()) }
        // One run over all members, or one for each.
        let outputs = count == 1 ? [site.outputs] : site.members.map(\.outputs)
        guard count == outputs.count else { return nil }
        var runs: [Tensor] = []
        for (number, outputs) in outputs.enumerated() {
            let name = "\(index).output.\(number)"
            guard let size = file.info(name)?.shape.last, size > 0, outputs % size == 0,
                let run = try tensor(file, name, [outputs / size, size, size], .float32, device)
            else { return nil }
            runs.append(run)
        }
        return (try OutputMetric(runs: runs), ())
    }
}

/// What a file says about a site beside its tensors.
private struct Summary {
    let tokens: Int
    let runs: Int
    let activations: ActivationSummary

    init(tokens: Int, runs: Int, activations: ActivationSummary) {
        self.tokens = tokens
        self.runs = runs
        self.activations = activations
    }

    init?(_ json: JSON, name: String) {
        guard json["name"]?.string == name, let tokens = json["tokens"]?.int,
            let runs = json["runs"]?.int, let rms = json["rms"]?.double,
            let largest = json["largest"]?.double, let massive = json["massive_tokens"]?.int,
            let channels = json["outlier_channels"]?.array
        else { return nil }
        self.init(
            tokens: tokens, runs: runs,
            activations: ActivationSummary(
                rms: rms, largest: largest, outlierChannels: channels.compactMap(\.int),
                massiveTokens: massive))
    }

    func json(_ name: String) -> JSON {
        .object([
            "name": .string(name), "tokens": .integer(Int64(tokens)),
            "runs": .integer(Int64(runs)), "rms": .number(activations.rms),
            "largest": .number(activations.largest),
            "massive_tokens": .integer(Int64(activations.massiveTokens)),
            "outlier_channels": .array(activations.outlierChannels.map { .integer(Int64($0)) }),
        ])
    }
}
