import FoundationEssentials
import Glibc
import MinimaCore

extension ProcessMemory {
    /// Most bytes that were resident since the process began or ``resetPeak()``; `nil` where the
    /// kernel does not say.
    static func peak() -> Int? {
        guard let data = FileManager.default.contents(atPath: "/proc/self/status") else {
            return nil
        }
        let line = String(decoding: data, as: UTF8.self).split(separator: "\n")
            .first { $0.hasPrefix("VmHWM:") }
        let kibibytes = line?.split(whereSeparator: \.isWhitespace).dropFirst().first
        return kibibytes.flatMap { Int($0) }.map { $0 * 1024 }
    }

    /// Begins a new measurement of the peak (proc(5), clear_refs); where the kernel does not allow that,
    /// the peak stays that of the whole run.
    static func resetPeak() {
        guard let file = fopen("/proc/self/clear_refs", "w") else { return }
        fputs("5", file)
        fclose(file)
    }
}
