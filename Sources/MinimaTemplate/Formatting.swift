extension Interpreter {
    /// `str.format` with plain fields: `{}`, `{0}`, `{name}`, `{{` and `}}`.
    func formatted(
        _ format: [Unicode.Scalar], _ arguments: Arguments
    ) throws(TemplateError) -> String {
        var result = ""
        var automatic = 0
        var index = 0
        while index < format.count {
            let scalar = format[index]
            index += 1
            guard scalar == "{" || scalar == "}" else {
                result.unicodeScalars.append(scalar)
                continue
            }
            if index < format.count, format[index] == scalar {
                result.unicodeScalars.append(scalar)
                index += 1
                continue
            }
            guard scalar == "{", let end = format[index...].firstIndex(of: "}") else {
                throw failure(.value, "format: a single '\(scalar)'; write it twice")
            }
            let field = PythonText.string(format[index..<end])
            index = end + 1
            let value: Value?
            if field.isEmpty {
                value =
                    automatic < arguments.positional.count ? arguments.positional[automatic] : nil
                automatic += 1
            } else if let position = Int(field) {
                value =
                    arguments.positional.indices.contains(position)
                    ? arguments.positional[position] : nil
            } else if field.unicodeScalars.allSatisfy({ $0 == "_" || $0.properties.isXIDContinue })
            {
                value = arguments.named.first { PythonText.equal($0.name, field) }?.value
            } else {
                throw failure(
                    .unsupported, "format: the field '{\(field)}'; known are {}, {0} and {name}")
            }
            guard let value else {
                throw failure(.value, "format: no argument for the field '{\(field)}'")
            }
            let piece = try string(value)
            try allocate(piece.utf8.count)
            result += piece
        }
        return result
    }

    /// Python's `format % values`, with `%s`, `%r`, `%d`, `%i`, `%x`, `%f`, `%.2f` and `%%`.
    func formatted(_ format: String, with values: [Value]) throws(TemplateError) -> String {
        var result = ""
        var rest = values[...]
        let scalars = PythonText.scalars(format)
        try step(scalars.count / 16)
        var index = 0
        while index < scalars.count {
            let scalar = scalars[index]
            index += 1
            guard scalar == "%" else {
                result.unicodeScalars.append(scalar)
                continue
            }
            var precision: Int?
            if index < scalars.count, scalars[index] == "." {
                let digits = scalars[(index + 1)...].prefix(while: PythonText.isDigit)
                precision = Int(PythonText.string(digits)) ?? 0
                index += 1 + digits.count
            }
            guard index < scalars.count else { throw failure(.value, "a format ends in '%'") }
            let conversion = scalars[index]
            index += 1
            if conversion == "%" {
                result += "%"
                continue
            }
            guard let value = rest.popFirst() else {
                throw failure(.value, "a format has more fields than values")
            }
            let piece = try self.piece(conversion, precision, value)
            try allocate(piece.utf8.count)
            result += piece
        }
        guard rest.isEmpty else { throw failure(.value, "a format has fewer fields than values") }
        return result
    }

    private func piece(
        _ conversion: Unicode.Scalar, _ precision: Int?, _ value: Value
    ) throws(TemplateError) -> String {
        switch (conversion, precision) {
        case ("s", nil): return try string(value)
        case ("r", nil): return try repr(value)
        case ("d", nil), ("i", nil), ("x", nil):
            switch value.number {
            case .integer(let number): return String(number, radix: conversion == "x" ? 16 : 10)
            case .float(let number) where conversion != "x":
                if let whole = Int(exactly: number.rounded(.towardZero)) { return String(whole) }
            default: break
            }
            throw failure(.value, "'%\(conversion)' of a '\(value.type)'")
        case ("f", let precision):
            guard let number = value.number else {
                throw failure(.value, "'%f' of a '\(value.type)'")
            }
            return PythonNumber.fixed(number.double, precision: min(precision ?? 6, 340))
        default:
            throw failure(
                .unsupported,
                "the format '%\(precision.map { ".\($0)" } ?? "")\(conversion)'; "
                    + "known are %s %r %d %i %x %f %.2f %%")
        }
    }
}
