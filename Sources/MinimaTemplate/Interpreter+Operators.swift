import Glibc

extension Interpreter {
    private func refusal(
        _ operation: String, _ left: Value, _ right: Value
    ) -> TemplateError {
        for value in [left, right] {
            if case .undefined(let undefined) = value {
                return failure(.undefined, undefined.reason)
            }
        }
        return failure(.value, "'\(operation)' of '\(left.type)' and '\(right.type)'")
    }

    private var overflow: TemplateError {
        failure(.value, "an integer beyond 64 bits")
    }

    private func exact(_ result: (partialValue: Int, overflow: Bool)) throws(TemplateError) -> Value
    {
        guard !result.overflow else { throw overflow }
        return .integer(result.partialValue)
    }

    func negated(_ value: Value) throws(TemplateError) -> Value {
        switch value.number {
        case .integer(let number): return try exact(0.subtractingReportingOverflow(number))
        case .float(let number): return .float(-number)
        case nil: throw refusal("-", .integer(0), value)
        }
    }

    func positive(_ value: Value) throws(TemplateError) -> Value {
        switch value.number {
        case .integer(let number): return .integer(number)
        case .float: return value
        case nil: throw refusal("+", .integer(0), value)
        }
    }

    func apply(
        _ operation: Arithmetic, _ left: Value, _ right: Value
    ) throws(TemplateError) -> Value {
        if let first = left.number, let second = right.number {
            if case .integer(let first) = first, case .integer(let second) = second {
                return try apply(operation, first, second)
            }
            return try apply(operation, first.double, second.double)
        }
        switch operation {
        case .add: return try sum(left, right)
        case .multiply:
            if let count = right.integer { return try repeated(left, count) }
            if let count = left.integer { return try repeated(right, count) }
        case .modulo:
            if let format = left.text {
                if case .tuple(let elements) = right {
                    return try text(try formatted(format, with: elements.values))
                }
                return try text(try formatted(format, with: [right]))
            }
        case .subtract, .divide, .floorDivide, .power: break
        }
        throw refusal(operation.rawValue, left, right)
    }

    private func sum(_ left: Value, _ right: Value) throws(TemplateError) -> Value {
        switch (left, right) {
        case (.string(let left), .string(let right)): return try text(left + right)
        case (.markup(let left), .markup(let right)): return try markup(left + right)
        case (.markup(let left), .string(let right)):
            return try markup(left + Filters.escaped(right))
        case (.string(let left), .markup(let right)):
            return try markup(Filters.escaped(left) + right)
        case (.list(let left), .list(let right)): return try list(left.values + right.values)
        case (.tuple(let left), .tuple(let right)): return try tuple(left.values + right.values)
        default: throw refusal("+", left, right)
        }
    }

    private func markup(_ text: String) throws(TemplateError) -> Value {
        try allocate(text.utf8.count)
        return .markup(text)
    }

    private func repeated(_ value: Value, _ count: Int) throws(TemplateError) -> Value {
        let count = max(0, count)
        switch value {
        case .string(let text), .markup(let text):
            try allocate(text.utf8.count, times: count)
            // An empty text needs no memory, and no loop however large its count.
            return .string(text.isEmpty ? "" : String(repeating: text, count: count))
        case .list(let elements), .tuple(let elements):
            try allocate(elements.values.count, times: count)
            var values: [Value] = []
            if !elements.values.isEmpty {
                for _ in 0..<count {
                    try step(elements.values.count)
                    values += elements.values
                }
            }
            if case .list = value { return try list(values) }
            return try tuple(values)
        default: throw refusal("*", value, .integer(count))
        }
    }

    private func apply(
        _ operation: Arithmetic, _ left: Int, _ right: Int
    ) throws(TemplateError) -> Value {
        switch operation {
        case .add: return try exact(left.addingReportingOverflow(right))
        case .subtract: return try exact(left.subtractingReportingOverflow(right))
        case .multiply: return try exact(left.multipliedReportingOverflow(by: right))
        case .divide:
            guard right != 0 else { throw failure(.value, "division by zero") }
            return .float(Double(left) / Double(right))
        case .floorDivide:
            guard right != 0 else { throw failure(.value, "division by zero") }
            let quotient = left.dividedReportingOverflow(by: right)
            guard !quotient.overflow else { throw overflow }
            let isInexact = quotient.partialValue &* right != left
            return .integer(
                quotient.partialValue - (isInexact && (left < 0) != (right < 0) ? 1 : 0))
        case .modulo:
            guard right != 0 else { throw failure(.value, "division by zero") }
            let remainder = left.remainderReportingOverflow(dividingBy: right).partialValue
            return .integer(
                remainder != 0 && (remainder < 0) != (right < 0) ? remainder + right : remainder)
        case .power:
            if right < 0 { return try apply(.power, Double(left), Double(right)) }
            return .integer(try power(left, right))
        }
    }

    private func power(_ base: Int, _ exponent: Int) throws(TemplateError) -> Int {
        if exponent == 0 || base == 1 { return 1 }
        if base == 0 { return 0 }
        if base == -1 { return exponent % 2 == 0 ? 1 : -1 }
        var result = 1
        for _ in 0..<min(exponent, 64) {
            let product = result.multipliedReportingOverflow(by: base)
            guard !product.overflow else { throw overflow }
            result = product.partialValue
        }
        return result
    }

