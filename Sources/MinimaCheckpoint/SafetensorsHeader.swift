import MinimaCore

/// The header of a safetensors file, checked in full.
///
/// The format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' data.
/// (Its home: github.com/huggingface/safetensors, README, section "Format".)
struct SafetensorsHeader {
    /// The format's own limit on the JSON.
    static let maxBytes = 100_000_000

    /// Tensors in the order of their data.
    let tensors: [TensorInfo]
    /// The strings of `__metadata__`.
    let metadata: [JSON.Name: String]

    /// Parses and checks the JSON of a header.
    ///
    /// - Parameters:
    ///   - bytes: The JSON alone.
    ///   - fileBytes: The size of the whole file.
    /// - Complexity: O(bytes + n log n) for n tensors; memory a small multiple of the bytes.
    init(parsing bytes: [UInt8], fileBytes: Int) throws(SafetensorsDefect) {
        var scanner = HeaderScanner(bytes: bytes)
        try scanner.document()
        let dataStart = 8 + bytes.count
        metadata = scanner.metadata
        tensors = try Self.laidOut(
            scanner.entries, dataStart: dataStart, dataBytes: fileBytes - dataStart)
    }

    /// Checks that the data of all entries cover the data section exactly, each byte once.
    private static func laidOut(
        _ entries: [HeaderScanner.Entry], dataStart: Int, dataBytes: Int
    ) throws(SafetensorsDefect) -> [TensorInfo] {
        let ordered = entries.sorted { ($0.begin, $0.end) < ($1.begin, $1.end) }
        var tensors: [TensorInfo] = []
        tensors.reserveCapacity(ordered.count)
        var end = 0
        for entry in ordered {
            let name = entry.name
            guard entry.begin <= entry.end else {
                throw .offsetsReversed(tensor: name, begin: entry.begin, end: entry.end)
            }
            guard let expected = byteCount(of: entry.shape, entry.dtype) else {
                throw .shapeOverflow(tensor: name, shape: entry.shape)
            }
            guard expected == entry.end - entry.begin else {
                throw .wrongSize(
                    tensor: name, dtype: entry.dtype, shape: entry.shape, expected: expected,
                    found: entry.end - entry.begin)
            }
            guard entry.begin >= end else {
                throw .overlap(tensor: name, other: tensors.last?.name ?? "")
            }
            guard entry.begin == end else {
                throw .hole(tensor: name, bytes: entry.begin - end)
            }
            guard entry.end <= dataBytes else {
                throw .beyondFile(tensor: name, missingBytes: entry.end - dataBytes)
            }
            end = entry.end
            tensors.append(
                TensorInfo(
                    name: name, dtype: entry.dtype, shape: entry.shape,
                    range: dataStart + entry.begin..<dataStart + entry.end))
        }
        guard end == dataBytes else { throw .trailingBytes(dataBytes - end) }
        return tensors
    }
}

/// Reads the one JSON shape a header may have, without building a tree of it.
///
/// A general JSON value takes up to 30 times its text in memory, which a hostile 100 MB header
/// would turn into gigabytes; this keeps a few words per tensor, and does not recurse.
struct HeaderScanner {
    /// A tensor's entry before its offsets are checked against the others.
    struct Entry {
        let name: String
        let dtype: DType
        let shape: [Int]
        let begin: Int
        let end: Int
    }

    /// More dimensions than any tensor library takes (PyTorch and NumPy stop at 64).
    static let maxRank = 64

    let bytes: [UInt8]
    var position = 0
    /// The tensor being read, for error messages.
    var tensor: String?
    var entries: [Entry] = []
    var metadata: [JSON.Name: String] = [:]

    init(bytes: [UInt8]) { self.bytes = bytes }

    func failure(_ reason: String, at offset: Int? = nil) -> SafetensorsDefect {
        .headerSyntax(reason: reason, offset: offset ?? position, tensor: tensor)
    }

    /// The byte at `position`, or 0 past the end; a NUL byte is valid nowhere in JSON.
    var current: UInt8 { position < bytes.count ? bytes[position] : 0 }

    mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x09, 0x0A, 0x0D: position += 1
            default: return
            }
        }
    }

    mutating func expect(_ character: Unicode.Scalar) throws(SafetensorsDefect) {
        skipSpace()
        guard current == UInt8(ascii: character) else { throw failure("expected \"\(character)\"") }
        position += 1
    }

    /// After a member or element: true at a comma, false at the closing bracket.
    mutating func continues(until close: Unicode.Scalar) throws(SafetensorsDefect) -> Bool {
        skipSpace()
        let byte = current
        guard byte == UInt8(ascii: ",") || byte == UInt8(ascii: close) else {
            throw failure("expected \",\" or \"\(close)\"")
        }
        position += 1
        return byte == UInt8(ascii: ",")
    }

    /// Whether the object or array just opened closes at once; steps over the bracket if so.
    mutating func closes(with close: Unicode.Scalar) -> Bool {
        skipSpace()
        guard current == UInt8(ascii: close) else { return false }
        position += 1
        return true
    }

    mutating func document() throws(SafetensorsDefect) {
        guard current == UInt8(ascii: "{") else { throw .headerNotObject }
        position += 1
        var names: Set<JSON.Name> = []
        if !closes(with: "}") {
            repeat {
                tensor = nil
                skipSpace()
                let name = try string()
                guard names.insert(JSON.Name(name)).inserted else {
                    throw .duplicateName(tensor: name)
                }
                try expect(":")
                if name.utf8.elementsEqual("__metadata__".utf8) {
                    try metadataObject()
                } else {
                    tensor = name
                    entries.append(try entry(name))
                }
            } while try continues(until: "}")
        }
        tensor = nil
        skipSpace()
        guard position == bytes.count else { throw failure("bytes after the header's end") }
    }

    mutating func metadataObject() throws(SafetensorsDefect) {
        skipSpace()
        guard current == UInt8(ascii: "{") else { throw .metadata(key: nil) }
        position += 1
        if closes(with: "}") { return }
        repeat {
            skipSpace()
            let key = try string()
            try expect(":")
            skipSpace()
            guard current == UInt8(ascii: "\"") else { throw .metadata(key: key) }
            guard metadata.updateValue(try string(), forKey: JSON.Name(key)) == nil else {
                throw .duplicateName(tensor: "__metadata__." + key)
            }
        } while try continues(until: "}")
    }

    mutating func entry(_ name: String) throws(SafetensorsDefect) -> Entry {
        var dtype: DType?
        var shape: [Int]?
        var offsets: [Int]?
        func checkFirst(_ isFirst: Bool, _ field: String) throws(SafetensorsDefect) {
            guard isFirst else {
                throw .field(tensor: name, field: field, problem: "is there twice")
            }
        }
        try expect("{")
        if !closes(with: "}") {
            repeat {
                skipSpace()
                let field = try string()
                try expect(":")
                skipSpace()
                switch field {
                case "dtype":
                    try checkFirst(dtype == nil, field)
                    let text = try string()
                    guard let known = DType(rawValue: text) else {
                        throw .unknownDType(tensor: name, dtype: text)
                    }
                    dtype = known
                case "shape":
                    try checkFirst(shape == nil, field)
                    shape = try integers(field, of: name, limit: Self.maxRank)
                case "data_offsets":
                    try checkFirst(offsets == nil, field)
                    offsets = try integers(field, of: name, limit: 2)
                default:
                    throw .field(tensor: name, field: field, problem: "is not in the format")
                }
            } while try continues(until: "}")
        }
        guard let dtype else { throw .field(tensor: name, field: "dtype", problem: "is missing") }
        guard let shape else { throw .field(tensor: name, field: "shape", problem: "is missing") }
        guard let offsets else {
            throw .field(tensor: name, field: "data_offsets", problem: "is missing")
        }
        guard offsets.count == 2 else {
            throw .field(tensor: name, field: "data_offsets", problem: "has not two entries")
        }
        return Entry(name: name, dtype: dtype, shape: shape, begin: offsets[0], end: offsets[1])
    }

    mutating func integers(
        _ field: String, of name: String, limit: Int
    ) throws(SafetensorsDefect) -> [Int] {
        try expect("[")
        var values: [Int] = []
        if closes(with: "]") { return values }
        repeat {
            skipSpace()
            guard let value = integer() else {
                throw .field(
                    tensor: name, field: field,
                    problem: "has an entry that is no whole number from 0 to \(Int.max)")
            }
            guard values.count < limit else {
                throw .field(tensor: name, field: field, problem: "has more than \(limit) entries")
            }
            values.append(value)
        } while try continues(until: "]")
        return values
    }

    /// Decimal digits without sign, fraction, exponent or leading zero that fit `Int`.
    mutating func integer() -> Int? {
        // A local reference keeps the loop from retaining the array at every byte.
        let bytes = bytes
        let start = position
        var value = 0
        while position < bytes.count, case let digit = bytes[position] &- UInt8(ascii: "0"),
            digit < 10
        {
            let (tens, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, carry) = tens.addingReportingOverflow(Int(digit))
            guard !overflow, !carry else { return nil }
            value = sum
            position += 1
        }
        guard position > start else { return nil }
        if bytes[start] == UInt8(ascii: "0") && position - start > 1 { return nil }
        // "1.0" and "1e3" are numbers in JSON, but no whole numbers to the format.
        switch current {
        case UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"): return nil
        default: return value
        }
    }

    /// A string; one with escapes goes through the general JSON parser.
    mutating func string() throws(SafetensorsDefect) -> String {
        guard current == UInt8(ascii: "\"") else { throw failure("expected a string") }
        let bytes = bytes
        let start = position
        var hasEscapes = false
        position += 1
        while position < bytes.count, bytes[position] != UInt8(ascii: "\"") {
            if bytes[position] == UInt8(ascii: "\\") {
                hasEscapes = true
                position += 1
            } else if bytes[position] < 0x20 {
                throw failure("an unescaped control character in a string")
            }
            position += 1
        }
        guard position < bytes.count else { throw failure("a string that never ends", at: start) }
        position += 1
        if hasEscapes {
            guard
                let text = try? JSON(parsing: Array(bytes[start..<position])).string
            else { throw failure("a string with a broken escape", at: start) }
            return text
        }
        guard let text = String(validating: bytes[start + 1..<position - 1], as: UTF8.self) else {
            throw failure("a string that is not UTF-8", at: start)
        }
        return text
    }
}
