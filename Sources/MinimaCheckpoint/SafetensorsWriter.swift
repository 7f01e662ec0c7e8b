import Glibc
import MinimaCore

/// Writes tensors as safetensors, one file or Hugging Face's shards with their index, holding one
/// tensor in memory at a time.
///
/// All names, types and shapes are given first, so every offset and the room needed are known
/// before the first value is. The values then come in any order; what is written does not depend
/// on it.
public final class SafetensorsWriter {
    /// Hugging Face's customary shard size.
    public static let defaultShardBytes = 5_000_000_000

    /// The metadata that transformers expects in every file.
    public static let defaultMetadata = ["format": "pt"]

    /// The names of the files, in order.
    public let fileNames: [String]
    /// Bytes of all tensors, without headers.
    public let totalBytes: Int

    private enum Target {
        case directory(AtomicDirectory)
        case file(AtomicFile)
    }

    private let target: Target
    private let layouts: [SafetensorsLayout]
    private let places: [JSON.Name: (shard: Int, info: TensorInfo)]
    private var unwritten: Set<JSON.Name>

    /// Starts a checkpoint's weights in a directory: `model.safetensors` when they fit one shard,
    /// else `model-00001-of-0000N.safetensors`, … and `model.safetensors.index.json`.
    ///
    /// - Parameters:
    ///   - tensors: What will be written. Shards fill in this order.
    ///   - maxShardBytes: The most a shard's tensors take together; a larger tensor gets its own.
    /// - Throws: `CheckpointError.unwritable` for a name or shape the format cannot hold or a name
    ///   given twice, `.noSpace` when the disk has too little room.
    public init(
        in directory: AtomicDirectory, tensors: [TensorDescription],
        metadata: [String: String] = defaultMetadata, maxShardBytes: Int = defaultShardBytes
    ) throws(CheckpointError) {
        let shards = try SafetensorsLayout.shards(of: tensors, maxBytes: maxShardBytes)
        var layouts: [SafetensorsLayout] = []
        for shard in shards {
            layouts.append(try SafetensorsLayout(shard, metadata: metadata))
        }
        target = .directory(directory)
        fileNames = shards.indices.map { Self.fileName(shard: $0, of: shards.count) }
        self.layouts = layouts
        places = try Self.places(in: layouts)
        unwritten = Set(places.keys)
        totalBytes = Self.tensorBytes(of: layouts)
        try reserve(at: directory.path)
        for shard in layouts.indices { try start(shard: shard) }
    }

    /// Starts one safetensors file, which appears at `path` when ``finish()`` returns.
    public init(
        file path: String, tensors: [TensorDescription], metadata: [String: String] = [:]
    ) throws(CheckpointError) {
        let layout = try SafetensorsLayout(tensors, metadata: metadata)
        let file = try AtomicFile(destination: path)
        target = .file(file)
        fileNames = [file.destination]
        layouts = [layout]
        places = try Self.places(in: layouts)
        unwritten = Set(places.keys)
        totalBytes = Self.tensorBytes(of: layouts)
        try reserve(at: file.path)
        try start(shard: 0)
    }

    /// Writes a tensor's values: little-endian, row-major, exactly the bytes its shape takes.
    public func write(
        _ bytes: UnsafeRawBufferPointer, to name: String
    ) throws(CheckpointError) {
        let key = JSON.Name(name)
        guard let (shard, info) = places[key] else {
            throw .unwritable(tensor: name, reason: "it is not among those announced")
        }
        guard bytes.count == info.byteCount else {
            throw .unwritable(
                tensor: name,
                reason: "\(bytes.count) bytes were given, \(info.dtype.rawValue) of shape "
                    + "\(info.shape) takes \(info.byteCount)")
        }
        guard unwritten.remove(key) != nil else {
            throw .unwritable(tensor: name, reason: "it was written already")
        }
        try put(bytes, at: info.range.lowerBound, shard: shard)
    }

    /// Writes a tensor's values from an array; see ``write(_:to:)-(UnsafeRawBufferPointer,_)``.
    public func write(_ bytes: [UInt8], to name: String) throws(CheckpointError) {
        try bytes.withUnsafeBufferPointer { (buffer) throws(CheckpointError) in
            try write(UnsafeRawBufferPointer(buffer), to: name)
        }
    }

    /// Writes every tensor not written yet, in file order, each with the bytes `provide` returns.
    public func writeRest(
        _ provide: (TensorInfo) throws -> [UInt8]
    ) throws {
        for tensor in layouts.flatMap(\.tensors) where unwritten.contains(JSON.Name(tensor.name)) {
            try write(provide(tensor), to: tensor.name)
        }
    }

    /// Checks that every tensor was written and completes the index, or the single file.
    ///
    /// A directory still has to be committed by whoever owns it.
    public func finish() throws(CheckpointError) {
        if let first = unwritten.min() {
            throw .unwritable(
                tensor: first.text,
                reason: "its values were never given, nor those of \(unwritten.count - 1) others")
        }
        switch target {
        case .file(let file): try file.commit()
        case .directory(let directory):
            guard layouts.count > 1 else { return }
            try directory.write(index.text(sortedKeys: true) + "\n", to: ShardIndex.fileName)
        }
    }

    private var index: JSON {
        let pairs = places.map { (name: $0.key, file: JSON.string(fileNames[$0.value.shard])) }
        return .object([
            "metadata": ["total_size": .integer(Int64(totalBytes))],
            "weight_map": .object(
                .init(
                    pairs.map { ($0.name, $0.file) }, uniquingKeysWith: { first, _ in first })),
        ])
    }

    private func reserve(at path: String) throws(CheckpointError) {
        let needed = layouts.reduce(0) { $0 + $1.fileBytes }
        guard let free = Files.freeBytes(at: path), needed > free else { return }
        throw .noSpace(path: path, neededBytes: needed, freeBytes: free)
    }

    private func start(shard: Int) throws(CheckpointError) {
        if case .directory(let directory) = target {
            try directory.write([], to: fileNames[shard])
        }
        try layouts[shard].header.withUnsafeBufferPointer { (buffer) throws(CheckpointError) in
            try put(UnsafeRawBufferPointer(buffer), at: 0, shard: shard)
        }
    }

    private func put(
        _ bytes: UnsafeRawBufferPointer, at offset: Int, shard: Int
    ) throws(CheckpointError) {
        switch target {
        case .file(let file): try file.write(bytes, at: offset)
        case .directory(let directory):
            try directory.overwrite(bytes, at: offset, of: fileNames[shard])
        }
    }

    private static func places(
        in layouts: [SafetensorsLayout]
    ) throws(CheckpointError) -> [JSON.Name: (shard: Int, info: TensorInfo)] {
        var places: [JSON.Name: (shard: Int, info: TensorInfo)] = [:]
        for (shard, layout) in layouts.enumerated() {
            for info in layout.tensors {
                guard places.updateValue((shard, info), forKey: JSON.Name(info.name)) == nil else {
                    throw .unwritable(tensor: info.name, reason: "two tensors have this name")
                }
            }
        }
        return places
    }

    private static func tensorBytes(of layouts: [SafetensorsLayout]) -> Int {
        layouts.reduce(0) { $0 + $1.fileBytes - $1.header.count }
    }

    /// The name of file `shard` of `count`, as Hugging Face has them; the first is 0.
    public static func fileName(shard: Int, of count: Int) -> String {
        guard count > 1 else { return "model.safetensors" }
        return "model-\((shard + 1).zeroPadded(5))-of-\(count.zeroPadded(5)).safetensors"
    }
}
