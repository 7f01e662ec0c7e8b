import Glibc

/// A sequential colour ramp: equal steps of lightness in OKLab, so that equal differences look equal
/// and are told apart without seeing hue.
///
/// - Note: Ottosson 2020, "A perceptual color space for image processing".
enum Ramp {
    /// Steps from 0 to 1.
    static let levels = 21
    /// Lightness of the ramp's ends; both differ from the page's paper, light or dark.
    private static let lightness = (0.29, 0.94)

    /// The step that stands for `value`; `nil` where there is none to show.
    static func level(_ value: Double) -> Int? {
        guard value.isFinite else { return nil }
        return Int((Swift.min(Swift.max(value, 0), 1) * Double(levels - 1)).rounded())
    }

    /// Rules for the classes `v0`, `v1`, …: the further from the paper, the higher the value.
    static func rules(dark: Bool) -> String {
        (0..<levels).map { level in
            let share = Double(level) / Double(levels - 1)
            return ".v\(level){fill:\(color(dark ? share : 1 - share))}"
        }.joined(separator: " ")
    }

    /// `#rrggbb`, from dark violet at 0 over red to pale yellow at 1.
    static func color(_ share: Double) -> String {
        let light = lightness.0 + (lightness.1 - lightness.0) * share
        let hue = (-65 + 165 * share) * Double.pi / 180
        var chroma = 0.05 + 0.12 * sin(Double.pi * share)
        // Chroma gives way where the screen has no such colour; lightness stays.
        while chroma > 0.001 {
            let channels = linear(light, chroma * cos(hue), chroma * sin(hue))
            if channels.allSatisfy({ (0...1).contains($0) }) { return hex(channels) }
            chroma *= 0.95
        }
        return hex(linear(light, 0, 0).map { Swift.min(Swift.max($0, 0), 1) })
    }

    private static func linear(_ light: Double, _ a: Double, _ b: Double) -> [Double] {
        let l = pow(light + 0.3963377774 * a + 0.2158037573 * b, 3)
        let m = pow(light - 0.1055613458 * a - 0.0638541728 * b, 3)
        let s = pow(light - 0.0894841775 * a - 1.2914855480 * b, 3)
        return [
            4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
        ]
    }

    private static func hex(_ channels: [Double]) -> String {
        channels.reduce(into: "#") { text, value in
            let gamma = value <= 0.0031308 ? 12.92 * value : 1.055 * pow(value, 1 / 2.4) - 0.055
            let digits = String(Int((255 * gamma).rounded()), radix: 16)
            text += digits.count < 2 ? "0\(digits)" : digits
        }
    }
}
