import Glibc
import MinimaCore

/// Lines over a horizontal axis of counts, tokens or layers.
struct LineChart {
    /// A line and what it is.
    struct Line {
        /// Its name.
        var label: String
        /// The class that sets its colour and dashes.
        var colorClass: String
        /// Its points from left to right and what they are.
        var points: [(x: Double, y: Double, title: String)]
    }

    /// What goes to the right.
    enum Horizontal {
        /// From zero, in thousands and millions.
        case tokens
        /// The first and the last.
        case layers
    }

    /// What is shown.
    var title: String
    /// What goes to the right.
    var horizontal: Horizontal
    /// What the values are.
    var values: String
    /// The lines.
    var lines: [Line]
    /// A value that all lines compare with, and its name.
    var reference: (value: Double, label: String)?

    /// A line with more points than this is thinned out; its last point stays.
    static let mostPoints = 300

    /// The lines without points that have no place, thinned out evenly.
    var drawable: [Line] {
        lines.compactMap { line in
            let points = line.points.filter { point in
                Self.isDrawable(point.y) && (0..<1e290).contains(point.x)
            }
            guard !points.isEmpty else { return nil }
            let step = (points.count + Self.mostPoints - 1) / Self.mostPoints
            var line = line
            line.points = stride(from: (points.count - 1) % step, to: points.count, by: step)
                .map { points[$0] }
            return line
        }
    }

    private static func isDrawable(_ value: Double) -> Bool {
        value == 0 || LogAxis.isDrawable(value)
    }
}

/// A vertical axis: logarithmic where values are far apart, else from zero or from a round number
/// near the least.
struct ValueAxis {
    /// Labelled places, 0 at the bottom and 1 at the top.
    let ticks: [(share: Double, label: String)]
    /// Whether it is logarithmic.
    var isLogarithmic: Bool { logarithmic != nil }

    private let logarithmic: LogAxis?
    private let range: ClosedRange<Double>

    /// Values this many times apart are drawn on a logarithmic axis.
    private static let farApart = 10.0

    /// An axis for values of zero and more; `nil` when there are none.
    init?(_ values: [Double]) {
        guard let least = values.min(), let most = values.max(), least >= 0, most < 1e290 else {
            return nil
        }
        if least > 0, most / least > Self.farApart, let axis = LogAxis(values) {
            logarithmic = axis
            range = 0...1
            ticks = axis.ticks.map { (axis.share(exponent: $0), Figure.power($0)) }
            return
        }
        logarithmic = nil
        // An axis of the values' spread where that is small, shifted to multiples of its step.
        let isNear = least > most / 2 && most - least > most * 1e-6
        let scale = Axis(upTo: isNear ? most - least : most)
        let step = scale.ticks[1]
        let first = isNear ? (least / step).rounded(.down) : 0
        let last = isNear ? (most / step).rounded(.up) : Double(scale.ticks.count - 1)
        let places = Array(stride(from: first, through: Swift.max(last, first + 1), by: 1))
        let start = first * step
        let length = (places[places.count - 1] - first) * step
        range = start...(start + length)
        ticks = places.map { (($0 - first) * step / length, Figure.round($0 * step, digits: 4)) }
    }

    /// 0 at the bottom, 1 at the top.
    func share(_ value: Double) -> Double {
        if let logarithmic { return logarithmic.share(value) }
        let share = (value - range.lowerBound) / (range.upperBound - range.lowerBound)
        return share.isFinite ? Swift.min(Swift.max(share, 0), 1) : 0
    }
}

