import MinimaCore

/// What is wrong with the bytes of a safetensors file.
public enum SafetensorsDefect: Error, Sendable, Hashable {
    /// The file cannot even hold the 8 bytes of the header's length.
    case tooShort(fileBytes: Int)
    /// The header claims more than the format's 100 MB.
    case headerTooLong(headerBytes: UInt64)
    /// The header claims to reach past the end of the file.
    case headerBeyondFile(headerBytes: Int, fileBytes: Int)
    /// The header does not begin with "{".
    case headerNotObject
    /// The header is not the JSON the format asks for.
    case headerSyntax(reason: String, offset: Int, tensor: String?)
    /// Two entries of the header have one name.
    case duplicateName(tensor: String)
    /// A member of a tensor's entry is not in the format, is there twice, or lacks.
    case field(tensor: String, field: String, problem: String)
    /// An element type Minima does not read.
    case unknownDType(tensor: String, dtype: String)
    /// The elements of the shape do not fit 63 bits.
    case shapeOverflow(tensor: String, shape: [Int])
    /// The offsets run backwards.
    case offsetsReversed(tensor: String, begin: Int, end: Int)
    /// Offsets and shape disagree.
    case wrongSize(tensor: String, dtype: DType, shape: [Int], expected: Int, found: Int)
    /// The tensor reaches past the end of the file.
    case beyondFile(tensor: String, missingBytes: Int)
    /// Two tensors share bytes.
    case overlap(tensor: String, other: String)
    /// Bytes before the tensor that belong to none.
    case hole(tensor: String, bytes: Int)
    /// Bytes after the last tensor.
    case trailingBytes(Int)
    /// An entry of `__metadata__` is not a string.
    case metadata(key: String?)
}

extension SafetensorsDefect: CustomStringConvertible {
    /// The tensor concerned, when there is one.
    public var tensor: String? {
        switch self {
        case .headerSyntax(_, _, let tensor): tensor
        case .duplicateName(let tensor), .field(let tensor, _, _), .unknownDType(let tensor, _),
            .shapeOverflow(let tensor, _), .offsetsReversed(let tensor, _, _),
            .wrongSize(let tensor, _, _, _, _), .beyondFile(let tensor, _),
            .overlap(let tensor, _), .hole(let tensor, _):
            tensor
        default: nil
        }
    }

    /// What was found and what the format asks for, without the file's name.
    public var reason: String {
        switch self {
        case .tooShort(let bytes):
            "the file has \(bytes) bytes, a safetensors file at least 10"
        case .headerTooLong(let bytes):
            "the header claims \(bytes) bytes, the format allows 100000000"
        case .headerBeyondFile(let header, let file):
            "the header claims \(header) bytes, the whole file has \(file)"
        case .headerNotObject:
            "the header does not begin with \"{\""
        case .headerSyntax(let reason, let offset, _):
            "the header is broken at byte \(offset): \(reason)"
        case .duplicateName:
            "the name is there twice"
        case .field(_, let field, let problem):
            "\(quoted(field)) \(problem)"
        case .unknownDType(_, let dtype):
            "the element type \(quoted(dtype)) is not one of "
                + DType.allCases.map(\.rawValue).joined(separator: ", ")
        case .shapeOverflow(_, let shape):
            "the shape \(shape) has more bytes than can be counted"
        case .offsetsReversed(_, let begin, let end):
            "its data begin at \(begin) and end at \(end)"
        case .wrongSize(_, let dtype, let shape, let expected, let found):
            "\(dtype.rawValue) of shape \(shape) takes \(expected) bytes, the offsets span \(found)"
        case .beyondFile(_, let missing):
            "the file ends \(missing) bytes before the tensor does"
        case .overlap(_, let other):
            "its data overlap those of \(quoted(other))"
        case .hole(_, let bytes):
            "\(bytes) bytes before its data belong to no tensor"
        case .trailingBytes(let bytes):
            "\(bytes) bytes after the last tensor belong to none"
        case .metadata(let key):
            key.map { "the metadata entry \(quoted($0)) is not a string" }
                ?? "\"__metadata__\" is not an object of strings"
        }
    }

    /// What the user can do.
    public var remedy: String {
        switch self {
        case .tooShort, .headerBeyondFile, .beyondFile:
            "the file was cut short: download or copy it again"
        case .headerTooLong, .headerNotObject:
            "it is no safetensors file or was damaged: download it again"
        case .trailingBytes, .headerSyntax, .overlap, .hole:
            "the file was damaged: download it again"
        case .duplicateName, .field, .shapeOverflow, .offsetsReversed, .wrongSize, .metadata:
            "the file breaks the safetensors format: download it again, or have whoever made it "
                + "save it anew"
        case .unknownDType:
            "convert the checkpoint to one of these types, or use one saved in bfloat16"
        }
    }

    /// The tensor, the reason and the remedy in one line.
    public var description: String {
        let subject = tensor.map { "tensor \(quoted($0)): " } ?? ""
        return "\(subject)\(reason); \(remedy)"
    }
}
