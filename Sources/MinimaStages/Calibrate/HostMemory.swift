import FoundationEssentials

/// Memory of the machine that this process may still take.
public enum HostMemory {
    /// `MemAvailable` of `/proc/meminfo`, capped by what the process's cgroups (v2) leave it.
    ///
    /// A cgroup leaves `memory.max` − `memory.current` and the file cache that the kernel drops
    /// first (`inactive_file`), as `MemAvailable` does for the machine: weights just read through a
    /// mapping are such cache.
    ///
    /// - Parameter root: The folder that holds `proc` and `sys`.
    /// - Returns: Bytes; `nil` where the kernel does not say.
    public static func available(root: String = "") -> Int? {
        let machine = lines("\(root)/proc/meminfo").lazy
            .compactMap { number(in: $0, after: "MemAvailable:") }.first
            .map { Saturating.product([$0, 1024]) }
        let groups = cgroups(root: root).compactMap(left)
        return ([machine] + groups).compactMap(\.self).min()
    }

    /// Folders of the process's cgroup and of those around it; limits of all of them hold.
    private static func cgroups(root: String) -> [String] {
        guard let line = lines("\(root)/proc/self/cgroup").first(where: { $0.hasPrefix("0::/") })
        else { return [] }
        var parts = line.dropFirst(4).split(separator: "/")
        var folders: [String] = []
        while true {
            folders.append(
                ([root + "/sys/fs/cgroup"] + parts.map(String.init)).joined(separator: "/"))
            if parts.popLast() == nil { return folders }
        }
    }

    private static func left(inGroup folder: String) -> Int? {
        // "max" is no limit, and the outermost group has no such file.
        guard let limit = lines("\(folder)/memory.max").first.flatMap({ Int($0) }),
            let current = lines("\(folder)/memory.current").first.flatMap({ Int($0) })
        else { return nil }
        let cache =
            lines("\(folder)/memory.stat").lazy
            .compactMap { number(in: $0, after: "inactive_file") }.first ?? 0
        return max(limit - max(current - cache, 0), 0)
    }

    /// The number that follows `key` in `line`: `MemAvailable:  123 kB`.
    private static func number(in line: Substring, after key: String) -> Int? {
        let words = line.split(separator: " ")
        guard words.count >= 2, words[0] == key, let number = Int(words[1]), number >= 0 else {
            return nil
        }
        return number
    }

    private static func lines(_ path: String) -> [Substring] {
        guard let data = FileManager.default.contents(atPath: path) else { return [] }
        return String(decoding: data, as: UTF8.self).split(separator: "\n")
    }
}
