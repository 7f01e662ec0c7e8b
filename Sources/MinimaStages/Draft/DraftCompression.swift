import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Puts a draft's linear layers in other formats, as a model's: a draft is read once for each of its
/// guesses, and its bytes count beside the target's.
///
/// Every layer is fitted by itself, in the Frobenius norm.
public struct DraftCompression {
    /// What a layer's weight becomes, by its name and size.
    public typealias Choice = (_ name: String, _ outputs: Int, _ inputs: Int) throws -> FormatSpec

    private let draft: DraftWeights

    /// A compression of `draft`.
    public init(_ draft: DraftWeights) {
        self.draft = draft
    }

    /// The draft with every linear layer as `choice` says; `dense` leaves one as it is.
    ///
    /// Layers that read one input, stored one by one, stay apart.
    ///
    /// - Returns: The draft, and by layer ‖Ŵ − W‖ / ‖W‖.
    /// - Throws: `FormatError` for a specification that does not suit a layer.
    public func callAsFunction(
        _ choice: Choice, device: Device = .cpu, progress: ProgressHandler = { _ in }
    ) throws -> (draft: DraftWeights, errors: [String: Double]) {
        let manifest = try CompressionManifest(draft.config)
        guard manifest.modules.isEmpty else { throw StageError.alreadyCompressed(path: draft.path) }
        let stored = try draft.storedDType()
        let sites = try EagleDraft.sites(draft)
        let total = sites.reduce(0) { $0 + $1.members.count }
        var (result, errors) = (draft, [String: Double]())
        for site in sites {
            for member in site.members {
                try progress(
                    StageProgress(
                        stage: "compress", done: errors.count, total: total, unit: "layers"))
                let weight = try draft.tensor(
                    "\(member.name).weight", shape: [member.outputs, member.inputs], on: device
                ).to(dtype: stored)
                let spec = try choice(member.name, member.outputs, member.inputs)
                let format = try FormatRegistry.format(spec.format)
                let small = try format.decompose(weight, spec: spec, metric: nil)
                errors[member.name] = try Self.error(small, weight)
                result = try result.replacing(member.name, with: small.moved(to: .cpu))
            }
        }
        try progress(
            StageProgress(stage: "compress", done: total, total: total, unit: "layers"))
        return (result, errors)
    }

    private static func error(_ small: any LinearWeight, _ weight: Tensor) throws -> Double {
        let weight = try weight.to(dtype: .float64)
        let difference = try (small.reconstruct().to(dtype: .float64) - weight).norm().item()
        return difference == 0 ? 0 : try difference / weight.norm().item()
    }
}

extension LinearWeight {
    fileprivate func moved(to device: Device) throws -> any LinearWeight {
        try replacing(try tensors.map { try $0.tensor.to(device) })
    }
}
