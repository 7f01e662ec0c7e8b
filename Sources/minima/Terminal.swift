import Glibc
import MinimaCore
import Synchronization

/// The user pressed Ctrl-C.
struct Interrupted: Error {}

/// Why a result did not reach standard output.
enum OutputError: Error, CustomStringConvertible {
    /// Whoever read the pipe has gone, as `head` does when it has seen enough.
    case readerGone
    case failed(reason: String)

    var description: String {
        switch self {
        case .readerGone: "nobody reads standard output"
        case .failed(let reason): "standard output cannot be written: \(reason)"
        }
    }
}

/// Standard output is for results; messages and progress go to standard error.
enum Terminal {
    /// Whether the last thing on the terminal is a line without an end.
    static let hasOpenLine = Atomic<Bool>(false)

    /// Writes a message of one line to standard error.
    static func write(_ line: String) {
        let isOpen = hasOpenLine.exchange(false, ordering: .relaxed)
        // Nothing can be done about a message that nobody can read.
        _ = put((isOpen ? "\n" : "") + line + "\n", to: STDERR_FILENO)
    }

    /// Writes a result to standard output.
    static func output(_ text: String, terminator: String = "\n") throws(OutputError) {
        let code = put(text + terminator, to: STDOUT_FILENO)
        if code == EPIPE { throw .readerGone }
        if code != 0 { throw .failed(reason: String(cString: strerror(code))) }
    }

    /// Writes text at once, without a buffer; returns an error number, or 0.
    fileprivate static func put(_ text: String, to descriptor: Int32) -> Int32 {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 {
                if errno == EINTR { continue }
                return errno
            }
            rest = rest.dropFirst(count)
        }
        return 0
    }

    /// Writes an error in the form that scripts look for.
    static func error(_ message: String) {
        write("minima: error: \(message)")
    }
}

private let interrupted = Atomic<Bool>(false)

/// Turns the first Ctrl-C (SIGTERM, SIGHUP) into ``Interrupted`` at the next report of progress, so
/// that partial output is removed; a second one ends the process at once.
func catchInterrupts() {
    interrupted.store(false, ordering: .relaxed)
    // A parent that starts us from a worker thread may hand down a mask that blocks everything.
    var mask = sigset_t()
    sigemptyset(&mask)
    let numbers = [SIGINT, SIGTERM, SIGHUP]
    for number in numbers { sigaddset(&mask, number) }
    pthread_sigmask(SIG_UNBLOCK, &mask, nil)
    for number in numbers {
        // What the parent had us ignore stays ignored: `nohup minima …` outlives its terminal.
        var current = sigaction()
        sigaction(number, nil, &current)
        let handler = unsafeBitCast(current.__sigaction_handler.sa_handler, to: Int.self)
        if handler == unsafeBitCast(SIG_IGN, to: Int.self) { continue }
        signal(number) { number in
            interrupted.store(true, ordering: .relaxed)
            signal(number, SIG_DFL)
        }
    }
}

/// Throws when Ctrl-C was pressed.
func checkInterrupt() throws {
    if interrupted.load(ordering: .relaxed) { throw Interrupted() }
}

