import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor

private let shiftRightOperator = Operator("aten::bitwise_right_shift", "Tensor_Scalar")
private let permutationOperator = Operator("aten::randperm", "generator")

/// A model of given sizes with random weights: memory and time of a model without its files.
///
/// Matrices are normal with standard deviation 1/√columns, norms are 1, biases 0. A tensor depends
/// on the seed, its name and the kind of device it is made on. Modules that `modules` names are made
/// in the format that it gives them, nothing being decomposed: codes and pivots are uniform.
public struct RandomWeights: WeightSource {
    /// The directory of `config.json`.
    public let path: String
    /// `config.json`, which alone decides the sizes.
    public let config: ModelConfig
    private let seed: UInt64
    private let dtype: DType
    /// Tensors that are stored in a type of their own, by name.
    private let fixed: [String: FixedTensor]

    /// What a tensor of fixed type may hold.
    private enum FixedTensor {
        case bytes
        /// Codes of scales within four octaves.
        case scales
        /// The largest scale; `columns` of the matrix that it belongs to.
        case base(columns: Int)
        /// Ascending rows below `limit`.
        case rows(limit: Int)
    }

    /// A model with the sizes of the configuration in the directory at `path`.
    ///
    /// - Parameter plan: Modules that are not dense.
    /// - Throws: `FormatError` for a specification that does not suit its module.
    public init(path: String, seed: UInt64, plan: [CompressionPlan.Module] = []) throws {
        try self.init(
            ModelConfig(path: path + "/config.json"), path: path, seed: seed, plan: plan)
    }

    /// A model with the sizes of `stored`, which `path` stands for in messages and records.
    ///
    /// - Parameter plan: Modules that are not dense.
    /// - Throws: `FormatError` for a specification that does not suit its module.
    public init(
        _ stored: ModelConfig, path: String, seed: UInt64, plan: [CompressionPlan.Module] = []
    ) throws {
        self.path = path
        self.seed = seed
        var fixed: [String: FixedTensor] = [:]
        for module in plan { try Self.list(module, into: &fixed) }
        if plan.isEmpty {
            config = stored
        } else {
            let modules = Dictionary(plan.map { ($0.name, $0.spec) }) { $1 }
            var members = stored.json.object ?? [:]
            members["quantization_config"] = CompressionManifest(modules: modules).json
            config = try ModelConfig(json: .object(members), path: stored.path)
        }
        dtype = try config.dtype ?? .bfloat16
        self.fixed = fixed
    }

    private static func list(
        _ module: CompressionPlan.Module, into fixed: inout [String: FixedTensor]
    ) throws {
        let layout = try FormatRegistry.format(module.spec.format).layout(
            module.spec, outputs: module.outputs, inputs: module.inputs)
        for item in layout {
            guard let dtype = item.dtype else { continue }
            let name = "\(module.name).\(item.name)"
            switch dtype {
            case .uint8 where item.name.hasSuffix(".scales"): fixed[name] = .scales
            case .uint8: fixed[name] = .bytes
            case .float32: fixed[name] = .base(columns: module.inputs)
            default:
                // Pivots and the coefficients of the other rows add up to the factor's rows.
                let core =
                    item.name == "pivots" ? "cores.1" : item.name.replacing("pivots", with: "cores")
                let others = layout.first { $0.name == core || $0.name == "\(core).codes" }
                let pivots = item.shape.first ?? 0
                fixed[name] = .rows(limit: pivots + (others?.shape.first ?? 0))
            }
        }
    }

    /// A tied head has no tensor of its own; everything else exists.
    public func holds(_ name: String) -> Bool {
        name != "lm_head.weight" || (try? config.tieWordEmbeddings) != true
    }

    /// Any name and shape can be had.
    public func claims() -> TensorClaims? { nil }

    /// Values from the seed and the name.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        let generator = try generator(name, on: device)
        if let kind = fixed[name] {
            return try fixedTensor(kind, shape: shape, on: device, generator: generator)
        }
        guard shape.count > 1 else {
            let value = name.hasSuffix(".bias") ? 0.0 : 1.0
            return try .full(shape, value, dtype: dtype, device: device)
        }
        // An input core may end in modes of one.
        let columns = shape.last { $0 > 1 } ?? 1
        let values = try Tensor.randn(
            shape, dtype: device == .cpu ? .float32 : dtype, device: device, generator: generator)
        try values.multiplyInPlace(Tensor([Float(1 / Double(columns).squareRoot())]).to(device))
        return try values.to(dtype: dtype)
    }

    private func generator(_ name: String, on device: Device) throws -> RandomGenerator {
        var hash = SHA256()
        Array("\(seed) \(name)".utf8).withUnsafeBytes { hash.update($0) }
        let digest = hash.hexadecimalDigest().prefix(16)
        return try RandomGenerator(seed: UInt64(digest, radix: 16) ?? seed, device: device)
    }

    private func fixedTensor(
        _ kind: FixedTensor, shape: [Int], on device: Device, generator: RandomGenerator
    ) throws -> Tensor {
        switch kind {
        case .bytes:
            return try .randomBytes(shape, device: device, generator: generator)
        case .scales:
            let bytes = try Tensor.randomBytes(shape, device: device, generator: generator)
            return try shiftRightOperator(.tensor(bytes), .int(2))
        case .base(let columns):
            // Four octaves of scales around 2.7/√columns: levels have a deviation of a third.
            return try .full(
                shape, 11 / Double(columns).squareRoot(), dtype: .float32, device: device)
        case .rows(let limit):
            let order = try permutationOperator(
                .int(limit), .generator(generator), .dtype(.int64), .none, .device(device))
            let chosen = try order.narrow(0, 0..<(shape.first ?? 0))
            return try chosen.sorted().values.to(dtype: .int32)
        }
    }

    /// The seed.
    public func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        ["random weights": "seed \(seed)"]
    }
}
