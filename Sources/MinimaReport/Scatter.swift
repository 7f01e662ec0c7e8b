/// Pairs of positive numbers on logarithmic axes of one scale, with the line on which both are
/// equal.
struct Scatter {
    /// Points of one colour.
    struct Group {
        /// What they have in common.
        var label: String
        /// The class that sets their colour.
        var colorClass: String
        /// Their places and what they are.
        var points: [(x: Double, y: Double, title: String)]
    }

    /// What is shown.
    var title: String
    /// What goes to the right.
    var xLabel: String
    /// What goes up.
    var yLabel: String
    /// The points.
    var groups: [Group]

    /// More points than this are thinned out.
    static let mostPoints = 1_500

    /// The groups without points that have no place, thinned out evenly.
    var drawable: [Group] {
        let kept = groups.map { group in
            group.points.filter { LogAxis.isDrawable($0.x) && LogAxis.isDrawable($0.y) }
        }
        let count = kept.reduce(0) { $0 + $1.count }
        let step = Swift.max(1, (count + Self.mostPoints - 1) / Self.mostPoints)
        return zip(groups, kept).compactMap { group, points in
            guard !points.isEmpty else { return nil }
            var group = group
            group.points = stride(from: 0, to: points.count, by: step).map { points[$0] }
            return group
        }
    }

    /// Points without a place: a value is absent, zero, negative or not finite.
    var hidden: Int {
        groups.reduce(0) { sum, group in
            sum + group.points.count { !LogAxis.isDrawable($0.x) || !LogAxis.isDrawable($0.y) }
        }
    }
}

extension Page {
    /// The chart as a figure, on the axis given; nothing when no point has a place.
    func figure(_ scatter: Scatter, axis: LogAxis?) -> Markup {
        let groups = scatter.drawable
        let values = groups.flatMap { $0.points.flatMap { [$0.x, $0.y] } }
        guard let axis = axis ?? LogAxis(values), !groups.isEmpty else { return "" }
        let (left, right, top, bottom) = (44.0, 252.0, 8.0, 216.0)
        func x(_ share: Double) -> Double { left + (right - left) * share }
        func y(_ share: Double) -> Double { bottom - (bottom - top) * share }
        let grid = axis.ticks.map { tick -> Markup in
            let place = axis.share(exponent: tick)
            let (across, up) = (Figure.tenths(x(place)), Figure.tenths(y(place)))
            return """
                <line class="grid" x1="\(Figure.tenths(left))" x2="\(Figure.tenths(right))" \
                y1="\(up)" y2="\(up)"/><line class="grid" x1="\(across)" x2="\(across)" \
                y1="\(Figure.tenths(top))" y2="\(Figure.tenths(bottom))"/>\
                <text x="\(Figure.tenths(left - 5))" y="\(Figure.tenths(y(place) + 3.5))" \
                text-anchor="end">\(Figure.power(tick))</text>\
                <text x="\(across)" y="\(Figure.tenths(bottom + 14))" text-anchor="middle">\
                \(Figure.power(tick))</text>

                """
        }
        let dots = groups.map { group -> Markup in
            let circles = group.points.map { point -> Markup in
                """
                <circle cx="\(Figure.tenths(x(axis.share(point.x))))" \
                cy="\(Figure.tenths(y(axis.share(point.y))))" r="2.6"><title>\
                \(VisibleText(point.title).line)</title></circle>
                """
            }
            return "<g class=\"\(group.colorClass)\">\(circles)</g>\n"
        }
        let count = groups.reduce(0) { $0 + $1.points.count }
        let words =
            "\(scatter.title): \(count) points, \(scatter.yLabel) against \(scatter.xLabel)"
        let hidden: Markup =
            scatter.hidden == 0
            ? ""
            : "<p class=\"note\">\(scatter.hidden) without a positive finite pair are not drawn.</p>\n"
        return """
            <figure>
            <figcaption>\(isolated(scatter.title))</figcaption>
            <svg viewBox="0 0 260 248" role="img" aria-label="\(VisibleText(words).line)">
            \(grid)<line class="equal" x1="\(Figure.tenths(left))" x2="\(Figure.tenths(right))" \
            y1="\(Figure.tenths(bottom))" y2="\(Figure.tenths(top))"/>
            \(dots)<text x="\(Figure.tenths((left + right) / 2))" y="244" text-anchor="middle">\
            \(VisibleText(scatter.xLabel).line)</text>
            <text transform="translate(9 \(Figure.tenths((top + bottom) / 2))) rotate(-90)" \
            text-anchor="middle">\(VisibleText(scatter.yLabel).line)</text>
            </svg>
            \(hidden)</figure>

            """
    }

    /// What the colours of a chart mean.
    func legend(_ groups: [Scatter.Group]) -> Markup {
        guard groups.count > 1 else { return "" }
        let items = groups.map { group -> Markup in
            """
            <li><span class="swatch \(group.colorClass)" aria-hidden="true"></span>\
            \(isolated(group.label))</li>
            """
        }
        return "<ul class=\"legend\">\(items)</ul>\n"
    }

    /// Groups of values under their labels, the largest six in colours of their own.
    func grouped<Value>(_ values: [Value], by label: (Value) -> String)
        -> [(label: String, colorClass: String, values: [Value])]
    {
        let groups = Dictionary(grouping: values, by: label).sorted { left, right in
            left.value.count != right.value.count
                ? left.value.count > right.value.count : left.key < right.key
        }
        var result = groups.prefix(6).enumerated().map { index, group in
            (label: group.key, colorClass: "s\(index + 1)", values: group.value)
        }
        let others = groups.dropFirst(6).flatMap(\.value)
        if !others.isEmpty { result.append(("other", "s7", others)) }
        return result
    }
}
