import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// A teacher's distributions at every token of the training windows, cut to the most probable
/// tokens, in safetensors files `teacher-00000.safetensors`, ….
struct TeacherCache: Sendable {
    /// What the distributions depend on.
    let key: Key
    private let files: [SafetensorsFile]

    /// Opens a cache that is complete.
    ///
    /// - Throws: `TeacherCacheError.incomplete` where a file is missing or cut short, `.foreign` for
    ///   files of another text, teacher or settings, `.badCount`.
    init(_ key: Key, directory: String) throws {
        try key.check()
        var files: [SafetensorsFile] = []
        var missing: (any Error)?
        for file in 0..<key.files {
            do {
                files.append(try Self.open(key, file, in: directory))
            } catch let error as CheckpointError {
                missing = missing ?? error
            }
        }
        if let missing {
            throw TeacherCacheError.incomplete(
                directory: directory, files: files.count, of: key.files, reason: "\(missing)")
        }
        self.key = key
        self.files = files
    }

    /// The distributions at all tokens of training windows, `[windows · context]` rows.
    ///
    /// - Throws: `TeacherCacheError.damaged` for values that no teacher gives.
    func rows(_ windows: [Int], on device: Device = .cpu) throws -> TeacherRows {
        let parts = try windows.map { try stored($0) }
        let logs = try Tensor.cat(parts.map(\.logProbabilities)).to(device)
            .to(dtype: .float32)
        let tail = try Tensor.cat(parts.map(\.tail)).to(device)
        // Rounding to float16 left the sum a little off.
        let excess = try logs.logSumExp(-1) - log1pOperator(.tensor(tail * -1))
        return TeacherRows(
            logProbabilities: try logs - excess.unsqueeze(1),
            ids: try Tensor.cat(parts.map(\.ids)).to(device).to(dtype: .int64), tail: tail)
    }

    /// A window's distributions as they are stored, ids in int32, on the host.
    private func stored(_ window: Int) throws -> TeacherRows {
        precondition((0..<key.windows).contains(window), "no training window \(window)")
        let file = files[window / key.windowsPerFile]
        let index = window % key.windowsPerFile
        func part(_ name: String, _ range: ClosedRange<Double>) throws -> Tensor {
            let all = try file.bytes(of: name)
            guard let info = file.info(name) else {
                throw CheckpointError.noSuchTensor(
                    path: file.path, name: name, count: file.tensors.count)
            }
            let size = all.count / info.shape[0]
            let tensor = try all.withUnsafeBytes { bytes in
                try Tensor(
                    bytes: UnsafeRawBufferPointer(
                        rebasing: bytes[index * size..<(index + 1) * size]),
                    shape: Array(info.shape.dropFirst()), dtype: info.dtype)
            }
            let values = info.dtype == .uint16 ? try tensor.to(dtype: .int32) : tensor
            let ends = try aminmaxOperator.tensors(.tensor(values)).map { try $0.item() }
            // Not a number compares false.
            guard ends[0] >= range.lowerBound, ends[1] <= range.upperBound else {
                throw TeacherCacheError.damaged(
                    path: file.path,
                    reason: "\(name) of window \(window) reach from \(ends[0]) to \(ends[1])")
            }
            return values
        }
        return TeacherRows(
            logProbabilities: try part(Part.logProbabilities, Self.leastLog...0),
            ids: try part(Part.ids, 0...Double(key.vocabulary - 1)),
            tail: try part(Part.tail, 0...1))
    }

    /// Close to the least number of float16; its exponential is 0.
    static let leastLog = -65000.0

    static func path(_ file: Int, in directory: String) -> String {
        "\(directory)/teacher-\(file.zeroPadded(5)).safetensors"
    }

    /// File `file` of a cache, whose label and sizes are right.
    ///
    /// - Throws: `CheckpointError` where it is missing or damaged, `TeacherCacheError.foreign` where
    ///   it belongs to something else.
    static func open(_ key: Key, _ file: Int, in directory: String) throws -> SafetensorsFile {
        let found = try SafetensorsFile(path: path(file, in: directory))
        for (name, needed) in key.metadata(ofFile: file) {
            let value = found.metadata[JSON.Name(name)]
            guard value == needed else {
                throw TeacherCacheError.foreign(
                    path: found.path, what: name, found: value ?? "not said", needed: needed)
            }
        }
        for tensor in key.tensors(inFile: file) {
            guard let info = found.info(tensor.name), info.dtype == tensor.dtype,
                info.shape == tensor.shape
            else {
                throw TeacherCacheError.foreign(
                    path: found.path, what: tensor.name,
                    found: found.info(tensor.name).map { "\($0.dtype) \($0.shape)" } ?? "missing",
                    needed: "\(tensor.dtype) \(tensor.shape)")
            }
        }
        return found
    }
}

private let aminmaxOperator = Operator("aten::aminmax")
private let log1pOperator = Operator("aten::log1p")