extension Page {
    /// The chart as a figure; nothing when no point has a place.
    func figure(_ chart: LineChart) -> Markup {
        let lines = chart.drawable
        let points = lines.flatMap(\.points)
        let reference = chart.reference.flatMap { LogAxis.isDrawable($0.value) ? $0 : nil }
        guard !points.isEmpty,
            let axis = ValueAxis(points.map(\.y) + (reference.map { [$0.value] } ?? []))
        else { return "" }
        let (left, right, top, bottom) = (44.0, 312.0, 8.0, 148.0)
        let (xTicks, first, last) = chart.places(points.map(\.x))
        func x(_ value: Double) -> Double {
            last > first ? left + (right - left) * (value - first) / (last - first) : left
        }
        func y(_ share: Double) -> Double { bottom - (bottom - top) * share }
        let grid = axis.ticks.map { tick -> Markup in
            """
            <line class="grid" x1="\(Figure.tenths(left))" x2="\(Figure.tenths(right))" \
            y1="\(Figure.tenths(y(tick.share)))" y2="\(Figure.tenths(y(tick.share)))"/>\
            <text x="\(Figure.tenths(left - 5))" y="\(Figure.tenths(y(tick.share) + 3.5))" \
            text-anchor="end">\(tick.label)</text>

            """
        }
        let labels = xTicks.map { tick -> Markup in
            """
            <text x="\(Figure.tenths(x(tick.value)))" y="\(Figure.tenths(bottom + 14))" \
            text-anchor="\(tick.anchor)">\(tick.label)</text>

            """
        }
        let dense = reference.map { reference -> Markup in
            let place = Figure.tenths(y(axis.share(reference.value)))
            return """
                <line class="equal" x1="\(Figure.tenths(left))" x2="\(Figure.tenths(right))" \
                y1="\(place)" y2="\(place)"/>
                <text x="\(Figure.tenths(left + 3))" y="\(Figure.tenths(y(axis.share(reference.value)) - 3))">\
                \(VisibleText(reference.label).line) \
                \(Figure.significant(reference.value, 4))</text>

                """
        }
        let drawn = lines.map { line -> Markup in
            let places = line.points.map { (x($0.x), y(axis.share($0.y))) }
            let path = places.enumerated().map { index, place in
                "\(index == 0 ? "M" : "L")\(Figure.tenths(place.0)) \(Figure.tenths(place.1))"
            }
            let dots = zip(line.points, places).map { point, place -> Markup in
                """
                <circle cx="\(Figure.tenths(place.0))" cy="\(Figure.tenths(place.1))" \
                r="\(line.points.count > 40 ? "1.4" : "2.2")"><title>\
                \(VisibleText(point.title).line)</title></circle>

                """
            }
            return "<g class=\"\(line.colorClass)\"><path d=\"\(path.joined())\"/>\n\(dots)</g>\n"
        }
        let scale = axis.isLogarithmic ? " (logarithmic)" : ""
        let name: Markup =
            chart.horizontal == .tokens
            ? """
            <text x="\(Figure.tenths((left + right) / 2))" y="176" text-anchor="middle">training \
            tokens</text>

            """ : ""
        return """
            <figure>
            <figcaption>\(isolated(chart.title + scale))</figcaption>
            <svg viewBox="0 0 320 180" role="img" \
            aria-label="\(VisibleText(words(chart, lines)).line)">
            \(grid)\(labels)\(name)\(dense.map { [$0] } ?? [])\(drawn)</svg>
            </figure>

            """
    }

    /// The chart in words.
    private func words(_ chart: LineChart, _ lines: [LineChart.Line]) -> String {
        let ranges = lines.map { line in
            let ends = [line.points.first?.y, line.points.last?.y].map { Figure.significant($0, 3) }
            let range =
                chart.horizontal == .layers
                ? [line.points.map(\.y).min(), line.points.map(\.y).max()].map {
                    Figure.significant($0, 3)
                } : ends
            return "\(line.label) from \(range[0]) to \(range[1])"
        }
        let reference = chart.reference.map {
            "; \($0.label) \(Figure.significant($0.value, 3))"
        }
        return
            "\(chart.title), \(chart.values): \(ranges.joined(separator: "; "))\(reference ?? "")"
    }

    /// What the lines' colours mean.
    func legend(_ lines: [LineChart.Line]) -> Markup {
        legend(lines.map { Scatter.Group(label: $0.label, colorClass: $0.colorClass, points: []) })
    }
}

extension LineChart {
    /// Labelled places of the horizontal axis and its ends.
    fileprivate func places(_ values: [Double])
        -> (ticks: [(value: Double, label: String, anchor: String)], first: Double, last: Double)
    {
        let (least, most) = (values.min() ?? 0, values.max() ?? 0)
        switch horizontal {
        case .tokens:
            let axis = Axis(upTo: most)
            return (
                axis.ticks.map { ($0, Figure.brief($0), $0 < axis.end ? "middle" : "end") }, 0,
                axis.end
            )
        case .layers:
            let ends: [(value: Double, label: String, anchor: String)] = [
                (least, "layer \(Figure.integer(least))", "start"),
                (most, "layer \(Figure.integer(most))", "end"),
            ]
            return (Array(ends.prefix(most > least ? 2 : 1)), least, most)
        }
    }
}

extension Figure {
    /// `20 M`, `1.5 K`: a round number and a power of a thousand.
    static func brief(_ value: Double) -> String {
        var (scaled, unit) = (value, 0)
        let units = ["", " K", " M", " B", " T"]
        while scaled >= 999.5, unit + 1 < units.count {
            scaled /= 1000
            unit += 1
        }
        return round(scaled) + units[unit]
    }
}
