import Glibc

/// How numbers are written: the same digits on every machine, `–` for what was not measured.
enum Figure {
    /// Stands where no finite value exists.
    static let absent = "–"

    /// `4,203,776`.
    static func count(_ value: Int?) -> String {
        guard let value else { return absent }
        return (value < 0 ? "−" : "") + grouped(String(value.magnitude))
    }

    /// `4.204 M`: four significant digits and a power of a thousand.
    static func short(_ value: Int?) -> String {
        scaled(value, units: ["", "K", "M", "B", "T"])
    }

    /// `8.408 MB`: four significant digits, decimal units.
    static func bytes(_ value: Int?) -> String {
        scaled(value, units: ["B", "KB", "MB", "GB", "TB"])
    }

    /// `digits` significant digits: `20.512`, `0.1234`, `1.2346e+09`.
    static func significant(_ value: Double?, _ digits: Int) -> String {
        guard let value, value.isFinite else { return absent }
        guard value != 0 else { return "0" }
        let sign = value < 0 ? "−" : ""
        let magnitude = value.magnitude
        // Beyond this the powers of ten below are no longer finite and normal.
        guard (1e-290..<1e290).contains(magnitude) else { return "\(sign)\(magnitude)" }
        var exponent = Int(log10(magnitude).rounded(.down))
        if (magnitude / pow(10, Double(exponent - digits + 1))).rounded()
            >= pow(10, Double(digits))
        {
            exponent += 1
        }
        if (-4..<7).contains(exponent) {
            return sign + fixed(magnitude, decimals: Swift.max(0, digits - 1 - exponent))
        }
        let mantissa = fixed(magnitude / pow(10, Double(exponent)), decimals: digits - 1)
        let power = String(exponent.magnitude)
        return "\(sign)\(mantissa)e\(exponent < 0 ? "−" : "+")\(power.count < 2 ? "0" : "")\(power)"
    }

    /// `0.15`, `2`: a round number in as few digits as it has, at most two significant ones.
    static func round(_ value: Double) -> String { round(value, digits: 2) }

    /// The same with at most `digits` significant digits.
    static func round(_ value: Double, digits: Int) -> String {
        let digits = significant(value, digits)
        guard digits.contains("."), !digits.contains("e") else { return digits }
        let trimmed = digits.reversed().drop { $0 == "0" }.drop { $0 == "." }
        return String(trimmed.reversed())
    }

    /// `0.652×`: three significant digits.
    static func ratio(_ value: Double?) -> String {
        guard let value, value.isFinite else { return absent }
        return significant(value, 3) + "×"
    }

    /// `−34.8 %`: the change that a ratio is.
    static func change(_ ratio: Double?) -> String {
        guard let ratio, ratio.isFinite else { return absent }
        let percent = 100 * (ratio - 1)
        let digits =
            percent.magnitude < 1_000
            ? fixed(percent.magnitude, decimals: 1)
            : significant(percent.magnitude, 4)
        guard digits != "0.0" else { return "±0 %" }
        return "\(percent < 0 ? "−" : "+")\(digits) %"
    }

    /// `35.0 %`: a share.
    static func share(_ value: Double?) -> String {
        guard let value, value.isFinite, value.magnitude < 1e9 else { return absent }
        return "\(value < 0 ? "−" : "")\(fixed(100 * value.magnitude, decimals: 1)) %"
    }

    /// `1.50 s`, `12.3 s`, `2 min 05 s`, `3 h 07 min`.
    static func seconds(_ value: Double?) -> String {
        guard let value, value.isFinite, value >= 0, value < 1e12 else { return absent }
        if value < 99.95 { return "\(significant(value, 3)) s" }
        let whole = Int(value.rounded())
        let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60)
        let (larger, smaller) = hours > 0 ? (hours, minutes) : (minutes, seconds)
        let units = hours > 0 ? ("h", "min") : ("min", "s")
        return "\(larger) \(units.0) \(smaller < 10 ? "0" : "")\(smaller) \(units.1)"
    }

    /// `part / whole`, where that is a finite number of a positive whole.
    static func quotient(_ part: Double?, _ whole: Double?) -> Double? {
        guard let part, let whole, part.isFinite, whole.isFinite, whole > 0 else { return nil }
        let quotient = part / whole
        return quotient.isFinite ? quotient : nil
    }

    /// `part / whole` of two counts.
    static func quotient(_ part: Int?, _ whole: Int?) -> Double? {
        quotient(part.map { Double($0) }, whole.map { Double($0) })
    }

    /// A number for an attribute of SVG: at most two decimals.
    static func coordinate(_ value: Double) -> String {
        guard value.isFinite else { return "0" }
        let digits = fixed(Swift.min(value.magnitude, 1e9), decimals: 2)
        return value < 0 && digits != "0.00" ? "-\(digits)" : digits
    }

    /// A number for an attribute of SVG where many are written: at most one decimal.
    static func tenths(_ value: Double) -> String {
        guard value.isFinite else { return "0" }
        let digits = fixed(Swift.min(value.magnitude, 1e9), decimals: 1)
        let short = digits.hasSuffix(".0") ? String(digits.dropLast(2)) : digits
        return value < 0 && short != "0" ? "-\(short)" : short
    }

    /// The nearest count; the largest or smallest where there is none.
    static func integer(_ value: Double) -> Int {
        guard value.isFinite else { return 0 }
        return value >= 0x1p63 ? .max : value < -0x1p63 ? .min : Int(value.rounded())
    }

    /// The sum; `nil` when a part is absent or not finite.
    static func sum(_ values: [Double?]) -> Double? {
        let finite = values.compactMap { $0 }.filter(\.isFinite)
        guard !values.isEmpty, finite.count == values.count else { return nil }
        let sum = finite.reduce(0, +)
        return sum.isFinite ? sum : nil
    }

    private static func scaled(_ value: Int?, units: [String]) -> String {
        guard let value else { return absent }
        var unit = 0
        var scaled = Double(value.magnitude)
        // 999.95 would be written as 1000.
        while scaled >= 999.95, unit + 1 < units.count {
            scaled /= 1000
            unit += 1
        }
        let digits = unit == 0 ? String(value.magnitude) : significant(scaled, 4)
        let suffix = units[unit].isEmpty ? "" : " \(units[unit])"
        return "\(value < 0 ? "−" : "")\(digits)\(suffix)"
    }

    private static func fixed(_ magnitude: Double, decimals: Int) -> String {
        let scaled = (magnitude * pow(10, Double(decimals))).rounded()
        guard scaled < 0x1p63 else { return "\(magnitude)" }
        var digits = String(Int(scaled))
        guard decimals > 0 else { return digits }
        if digits.count <= decimals {
            digits = String(repeating: "0", count: decimals + 1 - digits.count) + digits
        }
        return "\(digits.dropLast(decimals)).\(digits.suffix(decimals))"
    }

    private static func grouped(_ digits: String) -> String {
        var grouped = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index) % 3 == 0 { grouped += "," }
            grouped.append(digit)
        }
        return grouped
    }
}
