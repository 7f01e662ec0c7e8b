import MinimaCore
import Testing

@Suite struct FormatSpecTests {
    private func read(_ text: String) throws -> FormatSpec {
        try FormatSpec(json: JSON(parsing: text))
    }

    /// A stored specification with `member` in place of the one of its key.
    private func stored(_ key: String, _ value: JSON) throws -> FormatSpec {
        var members = try #require(
            FormatSpec(format: "tt", outputModes: [2], inputModes: [3], ranks: [4]).json.object)
        members[JSON.Name(key)] = value
        return try FormatSpec(json: .object(members))
    }

    @Test func whatIsWrittenIsRead() throws {
        let spec = FormatSpec(format: "tt", outputModes: [3, 4], inputModes: [2], ranks: [5, 1])
        #expect(try FormatSpec(json: spec.json) == spec)
        let plain = FormatSpec(format: "dense")
        #expect(try FormatSpec(json: plain.json) == plain)
        let long = [Int](repeating: 2, count: 64)
        #expect(try stored("ranks", .array(long.map { .integer(Int64($0)) })).ranks == long)
    }

    @Test func unknownKeysAreRefused() throws {
        let known = ["format", "output_modes", "input_modes", "ranks"]
        #expect(throws: FormatSpecError.unknownKey("rank", known: known)) {
            try stored("rank", [1])
        }
    }

    @Test("no object", arguments: ["[]", "7", "null", "\"tt\""])
    func notAnObject(text: String) throws {
        let kind = try JSON(parsing: text).kind
        #expect(throws: FormatSpecError.notAnObject(found: kind)) { try read(text) }
    }

    @Test("bad sizes", arguments: ["output_modes", "input_modes", "ranks"])
    func badSizes(key: String) throws {
        let tooMany = JSON.array([JSON](repeating: 1, count: 65))
        let values: [JSON] = [
            [0], [-1], [2, 0], [1.5], ["2"], [true], [.null], [[2]], 2, "2", .null, .object([:]),
            tooMany,
        ]
        for value in values {
            #expect(throws: FormatSpecError.badValue(key: key), "\(value)") {
                try stored(key, value)
            }
        }
        #expect(throws: FormatSpecError.badValue(key: key)) {
            var members = try #require(FormatSpec(format: "tt").json.object)
            members.removeValue(forKey: JSON.Name(key))
            _ = try FormatSpec(json: .object(members))
        }
    }

    @Test func theFormatIsAString() throws {
        for value in [7, .null, ["tt"], true] as [JSON] {
            #expect(throws: FormatSpecError.badValue(key: "format")) {
                try stored("format", value)
            }
        }
        #expect(throws: FormatSpecError.badValue(key: "format")) { try read("{}") }
    }
}
