import MinimaCore

extension Page {
    /// Where the parameters are, part by part, each inspected model a bar.
    func partsSection(_ report: Report) -> [Markup] {
        // The models' own order, the last inspection of each.
        let inspections = report.lineage.models.compactMap { model in
            report.inspections.last { ModelPath($0.model) == model }
        }
        var names: [JSON.Name] = []
        for part in inspections.flatMap(\.parts) where !names.contains(JSON.Name(part.name)) {
            names.append(JSON.Name(part.name))
        }
        guard !names.isEmpty else { return [] }
        let largest = inspections.flatMap(\.parts).map(\.parameters).max() ?? 0
        let rows = names.flatMap { name -> [Markup] in
            let parts = inspections.map { inspection in
                inspection.parts.first { JSON.Name($0.name) == name }
            }
            return inspections.indices.map { index in
                let model = ModelPath(inspections[index].model)
                let dense = report.lineage.dense[model].flatMap { dense in
                    inspections.firstIndex { ModelPath($0.model) == dense }
                }
                let reference = dense.flatMap { parts[$0] }
                return row(
                    name: index == 0 ? name.text : nil, rowSpan: inspections.count,
                    report.lineage.series(model), parts[index],
                    ratio: Figure.quotient(parts[index]?.parameters, reference?.parameters),
                    largest: largest)
            }
        }
        let legend = inspections.map { inspection -> Markup in
            let model = ModelPath(inspection.model)
            let mark: Markup =
                report.lineage.mark(model).map { " <span class=\"note\">\($0)</span>" } ?? ""
            return "<li>\(named(report.lineage.series(model)))\(mark)</li>"
        }
        let columns: [Markup] = [
            "<th scope=\"col\">Part</th>",
            "<th scope=\"col\" class=\"wide\"><span class=\"hidden\">Model and bar</span></th>",
            "<th scope=\"col\">Parameters</th>", Self.timesHeader,
            "<th scope=\"col\">Modules</th>",
        ]
        let chart = table(
            caption: "Numbers stored, on one scale; × is relative to the dense model",
            label: "Parameters by part", columns: columns, rows: rows, style: "bars")
        return [
            section("parts", "Parameters by part", "<ul class=\"legend\">\(legend)</ul>\n\(chart)")
        ]
    }

    private func row(
        name: String?, rowSpan: Int, _ series: Lineage.Series, _ part: InspectionResult.Part?,
        ratio: Double?, largest: Int
    ) -> Markup {
        let header: Markup =
            name.map { "<th scope=\"row\" rowspan=\"\(rowSpan)\">\(isolated($0))</th>" } ?? ""
        let share = Figure.quotient(part?.parameters, largest) ?? 0
        let width = Figure.coordinate(100 * Swift.max(0, share))
        let formats = (part?.formats ?? [:]).sorted { $0.key < $1.key }.map { format, count in
            "\(Figure.count(count)) \(format)"
        }
        return """
            <tr\(name == nil ? "" : " class=\"first\"" as Markup)>\(header)\
            <td class="wide"><span class="hidden">\(isolated(series.label))</span>\
            <svg class="\(colorClass(series))" width="100%" height="10" aria-hidden="true">\
            <rect width="\(width)%" height="10" rx="1"/></svg></td>\
            <td>\(Figure.count(part?.parameters))</td>\
            <td>\(ratio == nil ? "" : Figure.ratio(ratio))</td>\
            <td class="note">\(isolated(formats.joined(separator: ", ")))</td></tr>

            """
    }
}
