import ArgumentParser
import Glibc
import MinimaCore

/// The command line: `minima SUBCOMMAND`.
@main
struct Minima: ParsableCommand {
    /// The version that checkpoints record.
    static let versionNumber = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "minima",
        abstract:
            "Makes large language models smaller with tensor networks, and says what it cost.",
        version: versionNumber,
        subcommands: [
            Inspect.self, Analyze.self, Plan.self, Compress.self, Heal.self, Draft.self,
            Ablate.self, Eval.self, Generate.self, Serve.self, Tokenize.self,
            Bench.self, Speed.self, Load.self, Overhead.self, ReportCommand.self,
        ])

    /// Exit codes: 0 success, 1 failure, 2 usage, 130 interrupted, 141 nobody reads the output.
    static func main() {
        // A pipe that nobody reads is an error of the write, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch is Interrupted {
            Terminal.error("interrupted")
            Glibc.exit(130)
        } catch OutputError.readerGone {
            Glibc.exit(128 + SIGPIPE)
        } catch {
            let code = exitCode(for: error)
            if code == .success {
                // Help and version are asked for in the form of errors.
                print(fullMessage(for: error))
                Glibc.exit(0)
            }
            if code == .validationFailure {
                Terminal.write(fullMessage(for: error))
                Glibc.exit(2)
            }
            Terminal.error("\(error)")
            Glibc.exit(1)
        }
    }
}
