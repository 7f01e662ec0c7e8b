import CMinimaCUDA

/// A CUDA C++ translation unit.
public struct KernelSource: Sendable, Hashable {
    /// The file's name, which compiler messages show.
    public let name: String
    /// Its text; `#include "common.cuh"` and other embedded headers are found.
    public let text: String

    /// A source of one's own.
    public init(name: String, text: String) {
        self.name = name
        self.text = text
    }

    /// The embedded file of that name, such as `linear.cu`.
    public init(_ name: String) throws(KernelError) {
        guard let source = KernelSource.all.first(where: { $0.name == name }) else {
            throw .noSuchSource(name: name, known: KernelSource.all.map(\.name))
        }
        self = source
    }

    /// Every embedded kernel.
    public static let all = files.filter { !isHeader($0) }
    /// What the kernels may include.
    public static let headers = files.filter(isHeader)

    private static func isHeader(_ file: KernelSource) -> Bool { file.name.hasSuffix(".cuh") }

    private static let files = (0..<minima_cuda_file_count()).compactMap { index in
        minima_cuda_file_at(index).map { file in
            KernelSource(
                name: String(cString: file.pointee.name), text: String(cString: file.pointee.text))
        }
    }
}
