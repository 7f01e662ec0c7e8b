import MinimaCore
import OrderedCollections

/// A value of a running template, after Python's types.
enum Value {
    case undefined(Undefined)
    case none
    case bool(Bool)
    case integer(Int)
    case float(Double)
    case string(String)
    /// Text marked as HTML by `safe` or `escape`; adding to it escapes the other side.
    case markup(String)
    case list(Elements)
    case tuple(Elements)
    case dictionary(Members)
    case view(View)
    case range(IntegerRange)
    case iterator(Cursor)
    case namespace(Namespace)
    case loop(LoopState)
    case macro(Macro)
    case function(Functions.Function)
    case method(Method)
}

/// A value that does not exist, with the sentence that says why.
struct Undefined {
    let reason: String
}

/// Elements of a list or tuple. `depth` bounds nesting, so that walking one never exhausts the stack.
struct Elements {
    let values: [Value]
    let depth: Int
}

/// Members of a dictionary, in order of insertion.
struct Members {
    let pairs: OrderedDictionary<Key, Value>
    let depth: Int

    subscript(name: String) -> Value? { pairs[Key(value: .string(name))] }
}

/// `dict.keys()`, `.values()` or `.items()`.
struct View {
    let kind: String
    let elements: Elements
}

/// `range(start, stop, step)`.
struct IntegerRange {
    let start: Int
    let stop: Int
    let step: Int

    /// Number of elements; `nil` when it does not fit an `Int`.
    var length: Int? {
        let isEmpty = step > 0 ? start >= stop : start <= stop
        if isEmpty { return 0 }
        let span = stop.subtractingReportingOverflow(start)
        guard !span.overflow, span.partialValue != .min else { return nil }
        return Int((span.partialValue.magnitude - 1) / step.magnitude) + 1
    }

    /// The element at `index`, which must be in `0..<length`.
    subscript(index: Int) -> Int { start &+ index &* step }
}

/// What Python's lazy filters (`map`, `select`, …) give: elements that can be read once.
final class Cursor {
    let depth: Int
    private var rest: ArraySlice<Value>

    init(_ elements: Elements) {
        depth = elements.depth
        rest = elements.values[...]
    }

    /// The elements left; none afterwards.
    func drain() -> [Value] {
        defer { rest = [] }
        return Array(rest)
    }

    /// The first element left.
    func next() -> Value? { rest.popFirst() }
}

/// `namespace()`: the only value a template can change.
final class Namespace {
    var attributes: OrderedDictionary<Key, Value>

    init(attributes: OrderedDictionary<Key, Value>) {
        self.attributes = attributes
    }
}

/// A macro together with the scope it was defined in.
final class Macro {
    let definition: MacroDefinition
    let scope: Scope

    init(definition: MacroDefinition, scope: Scope) {
        self.definition = definition
        self.scope = scope
    }
}

/// A method with its receiver, as `text.strip` before it is called.
final class Method {
    let receiver: Value
    let name: String

    init(receiver: Value, name: String) {
        self.receiver = receiver
        self.name = name
    }
}

/// Variables of one block, and the block around it.
final class Scope {
    var variables: [Symbol: Value] = [:]
    let parent: Scope?

    init(parent: Scope?) {
        self.parent = parent
    }
}

/// A hashable value: what a dictionary can be asked for.
///
/// As in Python `1`, `1.0` and `true` are one key, and texts are compared by scalars.
struct Key: Hashable {
    let value: Value

    static func == (left: Key, right: Key) -> Bool {
        switch (left.value, right.value) {
        case (.none, .none), (.undefined, .undefined): return true
        case (.tuple(let left), .tuple(let right)):
            return left.values.count == right.values.count
                && zip(left.values, right.values).allSatisfy { Key(value: $0) == Key(value: $1) }
        default: break
        }
        if let left = left.value.text, let right = right.value.text {
            return PythonText.equal(left, right)
        }
        if let left = left.value.number, let right = right.value.number { return left == right }
        return false
    }

