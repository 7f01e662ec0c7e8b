/// The tests behind `is`.
enum Tests {
    typealias Test =
        @Sendable (Interpreter, Value, Arguments) throws(TemplateError) -> Bool

    static func unknown(_ name: String) -> String {
        "the test '\(name)'; known are \(table.keys.sorted().joined(separator: ", "))"
    }

    /// A test of the value alone.
    private static func plain(_ holds: @escaping @Sendable (Value) -> Bool) -> Test {
        { (interpreter, value, arguments) throws(TemplateError) in
            guard arguments.positional.isEmpty, arguments.named.isEmpty else {
                throw interpreter.failure(.value, "a test that takes no argument got one")
            }
            return holds(value)
        }
    }

    /// A test against one argument.
    private static func relation(_ relation: Relation) -> Test {
        { (interpreter, value, arguments) throws(TemplateError) in
            try interpreter.holds(relation, value, try operand(arguments, interpreter))
        }
    }

    private static func operand(
        _ arguments: Arguments, _ interpreter: Interpreter
    ) throws(TemplateError) -> Value {
        guard arguments.positional.count == 1, arguments.named.isEmpty else {
            throw interpreter.failure(.value, "a test that takes one argument got another number")
        }
        return arguments.positional[0]
    }

    private static func isDivisible(
        _ value: Value, by divisor: Value, _ interpreter: Interpreter
    ) throws(TemplateError) -> Bool {
        let remainder = try interpreter.apply(.modulo, value, divisor)
        return try interpreter.equal(remainder, .integer(0))
    }

    private static func hasCase(
        _ value: Value, upper: Bool, _ interpreter: Interpreter
    ) throws(TemplateError) -> Bool {
        let scalars = PythonText.scalars(try interpreter.string(value))
        try interpreter.step(scalars.count / 16)
        return PythonString.isCased(scalars, upper: upper)
    }

    static let table: [String: Test] = [
        "defined": plain { !$0.isUndefined },
        "undefined": plain { $0.isUndefined },
        "none": plain { $0.isNone },
        "boolean": plain { if case .bool = $0 { true } else { false } },
        "true": plain { if case .bool(true) = $0 { true } else { false } },
        "false": plain { if case .bool(false) = $0 { true } else { false } },
        "integer": plain { if case .integer = $0 { true } else { false } },
        "float": plain { if case .float = $0 { true } else { false } },
        "number": plain { $0.number != nil },
        "string": plain { $0.text != nil },
        "mapping": plain { if case .dictionary = $0 { true } else { false } },
        "sequence": plain {
            switch $0 {
            case .string, .markup, .list, .tuple, .dictionary, .range, .undefined: true
            default: false
            }
        },
        "iterable": plain {
            switch $0 {
            case .string, .markup, .list, .tuple, .dictionary, .range, .undefined, .view,
                .iterator, .loop:
                true
            default: false
            }
        },
        "callable": plain {
            switch $0 {
            case .macro, .function, .method, .undefined, .loop: true
            default: false
            }
        },
        "escaped": plain { if case .markup = $0 { true } else { false } },
        "lower": { (interpreter, value, _) throws(TemplateError) in
            try hasCase(value, upper: false, interpreter)
        },
        "upper": { (interpreter, value, _) throws(TemplateError) in
            try hasCase(value, upper: true, interpreter)
        },
        "odd": { (interpreter, value, _) throws(TemplateError) in
            let remainder = try interpreter.apply(.modulo, value, .integer(2))
            return try interpreter.equal(remainder, .integer(1))
        },
        "even": { (interpreter, value, _) throws(TemplateError) in
            try isDivisible(value, by: .integer(2), interpreter)
        },
        "divisibleby": { (interpreter, value, arguments) throws(TemplateError) in
            try isDivisible(value, by: try operand(arguments, interpreter), interpreter)
        },
        "sameas": { (interpreter, value, arguments) throws(TemplateError) in
            let other = try operand(arguments, interpreter)
            guard value.type == other.type else { return false }
            return try interpreter.equal(value, other)
        },
        "filter": { (_, value, _) throws(TemplateError) in
            value.text.map { Filters.table[$0] != nil } ?? false
        },
        "test": { (_, value, _) throws(TemplateError) in
            value.text.map { isKnown($0) } ?? false
        },
        "in": relation(.isIn),
        "==": relation(.equal), "eq": relation(.equal), "equalto": relation(.equal),
        "!=": relation(.notEqual), "ne": relation(.notEqual),
        "<": relation(.less), "lt": relation(.less), "lessthan": relation(.less),
        "<=": relation(.lessOrEqual), "le": relation(.lessOrEqual),
        ">": relation(.greater), "gt": relation(.greater), "greaterthan": relation(.greater),
        ">=": relation(.greaterOrEqual), "ge": relation(.greaterOrEqual),
    ]

    private static func isKnown(_ name: String) -> Bool { table[name] != nil }
}
