import MinimaCore

/// A variable's name as an index into ``Syntax/names``.
typealias Symbol = Int

/// A parsed template.
struct Syntax: Sendable {
    let body: [Statement]
    /// The name of every symbol.
    let names: [String]
    /// The symbol of every name.
    let symbols: [JSON.Name: Symbol]
}

/// One piece of a template: text, output, or a `{% %}` block.
struct Statement: Sendable {
    indirect enum Kind: Sendable {
        case text(String)
        case output(Expression)
        case condition([Branch], otherwise: [Statement])
        case loop(Loop)
        case assign(Target, Expression)
        case capture(Target, filters: [FilterCall], body: [Statement])
        case macro(MacroDefinition)
        case callBlock(MacroDefinition, call: Expression)
        case filterBlock([FilterCall], body: [Statement])
        /// `{% with %}`, and with no bindings `{% generation %}`, which opens a scope as well.
        case scope([Binding], body: [Statement])
        case leaveLoop
        case nextRound
    }

    struct Branch: Sendable {
        let test: Expression
        let body: [Statement]
    }

    struct Binding: Sendable {
        let target: Target
        let value: Expression
    }

    let line: Int
    let kind: Kind
}

/// `{% for target in sequence if filter %} body {% else %} otherwise {% endfor %}`.
struct Loop: Sendable {
    let target: Target
    let sequence: Expression
    let filter: Expression?
    let body: [Statement]
    let otherwise: [Statement]
}

/// A macro as written; also the body of a `{% call %}`.
final class MacroDefinition: Sendable {
    struct Parameter: Sendable {
        let symbol: Symbol
        let name: String
        let standard: Expression?
    }

    let name: String
    let parameters: [Parameter]
    let body: [Statement]
    /// Whether the body mentions `caller`, `varargs` and `kwargs`; only then are they accepted.
    let takesCaller: Bool
    let takesPositional: Bool
    let takesNamed: Bool

    init(name: String, parameters: [Parameter], body: [Statement], mentions: Set<String>) {
        self.name = name
        self.parameters = parameters
        self.body = body
        takesCaller = mentions.contains("caller")
        takesPositional = mentions.contains("varargs")
        takesNamed = mentions.contains("kwargs")
    }
}

/// What an assignment writes to.
indirect enum Target: Sendable {
    case name(Symbol)
    case attribute(Symbol, String)
    case tuple([Target])
}

/// A filter with its arguments, its operand left open.
struct FilterCall: Sendable {
    let line: Int
    let name: String
    let arguments: ArgumentList
}

/// Arguments of a call, a filter or a test.
struct ArgumentList: Sendable {
    struct Named: Sendable {
        let name: String
        let value: Expression
    }

    var positional: [Expression] = []
    var named: [Named] = []
    /// `*expression`.
    var spread: Expression?
    /// `**expression`.
    var spreadNamed: Expression?
}

/// An expression with the line it begins on.
struct Expression: Sendable {
    indirect enum Kind: Sendable {
        case none
        case bool(Bool)
        case integer(Int)
        case float(Double)
        case string(String)
        case name(Symbol)
        case list([Expression])
        case tuple([Expression])
        case dictionary([Pair])
        case attribute(Expression, String)
        case item(Expression, Expression)
        case slice(Expression, Slice)
        case call(Expression, ArgumentList)
        case filter(Expression, FilterCall)
        case test(Expression, name: String, ArgumentList)
        case not(Expression)
        case negative(Expression)
        case positive(Expression)
        case arithmetic(Arithmetic, Expression, Expression)
        case and(Expression, Expression)
        case or(Expression, Expression)
        case comparison(Expression, [Comparison])
        case concatenation([Expression])
        case conditional(test: Expression, then: Expression, otherwise: Expression?)
    }

    struct Pair: Sendable {
        let key: Expression
        let value: Expression
    }

    struct Slice: Sendable {
        let start: Expression?
        let stop: Expression?
        let step: Expression?
    }

    struct Comparison: Sendable {
        let relation: Relation
        let right: Expression
    }

    let line: Int
    let kind: Kind
}

enum Arithmetic: String, Sendable {
    case add = "+"
    case subtract = "-"
    case multiply = "*"
    case divide = "/"
    case floorDivide = "//"
    case modulo = "%"
    case power = "**"
}

enum Relation: String, Sendable {
    case equal = "=="
    case notEqual = "!="
    case less = "<"
    case lessOrEqual = "<="
    case greater = ">"
    case greaterOrEqual = ">="
    case isIn = "in"
    case isNotIn = "not in"
}