    private func apply(
        _ operation: Arithmetic, _ left: Double, _ right: Double
    ) throws(TemplateError) -> Value {
        if right == 0, operation == .divide || operation == .floorDivide || operation == .modulo {
            throw failure(.value, "division by zero")
        }
        switch operation {
        case .add: return .float(left + right)
        case .subtract: return .float(left - right)
        case .multiply: return .float(left * right)
        case .divide: return .float(left / right)
        case .modulo, .floorDivide:
            var remainder = fmod(left, right)
            var quotient = (left - remainder) / right
            if remainder != 0, (remainder < 0) != (right < 0) {
                remainder += right
                quotient -= 1
            }
            if operation == .modulo {
                return .float(remainder == 0 ? copysign(0, right) : remainder)
            }
            if quotient == 0 { return .float(copysign(0, left / right)) }
            let floor = quotient.rounded(.down)
            return .float(quotient - floor > 0.5 ? floor + 1 : floor)
        case .power:
            if left == 0, right < 0 { throw failure(.value, "zero to a negative power") }
            let result = pow(left, right)
            if result.isNaN, !left.isNaN, !right.isNaN {
                throw failure(.unsupported, "complex numbers, as a root of a negative one")
            }
            if result.isInfinite, left.isFinite, right.isFinite {
                throw failure(.value, "a power too large")
            }
            return .float(result)
        }
    }

    // MARK: Relations

    func holds(
        _ relation: Relation, _ left: Value, _ right: Value
    ) throws(TemplateError) -> Bool {
        switch relation {
        case .equal: try equal(left, right)
        case .notEqual: !(try equal(left, right))
        case .less: try precedes(left, right, "<")
        case .greater: try precedes(right, left, ">")
        case .lessOrEqual: try precedesOrEqual(left, right, "<=")
        case .greaterOrEqual: try precedesOrEqual(right, left, ">=")
        case .isIn: try contains(right, left)
        case .isNotIn: !(try contains(right, left))
        }
    }

    func equal(_ left: Value, _ right: Value) throws(TemplateError) -> Bool {
        try step(1 + min(left.text?.utf8.count ?? 0, right.text?.utf8.count ?? 0) / 64)
        switch (left, right) {
        case (.undefined, .undefined), (.none, .none): return true
        case (.list(let left), .list(let right)), (.tuple(let left), .tuple(let right)):
            guard left.values.count == right.values.count else { return false }
            for (left, right) in zip(left.values, right.values) {
                guard try equal(left, right) else { return false }
            }
            return true
        case (.dictionary(let left), .dictionary(let right)):
            guard left.pairs.count == right.pairs.count else { return false }
            for (key, value) in left.pairs {
                guard let other = right.pairs[key], try equal(value, other) else { return false }
            }
            return true
        case (.view(let left), .view(let right)):
            guard left.kind == right.kind, left.kind != "dict_values" else { return false }
            return try equal(.list(left.elements), .list(right.elements))
        case (.range(let left), .range(let right)):
            guard left.length == right.length else { return false }
            return left.length == 0
                || left.start == right.start && (left.length == 1 || left.step == right.step)
        case (.namespace(let left), .namespace(let right)): return left === right
        case (.loop(let left), .loop(let right)): return left === right
        case (.macro(let left), .macro(let right)): return left === right
        case (.iterator(let left), .iterator(let right)): return left === right
        case (.function(let left), .function(let right)): return left == right
        default: return Key(value: left) == Key(value: right)
        }
    }

    private func precedes(
        _ left: Value, _ right: Value, _ name: String
    ) throws(TemplateError) -> Bool {
        try step()
        if let left = left.number, let right = right.number { return left < right }
        if let left = left.text, let right = right.text {
            try step(min(left.utf8.count, right.utf8.count) / 64)
            return PythonText.precedes(left, right)
        }
        switch (left, right) {
        case (.list(let left), .list(let right)), (.tuple(let left), .tuple(let right)):
            for (left, right) in zip(left.values, right.values) {
                if try !equal(left, right) { return try precedes(left, right, name) }
            }
            return left.values.count < right.values.count
        default: throw refusal(name, left, right)
        }
    }

    /// Order for sorting.
    func precedes(_ left: Value, _ right: Value) throws(TemplateError) -> Bool {
        try precedes(left, right, "<")
    }

    private func precedesOrEqual(
        _ left: Value, _ right: Value, _ name: String
    ) throws(TemplateError) -> Bool {
        if let left = left.number, let right = right.number { return left < right || left == right }
        if try precedes(left, right, name) { return true }
        return try equal(left, right)
    }

    func contains(_ container: Value, _ value: Value) throws(TemplateError) -> Bool {
        switch container {
        case .string(let text), .markup(let text):
            guard let part = value.text else {
                if case .undefined(let undefined) = value {
                    throw failure(.undefined, undefined.reason)
                }
                throw failure(.value, "'in' a string needs a string, not '\(value.type)'")
            }
            try step((text.utf8.count + part.utf8.count) / 16)
            let bytes = Array(text.utf8)
            return TextSearch(Array(part.utf8)).first(in: bytes[...], from: 0) != nil
        case .dictionary(let members): return members.pairs[try key(value)] != nil
        case .range(let range):
            guard let number = value.number, let length = range.length, length > 0,
                let index = Int(exactly: number.double)
            else { return false }
            let low = min(range.start, range[length - 1])
            let high = max(range.start, range[length - 1])
            guard (low...high).contains(index) else { return false }
            return (index - range.start) % range.step == 0
        default:
            for element in try iterate(container) {
                if try equal(element, value) { return true }
            }
            return false
        }
    }
}
