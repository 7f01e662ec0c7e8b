import ArgumentParser
import MinimaCheckpoint
import MinimaReport

struct ReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Turns results into a table and one HTML file that opens offline.")

    @Argument(help: "JSON files that other subcommands printed, and minima.json files.")
    var results: [String]

    @Option(help: "HTML file to write.", completion: .file())
    var out: String

    func run() throws {
        let report = try Report.load(files: results)
        try AtomicFile.write(report.html(), to: out)
        print(report.table())
    }
}
