import MinimaCore

/// How public checkpoints store linear weights in float8: numbers of e4m3 with one scale for every
/// block of rows and columns.
///
/// `quantization_config` says so with `quant_method` "fp8" and `weight_block_size`; DeepSeek-V3 has
/// the layout first ("DeepSeek-V3 Technical Report", 2024, section 3.3.2), and Qwen's FP8 models
/// share it. A tensor `X` of type F8_E4M3 `[outputs, inputs]` stands for its numbers times those of
/// `X_scale_inv` `[⌈outputs / rows⌉, ⌈inputs / columns⌉]`, in a floating-point type. What is stored
/// in other types is as it is. What servers do to activations (`activation_scheme`) is no part of
/// the weights.
public struct Float8Blocks: Sendable, Hashable {
    /// The `quant_method`.
    public static let method = "fp8"

    /// Rows of a block.
    public let rows: Int
    /// Columns of a block.
    public let columns: Int

    /// The blocks of a checkpoint's weights; `nil` where its configuration names no method, or
    /// another.
    ///
    /// - Throws: `CheckpointError` for numbers other than e4m3 and for scales that are not by
    ///   blocks.
    public init?(_ config: ModelConfig) throws(CheckpointError) {
        guard let section = try config.sectionIfPresent("quantization_config"),
            section.value("quant_method")?.string == Self.method
        else { return nil }
        guard try section.stringIfPresent("fmt") ?? "e4m3" == "e4m3" else {
            throw section.mismatch("fmt", expected: "\"e4m3\"; take the original checkpoint")
        }
        let key = "weight_block_size"
        let sizes = try section.ints(key, in: 1...ModelConfig.largestCount)
        guard sizes.count == 2, section.value(key)?.array != nil else {
            throw section.mismatch(
                key,
                expected: "rows and columns of a block, such as [128, 128]; of weights with other "
                    + "scales take the original checkpoint")
        }
        (rows, columns) = (sizes[0], sizes[1])
    }

    /// The name of the scales of the weight called `name`.
    public static func scaleName(of name: String) -> String { "\(name)_scale_inv" }

    /// Whether a tensor is a weight in blocks: what has scales.
    public static func describes(_ tensor: TensorInfo) -> Bool {
        tensor.dtype == .float8e4m3 && tensor.shape.count == 2
    }

    /// The shape of the scales of a weight of `shape` `[outputs, inputs]`.
    public func scaleShape(of shape: [Int]) -> [Int] {
        zip(shape, [rows, columns]).map { size, block in
            size / block + (size % block == 0 ? 0 : 1)
        }
    }
}

extension Checkpoint {
    /// The tensors as a model reads them: of weights in blocks of float8 the numbers that they
    /// stand for, in ``storedDType()``, and no scales.
    ///
    /// - Throws: As ``Float8Blocks/init(_:)``; where weights are in blocks, `CheckpointError` for
    ///   an unknown type.
    public func contents() throws(CheckpointError) -> [TensorDescription] {
        guard try Float8Blocks(config) != nil else {
            return tensors.map {
                TensorDescription(name: $0.name, dtype: $0.dtype, shape: $0.shape)
            }
        }
        let type = try storedDType()
        let weights = tensors.filter(Float8Blocks.describes)
        let names = Set(weights.map { JSON.Name($0.name) })
        let scales = Set(weights.map { JSON.Name(Float8Blocks.scaleName(of: $0.name)) })
        return tensors.filter { !scales.contains(JSON.Name($0.name)) }.map {
            TensorDescription(
                name: $0.name, dtype: names.contains(JSON.Name($0.name)) ? type : $0.dtype,
                shape: $0.shape)
        }
    }

    /// The type of the model's weights as they are read: the one that the configuration names,
    /// where it has more than a byte. Else bfloat16 for weights in blocks of float8, and for others
    /// the type that most of their floating-point numbers are stored in.
    ///
    /// - Throws: As ``Float8Blocks/init(_:)``; `CheckpointError` for an unknown type.
    public func storedDType() throws(CheckpointError) -> DType {
        if let named = try config.weightDType() { return named }
        guard try Float8Blocks(config) == nil else { return .bfloat16 }
        return DType.commonest(tensors.map { ($0.dtype, $0.elementCount) })
    }
}

extension ModelConfig {
    /// The type that weights are read in, as far as the file says it: bfloat16 where it names a
    /// type of one byte, which is that of numbers beside their scales; `nil` when not said.
    public func weightDType() throws(CheckpointError) -> DType? {
        try dtype.map { $0.byteCount == 1 ? .bfloat16 : $0 }
    }

    /// The file's object, with `type` as the one that weights are stored in where it says otherwise
    /// or nothing.
    public func json(storing type: DType) throws(CheckpointError) -> JSON {
        guard try dtype != type, var members = json.object else { return json }
        members[value("dtype") == nil ? "torch_dtype" : "dtype"] = .string("\(type)")
        return .object(members)
    }
}

extension DType {
    /// The floating-point type of more than a byte that most numbers of `tensors` have; bfloat16
    /// where there is none.
    public static func commonest(_ tensors: [(dtype: DType, count: Int)]) -> DType {
        var counts: [DType: Int] = [:]
        for tensor in tensors where tensor.dtype.isFloatingPoint && tensor.dtype.byteCount > 1 {
            counts[tensor.dtype, default: 0] += tensor.count
        }
        // Of two that are as common, the wider.
        return counts.max { ($0.value, $0.key.byteCount) < ($1.value, $1.key.byteCount) }?.key
            ?? .bfloat16
    }
}
