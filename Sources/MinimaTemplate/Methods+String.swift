extension Interpreter {
    /// Calls a method of a string.
    func call(
        _ name: String, of text: String, _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let scalars = PythonText.scalars(text)
        try step(1 + scalars.count / 16)
        if let value = try recased(name, scalars, arguments) { return value }
        switch name {
        case "strip", "lstrip", "rstrip":
            let set = try scalarsOrNone(arguments.matched(to: "chars", callee: name)[0], name)
            let side: PythonString.Side =
                name == "strip" ? .both : name == "lstrip" ? .left : .right
            return try self.text(Array(PythonString.strip(scalars[...], set, side: side)))
        case "split", "rsplit": return try split(name, scalars, arguments)
        case "splitlines":
            let keeps = try arguments.matched(to: "keepends", callee: name)[0]?.isTrue ?? false
            return try texts(PythonString.lines(scalars, keepingEnds: keeps))
        case "startswith", "endswith": return try affixed(name, scalars, arguments)
        case "replace":
            let values = try arguments.matched(to: "old", "new", "count", callee: name)
            return try replacing(
                try self.scalars(values[0], name), with: try self.scalars(values[1], name),
                in: scalars, limit: try integer(values[2], name, standard: -1))
        case "join":
            let values = try iterate(
                try required(arguments.matched(to: "parts", callee: name)[0], name))
            return try join(values, separator: text)
        case "find", "rfind", "index", "rindex": return try found(name, scalars, arguments)
        case "count":
            let part = try self.scalars(arguments.matched(to: "part", callee: name)[0], name)
            try step(scalars.count / 16)
            return .integer(PythonString.count(part, in: scalars))
        case "partition", "rpartition": return try partitioned(name, scalars, arguments)
        case "removeprefix":
            let part = try self.scalars(arguments.matched(to: "prefix", callee: name)[0], name)
            return try self.text(
                scalars.starts(with: part) ? Array(scalars.dropFirst(part.count)) : scalars)
        case "removesuffix":
            let part = try self.scalars(arguments.matched(to: "suffix", callee: name)[0], name)
            let ends = scalars.count >= part.count && scalars.suffix(part.count).elementsEqual(part)
            return try self.text(ends ? Array(scalars.dropLast(part.count)) : scalars)
        case "center", "ljust", "rjust", "zfill": return try padded(name, scalars, arguments)
        case "format": return try self.text(try formatted(scalars, arguments))
        default:
            if let answer = classified(name, scalars) {
                _ = try arguments.matched(callee: name)
                return .bool(answer)
            }
            throw failure(.unsupported, "the method '\(name)' of a string")
        }
    }

    private func recased(
        _ name: String, _ scalars: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> Value? {
        let change: ([Unicode.Scalar]) -> [Unicode.Scalar]
        switch name {
        case "lower": change = PythonString.lowered
        case "upper": change = PythonString.uppered
        case "capitalize": change = PythonString.capitalized
        case "title": change = PythonString.titled
        case "swapcase": change = PythonString.swapped
        default: return nil
        }
        _ = try arguments.matched(callee: name)
        try step(scalars.count / 4)
        return try text(change(scalars))
    }

    private func classified(_ name: String, _ scalars: [Unicode.Scalar]) -> Bool? {
        func all(_ holds: (Unicode.Scalar.Properties) -> Bool) -> Bool {
            !scalars.isEmpty && scalars.allSatisfy { holds($0.properties) }
        }
        func isLetter(_ properties: Unicode.Scalar.Properties) -> Bool {
            switch properties.generalCategory {
            case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter,
                .otherLetter:
                true
            default: false
            }
        }
        switch name {
        case "isalpha": return all(isLetter)
        case "isdecimal": return all { $0.numericType == .decimal }
        case "isdigit": return all { $0.numericType == .decimal || $0.numericType == .digit }
        case "isnumeric": return all { $0.numericType != nil }
        case "isalnum": return all { isLetter($0) || $0.numericType != nil }
        case "isascii": return scalars.allSatisfy(\.isASCII)
        case "isspace": return !scalars.isEmpty && scalars.allSatisfy(PythonText.isSpace)
        case "isprintable": return scalars.allSatisfy(PythonText.isPrintable)
        case "islower", "isupper":
            return PythonString.isCased(scalars, upper: name == "isupper")
        default: return nil
        }
    }

    // MARK: Arguments

    func scalars(_ value: Value?, _ callee: String) throws(TemplateError) -> [Unicode.Scalar] {
        let value = try required(value, callee)
        guard let text = value.text else {
            if case .undefined(let undefined) = value {
                throw failure(.undefined, undefined.reason)
            }
            throw failure(.value, "\(callee) got a '\(value.type)', expected a string")
        }
        return PythonText.scalars(text)
    }

    func scalarsOrNone(
        _ value: Value?, _ callee: String
    ) throws(TemplateError) -> [Unicode.Scalar]? {
        guard let value, !value.isNone else { return nil }
        return try scalars(value, callee)
    }

    func integer(
        _ value: Value?, _ callee: String, standard: Int
    ) throws(TemplateError) -> Int {
        guard let value else { return standard }
        guard let number = value.integer else {
            throw failure(.value, "\(callee) got a '\(value.type)', expected an integer")
        }
        return number
    }

    // MARK: Parts

    private func texts(_ parts: [ArraySlice<Unicode.Scalar>]) throws(TemplateError) -> Value {
        var values: [Value] = []
        for part in parts { values.append(try text(Array(part))) }
        return try list(values)
    }

    private func split(
        _ name: String, _ scalars: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let values = try arguments.matched(to: "sep", "maxsplit", callee: name)
        let limit = try integer(values[1], name, standard: -1)
        try step(scalars.count / 16)
        guard let separator = try scalarsOrNone(values[0], name) else {
            return try texts(
                name == "split"
                    ? PythonString.words(scalars, limit: limit)
                    : PythonString.wordsFromRight(scalars, limit: limit))
        }
        guard !separator.isEmpty else { throw failure(.value, "\(name) got an empty separator") }
        return try texts(
            name == "split"
                ? PythonString.split(scalars, separator: separator, limit: limit)
                : PythonString.splitFromRight(scalars, separator: separator, limit: limit))
    }

    private func affixed(
        _ name: String, _ scalars: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let values = try arguments.matched(to: "affix", "start", "end", callee: name)
        let affix = try required(values[0], name)
        let start = values[1].flatMap { $0.isNone ? nil : $0 }
        let end = values[2].flatMap { $0.isNone ? nil : $0 }
        let count = scalars.count
        func place(_ index: Int) -> Int { index < 0 ? max(0, index + count) : index }
        let from = place(try integer(start, name, standard: 0))
        let to = min(count, place(try integer(end, name, standard: count)))
        guard from <= to else { return .bool(false) }
        let part = scalars[from..<to]
        var candidates = [affix]
        if case .tuple(let elements) = affix { candidates = elements.values }
        for candidate in candidates {
            let sought = try self.scalars(candidate, name)
            let holds =
                name == "startswith"
                ? part.starts(with: sought)
                : part.count >= sought.count && part.suffix(sought.count).elementsEqual(sought)
            if holds { return .bool(true) }
        }
        return .bool(false)
    }

    private func found(
        _ name: String, _ scalars: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let part = try self.scalars(arguments.matched(to: "part", callee: name)[0], name)
        try step(scalars.count / 16)
        let place =
            name == "find" || name == "index"
            ? TextSearch(part).first(in: scalars[...], from: 0)
            : PythonString.findLast(part, in: scalars)
        if let place { return .integer(place) }
        guard name == "find" || name == "rfind" else {
            throw failure(.value, "\(name): the substring is not found")
        }
        return .integer(-1)
    }

    private func partitioned(
        _ name: String, _ scalars: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let part = try self.scalars(arguments.matched(to: "sep", callee: name)[0], name)
        guard !part.isEmpty else { throw failure(.value, "\(name) got an empty separator") }
        try step(scalars.count / 16)
        let isLeft = name == "partition"
        let place =
            isLeft
            ? TextSearch(part).first(in: scalars[...], from: 0)
            : PythonString.findLast(part, in: scalars)
        let whole = try text(scalars)
        guard let place else {
            let empty = Value.string("")
            return try tuple(isLeft ? [whole, empty, empty] : [empty, empty, whole])
        }
        return try tuple([
            try text(Array(scalars[..<place])), try text(part),
            try text(Array(scalars[(place + part.count)...])),
        ])
    }

    func replacing(
        _ old: [Unicode.Scalar], with new: [Unicode.Scalar], in text: [Unicode.Scalar], limit: Int
    ) throws(TemplateError) -> Value {
        try step(text.count / 16)
        // Counted before it is made: each of n places can grow by the new text.
        let places = PythonString.count(old, in: text)
        try allocate(limit < 0 ? places : min(places, limit), times: 4 * new.count)
        return try self.text(PythonString.replacing(old, with: new, in: text, limit: limit))
    }

    private func join(_ values: [Value], separator: String) throws(TemplateError) -> Value {
        var result = ""
        for (index, value) in values.enumerated() {
            guard let part = value.text else {
                throw failure(
                    .value, "join: element \(index) is a '\(value.type)', expected a string")
            }
            let piece = index > 0 ? separator + part : part
            try step()
            try allocate(piece.utf8.count)
            result += piece
        }
        return .string(result)
    }

    private func padded(
        _ name: String, _ scalars: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> Value {
        let values = try arguments.matched(to: "width", "fill", callee: name)
        let width = try integer(try required(values[0], name), name, standard: 0)
        let fill = try values[1].map { (value) throws(TemplateError) in
            try self.scalars(value, name)
        }
        guard let scalar = name == "zfill" ? "0" : (fill ?? [" "]).first, (fill?.count ?? 1) == 1
        else { throw failure(.value, "\(name): the fill must be one character") }
        let missing = width > scalars.count ? width - scalars.count : 0
        guard missing > 0 else { return try text(scalars) }
        try allocate(missing, times: 4)
        func run(_ count: Int) -> [Unicode.Scalar] { Array(repeating: scalar, count: count) }
        switch name {
        case "ljust": return try text(scalars + run(missing))
        case "rjust": return try text(run(missing) + scalars)
        case "center":
            let left = missing / 2 + (missing & width & 1)
            return try text(run(left) + scalars + run(missing - left))
        default:
            let signed = scalars.first == "-" || scalars.first == "+" ? 1 : 0
            return try text(Array(scalars[..<signed]) + run(missing) + scalars[signed...])
        }
    }
}
