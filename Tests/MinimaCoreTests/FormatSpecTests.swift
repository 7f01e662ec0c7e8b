import FoundationEssentials
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
        #expect(plain.json == ["format": "dense"])
        let quantized = FormatSpec(format: "quantized", bits: 4, groupSize: 32, parts: [spec])
        #expect(try FormatSpec(json: quantized.json) == quantized)
        #expect(
            try read(
                """
                {"format": "sum", "ranks": [2], "bits": 3, "group_size": 64,
                 "parts": [{"format": "sparse", "ranks": [5]}, {"format": "dense"}]}
                """)
                == FormatSpec(
                    format: "sum", ranks: [2], bits: 3, groupSize: 64,
                    parts: [FormatSpec(format: "sparse", ranks: [5]), plain]))
        let long = [Int](repeating: 2, count: 64)
        #expect(try stored("ranks", .array(long.map { .integer(Int64($0)) })).ranks == long)
    }

    @Test func unknownKeysAreRefused() throws {
        let known = [
            "format", "output_modes", "input_modes", "ranks", "bits", "group_size", "levels",
            "parts",
        ]
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
        let tooMany = JSON.array([JSON](repeating: 1, count: 4097))
        let values: [JSON] = [
            [0], [-1], [2, 0], [1.5], ["2"], [true], [.null], [[2]], 2, "2", .null, .object([:]),
            tooMany,
        ]
        for value in values {
            #expect(throws: FormatSpecError.badValue(key: key), "\(value)") {
                try stored(key, value)
            }
        }
        var members = try #require(FormatSpec(format: "tt", ranks: [2]).json.object)
        members.removeValue(forKey: JSON.Name(key))
        #expect(try FormatSpec(json: .object(members)).ranks == (key == "ranks" ? [] : [2]))
    }

    @Test("bad numbers", arguments: ["bits", "group_size"])
    func badNumbers(key: String) throws {
        for value in [0, -1, 1.5, "2", true, .null, [2], .object([:])] as [JSON] {
            #expect(throws: FormatSpecError.badValue(key: key), "\(value)") {
                try stored(key, value)
            }
        }
        #expect(try stored(key, 7).json[key] == 7)
    }

    /// Specifications without levels are those of checkpoints from before there was a choice.
    @Test func levelsAreNormalUnlessNamed() throws {
        let plain = FormatSpec(format: "quantized", bits: 4)
        #expect(plain.levels == .normal && plain.json["levels"] == nil)
        #expect(try stored("levels", "normal").levels == .normal)
        var uniform = plain
        uniform.levels = .uniform
        #expect(uniform.json["levels"] == "uniform")
        #expect(try FormatSpec(json: uniform.json) == uniform && uniform != plain)
        let encoded = try JSONEncoder().encode([plain, uniform])
        #expect(try JSONDecoder().decode([FormatSpec].self, from: encoded) == [plain, uniform])
        #expect(plain.title == "int4" && uniform.title == "int4u")
        // With 8 bits there is one kind of levels, and what was measured of it holds for both
        // names.
        let eight = FormatSpec(format: "quantized", bits: 8, levels: .uniform)
        #expect(eight == FormatSpec(format: "quantized", bits: 8) && eight.title == "int8")
        let named: JSON = ["format": "quantized", "bits": 8, "levels": "uniform"]
        #expect(try FormatSpec(json: named) == eight)
        let float8 = FormatSpec(format: "quantized", bits: 8, levels: .float8)
        #expect(float8 != eight && float8.title == "fp8" && float8.json["levels"] == "float8")
        #expect(try FormatSpec(json: float8.json) == float8)
        let fitting = FormatSpec.Levels.allCases.map { [$0.fitting(bits: 4), $0.fitting(bits: 8)] }
        #expect(fitting == [[.normal, .normal], [.uniform, .normal], [.normal, .float8]])
        for value in ["even", "", 4, true, .null, [2]] as [JSON] {
            #expect(throws: FormatSpecError.badValue(key: "levels"), "\(value)") {
                try stored("levels", value)
            }
        }
    }

    @Test func partsAreSpecifications() throws {
        let tooMany = JSON.array([JSON](repeating: ["format": "dense"], count: 4097))
        for value in [7, "tt", .null, .object([:]), tooMany] as [JSON] {
            #expect(throws: FormatSpecError.badValue(key: "parts")) { try stored("parts", value) }
        }
        #expect(throws: FormatSpecError.notAnObject(found: JSON.integer(7).kind)) {
            try stored("parts", [7])
        }
        #expect(throws: FormatSpecError.badValue(key: "format")) {
            try stored("parts", [.object([:])])
        }
    }

    @Test func nestingEnds() throws {
        func nested(_ depth: Int) -> String {
            let open = String(repeating: #"{"format": "sum", "parts": ["#, count: depth - 1)
            return open + #"{"format": "dense"}"# + String(repeating: "]}", count: depth - 1)
        }
        for depth in 1...FormatSpec.deepest {
            let spec = try read(nested(depth))
            #expect(try FormatSpec(json: spec.json) == spec)
            let coded = try JSONDecoder().decode(
                FormatSpec.self, from: JSONEncoder().encode(spec))
            #expect(coded == spec)
        }
        for depth in [FormatSpec.deepest + 1, 50] {
            #expect(throws: FormatSpecError.tooDeep) { try read(nested(depth)) }
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
