import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels

extension CompressionPlan {
    /// Neighbours of the output projection's codes that share a scale.
    static let headGroupSize = 64

    /// This plan with the output projection stored as codes of `bits` bits in groups of 64, in
    /// place of what it may say of it already.
    ///
    /// It is no linear layer of the sums that the plan states.
    ///
    /// - Parameters:
    ///   - levels: What the codes stand for.
    ///   - source: The model.
    /// - Throws: `FormatError` for bits that codes cannot have, `CheckpointError` for a
    ///   configuration without sizes.
    public func withHead(
        bits: Int, levels: FormatSpec.Levels = .normal, of source: any WeightSource
    ) throws -> CompressionPlan {
        var plan = self
        plan.modules.removeAll { $0.name == LinearShape.headName }
        plan.modules.append(
            try Self.head(
                bits: bits, levels: levels, of: source.config, dtype: source.storedDType()))
        return plan
    }

    /// The output projection as codes of `bits` bits, of a model stored in `dtype`.
    static func head(
        bits: Int, levels: FormatSpec.Levels, of config: ModelConfig, dtype: DType
    ) throws -> Module {
        let site = try config.headSite()
        let spec = FormatSpec(
            format: Quantized.name, bits: bits, groupSize: headGroupSize, levels: levels,
            parts: [FormatSpec(format: Dense.name)])
        return Module(
            name: site.name, outputs: site.outputs, inputs: site.inputs, spec: spec,
            parameters: try Quantized.parameterCount(
                spec, outputs: site.outputs, inputs: site.inputs),
            bytes: try Quantized.byteCount(
                spec, outputs: site.outputs, inputs: site.inputs, dtype: dtype),
            damage: nil)
    }

    /// A plan that leaves every layer as it is.
    ///
    /// - Parameter model: The model's directory.
    public static func dense(_ model: String, version: String) -> CompressionPlan {
        CompressionPlan(
            version: version, model: model, fingerprints: [:], target: "dense",
            formats: [Dense.name], linearParametersBefore: 0, linearParametersAfter: 0,
            linearBytesBefore: 0, linearBytesAfter: 0, damage: nil, modules: [])
    }
}

/// The output projection of a plan: how it is stored, and what that adds to a model.
public struct PlannedHead: Sendable, Hashable {
    /// The plan's entry.
    public let module: CompressionPlan.Module
    /// Bytes that the model gains; a tied one keeps its embedding, others lose the dense matrix.
    public let addedBytes: Int
    /// Parameters that the model gains: outputs · inputs for a tied one, else none.
    public let addedParameters: Int

    /// Codes of `bits` bits in groups of 64.
    ///
    /// - Parameters:
    ///   - levels: What the codes stand for.
    ///   - config: The model's.
    ///   - dtype: The type that its weights are stored in, as they are read.
    /// - Throws: As ``CompressionPlan/withHead(bits:levels:of:)``.
    public init(
        bits: Int, levels: FormatSpec.Levels = .normal, of config: ModelConfig, dtype: DType
    ) throws {
        module = try CompressionPlan.head(
            bits: bits, levels: levels, of: config, dtype: dtype)
        let dense = try config.tieWordEmbeddings == true ? 0 : module.outputs * module.inputs
        addedBytes = module.bytes - dense * dtype.byteCount
        addedParameters = module.parameters - dense
    }
}
