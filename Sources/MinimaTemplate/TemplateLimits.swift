/// Bounds on what one rendering may cost, so that no template can hang or exhaust memory.
///
/// The defaults leave room for a conversation of a million tokens: its text, about 4 MB, is copied
/// a few dozen times by the concatenations of usual templates.
public struct TemplateLimits: Sendable, Hashable {
    /// Expressions, statements and sequence elements evaluated.
    public var steps: Int
    /// Bytes of all texts and sequences made, the output included.
    public var bytes: Int
    /// Nesting of expressions, statements and macro calls.
    public var depth: Int

    /// Limits of one rendering.
    public init(steps: Int = 20_000_000, bytes: Int = 256 << 20, depth: Int = 300) {
        self.steps = steps
        self.bytes = bytes
        self.depth = depth
    }

    /// Largest template, in bytes of UTF-8.
    static let sourceBytes = 4 << 20
    /// Deepest nesting of parentheses or of blocks in a template's text.
    static let sourceDepth = 64
    /// Most operators, filters and subscripts in one expression.
    static let expressionLinks = 1500
    /// Deepest nesting of lists and dictionaries.
    static let valueDepth = 200
    /// Most elements of a `range()`, as in Jinja's sandbox.
    static let rangeLength = 100_000
}
