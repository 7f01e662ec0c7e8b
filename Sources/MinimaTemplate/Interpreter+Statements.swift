import MinimaCore

extension Interpreter {
    /// How a statement ended.
    enum Flow {
        case onward
        case leaveLoop
        case nextRound
    }

    func execute(_ body: [Statement], in scope: Scope) throws(TemplateError) -> Flow {
        try nested { () throws(TemplateError) -> Flow in
            for statement in body {
                let flow = try execute(statement, in: scope)
                guard case .onward = flow else { return flow }
            }
            return .onward
        }
    }

    private func execute(_ statement: Statement, in scope: Scope) throws(TemplateError) -> Flow {
        try step()
        line = statement.line
        switch statement.kind {
        case .text(let text): try write(text)
        case .output(let expression): try write(try string(try evaluate(expression, in: scope)))
        case .condition(let branches, let otherwise):
            for branch in branches {
                if try evaluate(branch.test, in: scope).isTrue {
                    return try execute(branch.body, in: scope)
                }
            }
            return try execute(otherwise, in: scope)
        case .loop(let loop): return try run(loop, in: scope)
        case .assign(let target, let expression):
            try assign(try evaluate(expression, in: scope), to: target, in: scope)
        case .capture(let target, let filters, let body):
            let value = try filtered(filters, body: body, in: scope)
            try assign(value, to: target, in: scope)
        case .macro(let definition):
            try assign(macro: definition, in: scope)
        case .callBlock(let definition, let call):
            let caller = try macro(definition, in: scope)
            try write(try string(try self.call(call, in: scope, caller: caller)))
        case .filterBlock(let filters, let body):
            try write(try string(try filtered(filters, body: body, in: scope)))
        case .scope(let bindings, let body):
            let inner = Scope(parent: scope)
            for binding in bindings {
                let value = try evaluate(binding.value, in: scope)
                try assign(value, to: binding.target, in: inner)
            }
            return try execute(body, in: inner)
        case .leaveLoop: return .leaveLoop
        case .nextRound: return .nextRound
        }
        return .onward
    }

    private func write(_ text: String) throws(TemplateError) {
        try allocate(text.utf8.count)
        output += text
    }

    /// What `body` writes, instead of writing it.
    func capture(_ body: [Statement], in scope: Scope) throws(TemplateError) -> String {
        let outer = output
        output = ""
        defer { output = outer }
        _ = try execute(body, in: scope)
        return output
    }

    private func filtered(
        _ filters: [FilterCall], body: [Statement], in scope: Scope
    ) throws(TemplateError) -> Value {
        var value = Value.string(try capture(body, in: Scope(parent: scope)))
        for filter in filters { value = try apply(filter, to: value, in: scope) }
        return value
    }

    private func assign(macro definition: MacroDefinition, in scope: Scope) throws(TemplateError) {
        guard let symbol = symbol(JSON.Name(definition.name)) else { return }
        scope.variables[symbol] = try macro(definition, in: scope)
    }

    // MARK: Loops

    private func run(_ loop: Loop, in scope: Scope) throws(TemplateError) -> Flow {
        let elements = try iterate(try evaluate(loop.sequence, in: scope))
        var filter: LoopState.Filter?
        if let test = loop.filter {
            filter = { (value) throws(TemplateError) in
                let inner = Scope(parent: scope)
                try self.assign(value, to: loop.target, in: inner)
                return try self.evaluate(test, in: inner).isTrue
            }
        }
        let state = LoopState(elements: elements, filter: filter)
        defer { state.finish() }
        var completed = false
        rounds: while let element = try state.next() {
            try step()
            let inner = Scope(parent: scope)
            if let symbol = symbol("loop") { inner.variables[symbol] = .loop(state) }
            try assign(element, to: loop.target, in: inner)
            switch try execute(loop.body, in: inner) {
            case .onward: completed = true
            case .nextRound: continue
            case .leaveLoop: break rounds
            }
        }
        guard !completed else { return .onward }
        return try execute(loop.otherwise, in: Scope(parent: scope))
    }

    // MARK: Assignment

    private func assign(
        _ value: Value, to target: Target, in scope: Scope
    ) throws(TemplateError) {
        switch target {
        case .name(let symbol): scope.variables[symbol] = value
        case .attribute(let symbol, let name):
            guard case .namespace(let namespace) = try self.value(of: symbol, in: scope) else {
                throw failure(
                    .value,
                    "cannot set \(syntax.names[symbol]).\(name): "
                        + "only attributes of a namespace() can be set")
            }
            try checkAttribute(name)
            try allocate(96)
            namespace.attributes[Key(value: .string(name))] = value
        case .tuple(let targets):
            let values = try iterate(value)
            guard values.count == targets.count else {
                throw failure(
                    .value, "\(values.count) values to unpack, expected \(targets.count)")
            }
            for (target, value) in zip(targets, values) {
                try assign(value, to: target, in: scope)
            }
        }
    }

    /// Refuses names that transformers keeps off namespaces.
    func checkAttribute(_ name: String) throws(TemplateError) {
        guard name.utf8.first != UInt8(ascii: "_") else {
            throw failure(
                .value, "the namespace attribute '\(name)'; names may not begin with '_'")
        }
    }
}
