extension Parser {
    /// An expression, or several separated by commas as a tuple.
    ///
    /// - Parameters:
    ///   - withConditional: Whether `a if b else c` is allowed; not where `if` follows.
    ///   - end: A name that ends the tuple after a comma.
    ///   - parenthesized: Whether parentheses stand around, so that nothing is an empty tuple.
    mutating func tuple(
        withConditional: Bool = true, until end: String? = nil, parenthesized: Bool = false
    ) throws(TemplateError) -> Expression {
        let line = line
        var parts: [Expression] = []
        var isTuple = false
        while true {
            if current.kind == .outputEnd || current.kind == .blockEnd || at(")") { break }
            if let end, at(name: end) { break }
            parts.append(try expression(withConditional: withConditional))
            guard take(",") else { break }
            isTuple = true
        }
        if !isTuple {
            if let only = parts.first { return only }
            guard parenthesized else { throw unexpected("an expression") }
        }
        return Expression(line: line, kind: .tuple(parts))
    }

    func checkDepth() throws(TemplateError) {
        guard depth < TemplateLimits.sourceDepth else {
            throw TemplateError(
                .limit, line: line,
                "an expression nests deeper than \(TemplateLimits.sourceDepth)")
        }
    }

    /// Counts an operator, so that chains stay shallow enough to walk.
    private mutating func link() throws(TemplateError) {
        links += 1
        guard links <= TemplateLimits.expressionLinks else {
            throw TemplateError(
                .limit, line: line,
                "an expression has more than \(TemplateLimits.expressionLinks) operators")
        }
    }

    mutating func expression(withConditional: Bool = true) throws(TemplateError) -> Expression {
        depth += 1
        defer { depth -= 1 }
        try checkDepth()
        guard withConditional else { return try disjunction() }
        let line = line
        var result = try disjunction()
        while take(name: "if") {
            try link()
            let test = try disjunction()
            let otherwise = take(name: "else") ? try expression() : nil
            result = Expression(
                line: line, kind: .conditional(test: test, then: result, otherwise: otherwise))
        }
        return result
    }

    private mutating func disjunction() throws(TemplateError) -> Expression {
        let line = line
        var left = try conjunction()
        while take(name: "or") {
            try link()
            left = Expression(line: line, kind: .or(left, try conjunction()))
        }
        return left
    }

    private mutating func conjunction() throws(TemplateError) -> Expression {
        let line = line
        var left = try negation()
        while take(name: "and") {
            try link()
            left = Expression(line: line, kind: .and(left, try negation()))
        }
        return left
    }

    private mutating func negation() throws(TemplateError) -> Expression {
        let line = line
        var count = 0
        while take(name: "not") {
            try link()
            count += 1
        }
        var result = try comparison()
        for _ in 0..<count { result = Expression(line: line, kind: .not(result)) }
        return result
    }

    private mutating func relation() -> Relation? {
        if case .symbol(let symbol) = current.kind, let relation = Relation(rawValue: symbol) {
            skip()
            return relation
        }
        if take(name: "in") { return .isIn }
        if at(name: "not"), following.kind == .name("in") {
            skip(2)
            return .isNotIn
        }
        return nil
    }

    private mutating func comparison() throws(TemplateError) -> Expression {
        let line = line
        let first = try sum()
        var rest: [Expression.Comparison] = []
        while let relation = relation() {
            try link()
            rest.append(Expression.Comparison(relation: relation, right: try sum()))
        }
        return rest.isEmpty ? first : Expression(line: line, kind: .comparison(first, rest))
    }

    private mutating func sum() throws(TemplateError) -> Expression {
        let line = line
        var left = try concatenation()
        while true {
            let operation: Arithmetic
            if take("+") {
                operation = .add
            } else if take("-") {
                operation = .subtract
            } else {
                return left
            }
            try link()
            left = Expression(line: line, kind: .arithmetic(operation, left, try concatenation()))
        }
    }

