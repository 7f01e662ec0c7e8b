import FoundationEssentials

/// The folder of the package, from the path of this file.
public func packageFolder() -> String {
    "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
}

/// A folder that ends with its owner.
public final class Scratch: Sendable {
    /// Where it is.
    public let path: String

    /// Makes one, empty, under the system's folder for temporary files.
    public init() throws {
        path = FileManager.default.temporaryDirectory.path + "/minima-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Names of what is in it, sorted.
    public var entries: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    }

    /// Writes a file and returns its path.
    @discardableResult
    public func write(_ bytes: some Sequence<UInt8>, to name: String) throws -> String {
        try Data(bytes).write(to: URL(filePath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }

    /// A copy of a file or folder, to be damaged; returns its path.
    @discardableResult
    public func copy(_ source: String, to name: String) throws -> String {
        try FileManager.default.copyItem(atPath: source, toPath: "\(path)/\(name)")
        return "\(path)/\(name)"
    }
}
