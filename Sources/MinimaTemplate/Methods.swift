import OrderedCollections

/// The methods of Python's types that templates may call.
enum Methods {
    struct Names {
        let reading: Set<String>
        let changing: Set<String>
    }

    private static let strings = Names(
        reading: [
            "capitalize", "casefold", "center", "count", "encode", "endswith", "expandtabs", "find",
            "format", "format_map", "index", "isalnum", "isalpha", "isascii", "isdecimal",
            "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
            "isupper", "join", "ljust", "lower", "lstrip", "maketrans", "partition",
            "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition",
            "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
            "translate", "upper", "zfill",
        ], changing: [])

    /// Every method each type has in Python, by whether it changes its receiver. A method Minima
    /// does not interpret is listed too: its name hides a dictionary's member, as in Python.
    static let names: [String: Names] = [
        "str": strings,
        "Markup": strings,
        "list": Names(
            reading: ["copy", "count", "index"],
            changing: [
                "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
            ]),
        "tuple": Names(reading: ["count", "index"], changing: []),
        "dict": Names(
            reading: ["copy", "fromkeys", "get", "items", "keys", "values"],
            changing: ["clear", "pop", "popitem", "setdefault", "update"]),
    ]
}

extension Interpreter {
    /// Calls a method.
    func call(_ method: Method, _ arguments: Arguments) throws(TemplateError) -> Value {
        switch method.receiver {
        case .string(let text), .markup(let text):
            return try call(method.name, of: text, arguments)
        case .dictionary(let members):
            return try call(method.name, of: members, arguments)
        case .list(let elements), .tuple(let elements):
            if method.name == "copy" { return method.receiver }
            let sought = try required(
                arguments.matched(to: "value", callee: method.name)[0], method.name)
            var places: [Int] = []
            for (index, element) in elements.values.enumerated() {
                if try equal(element, sought) { places.append(index) }
            }
            if method.name == "count" { return .integer(places.count) }
            guard let first = places.first else {
                throw failure(.value, "the value is not in the \(method.receiver.type)")
            }
            return .integer(first)
        case .loop(let loop): return try call(method.name, of: loop, arguments)
        default: throw unsupported(method.name, of: method.receiver.type)
        }
    }

    private func unsupported(_ name: String, of type: String) -> TemplateError {
        failure(.unsupported, "the method '\(name)' of a \(type)")
    }

    func required(_ value: Value?, _ callee: String) throws(TemplateError) -> Value {
        guard let value else { throw failure(.value, "\(callee) lacks an argument") }
        return value
    }

    private func call(
        _ name: String, of loop: LoopState, _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let values = arguments.positional
        if name == "cycle" {
            guard !values.isEmpty, loop.index0 >= 0 else {
                throw failure(.value, "loop.cycle() got nothing to cycle")
            }
            return values[loop.index0 % values.count]
        }
        let now = try elements(values)
        if let last = loop.lastChanged,
            try equal(.list(Elements(values: last, depth: now.depth)), .list(now))
        {
            return .bool(false)
        }
        loop.remember(values)
        return .bool(true)
    }

    private func call(
        _ name: String, of members: Members, _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        switch name {
        case "get":
            let values = try arguments.matched(to: "key", "default", callee: "dict.get")
            let member = members.pairs[try key(try required(values[0], "dict.get"))]
            return member ?? values[1] ?? .none
        case "copy": return .dictionary(members)
        case "fromkeys":
            let values = try arguments.matched(to: "keys", "value", callee: name)
            var pairs: OrderedDictionary<Key, Value> = [:]
            for element in try iterate(try required(values[0], name)) {
                pairs[try key(element)] = values[1] ?? .some(.none)
            }
            return try dictionary(pairs)
        default:
            _ = try arguments.matched(callee: "dict.\(name)")
            return .view(View(kind: "dict_\(name)", elements: try view(name, of: members)))
        }
    }

    private func view(_ name: String, of members: Members) throws(TemplateError) -> Elements {
        switch name {
        case "keys": return try elements(members.pairs.keys.map(\.value))
        case "values": return try elements(Array(members.pairs.values))
        default: return try elements(try items(of: members))
        }
    }

    /// The pairs of a dictionary, each a tuple.
    func items(of members: Members) throws(TemplateError) -> [Value] {
        var pairs: [Value] = []
        for (key, value) in members.pairs { pairs.append(try tuple([key.value, value])) }
        return pairs
    }
}
