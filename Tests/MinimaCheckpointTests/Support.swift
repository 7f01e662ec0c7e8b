import Glibc
import MinimaCore

@testable import MinimaCheckpoint

/// A directory that is removed with this object.
final class TemporaryDirectory {
    let path: String

    init() throws {
        let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(base)/minima-checkpoint-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw SystemError.current("create", base) }
        let end = template.firstIndex(of: 0) ?? template.endIndex
        path = String(decoding: template[..<end].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { try? Files.removeTree(path) }

    /// Writes a file and returns its path.
    @discardableResult
    func file(_ name: String, _ bytes: [UInt8]) throws -> String {
        let path = "\(path)/\(name)"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw SystemError.current("create", path) }
        defer { close(descriptor) }
        try Files.write(bytes, to: descriptor, at: 0, path: path)
        return path
    }

    @discardableResult
    func file(_ name: String, _ text: String) throws -> String { try file(name, Array(text.utf8)) }

    func directory(_ name: String) throws -> String {
        let path = "\(path)/\(name)"
        guard mkdir(path, 0o755) == 0 else { throw SystemError.current("create", path) }
        return path
    }
}

/// What an error says, or "no error".
func message(_ body: () throws -> Void) -> String {
    do {
        try body()
        return "no error"
    } catch {
        return "\(error)"
    }
}

/// The bytes of a safetensors file with this header and this many bytes of data.
func safetensors(_ header: String, data: Int = 0) -> [UInt8] {
    let text = Array(header.utf8)
    return (0..<8).map { UInt8(truncatingIfNeeded: text.count >> ($0 * 8)) } + text
        + (0..<data).map { UInt8(truncatingIfNeeded: $0) }
}

/// A path in Tests/Goldens/checkpoint.
func golden(_ name: String, _ file: String = #filePath) -> String {
    let folder = file.split(separator: "/").dropLast(2).joined(separator: "/")
    return "/\(folder)/Goldens/checkpoint/\(name)"
}

/// The generator SplitMix64 (Steele, Lea & Flood 2014): small, and the same on every machine.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// Bytes from pairs of hexadecimal digits.
func bytes(hexadecimal text: String) -> [UInt8] {
    let digits = text.utf8.map { UInt8($0 > 0x39 ? $0 - 0x57 : $0 - 0x30) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// Flips bits, cuts, inserts, overwrites with numbers and repeats parts.
func mutated(_ original: [UInt8], _ random: inout SplitMix64) -> [UInt8] {
    var bytes = original
    for _ in 0..<Int.random(in: 1...4, using: &random) {
        guard !bytes.isEmpty else { break }
        let place = Int.random(in: 0..<bytes.count, using: &random)
        let length = Int.random(in: 0...min(24, bytes.count - place), using: &random)
        switch Int.random(in: 0..<8, using: &random) {
        case 0: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        case 1: bytes.removeLast(bytes.count - place)
        case 2: bytes[place] = .random(in: 0...255, using: &random)
        case 3: bytes.removeSubrange(place..<place + length)
        case 4: bytes.insert(contentsOf: bytes[place..<place + length], at: place)
        case 5:
            let numbers = [
                "-1", "0", "1", "9223372036854775807", "9223372036854775808", "1e300", "4294967296",
                "[", "]", "{", "}", "\"", "\\", "null", "\"\\ud800\"", "BF16", "\u{0}",
            ]
            let text = numbers.randomElement(using: &random) ?? ""
            bytes.replaceSubrange(place..<place + min(length, 2), with: Array(text.utf8))
        case 6:
            // The header's length.
            for index in 0..<min(8, bytes.count) where Bool.random(using: &random) {
                bytes[index] = [0, 1, 0x7F, 0xFF].randomElement(using: &random) ?? 0
            }
        default: bytes.append(contentsOf: repeatElement(0, count: length))
        }
    }
    return bytes
}
