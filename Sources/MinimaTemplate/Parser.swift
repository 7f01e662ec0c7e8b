import MinimaCore

/// Builds the syntax of a template from its tokens: Jinja's grammar, statement by statement.
///
/// Expressions are in `Parser+Expressions.swift`.
struct Parser {
    static let statements =
        "if, for, set, macro, call, filter, with, break, continue, generation, raw"

    private let tokens: [Token]
    private var index = 0
    private var names: [String] = []
    private var symbols: [JSON.Name: Symbol] = [:]
    /// The blocks being read, innermost last: their tags and lines.
    private var blocks: [(tag: String, line: Int)] = []
    private var loops = 0
    /// Names each macro being read mentions, innermost last.
    private var mentions: [Set<String>] = []
    /// Enclosing `if` blocks. As in Jinja, a filter unknown there fails only when it is reached.
    var conditions = 0
    var depth = 0
    var links = 0

    /// Reads a whole template.
    static func syntax(of source: String) throws(TemplateError) -> Syntax {
        var parser = Parser(tokens: try Lexer.tokens(of: source))
        let body = try parser.statements(until: [])
        return Syntax(body: body, names: parser.names, symbols: parser.symbols)
    }

    private init(tokens: [Token]) {
        self.tokens = tokens
    }

    // MARK: Tokens

    var current: Token { tokens[index] }
    var following: Token { tokens[min(index + 1, tokens.count - 1)] }
    var line: Int { current.line }

    mutating func skip(_ count: Int = 1) {
        index = min(index + count, tokens.count - 1)
    }

    func at(_ symbol: String) -> Bool { current.kind == .symbol(symbol) }

    func at(name: String) -> Bool { current.kind == .name(name) }

    mutating func take(_ symbol: String) -> Bool {
        guard at(symbol) else { return false }
        skip()
        return true
    }

    mutating func take(name: String) -> Bool {
        guard at(name: name) else { return false }
        skip()
        return true
    }

    func failure(_ reason: String) -> TemplateError {
        TemplateError(.syntax, line: line, reason)
    }

    func unexpected(_ expected: String) -> TemplateError {
        failure("found \(current.found), expected \(expected)")
    }

    mutating func expect(_ symbol: String) throws(TemplateError) {
        guard take(symbol) else { throw unexpected("'\(symbol)'") }
    }

    mutating func expect(_ kind: Token.Kind) throws(TemplateError) {
        guard current.kind == kind else {
            throw unexpected(Token(kind: kind, line: line).found)
        }
        skip()
    }

    mutating func name() throws(TemplateError) -> String {
        guard case .name(let name) = current.kind else { throw unexpected("a name") }
        skip()
        return name
    }

    mutating func symbol(_ name: String) -> Symbol {
        if !mentions.isEmpty { mentions[mentions.count - 1].insert(name) }
        if let symbol = symbols[JSON.Name(name)] { return symbol }
        names.append(name)
        symbols[JSON.Name(name)] = names.count - 1
        return names.count - 1
    }

    // MARK: Statements

    /// Reads statements up to a block whose tag is one of `ends`, which stays unread; with no
    /// ends, up to the end of the template.
    private mutating func statements(until ends: [String]) throws(TemplateError) -> [Statement] {
        var result: [Statement] = []
        while true {
            let line = line
            switch current.kind {
            case .text(let text):
                skip()
                result.append(Statement(line: line, kind: .text(text)))
            case .outputBegin:
                skip()
                links = 0
                let expression = try tuple()
                try expect(.outputEnd)
                result.append(Statement(line: line, kind: .output(expression)))
            case .blockBegin:
                if case .name(let tag) = following.kind, ends.contains(tag) {
                    skip()
                    return result
                }
                skip()
                links = 0
                result.append(try statement())
                try expect(.blockEnd)
            case .end:
                if let block = blocks.last {
                    throw failure(
                        "the block '\(block.tag)' of line \(block.line) is never closed; "
                            + "expected one of \(ends.joined(separator: ", "))")
                }
                return result
            default:
                throw unexpected("text, '{{' or '{%'")
            }
        }
    }

