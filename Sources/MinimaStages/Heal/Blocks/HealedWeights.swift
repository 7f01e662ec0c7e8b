import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

/// A model some of whose tensors were healed: these come from files of their own, the others from
/// the model they belong to.
struct HealedWeights: WeightSource {
    /// The model that was healed.
    let parent: any WeightSource
    /// The parent's configuration, in which modules that are stored otherwise by now are named.
    let config: ModelConfig
    /// Names of the parent's tensors that the model no longer has.
    let removed: Set<String>
    private let files: [SafetensorsFile]
    /// Which file's tensor counts.
    private let places: [JSON.Name: Int]
    private let hasOtherFormats: Bool

    /// The parent's directory.
    var path: String { parent.path }

    /// Healed tensors, which take the place of the parent's of the same names.
    ///
    /// - Parameters:
    ///   - paths: safetensors files; where several have a name, the last one's tensor counts.
    ///   - specs: Formats of linear modules, as far as they may differ from the parent's.
    ///   - removed: Names of the parent's tensors that modules of other formats do not have.
    /// - Throws: `CheckpointError` for files that cannot be read.
    init(
        _ parent: any WeightSource, files paths: [String], specs: [String: FormatSpec] = [:],
        removed: Set<String> = []
    ) throws {
        self.parent = parent
        self.removed = removed
        files = try paths.map { try SafetensorsFile(path: $0) }
        var places: [JSON.Name: Int] = [:]
        for (index, file) in files.enumerated() {
            for tensor in file.tensors { places[JSON.Name(tensor.name)] = index }
        }
        self.places = places
        var manifest = try CompressionManifest(parent.config)
        hasOtherFormats = specs.contains { manifest.modules[$0.key] != $0.value }
        guard hasOtherFormats else {
            config = parent.config
            return
        }
        manifest.modules.merge(specs) { $1 }
        var json = parent.config.json.object ?? [:]
        json["quantization_config"] = manifest.json
        config = try ModelConfig(json: .object(json), path: parent.config.path)
    }

    /// Names of the healed tensors, sorted.
    var healed: [String] { places.keys.map(\.text).sorted() }

    /// The parent's.
    func storedDType() throws -> DType { try parent.storedDType() }

    /// Whether the parent or a file holds it.
    func holds(_ name: String) -> Bool {
        places[JSON.Name(name)] != nil || !removed.contains(name) && parent.holds(name)
    }

    /// The parent's claims; `nil` where modules are stored otherwise, so that the parent's names are
    /// not the model's.
    func claims() -> TensorClaims? { hasOtherFormats ? nil : parent.claims() }

    /// The healed values of `name`, or the parent's.
    ///
    /// - Throws: `HealedWeightsError` for healed values of another shape and for names that nobody
    ///   knows, and what the parent throws.
    func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        guard let place = places[JSON.Name(name)], let info = files[place].info(name) else {
            guard holds(name) else { throw HealedWeightsError.missing(name: name, path: path) }
            return try parent.tensor(name, shape: shape, on: device)
        }
        let file = files[place]
        guard info.shape == shape else {
            throw HealedWeightsError.otherShape(
                name: name, path: file.path, found: info.shape, wanted: shape)
        }
        let bytes = try file.bytes(of: name)
        let tensor = try bytes.withUnsafeBytes { (buffer) throws(TensorError) in
            try Tensor(bytes: buffer, shape: info.shape, dtype: info.dtype)
        }
        bytes.mapping.release(bytes.range)
        return try tensor.to(device)
    }

    /// The parent's, and SHA-256 of each file of healed tensors, by its name.
    func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        var hashes = try parent.fingerprints(onProgress: onProgress)
        for (index, file) in files.enumerated() {
            let name = file.path.split(separator: "/").last.map(String.init) ?? file.path
            hashes[name] = try file.sha256 { try onProgress(index, files.count) }
        }
        return hashes
    }
}

/// Why healed tensors do not make a model.
enum HealedWeightsError: Error, Hashable, CustomStringConvertible {
    case missing(name: String, path: String)
    case otherShape(name: String, path: String, found: [Int], wanted: [Int])

    /// What was asked, what was found, what to do.
    var description: String {
        switch self {
        case .missing(let name, let path):
            "neither \(path) nor what was healed of it has a tensor \(name); heal the model again"
        case .otherShape(let name, let path, let found, let wanted):
            """
            \(path): \(name) is \(found), the model needs \(wanted); the file was healed from another \
            model, remove it
            """
        }
    }
}
