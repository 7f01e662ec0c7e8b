/// Why a chat template could not be read or rendered, and where.
public struct TemplateError: Error, Hashable, CustomStringConvertible {
    /// What went wrong, coarsely.
    public enum Kind: Sendable, Hashable {
        /// The template breaks Jinja's grammar.
        case syntax
        /// The template uses a part of Jinja that Minima does not interpret.
        case unsupported
        /// A value that does not exist was used for more than printing or testing.
        case undefined
        /// An operation met a value it is not defined for (Python's TypeError, ValueError, …).
        case value
        /// The template itself refused the conversation, by `raise_exception`.
        case raised
        /// A limit of ``TemplateLimits`` was reached.
        case limit
        /// A file that should hold a template does not.
        case file
    }

    /// What went wrong, coarsely.
    public let kind: Kind
    /// 1-based line of the template, or `nil` when the failure has no place in it.
    public let line: Int?
    /// What was found and what was expected; for ``Kind/raised`` the template's own words.
    public let reason: String

    /// A failure of `kind` at `line`.
    public init(_ kind: Kind, line: Int? = nil, _ reason: String) {
        self.kind = kind
        self.line = line
        self.reason = reason
    }

    /// The reason with its place, as one sentence.
    public var description: String {
        let place = line.map { " at line \($0)" } ?? ""
        return switch kind {
        case .syntax: "chat template: syntax error\(place): \(reason)"
        case .unsupported: "chat template: unsupported\(place): \(reason)"
        case .undefined: "chat template: undefined value\(place): \(reason)"
        case .value: "chat template: failed\(place): \(reason)"
        case .raised: "the chat template refused this conversation\(place): \(reason)"
        case .limit: "chat template: limit reached\(place): \(reason)"
        case .file: "chat template: \(reason)"
        }
    }
}