/// Shows progress: one line that is redrawn on a terminal, a plain line now and then in a pipe.
final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let isSilent: Bool
    private let clock = ContinuousClock()
    /// Columns of the terminal; a longer line would wrap and could not be redrawn.
    private let width: Int
    private var stage = ""
    private var started: ContinuousClock.Instant
    private var shown: ContinuousClock.Instant?

    /// - Parameter isSilent: Whether nothing is shown, as another process shows it.
    init(isSilent: Bool = false) {
        self.isSilent = isSilent
        started = clock.now
        var size = winsize()
        let known = ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0
        width = known ? Int(size.ws_col) : 80
    }

    /// Shows `progress` if enough time has passed or the stage is done.
    ///
    /// - Throws: ``Interrupted`` when Ctrl-C was pressed.
    func show(_ progress: StageProgress) throws {
        try checkInterrupt()
        if isSilent { return }
        let now = clock.now
        if progress.stage != stage {
            // The work of a stage began when the one before was last heard of.
            if let shown { started = shown }
            stage = progress.stage
            shown = nil
        }
        let interval: Duration = isTerminal ? .milliseconds(100) : .seconds(5)
        let isDone = progress.done >= progress.total
        if let shown, now - shown < interval, !isDone { return }
        shown = now
        let line = text(progress, elapsed: (now - started).totalSeconds)
        if isTerminal {
            let line = String(line.prefix(width - 1))
            _ = Terminal.put("\r\u{1B}[K\(line)\(isDone ? "\n" : "")", to: STDERR_FILENO)
            Terminal.hasOpenLine.store(!isDone, ordering: .relaxed)
        } else {
            Terminal.write(line)
        }
    }

    private func text(_ progress: StageProgress, elapsed: Double) -> String {
        let share = min(Double(progress.done) / Double(max(progress.total, 1)), 1)
        var parts = ["\(progress.stage) \(progress.done)/\(progress.total) \(progress.unit)"]
        if isTerminal {
            let filled = Int(share * 20)
            let bar =
                String(repeating: "█", count: filled) + String(repeating: "░", count: 20 - filled)
            parts[0] =
                "\(progress.stage) \(bar) \(progress.done)/\(progress.total) \(progress.unit)"
        }
        let done = progress.done - progress.resumed
        if elapsed > 0, done > 0 {
            let rate = Double(done) / elapsed
            parts.append("\(short(rate)) \(progress.unit)/s")
            if progress.done < progress.total {
                parts.append("ETA \(duration(Double(progress.total - progress.done) / rate))")
            } else {
                parts.append("took \(duration(elapsed))")
            }
        }
        parts.append("\((ProcessMemory.resident() ?? 0) >> 20) MiB")
        if !progress.note.isEmpty { parts.append(progress.note) }
        return parts.joined(separator: ", ")
    }
}

/// Three significant digits or so.
func short(_ value: Double) -> String {
    guard value.isFinite else { return "\(value)" }
    if abs(value) >= 100 { return "\(Int(value.rounded()))" }
    return fixed(value, abs(value) >= 10 ? 1 : 2)
}

/// `value` with `digits` decimals.
func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite, abs(value) < 1e12 else { return "\(value)" }
    let scale = pow(10, Double(digits))
    let scaled = Int((abs(value) * scale).rounded())
    let (whole, rest) = (scaled / Int(scale), scaled % Int(scale))
    let sign = value < 0 && scaled > 0 ? "-" : ""
    if digits == 0 { return "\(sign)\(whole)" }
    let decimals = String(rest)
    return "\(sign)\(whole)." + String(repeating: "0", count: digits - decimals.count) + decimals
}

/// `m:ss`, or seconds when short.
func duration(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds < 1e9 else { return "?" }
    if seconds < 60 { return "\(fixed(seconds, 1)) s" }
    let whole = Int(seconds.rounded())
    let rest = whole % 60
    return "\(whole / 60):\(rest < 10 ? "0" : "")\(rest) min"
}

/// `value` bytes in decimal units, as model hubs and the report count them.
func byteText(_ value: Int) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"]
    var (amount, unit) = (Double(value), 0)
    while amount >= 1000, unit < units.count - 1 {
        amount /= 1000
        unit += 1
    }
    return unit == 0 ? "\(value) B" : "\(fixed(amount, 2)) \(units[unit])"
}

/// `value` with thousands separators.
func grouped(_ value: Int) -> String {
    let digits = Array(String(value))
    return digits.enumerated().map { index, digit in
        let left = digits.count - index
        return index > 0 && left % 3 == 0 && digits[index - 1] != "-" ? ",\(digit)" : "\(digit)"
    }.joined()
}
