import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaModels

struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows a checkpoint's architecture, parameters and bytes, without its weights.")

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Flag(help: "Also read every weight and fail at the first that is NaN or infinite.")
    var checkFinite = false

    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let checkpoint = try Checkpoint(path: model)
        let result = try InspectionResult(checkpoint)
        if checkFinite { try checkpoint.checkFinite() }
        if json { try result.printJSON() } else { try Terminal.output(Self.text(result)) }
    }

    private static func text(_ result: InspectionResult) -> String {
        let isSupported = FamilyRegistry.all.contains { $0.modelTypes.contains(result.family) }
        let family = isSupported ? result.family : "\(result.family) (not supported beyond inspect)"
        var lines = [
            "\(result.model): \(family), \(grouped(result.parameters)) parameters, "
                + "\(byteText(result.bytes)) in \(result.files) file\(result.files == 1 ? "" : "s")",
            result.architecture.sorted { $0.key < $1.key }
                .map { "\($0.key) \($0.value)" }.joined(separator: ", "),
            "stored as "
                + result.dtypes.sorted { $0.key < $1.key }
                .map { "\($0.key) (\(byteText($0.value)))" }.joined(separator: ", "),
            "",
        ]
        let rows =
            [["part", "modules", "parameters", "bytes", "share", "format"]]
            + result.parts.map { part in
                [
                    part.name, "\(part.modules)", grouped(part.parameters), byteText(part.bytes),
                    "\(fixed(100 * Double(part.bytes) / Double(max(result.bytes, 1)), 1))%",
                    part.formats.sorted { $0.key < $1.key }
                        .map { $0.value == part.modules ? $0.key : "\($0.key) ×\($0.value)" }
                        .joined(separator: ", "),
                ]
            }
        lines += table(rows, leftAligned: [0, 5])
        return lines.joined(separator: "\n")
    }
}

/// Rows of cells as aligned lines; columns are right-aligned unless named.
func table(_ rows: [[String]], leftAligned: Set<Int>) -> [String] {
    let columns = rows.map(\.count).max() ?? 0
    let widths = (0..<columns).map { column in
        rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
    }
    return rows.map { row in
        let cells = row.enumerated().map { column, cell in
            let space = String(repeating: " ", count: widths[column] - cell.count)
            return leftAligned.contains(column) ? cell + space : space + cell
        }
        let line = cells.joined(separator: "  ")
        return String(line.reversed().drop { $0 == " " }.reversed())
    }
}
