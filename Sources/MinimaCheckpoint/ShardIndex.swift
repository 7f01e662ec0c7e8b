import Glibc
import MinimaCore

/// `model.safetensors.index.json`: which shard holds which tensor.
struct ShardIndex {
    static let fileName = "model.safetensors.index.json"

    /// Room for 300,000 tensors, three times what the largest public models have (DeepSeek-V3:
    /// 91,000 in 9 MB).
    static let maxBytes = 32 << 20

    /// Shard file names, in byte order.
    let shards: [String]
    /// The shard of each tensor, in the index's order.
    let tensors: [(name: String, shard: String)]

    /// Reads and checks an index; that its files exist and hold the tensors is not checked here.
    init(path: String) throws(CheckpointError) {
        let json = try JSON(file: path, limit: Self.maxBytes)
        guard let map = json["weight_map"]?.object, !map.isEmpty else {
            throw .value(
                path: path, key: "weight_map", found: json["weight_map"]?.kind ?? "missing",
                expected: "an object from tensor names to file names; download the file again")
        }
        var shards: Set<JSON.Name> = []
        var tensors: [(name: String, shard: String)] = []
        tensors.reserveCapacity(map.count)
        for (name, value) in map {
            guard let shard = value.string else {
                throw .value(
                    path: path, key: "weight_map." + name.text, found: value.kind,
                    expected: "a file name; download the file again")
            }
            guard Self.staysInside(shard) else {
                throw .index(
                    path: path, reason: "the index points outside its directory", names: [shard],
                    remedy: "do not trust this checkpoint, get it from its publisher")
            }
            shards.insert(JSON.Name(shard))
            tensors.append((name.text, shard))
        }
        self.shards = shards.sorted().map(\.text)
        self.tensors = tensors
    }

    /// Whether a path is relative and never climbs.
    static func staysInside(_ path: String) -> Bool {
        !path.isEmpty && !path.utf8.contains(0) && path.utf8.first != UInt8(ascii: "/")
            && !path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
                .contains { $0.isEmpty || $0.elementsEqual("..".utf8) }
    }
}

extension JSON {
    /// The JSON document in a file of at most `limit` bytes.
    ///
    /// The limit matters because a parsed document can take 30 times its text in memory.
    init(file path: String, limit: Int = 8 << 20) throws(CheckpointError) {
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try Files.read(path, limit: limit)
        } catch {
            guard error.code == EFBIG else { throw .system(error) }
            throw .notCheckpoint(
                path: path,
                reason: "it has more than \(bytesInWords(limit)), too much for such a file",
                remedy: "download it again")
        }
        do throws(JSONError) {
            self = try JSON(parsing: bytes)
        } catch {
            throw .json(path: path, error)
        }
    }
}
