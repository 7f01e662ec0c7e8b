import Foundation
import MinimaCore
import MinimaRuntime
import Testing

@testable import MinimaServer

/// OpenAI's own client for Python, unchanged, against a server.
@Suite("Server: OpenAI's client")
struct ClientTests {
    /// Where `make setup` lays the packages of `Clients/requirements.txt`.
    private let packages = "\(packageFolder())/.deps/clients"

    @Test func python() async throws {
        try #require(
            FileManager.default.fileExists(atPath: "\(packages)/openai"),
            "OpenAI's client is not in \(packages); run `make setup`")
        let options = ServerOptions(keys: [APIKey("a-key")])
        let (packages, folder) = (packages, packageFolder())
        try await TestServer.with(exampleEngine(), options) { server in
            let port = server.port
            let (status, output) = try await blocking {
                let process = Process()
                process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
                process.arguments = [
                    "python3", "\(folder)/Tests/MinimaServerTests/Clients/openai_client.py",
                    "http://127.0.0.1:\(port)/v1", "a-key",
                ]
                process.environment = ProcessInfo.processInfo.environment.merging(
                    ["PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"]
                ) { $1 }
                let pipe = Pipe()
                process.standardOutput = pipe
                process.standardError = pipe
                try process.run()
                let output = String(
                    decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
                process.waitUntilExit()
                return (process.terminationStatus, output)
            }
            #expect(status == 0 && output.hasSuffix("passed\n"), "\(output)")
            #expect(await server.becomesIdle())
        }
    }
}
