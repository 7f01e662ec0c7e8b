import Glibc
import MinimaCore
import Testing

@testable import MinimaCheckpoint

@Suite struct MalformedFileTests {
    /// A malformed file and what its error must say besides the file's name.
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let bytes: [UInt8]
        let says: [String]
        var testDescription: String { name }
    }

    static func entry(
        _ dtype: String = "F32", shape: String = "[2]", _ begin: Int = 0, _ end: Int = 8
    ) -> String {
        "{\"dtype\":\"\(dtype)\",\"shape\":\(shape),\"data_offsets\":[\(begin),\(end)]}"
    }

    static let good = entry()

    static let cases: [Case] = [
        Case(name: "empty", bytes: [], says: ["has 0 bytes", "download or copy it again"]),
        Case(name: "seven bytes", bytes: [1, 0, 0, 0, 0, 0, 0], says: ["7 bytes", "again"]),
        Case(
            name: "no header", bytes: [UInt8](repeating: 0, count: 8),
            says: ["does not begin with", "download it again"]),
        Case(
            name: "4 GiB header", bytes: [0, 0, 0, 0, 1, 0, 0, 0, 0x7B, 0x7D],
            says: ["4294967296", "the format allows 100000000", "download it again"]),
        Case(
            name: "largest header length", bytes: [UInt8](repeating: 255, count: 16),
            says: ["18446744073709551615", "download it again"]),
        Case(
            name: "header beyond the file", bytes: [100, 0, 0, 0, 0, 0, 0, 0, 0x7B, 0x7D],
            says: ["claims 100 bytes", "whole file has 10", "cut short"]),
        Case(
            name: "header is no object", bytes: safetensors("[1]"),
            says: ["does not begin with", "download it again"]),
        Case(
            name: "space before the header", bytes: safetensors(" {}"),
            says: ["does not begin with"]),
        Case(
            name: "broken JSON", bytes: safetensors("{\"w\":\(good)", data: 8),
            says: ["broken at byte", "download it again"]),
        Case(
            name: "trailing comma", bytes: safetensors("{\"w\":\(good),}", data: 8),
            says: ["broken at byte", "expected a string"]),
        Case(
            name: "bytes after the header", bytes: safetensors("{} x"),
            says: ["bytes after the header's end"]),
        Case(
            name: "entry is no object", bytes: safetensors("{\"w\":3}"),
            says: ["\"w\"", "expected \"{\"", "download it again"]),
        Case(
            name: "duplicate name", bytes: safetensors("{\"w\":\(good),\"w\":\(good)}", data: 8),
            says: ["\"w\"", "there twice", "save it anew"]),
        Case(
            name: "duplicate name by escape",
            bytes: safetensors("{\"w\":\(good),\"\\u0077\":\(good)}", data: 8),
            says: ["\"w\"", "there twice"]),
        Case(
            name: "unknown dtype", bytes: safetensors("{\"w\":\(entry("F4"))}", data: 8),
            says: ["\"w\"", "\"F4\"", "BF16", "convert the checkpoint"]),
        Case(
            name: "missing dtype",
            bytes: safetensors("{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", data: 8),
            says: ["\"w\"", "\"dtype\" is missing", "download it again"]),
        Case(
            name: "missing shape",
            bytes: safetensors("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", data: 8),
            says: ["\"w\"", "\"shape\" is missing"]),
        Case(
            name: "missing offsets", bytes: safetensors("{\"w\":{\"dtype\":\"U8\",\"shape\":[]}}"),
            says: ["\"w\"", "\"data_offsets\" is missing"]),
        Case(
            name: "field twice",
            bytes: safetensors(
                "{\"w\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
                data: 1), says: ["\"w\"", "\"dtype\" is there twice"]),
        Case(
            name: "unknown field",
            bytes: safetensors("{\"w\":{\"strides\":[1]}}"),
            says: ["\"w\"", "\"strides\" is not in the format"]),
        Case(
            name: "one offset",
            bytes: safetensors("{\"w\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0]}}"),
            says: ["\"w\"", "has not two entries"]),
        Case(
            name: "three offsets",
            bytes: safetensors("{\"w\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1,2]}}"),
            says: ["\"w\"", "has more than 2 entries"]),
        Case(
            name: "negative dimension",
            bytes: safetensors("{\"w\":\(entry(shape: "[-2]"))}", data: 8),
            says: ["\"w\"", "\"shape\" has an entry that is no whole number"]),
        Case(
            name: "fractional dimension",
            bytes: safetensors("{\"w\":\(entry(shape: "[2.0]"))}", data: 8),
            says: ["\"w\"", "\"shape\" has an entry that is no whole number"]),
        Case(
            name: "dimension beyond 64 bits",
            bytes: safetensors("{\"w\":\(entry(shape: "[99999999999999999999]"))}", data: 8),
            says: ["\"w\"", "\"shape\" has an entry that is no whole number"]),
        Case(
            name: "shape of 65 dimensions",
            bytes: safetensors(
                "{\"w\":\(entry(shape: "[1" + String(repeating: ",1", count: 64) + "]"))}"),
            says: ["\"w\"", "more than 64 entries"]),
        Case(
            name: "shape overflow",
            bytes: safetensors("{\"w\":\(entry(shape: "[4294967296,4294967296]"))}", data: 8),
            says: ["\"w\"", "more bytes than can be counted", "download it again"]),
        Case(
            name: "shape overflow by element size",
            bytes: safetensors("{\"w\":\(entry(shape: "[4611686018427387904]"))}", data: 8),
            says: ["\"w\"", "more bytes than can be counted"]),
        Case(
            name: "offsets reversed", bytes: safetensors("{\"w\":\(entry("F32", 8, 0))}", data: 8),
            says: ["\"w\"", "begin at 8 and end at 0"]),
        Case(
            name: "wrong size", bytes: safetensors("{\"w\":\(entry(shape: "[3]"))}", data: 8),
            says: ["\"w\"", "F32 of shape [3] takes 12 bytes", "span 8", "download it again"]),
        Case(
            name: "beyond the file", bytes: safetensors("{\"w\":\(good)}", data: 5),
            says: ["\"w\"", "ends 3 bytes before", "cut short"]),
        Case(
            name: "offset near the limit",
            bytes: safetensors(
                "{\"w\":\(entry("U8", shape: "[9223372036854775807]", 0, Int.max))}", data: 8),
            says: ["\"w\"", "cut short"]),
        Case(
            name: "overlap",
            bytes: safetensors("{\"v\":\(good),\"w\":\(entry("F32", 4, 12))}", data: 12),
            says: ["\"w\"", "overlap those of \"v\"", "download it again"]),
        Case(
            name: "the same bytes twice",
            bytes: safetensors("{\"v\":\(good),\"w\":\(good)}", data: 8),
            says: ["overlap those of", "download it again"]),
        Case(
            name: "hole",
            bytes: safetensors("{\"v\":\(good),\"w\":\(entry("F32", 12, 20))}", data: 20),
            says: ["\"w\"", "4 bytes before its data", "download it again"]),
        Case(
            name: "hole at the start",
            bytes: safetensors("{\"w\":\(entry("F32", 4, 12))}", data: 12),
            says: ["\"w\"", "4 bytes before its data"]),
        Case(
            name: "trailing bytes", bytes: safetensors("{\"w\":\(good)}", data: 11),
            says: ["3 bytes after the last tensor", "download it again"]),
        Case(
            name: "metadata of numbers",
            bytes: safetensors("{\"__metadata__\":{\"step\":3},\"w\":\(good)}", data: 8),
            says: ["metadata entry \"step\" is not a string", "save it anew"]),
        Case(
            name: "metadata is no object", bytes: safetensors("{\"__metadata__\":[]}"),
            says: ["\"__metadata__\" is not an object"]),
        Case(
            name: "metadata twice",
            bytes: safetensors("{\"__metadata__\":{},\"__metadata__\":{}}"),
            says: ["__metadata__", "there twice"]),
        Case(
            name: "metadata key twice",
            bytes: safetensors("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}"),
            says: ["__metadata__.a", "there twice"]),
        Case(
            name: "name that is not UTF-8",
            bytes: [6, 0, 0, 0, 0, 0, 0, 0, 0x7B, 0x22, 0xFF, 0x22, 0x3A, 0x7D],
            says: ["not UTF-8", "download it again"]),
        Case(
            name: "name with a lone surrogate", bytes: safetensors("{\"\\ud800\":\(good)}"),
            says: ["broken escape"]),
        Case(
            name: "name that never ends", bytes: safetensors("{\"abc"), says: ["never ends"]),
        Case(
            name: "name that ends in a backslash", bytes: safetensors("{\"abc\\"),
            says: ["never ends"]),
        Case(
            name: "control character in a name", bytes: safetensors("{\"a\u{1}\":\(good)}"),
            says: ["control character"]),
    ]

    @Test(arguments: cases) func errorNamesFileAndRemedy(_ malformed: Case) throws {
        let directory = try TemporaryDirectory()
        let path = try directory.file("broken.safetensors", malformed.bytes)
        let said = message { _ = try SafetensorsFile(path: path) }
        #expect(said.hasPrefix(path + ": "), "\(said)")
        for part in malformed.says {
            #expect(said.contains(part), "\(said) lacks \(part)")
        }
    }

    @Test func namesAreSafeToPrint() throws {
        let directory = try TemporaryDirectory()
        let name = "\\u001b[31m" + String(repeating: "x", count: 5000)
        let path = try directory.file("a", safetensors("{\"\(name)\":{}}"))
        let said = message { _ = try SafetensorsFile(path: path) }
        #expect(said.contains("\\u{1b}[31mxxx"))
        #expect(!said.unicodeScalars.contains("\u{1b}"))
        #expect(said.utf8.count < 1000)
    }

    @Test func hugeSparseHeaderIsRefusedWithoutReadingIt() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.file("a", [0, 0xE1, 0xF5, 0x05, 0, 0, 0, 0])
        #expect(truncate(path, 200_000_000) == 0)
        #expect(message { _ = try SafetensorsFile(path: path) }.contains("does not begin"))
    }

    @Test func whatIsNoFileIsAnErrorAndDoesNotBlock() throws {
        let directory = try TemporaryDirectory()
        let pipe = directory.path + "/pipe"
        #expect(mkfifo(pipe, 0o644) == 0)
        #expect(message { _ = try SafetensorsFile(path: pipe) }.contains("cannot read as a file"))
        #expect(message { _ = try SafetensorsFile(path: directory.path) }.contains("directory"))
        let absent = directory.path + "/absent"
        let said = message { _ = try SafetensorsFile(path: absent) }
        #expect(said == "cannot open \(absent): No such file or directory; check the path")
        #expect(message { _ = try SafetensorsFile(path: "a\u{0}b") }.contains("\\u{0}"))
    }

    @Test(.enabled(if: geteuid() != 0, "root may read every file"))
    func unreadableFileNamesPermissions() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.file("a", safetensors("{}"))
        #expect(chmod(path, 0) == 0)
        let said = message { _ = try SafetensorsFile(path: path) }
        #expect(said.contains(path) && said.contains("permissions"))
    }

    @Test func zeroSizeTensorsShareAnOffset() throws {
        let directory = try TemporaryDirectory()
        let empty = Self.entry("F32", shape: "[0,3]", 0, 0)
        let path = try directory.file(
            "a", safetensors("{\"w\":\(Self.good),\"a\":\(empty),\"b\":\(empty)}  ", data: 8))
        let file = try SafetensorsFile(path: path)
        #expect(file.tensors.count == 3)
        #expect(try file.bytes(of: "a").count == 0)
        #expect(file.info("a")?.elementCount == 0)
        try file.withUnsafeBytes(of: "w") { #expect(Array($0) == Array(0..<8)) }
    }

    @Test func aChangedFileIsNoticed() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.file("a", safetensors("{\"w\":\(Self.good)}", data: 8))
        let file = try SafetensorsFile(path: path)
        try file.checkUnchanged()
        try AtomicFile.write(safetensors("{}"), to: path)
        #expect(message { try file.checkUnchanged() }.contains("changed after it was opened"))
        // The mapping still shows the file that was opened.
        try file.withUnsafeBytes(of: "w") { #expect(Array($0) == Array(0..<8)) }
    }
}

extension MalformedFileTests {
    static func entry(_ dtype: String, _ begin: Int, _ end: Int) -> String {
        entry(dtype, shape: "[2]", begin, end)
    }
}
