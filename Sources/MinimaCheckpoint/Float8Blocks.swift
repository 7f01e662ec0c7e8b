import MinimaCore

/// How public checkpoints store linear weights in float8: numbers of e4m3 with one scale for every
/// block of rows and columns.
///
/// `quantization_config` says so with `quant_method` "fp8" and `weight_block_size`; DeepSeek-V3 has the
/// layout first ("DeepSeek-V3 Technical Report", 2024, section 3.3.2), and Qwen's FP8 models share it.
/// A tensor `X` of type F8_E4M3 `[outputs, inputs]` stands for its numbers times those of `X_scale_inv`
/// `[⌈outputs / rows⌉, ⌈inputs / columns⌉]`, in a floating-point type. What is stored in other types is
/// as it is. What servers do to activations (`activation_scheme`) is no part of the weights.
public struct Float8Blocks: Sendable, Hashable {
    /// The `quant_method`.
    public static let method = "fp8"

    /// Rows of a block.
    public let rows: Int
    /// Columns of a block.
    public let columns: Int

    /// The blocks of a checkpoint's weights; `nil` where its configuration names no method, or another.
    ///
    /// - Throws: `CheckpointError` for numbers other than e4m3 and for scales that are not by blocks.
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
    /// The tensors as a model reads them: of weights in blocks of float8 the numbers that they stand
    /// for, in the configuration's type, and no scales.
    ///
    /// - Throws: As ``Float8Blocks/init(_:)``; `CheckpointError` for an unknown type.
    public func contents() throws(CheckpointError) -> [TensorDescription] {
        let isInBlocks = try Float8Blocks(config) != nil
        let type = try blockType()
        let weights = isInBlocks ? tensors.filter(Float8Blocks.describes) : []
        let names = Set(weights.map { JSON.Name($0.name) })
        let scales = Set(weights.map { JSON.Name(Float8Blocks.scaleName(of: $0.name)) })
        return tensors.filter { !scales.contains(JSON.Name($0.name)) }.map {
            TensorDescription(
                name: $0.name, dtype: names.contains(JSON.Name($0.name)) ? type : $0.dtype,
                shape: $0.shape)
        }
    }

    /// The type that weights in blocks of float8 are read as: the configuration's, or bfloat16.
    public func blockType() throws(CheckpointError) -> DType {
        let type = try config.dtype ?? .bfloat16
        return type.byteCount == 1 ? .bfloat16 : type
    }
}