    /// Reads a block's body after its opening expressions; the closing tag stays unread.
    private mutating func body(until ends: String...) throws(TemplateError) -> [Statement] {
        _ = take(":")
        try expect(.blockEnd)
        return try statements(until: ends)
    }

    private mutating func statement() throws(TemplateError) -> Statement {
        let line = line
        guard case .name(let tag) = current.kind else { throw unexpected("a tag's name") }
        guard blocks.count < TemplateLimits.sourceDepth else {
            throw TemplateError(
                .limit, line: line, "blocks nest deeper than \(TemplateLimits.sourceDepth)")
        }
        skip()
        blocks.append((tag, line))
        defer { blocks.removeLast() }
        return Statement(line: line, kind: try kind(of: tag, line: line))
    }

    private mutating func kind(
        of tag: String, line: Int
    ) throws(TemplateError) -> Statement.Kind {
        switch tag {
        case "if": return try condition()
        case "for": return try loop()
        case "set": return try assignment()
        case "macro":
            let name = try name()
            return .macro(try macro(name: name, closing: "endmacro"))
        case "call": return try callBlock()
        case "filter":
            let filters = try filters(first: true)
            let body = try body(until: "endfilter")
            skip()
            return .filterBlock(filters, body: body)
        case "with": return try with()
        case "generation":
            let body = try outsideLoops { (parser) throws(TemplateError) in
                try parser.body(until: "endgeneration")
            }
            skip()
            return .scope([], body: body)
        case "break", "continue":
            guard loops > 0 else { throw failure("'\(tag)' outside of a loop") }
            return tag == "break" ? .leaveLoop : .nextRound
        case "block", "extends", "include", "import", "from", "autoescape", "do", "print", "trans",
            "debug":
            throw TemplateError(
                .unsupported, line: line,
                "the tag '\(tag)'; chat templates are interpreted with the tags \(Self.statements)")
        default:
            let enclosing = blocks.dropLast().last
            let due = enclosing.map { " inside '\($0.tag)' of line \($0.line)" } ?? ""
            throw TemplateError(
                .syntax, line: line,
                "unexpected tag '\(tag)'\(due); tags are \(Self.statements) and their ends")
        }
    }

    private mutating func condition() throws(TemplateError) -> Statement.Kind {
        conditions += 1
        defer { conditions -= 1 }
        var branches: [Statement.Branch] = []
        while true {
            let test = try tuple(withConditional: false)
            let body = try body(until: "elif", "else", "endif")
            branches.append(Statement.Branch(test: test, body: body))
            if take(name: "elif") {
                links = 0
                continue
            }
            var otherwise: [Statement] = []
            if take(name: "else") { otherwise = try self.body(until: "endif") }
            skip()
            return .condition(branches, otherwise: otherwise)
        }
    }

    private mutating func loop() throws(TemplateError) -> Statement.Kind {
        let target = try target(withAttributes: false, until: "in")
        guard take(name: "in") else { throw unexpected("'in'") }
        let sequence = try tuple(withConditional: false, until: "recursive")
        let filter = take(name: "if") ? try expression() : nil
        guard !at(name: "recursive") else {
            throw TemplateError(.unsupported, line: line, "recursive loops; use a macro")
        }
        loops += 1
        defer { loops -= 1 }
        let body = try body(until: "endfor", "else")
        var otherwise: [Statement] = []
        if take(name: "else") {
            // The alternative runs after the loop: a break there belongs to a loop around.
            loops -= 1
            defer { loops += 1 }
            otherwise = try self.body(until: "endfor")
        }
        skip()
        return .loop(
            Loop(
                target: target, sequence: sequence, filter: filter, body: body,
                otherwise: otherwise))
    }

    private mutating func assignment() throws(TemplateError) -> Statement.Kind {
        let target = try target(withAttributes: true)
        if take("=") { return .assign(target, try tuple()) }
        let filters = try filters(first: false)
        let body = try body(until: "endset")
        skip()
        return .capture(target, filters: filters, body: body)
    }

