import Glibc
import MinimaCore

/// A Hugging Face model directory, open for reading: its configuration is parsed and every
/// tensor's name, type, shape and place are known, but no weight has been read.
public struct Checkpoint: Sendable {
    /// The directory.
    public let path: String
    /// `config.json`.
    public let config: ModelConfig
    /// `generation_config.json`, when there is one.
    public let generationConfig: GenerationConfig?
    /// The files that hold the weights.
    public let files: [SafetensorsFile]
    /// All tensors, file by file, in the order of their data.
    public let tensors: [TensorInfo]

    private let places: [JSON.Name: (file: Int, tensor: Int)]

    /// Opens the directory at `path`.
    ///
    /// As in transformers, `model.safetensors` comes before an index. A tensor that a shard holds
    /// and the index does not name is a tensor like any other.
    ///
    /// - Throws: `CheckpointError` when the directory is no checkpoint, a file of it is missing or
    ///   malformed, or index and shards disagree.
    /// - Complexity: O(headers), whatever the weights take.
    public init(path: String) throws(CheckpointError) {
        try Self.checkDirectory(path)
        self.path = path
        config = try ModelConfig(path: path + "/config.json")
        generationConfig = try GenerationConfig(inDirectory: path)
        let single = path + "/model.safetensors"
        let indexPath = path + "/" + ShardIndex.fileName
        let index: ShardIndex?
        if Files.kind(of: single) != nil {
            index = nil
            files = [try SafetensorsFile(path: single)]
        } else if Files.kind(of: indexPath) != nil {
            let read = try ShardIndex(path: indexPath)
            index = read
            files = try Self.open(read, indexPath: indexPath, directory: path)
        } else {
            throw Self.withoutWeights(path)
        }
        var places: [JSON.Name: (file: Int, tensor: Int)] = [:]
        var tensors: [TensorInfo] = []
        for (number, file) in files.enumerated() {
            for tensor in file.tensors {
                let name = JSON.Name(tensor.name)
                if let first = places.updateValue((number, tensors.count), forKey: name) {
                    throw .index(
                        path: path, reason: "two shards hold the tensor \(quoted(tensor.name))",
                        names: [files[first.file].path, file.path],
                        remedy: "remove the shards of another version, or download it again")
                }
                tensors.append(tensor)
            }
        }
        if let index {
            try Self.check(index, at: indexPath, holds: places, files: files, directory: path)
        }
        self.places = places
        self.tensors = tensors
    }

    /// Names of all tensors.
    public var tensorNames: [String] { tensors.map(\.name) }

    /// Bytes of all tensors.
    public var byteCount: Int { tensors.reduce(0) { $0 + $1.byteCount } }

    /// What is known of the tensor called `name`; `nil` when there is none.
    public func info(_ name: String) -> TensorInfo? {
        places[JSON.Name(name)].map { tensors[$0.tensor] }
    }

    /// The file that holds the tensor called `name`; `nil` when there is none.
    public func file(of name: String) -> SafetensorsFile? {
        places[JSON.Name(name)].map { files[$0.file] }
    }

    /// The bytes of the tensor called `name`, with the mapping that keeps them alive.
    public func bytes(of name: String) throws(CheckpointError) -> TensorBytes {
        guard let file = file(of: name) else {
            throw .noSuchTensor(path: path, name: name, count: tensors.count)
        }
        return try file.bytes(of: name)
    }

