import Foundation
import MinimaCore
import MinimaRuntime
import MinimaTestSupport
import Testing

@testable import MinimaServer

/// Clients for Python, unchanged, against a server.
@Suite("Server: clients")
struct ClientTests {
    @Test func openAI() async throws {
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

    /// lm-evaluation-harness: its log-likelihoods, texts and metrics are those of transformers, which
    /// stand in a golden file.
    @Test func evaluationHarness() async throws {
        let options = ServerOptions(keys: [APIKey("a-key")])
        try await TestServer.with(exampleEngine(), options) { server in
            try await run(
                "lm_eval_client.py", "http://127.0.0.1:\(server.port)", "a-key",
                "\(packageFolder())/Tests/Goldens/server/lm-eval.json", packages: "lm-eval",
                holding: "lm_eval")
            #expect(await server.becomesIdle())
        }
    }

    /// Runs a script of `Clients`, which must pass.
    ///
    /// - Parameters:
    ///   - packages: The folder of .deps with what it imports, `package` among it.
    private func run(
        _ script: String, _ arguments: String..., packages: String = "clients",
        holding package: String = "openai"
    ) async throws {
        let folder = packageFolder()
        let packages = "\(folder)/.deps/\(packages)"
        try #require(
            FileManager.default.fileExists(atPath: "\(packages)/\(package)"),
            "\(package) is not in \(packages); run Scripts/setup-clients.sh")
        try await expectPassed(script, arguments, packages: packages)
    }
}

/// Runs a script of `Clients` with Python; it must pass.
///
/// - Parameter packages: The folder of what it imports.
func expectPassed(_ script: String, _ arguments: [String], packages: String) async throws {
    let path = "\(packageFolder())/Tests/MinimaServerTests/Clients/\(script)"
    // One that hangs must not hold up the tests for ever.
    let seconds = 900
    let (status, output) = try await blocking {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments =
            ["timeout", "--kill-after=30", "\(seconds)", "python3", path] + arguments
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
    // As `timeout` tells it.
    let end = status == 124 ? "not over after \(seconds) s" : "status \(status)"
    #expect(status == 0 && output.hasSuffix("passed\n"), "\(script), \(end): \(output)")
}