    func hash(into hasher: inout Hasher) {
        if let text = value.text {
            hasher.combine(JSON.Name(text))
        } else if let number = value.number {
            number.hash(into: &hasher)
        } else if case .tuple(let elements) = value {
            for element in elements.values { Key(value: element).hash(into: &hasher) }
        }
    }
}

/// An integer or a float, compared by mathematical value.
enum Number: Hashable {
    case integer(Int)
    case float(Double)

    var double: Double {
        switch self {
        case .integer(let value): Double(value)
        case .float(let value): value
        }
    }

    static func == (left: Number, right: Number) -> Bool {
        !(left < right) && !(right < left) && !left.isNaN && !right.isNaN
    }

    var isNaN: Bool { double.isNaN }

    static func < (left: Number, right: Number) -> Bool {
        switch (left, right) {
        case (.integer(let left), .integer(let right)): return left < right
        case (.float(let left), .float(let right)): return left < right
        case (.integer(let left), .float(let right)):
            if let exact = Int(exactly: right.rounded(.up)) { return left < exact }
            return Double(left) < right
        case (.float(let left), .integer(let right)):
            if let exact = Int(exactly: left.rounded(.down)) { return exact < right }
            return left < Double(right)
        }
    }

    func hash(into hasher: inout Hasher) {
        switch self {
        case .integer(let value): hasher.combine(value)
        case .float(let value):
            if let exact = Int(exactly: value) {
                hasher.combine(exact)
            } else {
                hasher.combine(value)
            }
        }
    }
}

extension Value {
    /// A string's text, marked as HTML or not.
    var text: String? {
        switch self {
        case .string(let text), .markup(let text): text
        default: nil
        }
    }

    /// A number; booleans are 0 and 1.
    var number: Number? {
        switch self {
        case .bool(let flag): .integer(flag ? 1 : 0)
        case .integer(let value): .integer(value)
        case .float(let value): .float(value)
        default: nil
        }
    }

    /// An integer; booleans are 0 and 1.
    var integer: Int? {
        switch self {
        case .bool(let flag): flag ? 1 : 0
        case .integer(let value): value
        default: nil
        }
    }

    var isUndefined: Bool {
        if case .undefined = self { true } else { false }
    }

    var isNone: Bool {
        if case .none = self { true } else { false }
    }

    /// Nesting of containers: 0 for scalars.
    var depth: Int {
        switch self {
        case .list(let elements), .tuple(let elements): elements.depth
        case .dictionary(let members): members.depth
        case .view(let view): view.elements.depth
        case .iterator(let cursor): cursor.depth
        case .method(let method): method.receiver.depth
        default: 0
        }
    }

    /// Python's truth.
    var isTrue: Bool {
        switch self {
        case .undefined, .none: false
        case .bool(let flag): flag
        case .integer(let value): value != 0
        case .float(let value): value != 0
        case .string(let text), .markup(let text): !text.isEmpty
        case .list(let elements), .tuple(let elements): !elements.values.isEmpty
        case .dictionary(let members): !members.pairs.isEmpty
        case .view(let view): !view.elements.values.isEmpty
        case .range(let range): range.length != 0
        case .loop(let loop): loop.hasItems
        case .iterator, .namespace, .macro, .function, .method: true
        }
    }

    /// The name of the Python type.
    var type: String {
        switch self {
        case .undefined: "Undefined"
        case .none: "NoneType"
        case .bool: "bool"
        case .integer: "int"
        case .float: "float"
        case .string: "str"
        case .markup: "Markup"
        case .list: "list"
        case .tuple: "tuple"
        case .dictionary: "dict"
        case .view(let view): view.kind
        case .range: "range"
        case .iterator: "generator"
        case .namespace: "Namespace"
        case .loop: "LoopContext"
        case .macro: "Macro"
        case .function: "function"
        case .method: "builtin_function_or_method"
        }
    }
}
