import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor

private let shiftRightOperator = Operator("aten::bitwise_right_shift", "Tensor_Scalar")
private let permutationOperator = Operator("aten::randperm", "generator")

/// A model of given sizes with random weights: memory and time of a model without its files.
///
/// Matrices are normal with standard deviation 1/√columns, norms are 1, biases 0. A tensor depends
/// on the seed, its name, its shape and the kind of device it is made on. Modules that are not dense
/// are made in their format, nothing being decomposed: codes, pivots and places are uniform. A CP or
/// block-term weight of R terms gives outputs 1/√R as large as another, its terms being products.
public struct RandomWeights: WeightSource {
    /// The directory of `config.json`.
    public let path: String
    /// `config.json`, which alone decides the sizes.
    public let config: ModelConfig
    private let seed: UInt64
    private let dtype: DType
    /// What tensors hold that are no matrices of normal numbers, by name.
    private var kinds: [String: Kind] = [:]

    /// What a tensor of a module that is not dense holds.
    private enum Kind {
        case codes
        /// Codes of scales within four octaves.
        case scales
        /// The largest scale of a matrix that sums `terms` products with numbers of these levels.
        case base(terms: Int, levels: FormatSpec.Levels)
        /// Values of which a row sums `terms`.
        case values(terms: Int)
        /// Ascending places below `limit`.
        case places(limit: Int)
    }

    /// A model with the sizes of the configuration in the directory at `path`.
    ///
    /// - Parameter plan: Modules that are not dense; empty: those that the configuration names.
    /// - Throws: As ``init(_:path:seed:plan:)``.
    public init(path: String, seed: UInt64, plan: [CompressionPlan.Module] = []) throws {
        try self.init(
            ModelConfig(path: path + "/config.json"), path: path, seed: seed, plan: plan)
    }

    /// A model with the sizes of `stored`, which `path` stands for in messages and records.
    ///
    /// - Parameters:
    ///   - plan: Modules that are not dense; empty: those that the configuration names.
    ///   - sites: Where these may be; `nil`: the sites of the configuration's family.
    /// - Throws: `CheckpointError.value` for a module of other sizes than the model's, `FormatError`
    ///   for a specification that does not suit its module. Modules that the model does not have are
    ///   found when it is checked or loaded.
    public init(
        _ stored: ModelConfig, path: String, seed: UInt64, plan: [CompressionPlan.Module] = [],
        sites known: [Site]? = nil
    ) throws {
        self.path = path
        self.seed = seed
        if plan.isEmpty {
            config = stored
        } else {
            let modules = Dictionary(plan.map { ($0.name, $0.spec) }) { $1 }
            var members = stored.json.object ?? [:]
            members["quantization_config"] = CompressionManifest(modules: modules).json
            config = try ModelConfig(json: .object(members), path: stored.path)
        }
        dtype = try config.weightDType() ?? .bfloat16
        let specs = try CompressionManifest(config).modules
        guard !specs.isEmpty else { return }
        let planned = Dictionary(plan.map { ($0.name, $0) }) { $1 }
        var sites = try known ?? sites()
        // A draft's output projection is one of its sites.
        if known == nil { sites.append(try config.headSite()) }
        for site in sites {
            // A site of one member has its name.
            let group = site.members.count > 1 ? [(site.name, site.outputs)] : []
            for (name, outputs) in group + site.members.map({ ($0.name, $0.outputs) }) {
                guard let spec = specs[name] else { continue }
                if let module = planned[name],
                    (module.outputs, module.inputs) != (outputs, site.inputs)
                {
                    throw CheckpointError.value(
                        path: stored.path, key: name,
                        found: "a plan for [\(module.outputs), \(module.inputs)]",
                        expected: "one for [\(outputs), \(site.inputs)]; plan this model")
                }
                try list(spec, outputs: outputs, inputs: site.inputs, prefix: "\(name).")
            }
        }
    }