    private mutating func concatenation() throws(TemplateError) -> Expression {
        let line = line
        var parts = [try product()]
        while take("~") {
            try link()
            parts.append(try product())
        }
        return parts.count == 1 ? parts[0] : Expression(line: line, kind: .concatenation(parts))
    }

    private mutating func product() throws(TemplateError) -> Expression {
        let line = line
        var left = try power()
        while case .symbol(let symbol) = current.kind, let operation = Arithmetic(rawValue: symbol),
            [.multiply, .divide, .floorDivide, .modulo].contains(operation)
        {
            try link()
            skip()
            left = Expression(line: line, kind: .arithmetic(operation, left, try power()))
        }
        return left
    }

    private mutating func power() throws(TemplateError) -> Expression {
        let line = line
        var left = try unary(withFilters: true)
        while take("**") {
            try link()
            let right = try unary(withFilters: true)
            left = Expression(line: line, kind: .arithmetic(.power, left, right))
        }
        return left
    }

    private mutating func unary(withFilters: Bool) throws(TemplateError) -> Expression {
        let line = line
        var result: Expression
        if at("-") || at("+") {
            let isNegative = at("-")
            depth += 1
            defer { depth -= 1 }
            try checkDepth()
            skip()
            let operand = try unary(withFilters: false)
            result = Expression(
                line: line, kind: isNegative ? .negative(operand) : .positive(operand))
        } else {
            result = try primary()
        }
        result = try postfix(result)
        return withFilters ? try filtered(result) : result
    }

    private mutating func primary() throws(TemplateError) -> Expression {
        let line = line
        let kind: Expression.Kind
        switch current.kind {
        case .name(let name):
            skip()
            switch name {
            case "true", "True": kind = .bool(true)
            case "false", "False": kind = .bool(false)
            case "none", "None": kind = .none
            default: kind = .name(symbol(name))
            }
        case .string(var text):
            skip()
            while case .string(let more) = current.kind {
                text += more
                skip()
            }
            kind = .string(text)
        case .integer(let value):
            skip()
            kind = .integer(value)
        case .float(let value):
            skip()
            kind = .float(value)
        case .symbol("("):
            skip()
            let inner = try tuple(parenthesized: true)
            try expect(")")
            return inner
        case .symbol("["):
            skip()
            kind = .list(try elements(closing: "]"))
        case .symbol("{"):
            kind = .dictionary(try pairs())
        default:
            throw unexpected("an expression")
        }
        return Expression(line: line, kind: kind)
    }

    private mutating func elements(closing: String) throws(TemplateError) -> [Expression] {
        var result: [Expression] = []
        while !take(closing) {
            if !result.isEmpty {
                try expect(",")
                if take(closing) { break }
            }
            result.append(try expression())
        }
        return result
    }

    private mutating func pairs() throws(TemplateError) -> [Expression.Pair] {
        skip()
        var result: [Expression.Pair] = []
        while !take("}") {
            if !result.isEmpty {
                try expect(",")
                if take("}") { break }
            }
            let key = try expression()
            try expect(":")
            result.append(Expression.Pair(key: key, value: try expression()))
        }
        return result
    }

    private mutating func postfix(_ operand: Expression) throws(TemplateError) -> Expression {
        var result = operand
        while true {
            let line = line
            if take(".") {
                try link()
                if case .integer(let index) = current.kind {
                    skip()
                    let item = Expression(line: line, kind: .integer(index))
                    result = Expression(line: line, kind: .item(result, item))
                } else {
                    result = Expression(line: line, kind: .attribute(result, try name()))
                }
            } else if take("[") {
                try link()
                result = try subscripted(result, line: line)
            } else if at("(") {
                try link()
                result = Expression(line: line, kind: .call(result, try arguments()))
            } else {
                return result
            }
        }
    }

