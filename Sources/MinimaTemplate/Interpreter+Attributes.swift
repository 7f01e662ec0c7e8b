import OrderedCollections

extension Interpreter {
    /// `value.name`: a method of the type first, then a member.
    func attribute(_ name: String, of value: Value) throws(TemplateError) -> Value {
        if let own = try ownAttribute(name, of: value) { return own }
        if case .dictionary(let members) = value, let member = members[name] { return member }
        return try missing(name, of: value)
    }

    /// `value[index]`: an element first, then an attribute of that name.
    func item(_ index: Value, of value: Value) throws(TemplateError) -> Value {
        switch value {
        case .dictionary(let members):
            if index.isHashable, let member = members.pairs[try key(index)] { return member }
        case .list(let elements), .tuple(let elements):
            if let position = index.integer {
                let count = elements.values.count
                if let position = Self.position(position, count: count) {
                    return elements.values[position]
                }
            }
        case .string(let text), .markup(let text):
            if let position = index.integer {
                let scalars = text.unicodeScalars
                try step(scalars.count / 16)
                if let position = Self.position(position, count: scalars.count) {
                    let scalar = scalars[scalars.index(scalars.startIndex, offsetBy: position)]
                    return .string(String(Character(scalar)))
                }
            }
        case .range(let range):
            if let position = index.integer, let length = range.length,
                let position = Self.position(position, count: length)
            {
                return .integer(range[position])
            }
        case .undefined(let undefined): throw failure(.undefined, undefined.reason)
        default: break
        }
        if let name = index.text, let own = try ownAttribute(name, of: value) { return own }
        if let name = index.text { return try missing(name, of: value) }
        return .undefined(
            Undefined(reason: "'\(value.type)' object has no element \(try brief(index))"))
    }

    private func brief(_ index: Value) throws(TemplateError) -> String {
        switch index {
        case .none, .bool, .integer, .float: try repr(index)
        default: "of type '\(index.type)'"
        }
    }

    /// A place counted from the end when negative; `nil` outside.
    private static func position(_ index: Int, count: Int) -> Int? {
        let position = index < 0 ? index + count : index
        return (0..<count).contains(position) ? position : nil
    }

    private func missing(_ name: String, of value: Value) throws(TemplateError) -> Value {
        if case .undefined(let undefined) = value {
            throw failure(.undefined, undefined.reason)
        }
        return .undefined(Undefined(reason: "'\(value.type)' object has no attribute '\(name)'"))
    }

    private func ownAttribute(_ name: String, of value: Value) throws(TemplateError) -> Value? {
        switch value {
        case .namespace(let namespace):
            return namespace.attributes[Key(value: .string(name))]
        case .loop(let loop): return try attribute(name, of: loop)
        case .macro(let macro):
            return name == "name" ? .string(macro.definition.name) : nil
        case .range(let range):
            switch name {
            case "start": return .integer(range.start)
            case "stop": return .integer(range.stop)
            case "step": return .integer(range.step)
            default: return nil
            }
        default: break
        }
        guard let methods = Methods.names[value.type] else { return nil }
        if methods.changing.contains(name) {
            let reason =
                "'\(name)' would change a \(value.type), which templates may not; "
                + "make a new one or use namespace()"
            return .undefined(Undefined(reason: reason))
        }
        return methods.reading.contains(name) ? try method(name, of: value) : nil
    }

    private func attribute(_ name: String, of loop: LoopState) throws(TemplateError) -> Value? {
        switch name {
        case "index": return .integer(loop.index0 + 1)
        case "index0": return .integer(loop.index0)
        case "first": return .bool(loop.index0 == 0)
        case "last": return .bool(try loop.peek() == nil)
        case "length": return .integer(try loop.length())
        case "revindex": return .integer(try loop.length() - loop.index0)
        case "revindex0": return .integer(try loop.length() - loop.index0 - 1)
        case "previtem":
            return loop.before ?? .undefined(Undefined(reason: "there is no previous item"))
        case "nextitem":
            return try loop.peek() ?? .undefined(Undefined(reason: "there is no next item"))
        case "depth": return .integer(1)
        case "depth0": return .integer(0)
        case "cycle", "changed": return try method(name, of: .loop(loop))
        default: return nil
        }
    }

    // MARK: Slices

    /// `value[start:stop:step]`.
    func slice(
        _ value: Value, start: Int?, stop: Int?, step: Int?
    ) throws(TemplateError) -> Value {
        let step = step ?? 1
        guard step != 0 else { throw failure(.value, "a slice step is zero") }
        switch value {
        case .list(let elements), .tuple(let elements):
            let places = Self.places(count: elements.values.count, start, stop, step)
            let values = places.map { elements.values[$0] }
            if case .list = value { return try list(values) }
            return try tuple(values)
        case .string(let text), .markup(let text):
            let scalars = PythonText.scalars(text)
            try allocate(scalars.count, times: 4)
            let places = Self.places(count: scalars.count, start, stop, step)
            return try self.text(places.map { scalars[$0] })
        case .range(let range):
            let places = Self.places(count: range.length ?? 0, start, stop, step)
            return try list(places.map { .integer(range[$0]) })
        case .undefined(let undefined): throw failure(.undefined, undefined.reason)
        default:
            return .undefined(Undefined(reason: "'\(value.type)' object has no slices"))
        }
    }

    private static func places(count: Int, _ start: Int?, _ stop: Int?, _ step: Int) -> [Int] {
        func clamped(_ index: Int, _ range: ClosedRange<Int>) -> Int {
            let place = index < 0 ? index + count : index
            return min(max(place, range.lowerBound), range.upperBound)
        }
        if step > 0 {
            let first = start.map { clamped($0, 0...count) } ?? 0
            let end = stop.map { clamped($0, 0...count) } ?? count
            return Array(Swift.stride(from: first, to: end, by: min(step, count + 1)))
        }
        let first = start.map { clamped($0, -1...(count - 1)) } ?? count - 1
        let end = stop.map { clamped($0, -1...(count - 1)) } ?? -1
        return Array(Swift.stride(from: first, to: end, by: max(step, -count - 1)))
    }
}

extension Value {
    var isHashable: Bool {
        switch self {
        case .none, .undefined, .bool, .integer, .float, .string, .markup: true
        case .tuple(let elements): elements.values.allSatisfy(\.isHashable)
        default: false
        }
    }
}
