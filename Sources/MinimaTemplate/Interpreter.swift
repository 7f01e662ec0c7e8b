import MinimaCore
import OrderedCollections

/// Runs a parsed template on one context, within limits.
///
/// Statements, expressions, calls, attributes and operators are in extensions.
final class Interpreter {
    let syntax: Syntax
    let now: TemplateDate?
    let limits: TemplateLimits
    let globals = Scope(parent: nil)
    /// The text written so far by the template, or by the capturing block being run.
    var output = ""
    /// Where the template is, for errors.
    var line = 1
    private var context: OrderedDictionary<JSON.Name, JSON>
    private var steps = 0
    private var bytes = 0
    private var depth = 0
    /// What can refer to itself in circles, to be cut when the rendering ends.
    private var namespaces: [Namespace] = []
    private var scopes: [Scope] = []

    init(
        syntax: Syntax, context: OrderedDictionary<JSON.Name, JSON>, now: TemplateDate?,
        limits: TemplateLimits
    ) {
        self.syntax = syntax
        self.context = context
        self.now = now
        self.limits = limits
    }

    /// The template's output.
    func render() throws(TemplateError) -> String {
        defer {
            for namespace in namespaces { namespace.attributes = [:] }
            for scope in scopes { scope.variables = [:] }
        }
        let scope = Scope(parent: globals)
        _ = try execute(syntax.body, in: scope)
        return output
    }

    // MARK: Limits

    func failure(_ kind: TemplateError.Kind, _ reason: String) -> TemplateError {
        TemplateError(kind, line: line, reason)
    }

    /// Counts work, `count` elements or evaluations.
    func step(_ count: Int = 1) throws(TemplateError) {
        steps = steps &+ count
        guard count >= 0, (0...limits.steps).contains(steps) else {
            throw failure(
                .limit,
                "more than \(limits.steps) steps; raise TemplateLimits.steps if this is meant")
        }
    }

    /// Counts memory for a text of `count` bytes.
    func allocate(_ count: Int) throws(TemplateError) {
        let total = bytes.addingReportingOverflow(count)
        guard count >= 0, !total.overflow, total.partialValue <= limits.bytes else {
            throw failure(
                .limit,
                "more than \(limits.bytes) bytes of text and lists made; "
                    + "raise TemplateLimits.bytes if this is meant")
        }
        bytes = total.partialValue
    }

    /// Counts memory for the product of two sizes, which may not fit an `Int`.
    func allocate(_ count: Int, times: Int) throws(TemplateError) {
        let product = max(0, count).multipliedReportingOverflow(by: max(0, times))
        try allocate(product.overflow ? .max : product.partialValue)
    }

    /// Runs `body` one level deeper.
    func nested<Result>(
        _ body: () throws(TemplateError) -> Result
    ) throws(TemplateError) -> Result {
        depth += 1
        defer { depth -= 1 }
        guard depth <= limits.depth else {
            throw failure(
                .limit,
                "expressions, blocks and macros nest deeper than \(limits.depth); "
                    + "raise TemplateLimits.depth if this is meant")
        }
        return try body()
    }

    // MARK: Making values

    func text(_ text: String) throws(TemplateError) -> Value {
        try allocate(text.utf8.count)
        return .string(text)
    }

    func text(_ scalars: [Unicode.Scalar]) throws(TemplateError) -> Value {
        try text(PythonText.string(scalars[...]))
    }

    /// Elements of a list or tuple, with their memory and nesting checked.
    func elements(_ values: [Value]) throws(TemplateError) -> Elements {
        try step(values.count)
        try allocate(values.count, times: 24)
        return Elements(
            values: values, depth: try checkedDepth(values.reduce(0) { max($0, $1.depth) }))
    }

    private func checkedDepth(_ inner: Int) throws(TemplateError) -> Int {
        guard inner < TemplateLimits.valueDepth else {
            throw failure(.limit, "a value nests deeper than \(TemplateLimits.valueDepth)")
        }
        return inner + 1
    }

    func list(_ values: [Value]) throws(TemplateError) -> Value { .list(try elements(values)) }

    func tuple(_ values: [Value]) throws(TemplateError) -> Value { .tuple(try elements(values)) }

    func cursor(_ values: [Value]) throws(TemplateError) -> Value {
        .iterator(Cursor(try elements(values)))
    }

    func dictionary(_ pairs: OrderedDictionary<Key, Value>) throws(TemplateError) -> Value {
        try step(pairs.count)
        try allocate(pairs.count, times: 96)
        let inner = pairs.elements.reduce(0) { max($0, $1.key.value.depth, $1.value.depth) }
        return .dictionary(Members(pairs: pairs, depth: try checkedDepth(inner)))
    }

    func namespace(_ attributes: OrderedDictionary<Key, Value>) throws(TemplateError) -> Value {
        try allocate(64 + attributes.count * 96)
        let namespace = Namespace(attributes: attributes)
        namespaces.append(namespace)
        return .namespace(namespace)
    }

    func macro(_ definition: MacroDefinition, in scope: Scope) throws(TemplateError) -> Value {
        try allocate(64)
        scopes.append(scope)
        return .macro(Macro(definition: definition, scope: scope))
    }

    func method(_ name: String, of receiver: Value) throws(TemplateError) -> Value {
        _ = try checkedDepth(receiver.depth)
        return .method(Method(receiver: receiver, name: name))
    }

    /// A key for `value`.
    func key(_ value: Value) throws(TemplateError) -> Key {
        switch value {
        case .string(let text), .markup(let text):
            try step(text.utf8.count / 64)
            return Key(value: value)
        case .none, .undefined, .bool, .integer, .float: return Key(value: value)
        case .tuple(let elements):
            for element in elements.values { _ = try key(element) }
            return Key(value: value)
        default:
            throw failure(.value, "unhashable type: '\(value.type)'")
        }
    }

    // MARK: Variables

    func value(of symbol: Symbol, in scope: Scope) throws(TemplateError) -> Value {
        var place: Scope? = scope
        var hops = 0
        while let current = place {
            if let value = current.variables[symbol] { return value }
            place = current.parent
            hops += 1
            if hops % 8 == 0 { try step() }
        }
        let name = syntax.names[symbol]
        let value: Value
        if let json = context[JSON.Name(name)] {
            value = try self.value(of: json)
        } else if let function = Functions.Function(rawValue: name) {
            value = .function(function)
        } else if ["cycler", "joiner", "lipsum"].contains(name) {
            throw failure(.unsupported, "the function '\(name)'")
        } else {
            return .undefined(Undefined(reason: "'\(name)' is undefined"))
        }
        globals.variables[symbol] = value
        return value
    }

    /// A document's value.
    func value(of json: JSON, level: Int = 0) throws(TemplateError) -> Value {
        guard level <= TemplateLimits.valueDepth else {
            throw failure(.limit, "the context nests deeper than \(TemplateLimits.valueDepth)")
        }
        switch json {
        case .null: return .none
        case .bool(let flag): return .bool(flag)
        case .integer(let number): return .integer(Int(number))
        case .number(let number): return .float(number)
        case .string(let text): return .string(text)
        case .array(let items):
            var values: [Value] = []
            for item in items { values.append(try value(of: item, level: level + 1)) }
            return try list(values)
        case .object(let members):
            var pairs: OrderedDictionary<Key, Value> = [:]
            for (name, member) in members {
                pairs[Key(value: .string(name.text))] = try value(of: member, level: level + 1)
            }
            return try dictionary(pairs)
        }
    }
}
