import Foundation
import MinimaTestSupport

/// The trained example model.
let exampleModel = "\(packageFolder())/Examples/tiny-qwen3-4m"
/// The demo's text.
let exampleText = "\(packageFolder())/Examples/text.txt"

/// A random checkpoint without a tokenizer.
func goldenModel(_ name: String) -> String { "\(packageFolder())/Tests/Goldens/models/\(name)" }

/// What a run of the `minima` binary gave.
struct Outcome {
    var code: Int32
    var output: String
    var errors: String

    /// The standard output as JSON.
    func json() throws -> [String: Any] {
        let object = try JSONSerialization.jsonObject(with: Data(output.utf8))
        return object as? [String: Any] ?? [:]
    }
}

/// A `minima` process whose pipes are read as it runs.
final class Run: @unchecked Sendable {
    // Unchecked: `Process` is used by the starting thread only; the collected bytes are locked.
    private let process = Process()
    private let lock = NSLock()
    private var collected: [Int32: Data] = [:]
    private let group = DispatchGroup()

    init(
        _ arguments: [String], environment: [String: String] = [:], outputTo file: String? = nil,
        ignoring signal: String? = nil
    ) throws {
        // The test runner and the binary are built into one folder.
        let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
            .deletingLastPathComponent()
        process.executableURL = folder.appendingPathComponent("minima")
        process.arguments = arguments
        if let signal, let binary = process.executableURL?.path {
            process.executableURL = URL(fileURLWithPath: "/bin/sh")
            process.arguments =
                ["-c", "trap '' \(signal); exec \"$0\" \"$@\"", binary] + arguments
        }
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        let pipes: [(Int32, Pipe)] = [(1, Pipe()), (2, Pipe())]
        process.standardOutput = pipes[0].1
        if let file { process.standardOutput = FileHandle(forWritingAtPath: file) }
        process.standardError = pipes[1].1
        try process.run()
        for (number, pipe) in pipes where number == 2 || file == nil {
            group.enter()
            Thread.detachNewThread { [self] in
                while case let data = pipe.fileHandleForReading.availableData, !data.isEmpty {
                    lock.withLock { collected[number, default: Data()] += data }
                }
                group.leave()
            }
        }
    }

    private func text(_ number: Int32) -> String {
        lock.withLock { String(decoding: collected[number] ?? Data(), as: UTF8.self) }
    }

    /// Waits until standard error contains `text`; false when the process ends or a minute passes.
    func waitForError(_ text: String) -> Bool {
        wait { self.text(2).contains(text) }
    }

    /// Waits until `isReached`, three minutes at most and while the process runs.
    func wait(until isReached: () -> Bool) -> Bool {
        for _ in 0..<18_000 {
            if isReached() { return true }
            guard process.isRunning else { return isReached() }
            usleep(10_000)
        }
        return false
    }

    func send(_ signal: Int32) {
        kill(process.processIdentifier, signal)
    }

    /// Waits for the end; a process that is still running after ten minutes is killed.
    func wait() -> Outcome {
        for _ in 0..<60_000 where process.isRunning { usleep(10_000) }
        if process.isRunning { send(SIGKILL) }
        process.waitUntilExit()
        group.wait()
        return Outcome(code: process.terminationStatus, output: text(1), errors: text(2))
    }
}

/// Runs `minima` to its end.
func minima(
    _ arguments: String..., environment: [String: String] = [:], outputTo file: String? = nil
) throws -> Outcome {
    try Run(arguments, environment: environment, outputTo: file).wait()
}
