import OrderedCollections

/// The functions every template can call.
enum Functions {
    enum Function: String {
        case range
        case namespace
        case dictionary = "dict"
        case raiseException = "raise_exception"
        case strftimeNow = "strftime_now"

        func call(
            _ arguments: Arguments, by interpreter: Interpreter
        ) throws(TemplateError) -> Value {
            switch self {
            case .range: return try Functions.range(arguments)
            case .namespace:
                let pairs = try Functions.pairs(arguments, by: interpreter)
                for key in pairs.keys {
                    if let name = key.value.text { try interpreter.checkAttribute(name) }
                }
                return try interpreter.namespace(pairs)
            case .dictionary:
                return try interpreter.dictionary(
                    try Functions.pairs(arguments, by: interpreter))
            case .raiseException:
                let message = try arguments.matched(to: "message", callee: rawValue)[0]
                throw TemplateError(.raised, try interpreter.string(message ?? .none))
            case .strftimeNow:
                let format = try arguments.matched(to: "format", callee: rawValue)[0]
                guard let format = format?.text else {
                    throw TemplateError(.value, "strftime_now needs a format, as \"%d %b %Y\"")
                }
                guard let now = interpreter.now else {
                    throw TemplateError(
                        .value, "the template prints today's date; pass the date as 'now'")
                }
                return try interpreter.text(try now.formatted(format))
            }
        }
    }

    private static func range(_ arguments: Arguments) throws(TemplateError) -> Value {
        var bounds: [Int] = []
        for value in arguments.positional {
            guard let bound = value.integer else {
                throw TemplateError(.value, "range() got a '\(value.type)', expected integers")
            }
            bounds.append(bound)
        }
        guard (1...3).contains(bounds.count), arguments.named.isEmpty else {
            throw TemplateError(.value, "range() takes 1 to 3 integers, got \(bounds.count)")
        }
        let range = IntegerRange(
            start: bounds.count > 1 ? bounds[0] : 0,
            stop: bounds.count > 1 ? bounds[1] : bounds[0],
            step: bounds.count > 2 ? bounds[2] : 1)
        guard range.step != 0 else { throw TemplateError(.value, "range() got the step zero") }
        guard let length = range.length, length <= TemplateLimits.rangeLength else {
            throw TemplateError(
                .limit, "a range() of more than \(TemplateLimits.rangeLength) elements")
        }
        return .range(range)
    }

    /// What Python's `dict(…)` collects.
    private static func pairs(
        _ arguments: Arguments, by interpreter: Interpreter
    ) throws(TemplateError) -> OrderedDictionary<Key, Value> {
        var pairs: OrderedDictionary<Key, Value> = [:]
        guard arguments.positional.count <= 1 else {
            throw TemplateError(.value, "dict() and namespace() take at most one dictionary")
        }
        switch arguments.positional.first {
        case .dictionary(let members): pairs = members.pairs
        case .namespace(let namespace): pairs = namespace.attributes
        case .undefined(let undefined): throw TemplateError(.undefined, undefined.reason)
        case let sequence?:
            for pair in try interpreter.iterate(sequence) {
                let parts = try interpreter.iterate(pair)
                guard parts.count == 2 else {
                    throw TemplateError(
                        .value, "dict() got an element of \(parts.count) parts, expected 2")
                }
                pairs[try interpreter.key(parts[0])] = parts[1]
            }
        case nil: break
        }
        for argument in arguments.named {
            pairs[Key(value: .string(argument.name))] = argument.value
        }
        return pairs
    }
}
