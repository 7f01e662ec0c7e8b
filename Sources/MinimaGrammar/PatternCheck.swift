/// What a regular expression or a grammar costs when its repetitions are written out.
///
/// The library writes counted repetitions out, and looks at every token of the vocabulary in each
/// state. Measured at 151,936 tokens: `[a-z]{1,1000}` takes 3 s, while `([a-z]{1,20}){1,20}`, whose
/// parts can be told apart in very many ways, is not ready after a minute.
struct PatternCheck {
    /// Steps of all repetitions, at most.
    static let mostSteps = 1000
    /// Groups within groups, at most.
    static let mostNested = 64

    /// What stands between the braces of a count.
    private static let counted = Set("0123456789, ".unicodeScalars)

    private var rest: Substring.UnicodeScalarView
    /// Whether `"..."` is a text, as in grammars.
    private let hasStrings: Bool
    private var depth = 0

    /// What a part of a pattern may match.
    private struct Part {
        var steps = 0
        /// Whether it is made of repetitions only, so that two of it in a row have no border.
        var isLoose = true
    }

    /// - Throws: `GrammarError.refused` when `text` costs too much.
    static func check(_ text: String, title: String, hasStrings: Bool) throws(GrammarError) {
        var check = PatternCheck(rest: text[...].unicodeScalars, hasStrings: hasStrings)
        var steps = 0
        // What closes without having been opened is for the library to complain about.
        while !check.rest.isEmpty {
            steps += try check.choices(title).steps
            check.rest = check.rest.dropFirst()
            guard steps <= mostSteps else { throw tooMany(title) }
        }
    }

    private init(rest: Substring.UnicodeScalarView, hasStrings: Bool) {
        self.rest = rest
        self.hasStrings = hasStrings
    }

    private static func tooMany(_ title: String) -> GrammarError {
        .refused(
            reason: """
                \(title) has counted repetitions of more than \(mostSteps) steps in all; use * or +, \
                or smaller numbers
                """)
    }

    /// Reads up to the end or a closing parenthesis.
    private mutating func choices(_ title: String) throws(GrammarError) -> Part {
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.mostNested else {
            throw .refused(
                reason: "\(title) has more than \(Self.mostNested) groups within each other")
        }
        var all = Part(steps: 0, isLoose: false)
        var current = Part()
        while let scalar = rest.first, scalar != ")" {
            rest = rest.dropFirst()
            var part = Part(steps: 1, isLoose: false)
            switch scalar {
            case "|":
                all = Part(
                    steps: all.steps + current.steps, isLoose: all.isLoose || current.isLoose)
                current = Part()
                continue
            case "(":
                skipGroupMark()
                part = try choices(title)
                rest = rest.dropFirst()
            case "[": skip(to: "]")
            case "\"" where hasStrings: skip(to: "\"")
            case "#" where hasStrings:
                rest = rest.drop { $0 != "\n" }
                continue
            case "\\": rest = rest.dropFirst()
            case "*", "+", "?": continue
            default:
                if scalar == " " || scalar == "\n", hasStrings { continue }
            }
            try repeated(&part, title)
            current.steps += part.steps
            current.isLoose = current.isLoose && part.isLoose
            guard current.steps <= Self.mostSteps else { throw Self.tooMany(title) }
        }
        return Part(steps: all.steps + current.steps, isLoose: all.isLoose || current.isLoose)
    }

    /// Skips what a group may begin with: `?:`, or a name in `?<name>`.
    private mutating func skipGroupMark() {
        guard !hasStrings, rest.first == "?" else { return }
        rest = rest.dropFirst()
        if rest.popFirst() == "<" { skip(to: ">") }
    }

    private mutating func skip(to end: Unicode.Scalar) {
        while let scalar = rest.popFirst(), scalar != end {
            if scalar == "\\" { rest = rest.dropFirst() }
        }
    }

    /// Applies what follows a part: `*`, `+`, `?` or `{2,5}`. A part that repeats nothing costs
    /// nothing.
    private mutating func repeated(_ part: inout Part, _ title: String) throws(GrammarError) {
        guard let scalar = rest.first else { return uncounted(&part) }
        guard scalar == "{", let (low, high) = counts() else {
            if scalar == "*" || scalar == "+" || scalar == "?" { part.isLoose = true }
            return uncounted(&part)
        }
        let count = high ?? low
        guard !part.isLoose || count <= 1 else {
            throw .refused(
                reason: """
                    \(title) counts repetitions of something that is a repetition itself, such as in \
                    (a+){2,5}, which can be told apart in too many ways; put something fixed between \
                    them
                    """)
        }
        let (steps, overflow) = max(part.steps, 1).multipliedReportingOverflow(by: count)
        guard !overflow, steps <= Self.mostSteps else { throw Self.tooMany(title) }
        part.steps = steps
        part.isLoose = high != low
    }

    private func uncounted(_ part: inout Part) {
        if part.steps == 1 { part.steps = 0 }
    }

    /// Reads `{2}`, `{2,}`, `{,5}` or `{2,5}`; anything else stays where it is.
    private mutating func counts() -> (Int, Int?)? {
        let inside = rest.dropFirst()
        // Looks no further than a count goes, so that many braces take no squared time.
        guard let end = inside.firstIndex(where: { !Self.counted.contains($0) }), inside[end] == "}"
        else { return nil }
        let numbers = String(String.UnicodeScalarView(inside[..<end]))
            .split(separator: ",", omittingEmptySubsequences: false)
            .map { $0.filter { $0 != " " } }
        guard numbers.count <= 2, numbers.contains(where: { !$0.isEmpty }) else { return nil }
        rest = rest[rest.index(after: end)...]
        let low = numbers[0].isEmpty ? 0 : Int(numbers[0]) ?? .max
        guard let last = numbers.dropFirst().first else { return (low, low) }
        return (low, last.isEmpty ? nil : Int(last) ?? .max)
    }
}
