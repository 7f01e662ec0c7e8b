import Glibc

/// Python's texts of numbers, and numbers of texts.
enum PythonNumber {
    /// `repr(float)`: the shortest digits that read back equal, with an exponent below 1e-4 and
    /// from 1e16 on.
    static func repr(_ value: Double) -> String {
        if value.isNaN { return "nan" }
        if value.isInfinite { return value < 0 ? "-inf" : "inf" }
        let sign = value.sign == .minus ? "-" : ""
        if value == 0 { return sign + "0.0" }
        let (digits, point) = shortest(value.magnitude)
        let exponent = point - 1
        if exponent < -4 || exponent >= 16 {
            let fraction = digits.count > 1 ? "." + digits.dropFirst() : ""
            let magnitude = String(abs(exponent))
            return sign + digits.prefix(1) + fraction + "e" + (exponent < 0 ? "-" : "+")
                + (magnitude.count < 2 ? "0" : "") + magnitude
        }
        if point <= 0 { return sign + "0." + String(repeating: "0", count: -point) + digits }
        if digits.count <= point {
            return sign + digits + String(repeating: "0", count: point - digits.count) + ".0"
        }
        return sign + digits.prefix(point) + "." + digits.dropFirst(point)
    }

    /// Shortest significant digits, and where the decimal point stands among them.
    private static func shortest(_ magnitude: Double) -> (digits: String, point: Int) {
        // Swift's description has the shortest digits too, only laid out by other rules.
        let parts = magnitude.description.split(separator: "e")
        let exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
        let mantissa = parts[0].split(separator: ".", omittingEmptySubsequences: false)
        let fraction = mantissa.count > 1 ? mantissa[1] : ""
        let all = mantissa[0] + fraction
        let leading = all.prefix { $0 == "0" }.count
        var digits = String(all.dropFirst(leading))
        while digits.last == "0" { digits.removeLast() }
        return (digits, mantissa[0].count - leading + exponent)
    }

    /// C's `%.*f`, correctly rounded.
    ///
    /// - Parameter precision: Digits after the point, `0...340`.
    static func fixed(_ value: Double, precision: Int) -> String {
        if !value.isFinite { return repr(value) }
        var buffer = [CChar](repeating: 0, count: 720)
        let count = withVaList([Int32(precision), value]) {
            vsnprintf(&buffer, buffer.count, "%.*f", $0)
        }
        let bytes = buffer.prefix(max(0, min(Int(count), buffer.count - 1)))
        return String(decoding: bytes.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func trimmed(_ text: String) -> [Unicode.Scalar] {
        Array(PythonString.strip(PythonText.scalars(text)[...]))
    }

    /// `int(text, base)`, or `nil` where Python raises or 64 bits do not hold it.
    static func integer(_ text: String, base: Int = 10) -> Int? {
        var scalars = trimmed(text)[...]
        var sign = ""
        if let first = scalars.first, first == "-" || first == "+" {
            sign = first == "-" ? "-" : ""
            scalars = scalars.dropFirst()
        }
        var base = base
        let prefixes: [Unicode.Scalar: Int] = [
            "x": 16, "X": 16, "o": 8, "O": 8, "b": 2, "B": 2,
        ]
        if scalars.count > 2, scalars.first == "0",
            let prefix = prefixes[scalars[scalars.startIndex + 1]], base == 0 || base == prefix
        {
            base = prefix
            scalars = scalars.dropFirst(2)
        } else if base == 0 {
            guard scalars.first != "0" || scalars.allSatisfy({ $0 == "0" || $0 == "_" }) else {
                return nil
            }
            base = 10
        }
        guard (2...36).contains(base), let digits = withoutUnderscores(scalars),
            digits.first != "+", digits.first != "-"
        else { return nil }
        return Int(sign + digits, radix: base)
    }

    /// `float(text)`, or `nil` where Python raises.
    static func float(_ text: String) -> Double? {
        guard let digits = withoutUnderscores(trimmed(text)[...]) else { return nil }
        let lowered = digits.lowercased()
        let unsigned = lowered.drop { $0 == "+" || $0 == "-" }
        if ["inf", "infinity", "nan"].contains(unsigned), lowered.count - unsigned.count <= 1 {
            return Double(lowered)
        }
        guard lowered.unicodeScalars.allSatisfy({ "0123456789+-.e".unicodeScalars.contains($0) })
        else { return nil }
        // strtod instead of Double(_:), which refuses "1." and ".5" and overflows to nil.
        return lowered.withCString { start in
            var end: UnsafeMutablePointer<CChar>?
            let value = strtod(start, &end)
            guard let end, end != start, end.pointee == 0 else { return nil }
            return value
        }
    }

    /// The digits without single underscores between them; `nil` when one stands elsewhere.
    private static func withoutUnderscores(_ scalars: ArraySlice<Unicode.Scalar>) -> String? {
        var result: [Unicode.Scalar] = []
        var previous: Unicode.Scalar = "_"
        for scalar in scalars {
            guard scalar.isASCII, scalar != "_" || previous != "_" else { return nil }
            if scalar != "_" { result.append(scalar) }
            previous = scalar
        }
        guard previous != "_" else { return nil }
        return PythonText.string(result[...])
    }
}
