import Glibc

/// The memory of processes of this machine.
public enum ProcessMemory {
    /// Bytes in memory now; `nil` when /proc or the process is not there.
    ///
    /// - Parameter process: Its number; `nil`: this one.
    public static func resident(of process: Int32? = nil) -> Int? {
        let name = process.map(String.init) ?? "self"
        guard let file = fopen("/proc/\(name)/statm", "r") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 128)
        guard fgets(&line, Int32(line.count), file) != nil else { return nil }
        let text = String(
            decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let pages = text.split(separator: " ").dropFirst().first.flatMap { Int($0) }
        return pages.map { $0 * Int(sysconf(Int32(_SC_PAGESIZE))) }
    }
}
