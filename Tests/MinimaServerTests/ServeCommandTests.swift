import Foundation
import MinimaCore
import Testing

@testable import MinimaServer

/// The command, as a process.
@Suite("minima serve", .serialized)
struct ServeCommandTests {
    /// A `minima serve` of the example model.
    private final class Served: @unchecked Sendable {
        // Unchecked: the process is used by one test; what it wrote is locked.
        let process = Process()
        private let lock = NSLock()
        private var written = ""

        var errors: String { lock.withLock { written } }

        init(_ arguments: [String]) throws {
            // The test runner and the binary are built into one folder.
            let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
                .deletingLastPathComponent()
            process.executableURL = folder.appendingPathComponent("minima")
            process.arguments =
                ["serve", exampleModel, "--port", "0", "--context", "1024", "--device", "cpu"]
                + arguments
            process.standardInput = FileHandle.nullDevice
            let pipe = Pipe()
            process.standardError = pipe
            try process.run()
            Thread.detachNewThread { [self] in
                while case let data = pipe.fileHandleForReading.availableData, !data.isEmpty {
                    lock.withLock { written += String(decoding: data, as: UTF8.self) }
                }
            }
        }

        /// The port, once there is one; `nil` when the process ends or three minutes pass.
        func port() -> Int? {
            for _ in 0..<18_000 {
                if let line = errors.split(separator: "\n").first(where: { $0.contains("http://") })
                {
                    return line.split(separator: ":").last.flatMap { Int($0) }
                }
                guard process.isRunning else { return nil }
                usleep(10_000)
            }
            return nil
        }

        /// The exit code, of a process that ends within three minutes.
        func end() -> Int32 {
            for _ in 0..<18_000 where process.isRunning { usleep(10_000) }
            if process.isRunning { kill(process.processIdentifier, SIGKILL) }
            process.waitUntilExit()
            return process.terminationStatus
        }
    }

    /// SIGTERM in the middle of an answer: it is completed, nothing new is taken, and the code is 0.
    @Test func stopsGracefully() async throws {
        let keys = NSTemporaryDirectory() + "minima-keys-\(UUID().uuidString)"
        try Data("secret-key\n".utf8).write(to: URL(fileURLWithPath: keys))
        defer { try? FileManager.default.removeItem(atPath: keys) }
        let (code, text, errors) = try await blocking {
            let served = try Served([
                "--api-key-file", keys, "--name", "tiny", "--drain-seconds", "300",
            ])
            let port = try #require(served.port(), "\(served.errors)")
            let stranger = try Wire(port: port)
            stranger.send(wireRequest("GET", "/v1/models"))
            #expect(try stranger.response().status == 401)
            let wire = try Wire(port: port)
            let body =
                "{\"model\":\"tiny\",\"prompt\":\"private words\",\"max_tokens\":200,"
                + "\"ignore_eos\":true,\"stream\":true}"
            wire.send(
                wireRequest(
                    "POST", "/v1/completions", body,
                    headers: ["Authorization": "Bearer secret-key"]))
            #expect(wire.receive(until: "data:"))
            kill(served.process.processIdentifier, SIGTERM)
            let text = wire.receiveAll()
            return (served.end(), text, served.errors)
        }
        #expect(code == 0, "\(errors)")
        #expect(text.contains("\"finish_reason\":\"length\"") && text.contains("data: [DONE]"))
        #expect(errors.contains("completions 200"))
        for secret in ["secret-key", "private", keys] { #expect(!errors.contains(secret)) }
    }

    @Test func saysWhyItCannotBegin() async throws {
        let (codes, errors) = try await blocking {
            let first = try Served([])
            let port = try #require(first.port(), "\(first.errors)")
            let cases = [
                ["--port", "\(port)"], ["--api-key-file", "/nowhere"], ["--host", "x.invalid"],
            ]
            let others = try cases.map { arguments in
                let other = try Served(arguments)
                return (other.end(), other.errors)
            }
            kill(first.process.processIdentifier, SIGINT)
            #expect(first.end() == 0)
            return (others.map(\.0), others.map(\.1))
        }
        #expect(codes == [1, 1, 1])
        #expect(errors[0].contains("cannot listen on 127.0.0.1"))
        #expect(errors[1].contains("/nowhere: cannot be read"))
        #expect(errors[2].contains("x.invalid"))
    }
}
