/// The moment a template's `strftime_now` prints: a civil date and time, without zone.
public struct TemplateDate: Sendable, Hashable {
    /// Days since 1970-01-01, negative before.
    private let days: Int
    /// Second of the day, `0..<86_400`.
    private let seconds: Int

    /// A moment from a Unix clock.
    ///
    /// - Parameters:
    ///   - unixSeconds: Seconds since 1970-01-01 00:00 UTC, clamped to the years 1 to 9999.
    ///   - offset: Seconds that local time is ahead of UTC.
    public init(unixSeconds: Int, offset: Int = 0) {
        let earliest = -62_135_596_800
        let latest = 253_402_300_799
        let local = min(max(unixSeconds, earliest), latest) + min(max(offset, -86_400), 86_400)
        let clamped = min(max(local, earliest), latest)
        days = Self.floorDivide(clamped, 86_400)
        seconds = clamped - days * 86_400
    }

    /// A moment from its calendar date (proleptic Gregorian) and time of day.
    ///
    /// - Parameters:
    ///   - year: `1...9999`.
    ///   - month: `1...12`.
    ///   - day: `1...31`.
    /// - Returns: `nil` when there is no such date or time.
    public init?(
        year: Int, month: Int, day: Int, hour: Int = 0, minute: Int = 0, second: Int = 0
    ) {
        guard (1...9999).contains(year), (1...12).contains(month), (1...31).contains(day),
            (0..<24).contains(hour), (0..<60).contains(minute), (0..<60).contains(second)
        else { return nil }
        days = Self.dayNumber(year: year, month: month, day: day)
        seconds = hour * 3600 + minute * 60 + second
        guard self.day == day else { return nil }
    }

    private static func floorDivide(_ dividend: Int, _ divisor: Int) -> Int {
        let quotient = dividend / divisor
        return dividend % divisor < 0 ? quotient - 1 : quotient
    }

    /// Days before January 1st of `year`, counted from 0001-01-01.
    private static func daysBefore(year: Int) -> Int {
        let past = year - 1
        return past * 365 + past / 4 - past / 100 + past / 400
    }

    private static func isLeap(_ year: Int) -> Bool {
        year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    }

    private static func daysBefore(month: Int, year: Int) -> Int {
        let common = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334]
        return common[month - 1] + (month > 2 && isLeap(year) ? 1 : 0)
    }

    private static func dayNumber(year: Int, month: Int, day: Int) -> Int {
        daysBefore(year: year) + daysBefore(month: month, year: year) + day - 1 - 719_162
    }

    /// Days since 0001-01-01.
    private var ordinal: Int { days + 719_162 }

    private var year: Int {
        // 146 097 days are 400 years; the estimate is at most one year short or long.
        var year = ordinal * 400 / 146_097 + 1
        while Self.daysBefore(year: year) > ordinal { year -= 1 }
        while Self.daysBefore(year: year + 1) <= ordinal { year += 1 }
        return year
    }

    private var dayOfYear: Int { ordinal - Self.daysBefore(year: year) }

    private var month: Int {
        let year = year
        let dayOfYear = dayOfYear
        return (1...12).last { Self.daysBefore(month: $0, year: year) <= dayOfYear } ?? 1
    }

    private var day: Int { dayOfYear - Self.daysBefore(month: month, year: year) + 1 }

    /// 0 is Monday; 0001-01-01 was one.
    private var weekday: Int { ordinal % 7 }
}

extension TemplateDate {
    private static let months = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    ]
    private static let weekdays = [
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    ]
    static let directives =
        "%a %A %b %B %c %d %D %e %f %F %h %H %I %j %m %M %n %p %R %S %t %T %u %w %x %X %y %Y %z %Z %%"

    /// This moment as C's `strftime` writes it in the C locale, including glibc's `%-d`.
    func formatted(_ format: String) throws(TemplateError) -> String {
        var text = ""
        var scalars = format.unicodeScalars.makeIterator()
        while let scalar = scalars.next() {
            guard scalar == "%" else {
                text.unicodeScalars.append(scalar)
                continue
            }
            guard var directive = scalars.next() else {
                throw TemplateError(.value, "strftime_now: the format \"\(format)\" ends in '%'")
            }
            let unpadded = directive == "-"
            if unpadded { directive = scalars.next() ?? "-" }
            text += try expansion(of: directive, unpadded: unpadded)
        }
        return text
    }

    private func expansion(
        of directive: Unicode.Scalar, unpadded: Bool
    ) throws(TemplateError) -> String {
        func number(_ value: Int, _ width: Int, _ fill: Character = "0") -> String {
            let digits = String(value)
            guard !unpadded, digits.count < width else { return digits }
            return String(repeating: fill, count: width - digits.count) + digits
        }
        let hour = seconds / 3600
        switch directive {
        case "a": return String(Self.weekdays[weekday].prefix(3))
        case "A": return Self.weekdays[weekday]
        case "b", "h": return String(Self.months[month - 1].prefix(3))
        case "B": return Self.months[month - 1]
        case "c": return try formatted("%a %b %e %H:%M:%S %Y")
        case "d": return number(day, 2)
        case "D", "x": return try formatted("%m/%d/%y")
        case "e": return number(day, 2, " ")
        case "f": return "000000"
        case "F": return try formatted("%Y-%m-%d")
        case "H": return number(hour, 2)
        case "I": return number((hour + 11) % 12 + 1, 2)
        case "j": return number(dayOfYear + 1, 3)
        case "m": return number(month, 2)
        case "M": return number(seconds / 60 % 60, 2)
        case "n": return "\n"
        case "p": return hour < 12 ? "AM" : "PM"
        case "R": return try formatted("%H:%M")
        case "S": return number(seconds % 60, 2)
        case "t": return "\t"
        case "T", "X": return try formatted("%H:%M:%S")
        case "u": return String(weekday + 1)
        case "w": return String((weekday + 1) % 7)
        case "y": return number(year % 100, 2)
        case "Y": return String(year)
        case "z", "Z": return ""
        case "%": return "%"
        default:
            throw TemplateError(
                .unsupported,
                "strftime_now: the directive %\(directive); known are \(Self.directives)")
        }
    }
}
