import MinimaCore

/// What is to be written as one tensor.
public struct TensorDescription: Sendable {
    /// The tensor's name.
    public let name: String
    /// The type of its elements.
    public let dtype: DType
    /// Its shape, outermost dimension first; empty for a scalar.
    public let shape: [Int]

    /// A tensor from its name, element type and shape.
    public init(name: String, dtype: DType, shape: [Int]) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
    }
}

/// Where each tensor of one safetensors file goes, and the file's header.
///
/// Byte for byte what the reference implementation writes: tensors by element type (its order,
/// widest first, which aligns each), then by name; header padded with spaces to 8 bytes.
struct SafetensorsLayout {
    /// Tensors in the order of their data; ranges count from the start of the file.
    let tensors: [TensorInfo]
    /// The length and the padded JSON.
    let header: [UInt8]
    /// The size of the whole file.
    let fileBytes: Int

    /// The most all tensors may take together; leaves room for headers in any sum.
    private static let maxTotalBytes = 1 << 62

    /// The order in which the reference sorts element types.
    private static let dtypeOrder: [DType] = [
        .uint64, .int64, .float64, .float32, .uint32, .int32, .bfloat16, .float16, .uint16, .int16,
        .float8e4m3, .float8e5m2, .int8, .uint8, .bool,
    ]

    init(
        _ descriptions: [TensorDescription], metadata: [String: String]
    ) throws(CheckpointError) {
        let ranks = Dictionary(
            uniqueKeysWithValues: zip(Self.dtypeOrder, Self.dtypeOrder.indices))
        let ordered = descriptions.sorted { left, right in
            let (leftRank, rightRank) = (ranks[left.dtype] ?? 0, ranks[right.dtype] ?? 0)
            return leftRank == rightRank
                ? JSON.Name(left.name) < JSON.Name(right.name) : leftRank < rightRank
        }
        var json = "{"
        if !metadata.isEmpty {
            let strings = metadata.map { (JSON.Name($0), JSON.string($1)) }
            let object = JSON.object(
                .init(strings, uniquingKeysWith: { first, _ in first }))
            json += "\"__metadata__\":" + object.text(indent: nil, sortedKeys: true)
        }
        var end = 0
        var placed: [(TensorDescription, Range<Int>)] = []
        for tensor in ordered {
            let bytes = try Self.checkedByteCount(of: tensor)
            let (next, overflow) = end.addingReportingOverflow(bytes)
            guard !overflow, next <= Self.maxTotalBytes else {
                throw .unwritable(tensor: tensor.name, reason: "the file's size overflows")
            }
            if json.utf8.count > 1 { json += "," }
            let shape = tensor.shape.map(String.init).joined(separator: ",")
            json += JSON.string(tensor.name).text(indent: nil)
            json += ":{\"dtype\":\"\(tensor.dtype.rawValue)\",\"shape\":[\(shape)],"
            json += "\"data_offsets\":[\(end),\(next)]}"
            placed.append((tensor, end..<next))
            end = next
        }
        json += "}"
        var text = Array(json.utf8)
        text.append(contentsOf: repeatElement(0x20, count: (8 - text.count % 8) % 8))
        guard text.count <= SafetensorsHeader.maxBytes else {
            throw .unwritable(
                tensor: ordered.last?.name ?? "",
                reason: "the header of its file passes the format's 100 MB; write smaller shards")
        }
        let dataStart = 8 + text.count
        header =
            (0..<8).map { UInt8(truncatingIfNeeded: text.count >> ($0 * 8)) } + text
        fileBytes = dataStart + end
        tensors = placed.map { tensor, range in
            TensorInfo(
                name: tensor.name, dtype: tensor.dtype, shape: tensor.shape,
                range: dataStart + range.lowerBound..<dataStart + range.upperBound)
        }
    }

    /// Bytes of a tensor the format can hold.
    static func checkedByteCount(
        of tensor: TensorDescription
    ) throws(CheckpointError) -> Int {
        guard !tensor.name.utf8.elementsEqual("__metadata__".utf8) else {
            throw .unwritable(tensor: tensor.name, reason: "the format keeps this name for itself")
        }
        guard tensor.shape.count <= HeaderScanner.maxRank,
            let bytes = byteCount(of: tensor.shape, tensor.dtype), bytes <= maxTotalBytes
        else {
            throw .unwritable(
                tensor: tensor.name, reason: "\(tensor.shape) is no shape that can be stored")
        }
        return bytes
    }

    /// Cuts tensors, in the order given, into shards of at most `maxBytes` each; a tensor larger
    /// than that gets a shard of its own.
    static func shards(
        of tensors: [TensorDescription], maxBytes: Int
    ) throws(CheckpointError) -> [[TensorDescription]] {
        var shards: [[TensorDescription]] = []
        var current: [TensorDescription] = []
        var currentBytes = 0
        var total = 0
        for tensor in tensors {
            let bytes = try checkedByteCount(of: tensor)
            guard bytes <= maxTotalBytes - total else {
                throw .unwritable(tensor: tensor.name, reason: "the checkpoint's size overflows")
            }
            total += bytes
            if !current.isEmpty && bytes > maxBytes - currentBytes {
                shards.append(current)
                current = []
                currentBytes = 0
            }
            current.append(tensor)
            currentBytes += bytes
        }
        if !current.isEmpty || shards.isEmpty { shards.append(current) }
        return shards
    }
}
