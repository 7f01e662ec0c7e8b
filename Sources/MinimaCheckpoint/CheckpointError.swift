import MinimaCore

/// Why a checkpoint could not be read or written.
///
/// Each description names the file, what was found there and what to do.
public enum CheckpointError: Error, Sendable, Hashable {
    /// The operating system refused.
    case system(SystemError)
    /// A safetensors file is malformed.
    case safetensors(path: String, SafetensorsDefect)
    /// A JSON file is malformed.
    case json(path: String, JSONError)
    /// A value of a JSON configuration is missing, of the wrong kind or out of range.
    case value(path: String, key: String, found: String, expected: String)
    /// A directory is no checkpoint Minima reads.
    case notCheckpoint(path: String, reason: String, remedy: String)
    /// The index and the shards disagree, in the way `reason` says.
    case index(path: String, reason: String, names: [String], remedy: String)
    /// A tensor was asked for that is not there.
    case noSuchTensor(path: String, name: String, count: Int)
    /// The tensors of a checkpoint are not those its model needs.
    case tensors(path: String, TensorMismatch)
    /// A file is not the one that was opened.
    case changed(path: String)
    /// A tensor holds a value that is not finite.
    case notFinite(path: String, tensor: String, index: Int, value: Double)
    /// The output's place is taken, or no place at all.
    case destination(path: String, reason: String, remedy: String)
    /// The disk has too little room for what is to be written.
    case noSpace(path: String, neededBytes: Int, freeBytes: Int)
    /// A tensor given to the writer cannot be written.
    case unwritable(tensor: String, reason: String)
}

/// Runs file operations, turning their errors into `CheckpointError.system`.
func wrapping<Result>(
    _ body: () throws(SystemError) -> Result
) throws(CheckpointError) -> Result {
    do throws(SystemError) {
        return try body()
    } catch {
        throw .system(error)
    }
}

/// How a checkpoint's tensors differ from those its model needs.
public struct TensorMismatch: Sendable, Hashable {
    /// Names the model needs and the checkpoint lacks.
    public let missing: [String]
    /// Names the checkpoint has and the model does not know.
    public let unexpected: [String]
    /// Tensors of another shape than the model's, each told in words.
    public let misshapen: [String]
}

extension CheckpointError: CustomStringConvertible {
    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .system(let error):
            return error.description
        case .safetensors(let path, let defect):
            return "\(path): \(defect)"
        case .json(let path, let error):
            // The reason may quote the file.
            return "\(path): \(displayed(error.description)); download it again or mend it"
        case .value(let path, let key, let found, let expected):
            return "\(path): \(quoted(key)) is \(found), expected \(expected)"
        case .notCheckpoint(let path, let reason, let remedy):
            return "\(path): \(reason); \(remedy)"
        case .index(let path, let reason, let names, let remedy):
            return "\(path): \(reason): \(summary(of: names)); \(remedy)"
        case .noSuchTensor(let path, let name, let count):
            return "\(path): no tensor \(quoted(name)) among its \(count); "
                + "`minima inspect` lists what a checkpoint holds"
        case .tensors(let path, let mismatch):
            return "\(path): \(mismatch)"
        case .changed(let path):
            return "\(path) changed after it was opened; run again when nobody writes to it"
        case .notFinite(let path, let tensor, let index, let value):
            return "\(path): tensor \(quoted(tensor)) holds \(value) at element \(index); "
                + "the weights are damaged: download them again or train with finite values"
        case .destination(let path, let reason, let remedy):
            return "\(path): \(reason); \(remedy)"
        case .noSpace(let path, let needed, let free):
            return "\(path): \(bytesInWords(needed)) are needed, the disk has "
                + "\(bytesInWords(free)) free; free some space or choose a path on another disk"
        case .unwritable(let tensor, let reason):
            return "tensor \(quoted(tensor)) cannot be written: \(reason)"
        }
    }
}

extension TensorMismatch: CustomStringConvertible {
    /// The three lists, shortened, with the usual cause.
    public var description: String {
        var parts: [String] = []
        if !missing.isEmpty {
            parts.append("\(missing.count) missing: \(summary(of: missing))")
        }
        if !unexpected.isEmpty {
            parts.append("\(unexpected.count) unexpected: \(summary(of: unexpected))")
        }
        if !misshapen.isEmpty {
            parts.append(
                "\(misshapen.count) of another shape: "
                    + summary(of: misshapen, joinedBy: "; "))
        }
        return "its tensors do not fit the model of its config.json ("
            + parts.joined(separator: "; ")
            + "); check that config.json and weights are of one model, and download it again"
    }
}

/// At most `limit` entries of a list of names; names that differ only in numbers count as one.
///
/// `model.layers.0.mlp.up_proj.weight` to `model.layers.63.…` become
/// `model.layers.*.mlp.up_proj.weight (64 times)`.
func summary(of names: [String], limit: Int = 8, joinedBy separator: String = ", ") -> String {
    var patterns: [JSON.Name] = []
    var members: [JSON.Name: (first: String, count: Int)] = [:]
    for name in names {
        let pattern = JSON.Name(numbersStarred(name))
        if let seen = members[pattern] {
            members[pattern] = (seen.first, seen.count + 1)
        } else {
            members[pattern] = (name, 1)
            patterns.append(pattern)
        }
    }
    var shown: [String] = []
    var covered = 0
    for pattern in patterns.prefix(limit) {
        guard let (first, count) = members[pattern] else { continue }
        covered += count
        shown.append(count == 1 ? displayed(first) : "\(displayed(pattern.text)) (\(count) times)")
    }
    let rest = names.count - covered
    return shown.joined(separator: separator) + (rest > 0 ? " and \(rest) more" : "")
}

/// A name with each whole component that is a number written as "*".
private func numbersStarred(_ name: String) -> String {
    name.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        .map { part in
            let isNumber = !part.isEmpty && part.allSatisfy { (0x30...0x39).contains($0) }
            return isNumber ? "*" : String(decoding: part, as: UTF8.self)
        }
        .joined(separator: ".")
}
