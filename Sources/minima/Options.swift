import ArgumentParser
import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTokenizer

extension Device: ExpressibleByArgument {
    /// `cpu`, `cuda` or `cuda:N`.
    public init?(argument: String) {
        self.init(argument)
    }
}

extension FormatSpec.Levels: ExpressibleByArgument {}

extension DType: ExpressibleByArgument {
    /// The names of PyTorch for types that models compute in.
    public init?(argument: String) {
        switch argument {
        case "float32": self = .float32
        case "bfloat16": self = .bfloat16
        case "float16": self = .float16
        case "float64": self = .float64
        default: return nil
        }
    }

    /// What help and errors list.
    public static var allValueStrings: [String] { ["float32", "bfloat16", "float16", "float64"] }
}

/// Where and in which type to compute.
struct ComputeOptions: ParsableArguments {
    @Option(help: "cpu, cuda or cuda:N. Default: cuda when there is a GPU.")
    var device: Device?

    @Option(help: "Type to compute in. Default: float32 on the CPU, the stored type on a GPU.")
    var dtype: DType?

    @Option(help: "CPU threads. Default: one per core.")
    var threads: Int?

    func validate() throws {
        if let threads, threads < 1 || threads > 4096 {
            throw ValidationError("--threads must be between 1 and 4096")
        }
    }

    /// Opens libtorch and the device.
    func open() throws -> Device { try Self.open(device, threads: threads) }

    /// Opens libtorch and `device`, or the GPU where there is one.
    static func open(_ device: Device?, threads: Int? = nil) throws -> Device {
        // Read by the OpenMP runtime when libtorch is opened. Threads that spin at every barrier
        // make a busy machine four times slower (two cores, one other process).
        setenv("OMP_WAIT_POLICY", "passive", 0)
        let package = ProcessInfo.processInfo.environment["MINIMA_TORCH"] ?? ""
        try Torch.open(package: package.isEmpty ? nil : package)
        try Torch.tuneAllocator()
        if let threads { try Torch.setThreads(threads) }
        if let device {
            try device.open()
            return device
        }
        if try Device.cudaCount() > 0 { return .cuda(0) }
        if let problem = try Device.cudaProblem() {
            Terminal.write("minima: warning: computing on the CPU; the GPU is no use: \(problem)")
        }
        return .cpu
    }
}

/// Why a text cannot be read.
enum TextError: Error, CustomStringConvertible {
    case unreadable(path: String, reason: String)
    case notUTF8(path: String, offset: Int)

    var description: String {
        switch self {
        case .unreadable(let path, let reason): "\(path): cannot be read: \(reason)"
        case .notUTF8(let path, let offset):
            "\(path): not UTF-8 at byte \(offset); convert it, e.g. with `iconv -t UTF-8`"
        }
    }
}

/// The text of a UTF-8 file or pipe.
func readText(_ path: String) throws -> String {
    let bytes: [UInt8]
    do {
        bytes = try readFile(path, limit: Tokenizer.maximumByteCount)
    } catch {
        throw TextError.unreadable(path: path, reason: error.reason)
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
        throw TextError.notUTF8(path: path, offset: validPrefix(bytes))
    }
    return text
}

/// The length of the longest prefix that is UTF-8 as far as it goes.
private func validPrefix(_ bytes: [UInt8]) -> Int {
    var decoder = UTF8()
    var rest = bytes.makeIterator()
    var length = 0
    while case .scalarValue(let scalar) = decoder.decode(&rest) {
        length += UTF8.width(scalar)
    }
    return length
}

/// Token ids of each file, without special tokens.
func readTokens(_ paths: [String], _ tokenizer: Tokenizer) throws -> [[Int32]] {
    try paths.map { try tokenizer.encode(readText($0), addSpecialTokens: false) }
}

extension StageResult {
    /// Prints this result as JSON.
    func printJSON() throws {
        try Terminal.output(json())
    }
}

/// Throws unless `--text` names files, or `self` alone.
func checkTexts(_ text: [String]) throws {
    guard !text.isEmpty else { throw ValidationError("--text needs files or `self`") }
    if text.contains("self"), text != ["self"] {
        throw ValidationError("--text takes either `self` or files, not both")
    }
}
