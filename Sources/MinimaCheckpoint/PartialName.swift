import Glibc

/// Names and locks of outputs that are not finished: `.NAME.partial-PID-N` beside their place.
///
/// A run holds an advisory lock (flock) on its partial output. The kernel drops the lock when the
/// run ends in whatever way, so a partial output nobody has locked was left by a run that was
/// killed and may be removed; process ids alone could not tell, they are used again and mean
/// nothing to another machine.
enum PartialName {
    /// Tries to name an output before giving up; a try fails only when another run's sweep locks
    /// the new name first.
    private static let attempts = 100

    /// Creates a new partial output with `make`, which returns false when the name is taken, and
    /// locks it.
    ///
    /// - Returns: Its path, and the descriptor that holds the lock until it is closed.
    static func create(
        for name: String, in parent: String, make: (String) throws(SystemError) -> Bool
    ) throws(SystemError) -> (path: String, lock: Int32) {
        for attempt in 0..<attempts {
            let path = "\(parent)/.\(name).partial-\(getpid())-\(attempt)"
            guard try make(path) else { continue }
            let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
            guard descriptor >= 0 else { throw .current("open", path) }
            // A file system without locks leaves the output unlocked and never swept.
            if flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK,
                isSame(descriptor, path)
            {
                return (path, descriptor)
            }
            close(descriptor)
        }
        throw SystemError(operation: "create", path: "\(parent)/.\(name).partial", code: EEXIST)
    }

    /// Removes what killed runs left beside the place of `name`. Failing to is no error: the
    /// leftovers are in nobody's way.
    static func sweep(for name: String, in parent: String) {
        let prefix = ".\(name).partial-"
        guard let names = try? Files.names(in: parent) else { return }
        for other in names where other.utf8.starts(with: prefix.utf8) {
            let path = "\(parent)/\(other)"
            let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
            guard descriptor >= 0 else { continue }
            if flock(descriptor, LOCK_EX | LOCK_NB) == 0, isSame(descriptor, path) {
                try? Files.removeTree(path)
            }
            close(descriptor)
        }
    }

    /// Whether the path still names what the descriptor has open.
    private static func isSame(_ descriptor: Int32, _ path: String) -> Bool {
        var opened = stat()
        var named = stat()
        return fstat(descriptor, &opened) == 0 && lstat(path, &named) == 0
            && opened.st_dev == named.st_dev && opened.st_ino == named.st_ino
    }
}

/// The place of an output: an existing parent directory and a name in it.
struct OutputPlace {
    let parent: String
    let name: String

    var path: String { parent == "/" ? "/\(name)" : "\(parent)/\(name)" }

    /// Finds the place that `path` means, following links of what exists.
    init(_ path: String) throws(CheckpointError) {
        try wrapping { () throws(SystemError) in try Files.checkPath(path) }
        var absolute = Files.resolved(path)
        if absolute == nil {
            var parts = path.split(separator: "/", omittingEmptySubsequences: true)
            let last = parts.popLast().map(String.init) ?? ""
            let above = (path.hasPrefix("/") ? "/" : "") + parts.joined(separator: "/")
            let parent = Files.resolved(above.isEmpty ? "." : above)
            guard let parent, last != ".." else {
                throw .destination(
                    path: path, reason: "there is no directory \(above)",
                    remedy: "create it first or choose another output path")
            }
            absolute = parent == "/" ? "/\(last)" : "\(parent)/\(last)"
        }
        guard let absolute, let slash = absolute.lastIndex(of: "/"), absolute != "/" else {
            throw .destination(
                path: path, reason: "this cannot be an output",
                remedy: "choose another output path")
        }
        parent = slash == absolute.startIndex ? "/" : String(absolute[..<slash])
        name = String(absolute[absolute.index(after: slash)...])
    }
}
