import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaTensor

extension SensitivityPredictor {
    /// Version of the file's layout and of what the networks are shown.
    static let fileVersion = "1"

    /// Writes the ensemble as safetensors: `members.0.spectrum.0.weight`, …; the header's metadata says
    /// `kind`, `version`, what it was trained on and how well it did.
    ///
    /// - Parameter notes: Further metadata, such as `model` and `spearman`.
    public func write(to path: String, notes: [String: String] = [:]) throws {
        let tensors = members.indices.flatMap { member in
            SensitivityNetwork.shapes.map {
                TensorDescription(
                    name: "members.\(member).\($0.name)", dtype: .float32, shape: $0.shape)
            }
        }
        var metadata = notes
        metadata["kind"] = "minima sensitivity predictor"
        metadata["version"] = Self.fileVersion
        let writer = try SafetensorsWriter(file: path, tensors: tensors, metadata: metadata)
        for (member, network) in members.enumerated() {
            for (item, tensor) in zip(SensitivityNetwork.shapes, network.parameters) {
                try tensor.detach().withBytes { (bytes) throws(CheckpointError) in
                    try writer.write(bytes, to: "members.\(member).\(item.name)")
                }
            }
        }
        try writer.finish()
    }

    /// Reads what ``write(to:notes:)`` wrote.
    ///
    /// - Throws: `PredictorError` for another file or one of another version, `CheckpointError` for
    ///   one that is damaged.
    public init(path: String) throws {
        let file = try SafetensorsFile(path: path)
        let version = file.metadata[JSON.Name("version")]
        guard file.metadata[JSON.Name("kind")] == "minima sensitivity predictor" else {
            throw PredictorError.notAPredictor(path: path)
        }
        guard version == Self.fileVersion else {
            throw PredictorError.otherVersion(path: path, found: version ?? "none")
        }
        let count = file.tensors.count / SensitivityNetwork.shapes.count
        guard count >= 1, count * SensitivityNetwork.shapes.count == file.tensors.count else {
            throw PredictorError.notAPredictor(path: path)
        }
        var members: [SensitivityNetwork] = []
        for member in 0..<count {
            var parameters: [Tensor] = []
            for (name, shape) in SensitivityNetwork.shapes {
                let full = "members.\(member).\(name)"
                guard let info = file.tensors.first(where: { $0.name == full }),
                    info.shape == shape, info.dtype == .float32
                else { throw PredictorError.missing(path: path, tensor: full, shape: shape) }
                parameters.append(
                    try file.bytes(of: full).withUnsafeBytes { (bytes) throws(TensorError) in
                        try Tensor(bytes: bytes, shape: shape, dtype: .float32)
                    })
            }
            members.append(SensitivityNetwork(parameters: parameters))
        }
        self.init(members: members)
    }
}

/// Why a file is no predictor.
public enum PredictorError: Error, Hashable, CustomStringConvertible {
    case notAPredictor(path: String)
    case otherVersion(path: String, found: String)
    case missing(path: String, tensor: String, shape: [Int])
    case unknownPatch(site: String, patch: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .notAPredictor(let path):
            "\(path) is no sensitivity predictor; give a file that `minima analyze` wrote"
        case .otherVersion(let path, let found):
            """
            \(path) is a predictor of version \(found), this Minima reads version \
            \(SensitivityPredictor.fileVersion); train it again with `minima analyze`
            """
        case .missing(let path, let tensor, let shape):
            "\(path): \"\(tensor)\" must be F32 of shape \(shape); train the predictor again"
        case .unknownPatch(let site, let patch):
            "patch \(patch) of \(site) is not in the analysis; probes and sites must belong together"
        }
    }
}
