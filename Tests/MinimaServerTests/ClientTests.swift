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
        let options = ServerOptions(keys: [APIKey("a-key")])
        try await TestServer.with(exampleEngine(), options) { server in
            try await run("openai_client.py", "http://127.0.0.1:\(server.port)/v1", "a-key")
            #expect(await server.becomesIdle())
        }
    }

    /// Whole rounds: tools, calls, results, answer.
    @Test func tools() async throws {
        let call = { (place: String) in
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"place\": \(place)}}\n"
                + "</tool_call>"
        }
        let calls =
            "<think>\nTwo calls.\n</think>\n\nLet me see.\n\(call("\"Ulm\""))\n"
            + call("\"Köln \\\"S\\u00fcd\\\"\"")
        let engine = try ToolScript.engine { prompt in
            prompt.contains("<tool_response>\nsunny in Ulm\n</tool_response>")
                && prompt.contains("sunny in Köln \"Süd\"") ? "It is sunny in both." : calls
        }
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        try await TestServer.with(engine, model: model) { server in
            try await run("openai_tools.py", "http://127.0.0.1:\(server.port)/v1")
            #expect(await server.becomesIdle())
        }
    }

    /// Runs a script of `Clients`, which must pass.
    private func run(_ script: String, _ arguments: String...) async throws {
        try #require(
            FileManager.default.fileExists(atPath: "\(packages)/openai"),
            "OpenAI's client is not in \(packages); run `make setup`")
        let (packages, folder) = (packages, packageFolder())
        let (status, output) = try await blocking {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments =
                ["python3", "\(folder)/Tests/MinimaServerTests/Clients/\(script)"] + arguments
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
    }
}