    /// Notes what the tensors of `spec` hold, their names behind `prefix`.
    private mutating func list(
        _ spec: FormatSpec, outputs: Int, inputs: Int, prefix: String
    ) throws(FormatError) {
        // Checks the specification, those within it too.
        _ = try FormatRegistry.format(spec.format).layout(spec, outputs: outputs, inputs: inputs)
        let isQuantized = spec.format == Quantized.name
        let inner = isQuantized ? spec.parts[0] : spec
        guard inner.parts.isEmpty else {
            let isCut = inner.format == Blocks.name
            for (index, part) in inner.parts.enumerated() {
                var whole = part
                if isQuantized {
                    whole = spec
                    whole.parts = [part]
                }
                let rows = isCut && !inner.outputModes.isEmpty ? inner.outputModes[index] : outputs
                let columns = isCut && !inner.inputModes.isEmpty ? inner.inputModes[index] : inputs
                try list(
                    whole, outputs: rows, inputs: columns,
                    prefix: "\(prefix)\(isCut ? "blocks" : "parts").\(index).")
            }
            return
        }
        let layout = try FormatRegistry.format(inner.format).layout(
            inner, outputs: outputs, inputs: inputs)
        for item in layout {
            let name = prefix + item.name
            if item.dtype == nil, item.shape.count == 1 {
                kinds[name] = .values(terms: max(item.count / outputs, 1))
            } else if item.dtype == nil, isQuantized {
                kinds["\(name).codes"] = .codes
                kinds["\(name).scales"] = .scales
                kinds["\(name).base"] = .base(
                    terms: Self.terms(item.shape), levels: spec.levels)
            } else if inner.format == Sparse.name {
                kinds[name] = .places(limit: outputs * inputs)
            } else if item.dtype != nil {
                // Pivots and the coefficients of the other rows add up to the factor's rows.
                let core =
                    item.name == "pivots" ? "cores.1" : item.name.replacing("pivots", with: "cores")
                let others = layout.first { $0.name == core }
                kinds[name] = .places(limit: item.count + (others?.shape[0] ?? 0))
            }
        }
    }

    /// Products that a row of a tensor of `shape` sums; an input core may end in modes of one.
    private static func terms(_ shape: [Int]) -> Int { shape.last { $0 > 1 } ?? 1 }

    /// A tied head has no tensor of its own; everything else exists.
    public func holds(_ name: String) -> Bool {
        name != "lm_head.weight" || (try? config.tieWordEmbeddings) != true
    }

    /// Any name and shape can be had.
    public func claims() -> TensorClaims? { nil }

    /// Values from the seed and the name.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        let generator = try generator(name, on: device)
        if let kind = kinds[name] {
            return try tensor(kind, shape: shape, on: device, generator: generator)
        }
        guard shape.count > 1 else {
            let value = name.hasSuffix(".bias") ? 0.0 : 1.0
            return try .full(shape, value, dtype: dtype, device: device)
        }
        return try normal(
            shape, terms: Self.terms(shape), on: device, generator: generator)
    }

    /// Normal numbers with standard deviation 1/√terms.
    private func normal(
        _ shape: [Int], terms: Int, on device: Device, generator: RandomGenerator
    ) throws -> Tensor {
        let values = try Tensor.randn(
            shape, dtype: device == .cpu ? .float32 : dtype, device: device, generator: generator)
        try values.multiplyInPlace(Tensor([Float(1 / Double(terms).squareRoot())]).to(device))
        return try values.to(dtype: dtype)
    }

    private func generator(_ name: String, on device: Device) throws -> RandomGenerator {
        var hash = SHA256()
        Array("\(seed) \(name)".utf8).withUnsafeBytes { hash.update($0) }
        let digest = hash.hexadecimalDigest().prefix(16)
        return try RandomGenerator(seed: UInt64(digest, radix: 16) ?? seed, device: device)
    }

    private func tensor(
        _ kind: Kind, shape: [Int], on device: Device, generator: RandomGenerator
    ) throws -> Tensor {
        switch kind {
        case .codes:
            return try .randomBytes(shape, device: device, generator: generator)
        case .scales:
            let bytes = try Tensor.randomBytes(shape, device: device, generator: generator)
            return try shiftRightOperator(.tensor(bytes), .int(2))
        case .base(let terms, let levels):
            // Root mean squares: 0.43 of scales over four octaves, 0.58 of equally spaced levels, 0.24
            // of those that random bits are in e4m3.
            return try .full(
                shape, (levels == .float8 ? 10 : 4) / Double(terms).squareRoot(), dtype: .float32,
                device: device)
        case .values(let terms):
            return try normal(shape, terms: terms, on: device, generator: generator)
        case .places(let limit):
            let order = try permutationOperator(
                .int(limit), .generator(generator), .dtype(.int64), .none, .device(device))
            let chosen = try order.narrow(0, 0..<(shape.first ?? 0)).sorted().values
            return try limit > Int(Int32.max) ? chosen : chosen.to(dtype: .int32)
        }
    }

    /// The seed.
    public func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        ["random weights": "seed \(seed)"]
    }
}
