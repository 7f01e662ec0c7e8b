import MinimaCore
import OrderedCollections

/// Arguments of a call, evaluated.
struct Arguments {
    var positional: [Value] = []
    var named: [(name: String, value: Value)] = []

    /// The arguments in the order of `names`, `nil` where one is not given.
    ///
    /// - Parameters:
    ///   - names: The parameters of what is called.
    ///   - callee: What is called, for messages.
    func matched(
        to names: String..., callee: String
    ) throws(TemplateError) -> [Value?] {
        try matched(to: names, callee: callee)
    }

    func matched(to names: [String], callee: String) throws(TemplateError) -> [Value?] {
        guard positional.count <= names.count else {
            throw TemplateError(
                .value,
                "\(callee) got \(positional.count) arguments, takes at most \(names.count): "
                    + "(\(names.joined(separator: ", ")))")
        }
        var values: [Value?] = positional
        values += Array(repeating: nil, count: names.count - positional.count)
        for argument in named {
            guard let index = names.firstIndex(where: { PythonText.equal($0, argument.name) })
            else {
                throw TemplateError(
                    .value,
                    "\(callee) has no argument '\(argument.name)', only "
                        + "(\(names.joined(separator: ", ")))")
            }
            guard values[index] == nil else {
                throw TemplateError(.value, "\(callee) got the argument '\(argument.name)' twice")
            }
            values[index] = argument.value
        }
        return values
    }
}

extension Interpreter {
    /// Runs `body`, giving its failures the current line.
    func located<Result>(
        _ body: () throws(TemplateError) -> Result
    ) throws(TemplateError) -> Result {
        do {
            return try body()
        } catch {
            throw error.line == nil ? TemplateError(error.kind, line: line, error.reason) : error
        }
    }

    /// Calls the macro that a `{% call %}` names, with the block as its `caller`.
    func call(
        _ expression: Expression, in scope: Scope, caller: Value
    ) throws(TemplateError) -> Value {
        guard case .call(let callee, let list) = expression.kind else { return .none }
        let function = try evaluate(callee, in: scope)
        var arguments = try evaluate(list, in: scope)
        arguments.named.append(("caller", caller))
        return try call(function, arguments)
    }

    func call(_ callee: Value, _ arguments: Arguments) throws(TemplateError) -> Value {
        let here = line
        defer { line = here }
        switch callee {
        case .macro(let macro): return try text(try call(macro, arguments))
        case .function(let function):
            return try located { () throws(TemplateError) in
                try function.call(arguments, by: self)
            }
        case .method(let method):
            return try located { () throws(TemplateError) in
                try call(method, arguments)
            }
        case .undefined(let undefined): throw failure(.undefined, undefined.reason)
        case .loop:
            throw failure(.unsupported, "recursive loops; use a macro")
        default: throw failure(.value, "'\(callee.type)' object is not callable")
        }
    }

    private func call(_ macro: Macro, _ arguments: Arguments) throws(TemplateError) -> String {
        let definition = macro.definition
        let scope = Scope(parent: macro.scope)
        var positional = arguments.positional[...]
        var named = arguments.named
        func takeNamed(_ name: String) -> Value? {
            guard let index = named.firstIndex(where: { PythonText.equal($0.name, name) }) else {
                return nil
            }
            return named.remove(at: index).value
        }
        var missing: [MacroDefinition.Parameter] = []
        for parameter in definition.parameters {
            if let value = positional.popFirst() ?? takeNamed(parameter.name) {
                scope.variables[parameter.symbol] = value
            } else {
                missing.append(parameter)
            }
        }
        if definition.takesCaller, let symbol = symbol("caller"), scope.variables[symbol] == nil,
            !missing.contains(where: { $0.symbol == symbol })
        {
            scope.variables[symbol] =
                takeNamed("caller") ?? .undefined(Undefined(reason: "No caller defined"))
        }
        if definition.takesNamed, let symbol = symbol("kwargs") {
            var pairs: OrderedDictionary<Key, Value> = [:]
            for argument in named { pairs[Key(value: .string(argument.name))] = argument.value }
            scope.variables[symbol] = try dictionary(pairs)
        } else if let extra = named.first {
            throw failure(
                .value, "macro '\(definition.name)' takes no keyword argument '\(extra.name)'")
        }
        if definition.takesPositional, let symbol = symbol("varargs") {
            scope.variables[symbol] = try tuple(Array(positional))
        } else if !positional.isEmpty {
            throw failure(
                .value,
                "macro '\(definition.name)' takes not more than "
                    + "\(definition.parameters.count) argument(s)")
        }
        for parameter in missing {
            if let standard = parameter.standard {
                scope.variables[parameter.symbol] = try evaluate(standard, in: scope)
            } else {
                let reason = "parameter '\(parameter.name)' was not provided"
                scope.variables[parameter.symbol] = .undefined(Undefined(reason: reason))
            }
        }
        return try capture(definition.body, in: scope)
    }

    func symbol(_ name: JSON.Name) -> Symbol? { syntax.symbols[name] }

    // MARK: Iteration

    /// The elements that `for` would see.
    func iterate(_ value: Value) throws(TemplateError) -> [Value] {
        switch value {
        case .undefined: return []
        case .list(let elements), .tuple(let elements): return elements.values
        case .view(let view): return view.elements.values
        case .dictionary(let members):
            try step(members.pairs.count)
            return members.pairs.keys.map(\.value)
        case .string(let text), .markup(let text):
            let scalars = text.unicodeScalars
            try step(scalars.count)
            try allocate(scalars.count, times: 24)
            return scalars.map { .string(String(Character($0))) }
        case .range(let range):
            let length = range.length ?? .max
            try step(length)
            try allocate(length, times: 24)
            return (0..<length).map { .integer(range[$0]) }
        case .iterator(let cursor): return cursor.drain()
        case .none, .bool, .integer, .float, .namespace, .loop, .macro, .function, .method:
            throw failure(.value, "'\(value.type)' object is not iterable")
        }
    }
}