    private mutating func subscripted(
        _ operand: Expression, line: Int
    ) throws(TemplateError) -> Expression {
        var parts: [Expression?] = [nil]
        var isSlice = false
        while !at("]") {
            if take(":") {
                isSlice = true
                parts.append(nil)
                guard parts.count <= 3 else { throw unexpected("']'") }
            } else if !isSlice, parts[0] != nil, at(",") {
                throw TemplateError(
                    .unsupported, line: line, "a subscript of several indices; write one")
            } else {
                guard parts[parts.count - 1] == nil else { throw unexpected("':' or ']'") }
                parts[parts.count - 1] = try expression()
            }
        }
        skip()
        if isSlice {
            let slice = Expression.Slice(
                start: parts[0], stop: parts[1], step: parts.count > 2 ? parts[2] : nil)
            return Expression(line: line, kind: .slice(operand, slice))
        }
        guard let index = parts[0] else { throw failure("a subscript without an index") }
        return Expression(line: line, kind: .item(operand, index))
    }

    mutating func arguments() throws(TemplateError) -> ArgumentList {
        try expect("(")
        var result = ArgumentList()
        var isFirst = true
        while !take(")") {
            if !isFirst {
                try expect(",")
                if take(")") { break }
            }
            isFirst = false
            if at("*") {
                guard result.spread == nil, result.spreadNamed == nil else {
                    throw unexpected("one '*' argument at most")
                }
                skip()
                result.spread = try expression()
            } else if at("**") {
                guard result.spreadNamed == nil else {
                    throw unexpected("one '**' argument at most")
                }
                skip()
                result.spreadNamed = try expression()
            } else if case .name(let name) = current.kind, following.kind == .symbol("=") {
                guard result.spreadNamed == nil,
                    !result.named.contains(where: { PythonText.equal($0.name, name) })
                else { throw unexpected("no repeated argument") }
                skip(2)
                result.named.append(ArgumentList.Named(name: name, value: try expression()))
            } else {
                guard result.spread == nil, result.spreadNamed == nil, result.named.isEmpty else {
                    throw unexpected("a named argument after named ones")
                }
                result.positional.append(try expression())
            }
        }
        return result
    }

    /// Filters and tests behind an operand.
    private mutating func filtered(_ operand: Expression) throws(TemplateError) -> Expression {
        var result = operand
        while true {
            let line = line
            if at("|") {
                for filter in try filters(first: false) {
                    result = Expression(line: filter.line, kind: .filter(result, filter))
                }
            } else if take(name: "is") {
                try link()
                result = try test(of: result, line: line)
            } else if at("(") {
                try link()
                result = Expression(line: line, kind: .call(result, try arguments()))
            } else {
                return result
            }
        }
    }

    /// `|name(arguments)|…`; with `first`, the first bar is left out.
    mutating func filters(first: Bool) throws(TemplateError) -> [FilterCall] {
        var result: [FilterCall] = []
        var isDue = first
        while isDue || take("|") {
            isDue = false
            try link()
            let line = line
            let name = try name()
            guard conditions > 0 || Filters.table[name] != nil else {
                throw TemplateError(.unsupported, line: line, Filters.unknown(name))
            }
            let arguments = at("(") ? try arguments() : ArgumentList()
            result.append(FilterCall(line: line, name: name, arguments: arguments))
        }
        return result
    }

    private mutating func test(
        of operand: Expression, line: Int
    ) throws(TemplateError) -> Expression {
        let isNegated = take(name: "not")
        let name = try name()
        guard conditions > 0 || Tests.table[name] != nil else {
            throw TemplateError(.unsupported, line: line, Tests.unknown(name))
        }
        var list = ArgumentList()
        if at("(") {
            list = try arguments()
        } else if startsOperand {
            if at(name: "is") { throw failure("tests cannot be chained with 'is'") }
            list.positional = [try postfix(try primary())]
        }
        let test = Expression(line: line, kind: .test(operand, name: name, list))
        return isNegated ? Expression(line: line, kind: .not(test)) : test
    }

    /// Whether the token can begin a test's argument written without parentheses.
    private var startsOperand: Bool {
        switch current.kind {
        case .name(let name): !["else", "or", "and"].contains(name)
        case .string, .integer, .float, .symbol("["), .symbol("{"): true
        default: false
        }
    }
}