    private mutating func with() throws(TemplateError) -> Statement.Kind {
        var bindings: [Statement.Binding] = []
        while current.kind != .blockEnd {
            if !bindings.isEmpty { try expect(",") }
            let target = try target(withAttributes: false)
            try expect("=")
            bindings.append(Statement.Binding(target: target, value: try expression()))
        }
        let body = try body(until: "endwith")
        skip()
        return .scope(bindings, body: body)
    }

    private mutating func callBlock() throws(TemplateError) -> Statement.Kind {
        mentions.append([])
        let parameters = at("(") ? try parameters() : []
        let own = mentions.removeLast()
        let call = try expression()
        guard case .call = call.kind else { throw failure("'call' needs a call, as 'call f()'") }
        let definition = try macro(
            name: "caller", parameters: parameters, mentioned: own, closing: "endcall")
        return .callBlock(definition, call: call)
    }

    private mutating func macro(
        name: String, parameters known: [MacroDefinition.Parameter]? = nil,
        mentioned: Set<String> = [], closing: String
    ) throws(TemplateError) -> MacroDefinition {
        if known == nil { _ = symbol(name) }
        mentions.append(mentioned)
        let parameters: [MacroDefinition.Parameter]
        if let known { parameters = known } else { parameters = try self.parameters() }
        let body = try outsideLoops { (parser) throws(TemplateError) in
            try parser.body(until: closing)
        }
        skip()
        let found = mentions.removeLast()
        if !mentions.isEmpty { mentions[mentions.count - 1].formUnion(found) }
        return MacroDefinition(name: name, parameters: parameters, body: body, mentions: found)
    }

    /// Reads what becomes a function of its own, which `break` cannot leave.
    private mutating func outsideLoops(
        _ read: (inout Parser) throws(TemplateError) -> [Statement]
    ) throws(TemplateError) -> [Statement] {
        let around = loops
        loops = 0
        defer { loops = around }
        return try read(&self)
    }

    private mutating func parameters() throws(TemplateError) -> [MacroDefinition.Parameter] {
        try expect("(")
        var result: [MacroDefinition.Parameter] = []
        while !at(")") {
            if !result.isEmpty { try expect(",") }
            let name = try assignable()
            guard !result.contains(where: { PythonText.equal($0.name, name) }) else {
                throw failure("the parameter '\(name)' appears twice")
            }
            var standard: Expression?
            if take("=") {
                standard = try expression()
            } else if result.last?.standard != nil {
                throw failure("the parameter '\(name)' without default follows one with default")
            }
            // A parameter is no mention of `caller` in the body, unless it is named so.
            result.append(
                MacroDefinition.Parameter(symbol: symbol(name), name: name, standard: standard))
        }
        skip()
        return result
    }

    // MARK: Targets

    private mutating func assignable() throws(TemplateError) -> String {
        let line = line
        let name = try name()
        if ["true", "false", "none", "True", "False", "None"].contains(name) {
            throw TemplateError(.syntax, line: line, "cannot assign to '\(name)'")
        }
        return name
    }

    private mutating func target(
        withAttributes: Bool, until end: String? = nil
    ) throws(TemplateError) -> Target {
        var parts: [Target] = []
        var isTuple = false
        while true {
            if !parts.isEmpty, let end, at(name: end) { break }
            if !parts.isEmpty, at("=") || current.kind == .blockEnd || at(")") { break }
            parts.append(try single(withAttributes: withAttributes))
            guard take(",") else { break }
            isTuple = true
        }
        return isTuple ? .tuple(parts) : parts[0]
    }

    private mutating func single(withAttributes: Bool) throws(TemplateError) -> Target {
        if at("(") {
            depth += 1
            defer { depth -= 1 }
            try checkDepth()
            skip()
            let inner = try target(withAttributes: withAttributes)
            try expect(")")
            return inner
        }
        let name = try assignable()
        guard withAttributes, take(".") else { return .name(symbol(name)) }
        return .attribute(symbol(name), try self.name())
    }
}
