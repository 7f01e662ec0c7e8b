import OrderedCollections

extension Filters {
    private static let length: Filter = { (interpreter, value, arguments) throws(TemplateError) in
        _ = try interpreter.matched(arguments, callee: "length")
        switch value {
        case .undefined: return .integer(0)
        case .string(let text), .markup(let text):
            try interpreter.step(text.utf8.count / 16)
            return .integer(text.unicodeScalars.count)
        case .list(let elements), .tuple(let elements): return .integer(elements.values.count)
        case .dictionary(let members): return .integer(members.pairs.count)
        case .view(let view): return .integer(view.elements.values.count)
        case .range(let range): return .integer(range.length ?? .max)
        case .loop(let loop): return .integer(try loop.length())
        default:
            throw interpreter.failure(
                .value, "length of a '\(value.type)', which has none; append '|list' before")
        }
    }

    /// `select`, `reject` and their forms for attributes.
    private static func selecting(_ name: String, keeps: Bool, attribute: Bool) -> Filter {
        { (interpreter, value, arguments) throws(TemplateError) in
            guard arguments.named.isEmpty else {
                throw interpreter.failure(.value, "\(name) takes no named arguments")
            }
            var rest = arguments.positional[...]
            var path: Value?
            if attribute { path = try interpreter.required(rest.popFirst(), name) }
            let test = rest.popFirst()
            if let test, test.text == nil {
                throw interpreter.failure(.value, "\(name): the test's name must be a string")
            }
            let operands = Arguments(positional: Array(rest))
            var kept: [Value] = []
            for element in try interpreter.falsyIsEmpty(value) {
                let subject =
                    try path.map { (path) throws(TemplateError) in
                        try interpreter.follow(path, from: element)
                    } ?? element
                let holds =
                    try test?.text.map { (test) throws(TemplateError) in
                        try interpreter.test(test, subject, operands)
                    } ?? subject.isTrue
                if holds == keeps { kept.append(element) }
            }
            return try interpreter.cursor(kept)
        }
    }

    /// `min` and `max`.
    private static func extreme(_ name: String, greatest: Bool) -> Filter {
        { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "case_sensitive", "attribute", callee: name)
            var best: (element: Value, rank: Value)?
            for element in try interpreter.iterate(value) {
                let rank = try interpreter.rank(
                    element, by: options[1], caseSensitive: options[0]?.isTrue ?? false)
                if let current = best {
                    let wins =
                        greatest
                        ? try interpreter.precedes(current.rank, rank)
                        : try interpreter.precedes(rank, current.rank)
                    if wins { best = (element, rank) }
                } else {
                    best = (element, rank)
                }
            }
            return best?.element ?? .undefined(Undefined(reason: "\(name) of nothing"))
        }
    }

    static let sequences: [String: Filter] = [
        "length": length, "count": length,
        "first": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "first")
            let first: Value?
            if case .iterator(let cursor) = value {
                first = cursor.next()
            } else {
                first = try interpreter.iterate(value).first
            }
            return first ?? .undefined(Undefined(reason: "first of an empty sequence"))
        },
        "last": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "last")
            if case .iterator = value { throw interpreter.refusal("last", value) }
            return try interpreter.iterate(value).last
                ?? .undefined(Undefined(reason: "last of an empty sequence"))
        },
        "list": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "list")
            return try interpreter.list(try interpreter.iterate(value))
        },
        "reverse": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "reverse")
            if let text = value.text {
                return try interpreter.text(PythonText.scalars(text).reversed())
            }
            return try interpreter.cursor(try interpreter.iterate(value).reversed())
        },
        "items": { (interpreter, value, arguments) throws(TemplateError) in
            _ = try interpreter.matched(arguments, callee: "items")
            switch value {
            case .undefined: return try interpreter.cursor([])
            case .dictionary(let members):
                return try interpreter.cursor(try interpreter.items(of: members))
            default: throw interpreter.refusal("items", value)
            }
        },
        "join": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(arguments, "d", "attribute", callee: "join")
            let separator = try interpreter.string(options[0] ?? .string(""))
            var result = ""
            for (index, element) in try interpreter.iterate(value).enumerated() {
                let subject =
                    try options[1].map { (path) throws(TemplateError) in
                        try interpreter.follow(path, from: element)
                    } ?? element
                let part = try interpreter.string(subject)
                let piece = index > 0 ? separator + part : part
                try interpreter.step()
                try interpreter.allocate(piece.utf8.count)
                result += piece
            }
            return .string(result)
        },
        "map": { (interpreter, value, arguments) throws(TemplateError) in
            try interpreter.mapped(value, arguments)
        },
        "select": selecting("select", keeps: true, attribute: false),
        "reject": selecting("reject", keeps: false, attribute: false),
        "selectattr": selecting("selectattr", keeps: true, attribute: true),
        "rejectattr": selecting("rejectattr", keeps: false, attribute: true),
        "min": extreme("min", greatest: false),
        "max": extreme("max", greatest: true),
        "sum": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(arguments, "attribute", "start", callee: "sum")
            var total = options[1] ?? .integer(0)
            for element in try interpreter.iterate(value) {
                var term = element
                if let path = options[0], !path.isNone {
                    term = try interpreter.follow(path, from: element)
                }
                total = try interpreter.apply(.add, total, term)
            }
            return total
        },
        "sort": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "reverse", "case_sensitive", "attribute", callee: "sort")
            return try interpreter.list(
                try interpreter.sorted(
                    try interpreter.iterate(value), by: options[2],
                    caseSensitive: options[1]?.isTrue ?? false,
                    reverse: options[0]?.isTrue ?? false))
        },
        "unique": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "case_sensitive", "attribute", callee: "unique")
            var seen: Set<Key> = []
            var kept: [Value] = []
            for element in try interpreter.iterate(value) {
                let rank = try interpreter.rank(
                    element, by: options[1], caseSensitive: options[0]?.isTrue ?? false)
                if seen.insert(try interpreter.key(rank)).inserted { kept.append(element) }
            }
            return try interpreter.cursor(kept)
        },
        "dictsort": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "case_sensitive", "by", "reverse", callee: "dictsort")
            guard case .dictionary(let members) = value else {
                throw interpreter.refusal("dictsort", value)
            }
            let by = options[1]?.text ?? "key"
            guard by == "key" || by == "value" else {
                throw interpreter.failure(.value, "dictsort: 'by' must be \"key\" or \"value\"")
            }
            return try interpreter.list(
                try interpreter.sorted(
                    try interpreter.items(of: members), by: .integer(by == "key" ? 0 : 1),
                    caseSensitive: options[0]?.isTrue ?? false,
                    reverse: options[2]?.isTrue ?? false))
        },
        "batch": { (interpreter, value, arguments) throws(TemplateError) in
            let options = try interpreter.matched(
                arguments, "linecount", "fill_with", callee: "batch")
            let count = try interpreter.integer(
                try interpreter.required(options[0], "batch"), "batch", standard: 1)
            guard count > 0 else { throw interpreter.failure(.value, "batch needs a count from 1") }
            var batches: [Value] = []
            var rest = try interpreter.iterate(value)[...]
            while !rest.isEmpty {
                var batch = Array(rest.prefix(count))
                rest = rest.dropFirst(count)
                if let fill = options[1], !fill.isNone, batch.count < count {
                    try interpreter.step(count)
                    try interpreter.allocate(count, times: 24)
                    batch += Array(repeating: fill, count: count - batch.count)
                }
                batches.append(try interpreter.list(batch))
            }
            return try interpreter.cursor(batches)
        },
    ]
}

