/// HTML that is safe by construction: literals are markup, and whatever is interpolated as a
/// `String` is escaped.
struct Markup: ExpressibleByStringInterpolation {
    /// The HTML itself.
    private(set) var html: String

    /// Markup written in the source.
    init(stringLiteral value: String) {
        html = value
    }

    /// Markup with escaped text in it.
    init(stringInterpolation: StringInterpolation) {
        html = stringInterpolation.html
    }

    /// Literals as they are, strings escaped, markup as it is.
    struct StringInterpolation: StringInterpolationProtocol {
        fileprivate var html = ""

        init(literalCapacity: Int, interpolationCount: Int) {
            html.reserveCapacity(literalCapacity)
        }

        mutating func appendLiteral(_ literal: String) {
            html += literal
        }

        mutating func appendInterpolation(_ text: String) {
            for scalar in VisibleText(text).text.unicodeScalars {
                switch scalar {
                case "&": html += "&amp;"
                case "<": html += "&lt;"
                case ">": html += "&gt;"
                case "\"": html += "&quot;"
                case "'": html += "&#39;"
                default: html.unicodeScalars.append(scalar)
                }
            }
        }

        mutating func appendInterpolation(_ number: Int) {
            html += String(number)
        }

        mutating func appendInterpolation(_ markup: Markup) {
            html += markup.html
        }

        mutating func appendInterpolation(_ pieces: [Markup]) {
            for piece in pieces { html += piece.html }
        }
    }

    static func += (left: inout Markup, right: Markup) {
        left.html += right.html
    }
}
