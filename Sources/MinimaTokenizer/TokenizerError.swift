import MinimaCore

/// Why a tokenizer cannot be loaded, or a text cannot be encoded.
public enum TokenizerError: Error, Hashable, CustomStringConvertible {
    /// A file of the checkpoint directory could not be read.
    case unreadable(path: String, reason: String)
    /// A file is not JSON.
    case invalidJSON(file: String, error: JSONError)
    /// A section of a file is missing or holds something else than the format says.
    case malformed(file: String, section: String, reason: String)
    /// A component that Minima does not implement.
    case unsupported(file: String, section: String, component: String, supported: [String])
    /// A regular expression that cannot be compiled.
    case invalidPattern(file: String, section: String, pattern: String, reason: String)
    /// A regular expression that gave up on a text.
    case matchFailed(pattern: String, reason: String)
    /// A text beyond the length that one call encodes.
    case textTooLong(bytes: Int, limit: Int)
    /// The model has no token for its own unknown token.
    case unknownTokenMissing(String)

    /// What was asked, what was found, and what to do next.
    public var description: String {
        switch self {
        case .unreadable(let path, let reason):
            "cannot read \(path): \(reason); a tokenizer needs tokenizer.json in the model directory"
        case .invalidJSON(let file, let error):
            "\(file) is \(error); fetch the file again"
        case .malformed(let file, let section, let reason):
            "\(file): \(section.isEmpty ? "" : "\(section): ")\(reason); "
                + "fetch the file again or report the tokenizer"
        case .unsupported(let file, let section, let component, let supported):
            "\(file): \(section) is of type \"\(component)\", which Minima does not implement "
                + "(implemented: \(supported.joined(separator: ", ")))"
        case .invalidPattern(let file, let section, let pattern, let reason):
            "\(file): \(section): cannot compile the regular expression \(pattern): \(reason)"
        case .matchFailed(let pattern, let reason):
            "matching \(pattern) failed: \(reason); encode the text in smaller parts"
        case .textTooLong(let bytes, let limit):
            "a text of \(bytes) bytes cannot be encoded at once; the limit is \(limit), so split it"
        case .unknownTokenMissing(let token):
            "the text needs the unknown token \"\(token)\", which the vocabulary does not hold"
        }
    }
}
