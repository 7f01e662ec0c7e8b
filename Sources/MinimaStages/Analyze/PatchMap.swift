import Glibc
import MinimaCore
import MinimaFormats
import MinimaTensor

/// What the sensitivity network sees of a model: the patches' spectra and statistics, and where each
/// patch lies on the map of layers and slots.
///
/// A slot is a patch's number within its decoder layer. Sizes enter as logarithms, statistics as
/// deviations from the model's own mean in units of its standard deviation, so that a network trained
/// on one model reads another of different depth and width.
struct PatchMap {
    /// Numbers in ``statistics`` of a patch.
    static let statisticsCount = statisticsNames.count + 4 + roles.count

    /// Deviations from the model's mean; logarithms but for the shares.
    private static let statisticsNames = [
        "magnitude", "trace", "gradient", "activation", "condition", "kurtosis", "sparsity", "rank",
    ]
    private static let shares: Set<String> = ["sparsity", "rank"]
    /// Endings of module names.
    private static let roles = [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]

    /// Decoder layers.
    let layers: Int
    /// Patches of the layer that has most.
    let slots: Int
    /// Log spectra from their largest value down, `[patch, 2, spectrumLength]`: W and H^½·W·C^½.
    let spectra: Tensor
    /// `[patch, statisticsCount]`.
    let statistics: Tensor
    /// Number of the patch on each place of the map, `[layers · slots]`; the number of patches where
    /// there is none.
    let occupants: Tensor
    /// Place of each patch on the map.
    let places: Tensor
    /// Number of the first patch of each site, by its name.
    let first: [String: Int]

    init(_ sites: [SiteAnalysis]) throws {
        let patches = sites.flatMap { site in site.patches.map { (site: site, patch: $0) } }
        layers = (sites.map(\.layer).max() ?? 0) + 1
        var used = [Int](repeating: 0, count: layers)
        var places: [(layer: Int, slot: Int)] = []
        var first: [String: Int] = [:]
        for site in sites {
            first[site.name] = places.count
            for _ in site.patches {
                places.append((site.layer, used[site.layer]))
                used[site.layer] += 1
            }
        }
        self.first = first
        let slots = max(used.max() ?? 0, 1)
        self.slots = slots
        let numbers = places.map { Int64($0.layer * slots + $0.slot) }
        var occupants = [Int64](repeating: Int64(patches.count), count: layers * slots)
        for (patch, place) in numbers.enumerated() { occupants[Int(place)] = Int64(patch) }
        self.occupants = try Tensor(occupants)
        self.places = try Tensor(numbers)
        let length = PatchStatistics.spectrumLength
        spectra = try Tensor(
            patches.flatMap { pair in
                ["weight", "weighted"].flatMap { name in
                    let values = pair.patch.spectra[name] ?? Array(repeating: 0, count: length)
                    // Five nats, e⁵ = 148, are a usual range.
                    return values.map { Float(($0 - values[0]) / 5) }
                }
            }, shape: [patches.count, 2, length])
        statistics = try Self.statistics(patches, layers: layers)
    }

    private static func statistics(
        _ patches: [(site: SiteAnalysis, patch: PatchAnalysis)], layers: Int
    ) throws(TensorError) -> Tensor {
        var rows = [[Float]](repeating: [], count: patches.count)
        for name in statisticsNames {
            let raw = patches.map { pair -> Double in
                let value = pair.patch.statistics[name] ?? 0
                return shares.contains(name) ? value : log(max(value, 1e-30))
            }
            let count = Double(max(raw.count, 1))
            let mean = raw.reduce(0, +) / count
            let variance = raw.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count
            let scale = max(variance.squareRoot(), 1e-6)
            // Three deviations at most: one dead patch does not drown the others.
            for index in raw.indices {
                rows[index].append(Float(min(max((raw[index] - mean) / scale, -3), 3)))
            }
        }
        for (index, pair) in patches.enumerated() {
            let position = Double(pair.site.layer) / Double(max(layers - 1, 1))
            rows[index] += [
                Float(2 * position - 1),
                Float(cos(.pi * 2 * position)),
                Float(log2(Double(pair.patch.rows)) / 8 - 1),
                Float(log2(Double(pair.patch.columns)) / 8 - 1),
            ]
            rows[index] += roles.map { pair.patch.module.hasSuffix($0) ? 1 : 0 }
        }
        return try Tensor(rows.flatMap(\.self), shape: [patches.count, statisticsCount])
    }

    /// Features `[patch, channels]` laid out on the map, `[1, channels, layers, slots]`; zeros where
    /// there is no patch.
    func laidOut(_ features: Tensor) throws(TensorError) -> Tensor {
        let channels = features.shape[1]
        let padded = try Tensor.cat([features, .zeros([1, channels])])
        return try padded.selecting(0, occupants)
            .reshape([layers, slots, channels]).permute([2, 0, 1]).unsqueeze(0)
    }

    /// The features of each patch from the map, the other way round.
    func gathered(_ map: Tensor) throws(TensorError) -> Tensor {
        let channels = map.shape[1]
        let rows = try map.squeeze(0).permute([1, 2, 0]).reshape([layers * slots, channels])
        return try rows.selecting(0, places)
    }
}

/// What the network is told about an option of a piece.
struct Candidate: Sendable {
    /// Numbers of the descriptor.
    static let descriptorCount = families.count + 5

    /// Kinds of formats that err alike.
    private static let families: [[String]] = [
        ["quantized"], ["lowrank", "interpolative"], ["tucker"], ["tt"], ["tr"], ["cp", "btd"],
        ["sum", "sparse", "blocks"],
    ]

    /// The patches that the piece overlaps, with shares that sum to 1.
    var patches: [(index: Int, share: Double)]
    /// Format.
    var spec: FormatSpec
    /// Share of the dense parameters that is stored.
    var retained: Double
    /// The closed form of the damage.
    var error: Double
    /// The closed form of deleting the piece.
    var trace: Double

    /// The network's input besides the patches.
    var descriptor: [Float] {
        let format = spec.format
        var values = Self.families.map { $0.contains(format) ? Float(1) : 0 }
        let bits = spec.bits ?? spec.parts.compactMap(\.bits).min() ?? 16
        // Tens of nats below and a few above; −8 and 4 centre and scale what is usual.
        values += [
            Float(retained), Float(bits) / 16, bits < 16 ? 1 : 0,
            Float((logError + 8) / 4), Float((log(max(error, 1e-30) / max(trace, 1e-30)) + 3) / 3),
        ]
        return values
    }

    /// The closed form's logarithm.
    var logError: Double { log(max(error, Self.smallest)) }

    /// Damages below this are rounding errors of the measurement, nats per token.
    static let smallest = 1e-9
}

extension FormatSpec {
    /// The share of a dense weight's parameters that this stores.
    func retained(outputs: Int, inputs: Int) throws(FormatError) -> Double {
        let format = try FormatRegistry.format(self.format)
        let count = try format.parameterCount(self, outputs: outputs, inputs: inputs)
        return Double(count) / Double(max(outputs * inputs, 1))
    }
}
