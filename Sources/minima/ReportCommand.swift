import ArgumentParser
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaReport

struct ReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Turns results into a table and one HTML file that opens offline.")

    @Argument(
        help: """
            JSON files that other subcommands wrote: analysis.json, plans, minima.json, …; or the \
            directories of compressed and healed models.
            """)
    var results: [String]

    @Option(help: "HTML file to write.", completion: .file())
    var out: String

    @Flag(help: "Print JSON: the file written and how many results of each kind are in it.")
    var json = false

    func run() throws {
        let report = try Report.load(files: results)
        guard !results.contains(where: { $0 == out || samePlace($0, out) }) else {
            throw ValidationError("--out \(out) is one of the results; name another file")
        }
        try AtomicFile.write(report.html(), to: out)
        guard json else { return try Terminal.output(report.table()) }
        let document: JSON = [
            "kind": "report", "out": .string(out),
            "inspections": .integer(Int64(report.inspections.count)),
            "evaluations": .integer(Int64(report.evaluations.count)),
            "analyses": .integer(Int64(report.analyses.count)),
            "plans": .integer(Int64(report.plans.count)),
            "ablations": .integer(Int64(report.ablations.count)),
            "compressions": .integer(Int64(report.compressions.count)),
            "healings": .integer(Int64(report.healings.count)),
            "benches": .integer(Int64(report.benches.count)),
            "generations": .integer(Int64(report.generations.count)),
        ]
        try Terminal.output(document.text())
    }
}

/// Whether two paths name one existing file.
private func samePlace(_ left: String, _ right: String) -> Bool {
    var (first, second) = (stat(), stat())
    return stat(left, &first) == 0 && stat(right, &second) == 0
        && first.st_dev == second.st_dev && first.st_ino == second.st_ino
}