    /// Lends the bytes of the tensor called `name` to `body`.
    public func withUnsafeBytes<Result>(
        of name: String, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result {
        try bytes(of: name).withUnsafeBytes(body)
    }

    /// Reads every floating-point weight and throws at the first value that is not finite.
    ///
    /// - Complexity: Reads all bytes of the checkpoint.
    public func checkFinite() throws(CheckpointError) {
        for file in files { try file.checkFinite() }
    }
}

extension Checkpoint {
    private static func checkDirectory(_ path: String) throws(CheckpointError) {
        try wrapping { () throws(SystemError) in try Files.checkPath(path) }
        guard let kind = Files.kind(of: path) else {
            throw .notCheckpoint(
                path: displayed(path), reason: "there is no such directory",
                remedy: "give the path of a downloaded model; "
                    + "`hf download NAME --local-dir DIR` fetches one")
        }
        guard kind == S_IFDIR else {
            throw .notCheckpoint(
                path: path, reason: "this is a file",
                remedy: "give the directory that holds config.json and the weights")
        }
        guard Files.kind(of: path + "/config.json") != nil else {
            throw .notCheckpoint(
                path: path, reason: "it has no config.json",
                remedy: "give a Hugging Face model directory, or download config.json to it")
        }
    }

    private static func open(
        _ index: ShardIndex, indexPath: String, directory: String
    ) throws(CheckpointError) -> [SafetensorsFile] {
        let missing = index.shards.filter { Files.kind(of: "\(directory)/\($0)") == nil }
        guard missing.isEmpty else {
            throw .index(
                path: indexPath,
                reason: "\(missing.count) of \(index.shards.count) files it names are missing",
                names: missing, remedy: "the download is incomplete: download them")
        }
        var files: [SafetensorsFile] = []
        for shard in index.shards {
            files.append(try SafetensorsFile(path: "\(directory)/\(shard)"))
        }
        return files
    }

    /// Checks that each tensor is in the shard the index says.
    private static func check(
        _ index: ShardIndex, at indexPath: String,
        holds places: [JSON.Name: (file: Int, tensor: Int)], files: [SafetensorsFile],
        directory: String
    ) throws(CheckpointError) {
        var absent: [String] = []
        for (name, shard) in index.tensors {
            guard let place = places[JSON.Name(name)] else {
                absent.append(name)
                continue
            }
            let found = files[place.file].path
            guard found.utf8.elementsEqual("\(directory)/\(shard)".utf8) else {
                throw .index(
                    path: indexPath,
                    reason: "the index places the tensor \(quoted(name)) in \(displayed(shard)), "
                        + "it is in another shard",
                    names: [found], remedy: "index and shards are of two versions: download again")
            }
        }
        guard absent.isEmpty else {
            throw .index(
                path: indexPath,
                reason: "\(absent.count) tensors the index names are in none of its shards",
                names: absent, remedy: "index and shards are of two versions: download again")
        }
    }

    /// The error for a directory without weights Minima reads, by what is there instead.
    private static func withoutWeights(_ path: String) -> CheckpointError {
        let names = (try? Files.names(in: path)) ?? []
        func has(_ test: (String) -> Bool) -> Bool { names.contains(where: test) }
        if has({ $0.hasPrefix("pytorch_model") && $0.hasSuffix(".bin") }) {
            return .notCheckpoint(
                path: path,
                reason: "its weights are pickled (pytorch_model*.bin), which Minima "
                    + "does not read because loading a pickle can run any code",
                remedy: "convert it where you trust it: AutoModelForCausalLM.from_pretrained(DIR)"
                    + ".save_pretrained(NEW_DIR), or download a revision with *.safetensors")
        }
        if has({ $0.hasSuffix(".gguf") }) {
            return .notCheckpoint(
                path: path, reason: "its weights are GGUF, which Minima does not read",
                remedy: "download the original model with *.safetensors")
        }
        if has({ $0.hasPrefix("adapter_model") }) {
            return .notCheckpoint(
                path: path, reason: "it holds an adapter, not a model",
                remedy: "merge the adapter into its base model and save that (PEFT: "
                    + "merge_and_unload)")
        }
        if has({ $0.hasPrefix("model-") && $0.hasSuffix(".safetensors") }) {
            return .notCheckpoint(
                path: path, reason: "it has shards but no \(ShardIndex.fileName)",
                remedy: "download the index too")
        }
        return .notCheckpoint(
            path: path, reason: "it has neither model.safetensors nor \(ShardIndex.fileName)",
            remedy: "download the model's weights (*.safetensors) too")
    }
}