extension Interpreter {
    /// The elements of a sequence for filters that take any false value as an empty one.
    fileprivate func falsyIsEmpty(_ value: Value) throws(TemplateError) -> [Value] {
        value.isTrue ? try iterate(value) : []
    }

    /// The value at a path as `"function.name"` or `0`.
    func follow(_ path: Value, from value: Value) throws(TemplateError) -> Value {
        guard let text = path.text else {
            return path.isNone ? value : try item(path, of: value)
        }
        var result = value
        for part in PythonString.split(PythonText.scalars(text), separator: ["."], limit: -1) {
            let name = PythonText.string(part)
            let isNumber = !part.isEmpty && part.allSatisfy(PythonText.isDigit)
            let index = isNumber ? Int(name) : nil
            result = try item(index.map { .integer($0) } ?? .string(name), of: result)
        }
        return result
    }

    fileprivate func mapped(
        _ value: Value, _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        var results: [Value] = []
        if arguments.positional.isEmpty, arguments.named.contains(where: { $0.name == "attribute" })
        {
            let options = try matched(arguments, "attribute", "default", callee: "map")
            let path = try required(options[0], "map")
            for element in try falsyIsEmpty(value) {
                let result = try follow(path, from: element)
                results.append(result.isUndefined ? options[1] ?? result : result)
            }
            return try cursor(results)
        }
        var rest = arguments
        guard let name = rest.positional.first?.text else {
            throw failure(.value, "map needs a filter's name or attribute='…'")
        }
        rest.positional.removeFirst()
        for element in try falsyIsEmpty(value) {
            results.append(try filter(name, element, rest))
        }
        return try cursor(results)
    }

    /// What an element is compared by: an attribute of it, without case unless asked for.
    fileprivate func rank(
        _ element: Value, by path: Value?, caseSensitive: Bool
    ) throws(TemplateError) -> Value {
        let value =
            try path.map { (path) throws(TemplateError) in
                try follow(path, from: element)
            } ?? element
        guard !caseSensitive, let text = value.text else { return value }
        return try self.text(PythonString.lowered(PythonText.scalars(text)))
    }

    /// A stable merge sort; several attributes may be named, separated by commas.
    fileprivate func sorted(
        _ elements: [Value], by path: Value?, caseSensitive: Bool, reverse: Bool
    ) throws(TemplateError) -> [Value] {
        var paths: [Value?] = [path]
        if let text = path?.text {
            paths = PythonString.split(PythonText.scalars(text), separator: [","], limit: -1)
                .map { .string(PythonText.string($0)) }
        }
        var run: [(rank: Value, element: Value)] = []
        for element in elements {
            var ranks: [Value] = []
            for path in paths {
                ranks.append(try rank(element, by: path, caseSensitive: caseSensitive))
            }
            run.append((try list(ranks), element))
        }
        var width = 1
        while width < run.count {
            var merged: [(rank: Value, element: Value)] = []
            for start in stride(from: 0, to: run.count, by: 2 * width) {
                var left = run[start..<min(start + width, run.count)]
                var right = run[min(start + width, run.count)..<min(start + 2 * width, run.count)]
                while let first = left.first, let second = right.first {
                    let takesRight =
                        reverse
                        ? try precedes(first.rank, second.rank)
                        : try precedes(second.rank, first.rank)
                    merged.append(takesRight ? second : first)
                    if takesRight { right.removeFirst() } else { left.removeFirst() }
                }
                merged += left
                merged += right
            }
            run = merged
            width *= 2
        }
        return run.map(\.element)
    }
}
