import Glibc
import NIOHTTP1
import Synchronization

/// Why a server that was to be started does not run.
public enum ProcessError: Error, Hashable, CustomStringConvertible {
    case cannotStart(command: String, reason: String)
    case ended(command: String, status: Int32)
    case notReady(command: String, seconds: Int)
    case occupied(address: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .cannotStart(let command, let reason): "`\(command)` cannot be started: \(reason)"
        case .ended(let command, let status):
            "`\(command)` ended with status \(status) before it was ready; its messages say why"
        case .notReady(let command, let seconds):
            """
            `\(command)` was not ready after \(seconds) s; does it listen on the port of the \
            server's URL?
            """
        case .occupied(let address):
            "\(address) is answered before the server is started; end what runs there first"
        }
    }
}

/// A server that is started, stopped and killed here.
public final class ServerProcess: Sendable {
    /// The shell's command.
    public let command: String
    private let process = Mutex<pid_t?>(nil)
    private let readyTime: Int

    /// - Parameters:
    ///   - command: For a shell; must listen on the address that requests go to.
    ///   - readyTime: Seconds that it has to become ready.
    public init(command: String, readyTime: Int = 300) {
        (self.command, self.readyTime) = (command, readyTime)
    }

    deinit {
        guard let process = process.withLock({ $0 }) else { return }
        Glibc.kill(process, SIGKILL)
        waitpid(process, nil, 0)
    }

    /// The number of the process that runs; `nil` while none does.
    var number: pid_t? { process.withLock { $0 } }

    /// Starts it and waits until it answers.
    func start(_ client: ServerClient) async throws {
        if (try? await client.whole(.GET, "/health/ready")) != nil {
            throw ProcessError.occupied(address: client.address.description)
        }
        try spawn()
        for _ in 0..<readyTime * 20 {
            try await Task.sleep(for: .milliseconds(50))
            if let status = ended() { throw ProcessError.ended(command: command, status: status) }
            let response = try? await client.whole(.GET, "/health/ready")
            if response?.status == 200 { return }
        }
        throw ProcessError.notReady(command: command, seconds: readyTime)
    }

    /// Sends `signal` and waits for the end.
    ///
    /// - Returns: Its exit code, 128 + N when signal N ended it; `nil` when it has not ended in time
    ///   and had to be killed.
    func end(_ signal: Int32, limit: Duration) async throws -> Int32? {
        guard let number else { return nil }
        Glibc.kill(number, signal)
        let start = ContinuousClock.now
        while true {
            if let status = ended() { return status }
            guard ContinuousClock.now - start < limit else { break }
            try await Task.sleep(for: .milliseconds(10))
        }
        Glibc.kill(number, SIGKILL)
        waitpid(number, nil, 0)
        process.withLock { $0 = nil }
        return nil
    }

    /// The status of a process that has ended.
    private func ended() -> Int32? {
        process.withLock { process in
            guard let number = process else { return nil }
            var status: Int32 = 0
            guard waitpid(number, &status, WNOHANG) == number else { return nil }
            process = nil
            return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
        }
    }

    private func spawn() throws(ProcessError) {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // A group of its own: Ctrl-C in the terminal is for whoever started it to pass on.
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP))
        // The shell becomes the server, so that signals reach it.
        let words = ["/bin/sh", "-c", "exec \(command)"]
        let arguments = words.map { strdup($0) }
        defer { for argument in arguments { free(argument) } }
        var number: pid_t = 0
        let code = posix_spawn(
            &number, "/bin/sh", nil, &attributes, arguments + [nil], environ)
        guard code == 0 else {
            throw .cannotStart(command: command, reason: String(cString: strerror(code)))
        }
        process.withLock { $0 = number }
    }
}
