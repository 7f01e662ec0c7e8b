import OrderedCollections

extension Interpreter {
    func evaluate(_ expression: Expression, in scope: Scope) throws(TemplateError) -> Value {
        try step()
        line = expression.line
        switch expression.kind {
        case .none: return .none
        case .bool(let flag): return .bool(flag)
        case .integer(let value): return .integer(value)
        case .float(let value): return .float(value)
        case .string(let text): return .string(text)
        case .name(let symbol): return try value(of: symbol, in: scope)
        default:
            return try nested { () throws(TemplateError) -> Value in
                try compound(expression.kind, in: scope)
            }
        }
    }

    private func compound(
        _ kind: Expression.Kind, in scope: Scope
    ) throws(TemplateError) -> Value {
        switch kind {
        case .list(let items): return try list(try evaluate(items, in: scope))
        case .tuple(let items): return try tuple(try evaluate(items, in: scope))
        case .dictionary(let pairs): return try dictionary(pairs, in: scope)
        case .attribute(let operand, let name):
            return try attribute(name, of: try evaluate(operand, in: scope))
        case .item(let operand, let index):
            let value = try evaluate(operand, in: scope)
            return try item(try evaluate(index, in: scope), of: value)
        case .slice(let operand, let slice): return try sliced(operand, slice, in: scope)
        case .call(let callee, let arguments):
            let function = try evaluate(callee, in: scope)
            return try call(function, try evaluate(arguments, in: scope))
        case .filter(let operand, let filter):
            return try apply(filter, to: try evaluate(operand, in: scope), in: scope)
        case .test(let operand, let name, let arguments):
            let value = try evaluate(operand, in: scope)
            return .bool(try test(name, value, try evaluate(arguments, in: scope)))
        case .not(let operand): return .bool(!(try evaluate(operand, in: scope).isTrue))
        case .and(let left, let right):
            let value = try evaluate(left, in: scope)
            return value.isTrue ? try evaluate(right, in: scope) : value
        case .or(let left, let right):
            let value = try evaluate(left, in: scope)
            return value.isTrue ? value : try evaluate(right, in: scope)
        case .conditional(let test, let then, let otherwise):
            if try evaluate(test, in: scope).isTrue { return try evaluate(then, in: scope) }
            guard let otherwise else {
                return .undefined(
                    Undefined(reason: "the inline 'if' was false and has no 'else'"))
            }
            return try evaluate(otherwise, in: scope)
        case .comparison(let first, let rest): return try compare(first, rest, in: scope)
        case .none, .bool, .integer, .float, .string, .name, .negative, .positive, .arithmetic,
            .concatenation:
            return try computed(kind, in: scope)
        }
    }

    private func computed(
        _ kind: Expression.Kind, in scope: Scope
    ) throws(TemplateError) -> Value {
        switch kind {
        case .negative(let operand): return try negated(try evaluate(operand, in: scope))
        case .positive(let operand): return try positive(try evaluate(operand, in: scope))
        case .arithmetic(let operation, let left, let right):
            let first = try evaluate(left, in: scope)
            return try apply(operation, first, try evaluate(right, in: scope))
        case .concatenation(let parts):
            var text = ""
            for part in parts { text += try string(try evaluate(part, in: scope)) }
            return try self.text(text)
        default: return .none
        }
    }

    private func evaluate(
        _ expressions: [Expression], in scope: Scope
    ) throws(TemplateError) -> [Value] {
        var values: [Value] = []
        values.reserveCapacity(expressions.count)
        for expression in expressions { values.append(try evaluate(expression, in: scope)) }
        return values
    }

    private func dictionary(
        _ pairs: [Expression.Pair], in scope: Scope
    ) throws(TemplateError) -> Value {
        var members: OrderedDictionary<Key, Value> = [:]
        for pair in pairs {
            let key = try key(try evaluate(pair.key, in: scope))
            members[key] = try evaluate(pair.value, in: scope)
        }
        return try dictionary(members)
    }

    private func sliced(
        _ operand: Expression, _ slice: Expression.Slice, in scope: Scope
    ) throws(TemplateError) -> Value {
        let value = try evaluate(operand, in: scope)
        let start = try bound(slice.start, in: scope)
        let stop = try bound(slice.stop, in: scope)
        return try self.slice(
            value, start: start, stop: stop, step: try bound(slice.step, in: scope))
    }

    private func bound(
        _ expression: Expression?, in scope: Scope
    ) throws(TemplateError) -> Int? {
        guard let expression else { return nil }
        let value = try evaluate(expression, in: scope)
        if value.isNone { return nil }
        guard let index = value.integer else {
            throw failure(.value, "a slice bound is \(value.type), expected an integer or none")
        }
        return index
    }

    private func compare(
        _ first: Expression, _ rest: [Expression.Comparison], in scope: Scope
    ) throws(TemplateError) -> Value {
        var left = try evaluate(first, in: scope)
        for comparison in rest {
            let right = try evaluate(comparison.right, in: scope)
            guard try holds(comparison.relation, left, right) else { return .bool(false) }
            left = right
        }
        return .bool(true)
    }

    // MARK: Calls

    /// Evaluated arguments.
    func evaluate(
        _ list: ArgumentList, in scope: Scope
    ) throws(TemplateError) -> Arguments {
        var arguments = Arguments(positional: try evaluate(list.positional, in: scope))
        for named in list.named {
            arguments.named.append((named.name, try evaluate(named.value, in: scope)))
        }
        if let spread = list.spread {
            arguments.positional += try iterate(try evaluate(spread, in: scope))
            try step(arguments.positional.count)
        }
        if let spread = list.spreadNamed {
            guard case .dictionary(let members) = try evaluate(spread, in: scope) else {
                throw failure(.value, "the argument after '**' must be a dictionary")
            }
            for (key, value) in members.pairs {
                guard let name = key.value.text else {
                    throw failure(.value, "the names of '**' arguments must be strings")
                }
                guard !arguments.named.contains(where: { PythonText.equal($0.name, name) }) else {
                    throw failure(.value, "the argument '\(name)' is given twice")
                }
                arguments.named.append((name, value))
            }
        }
        return arguments
    }

    func apply(
        _ filter: FilterCall, to value: Value, in scope: Scope
    ) throws(TemplateError) -> Value {
        let arguments = try evaluate(filter.arguments, in: scope)
        line = filter.line
        return try self.filter(filter.name, value, arguments)
    }

    func filter(
        _ name: String, _ value: Value, _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        guard let filter = Filters.table[name] else {
            throw failure(.unsupported, Filters.unknown(name))
        }
        return try filter(self, value, arguments)
    }

    func test(
        _ name: String, _ value: Value, _ arguments: Arguments
    ) throws(TemplateError) -> Bool {
        guard let test = Tests.table[name] else {
            throw failure(.unsupported, Tests.unknown(name))
        }
        return try test(self, value, arguments)
    }
}
