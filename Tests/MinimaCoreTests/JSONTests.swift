import MinimaCore
import Testing

/// What an error says, or "no error".
private func refusal(_ text: String) -> String { refusal(Array(text.utf8)) }

private func refusal(_ bytes: [UInt8]) -> String {
    do throws(JSONError) {
        _ = try JSON(parsing: bytes)
        return "no error"
    } catch {
        return error.description
    }
}

@Suite struct JSONParsingTests {
    static let accepted: [(String, JSON)] = [
        ("null", JSON.null), ("true", true), (" false\n", false), ("0", 0), ("-0", .integer(0)),
        ("-17", -17), ("9223372036854775807", .integer(.max)),
        ("-9223372036854775808", .integer(.min)), ("9223372036854775808", .number(0x1p63)),
        ("1.5", 1.5), ("1E2", .number(100)), ("-2.5e-3", .number(-0.0025)), ("1e+2", .number(100)),
        ("\"\"", ""), ("\"a\\\"b\\\\c\\/d\\b\\f\\n\\r\\t\"", "a\"b\\c/d\u{8}\u{c}\n\r\t"),
        ("\"\\u0041\\u00e9\\u6f22\"", "Aé漢"), ("\"\\uD834\\uDD1E\"", "\u{1D11E}"),
        ("\"é漢\u{1D11E}\u{7f}\"", "é漢\u{1D11E}\u{7f}"), ("\"\\u0000\"", "\u{0}"),
        ("[]", []), ("[ ]", []), ("{}", [:]), ("{ }", [:]),
        ("[1,[2,[]],{\"a\":null}]", [1, [2, []], ["a": nil]]),
        ("\t{ \"a\" : [ 1 , 2 ] , \"b\" : { } }\r\n", ["a": [1, 2], "b": [:]]),
        ("\u{FEFF}[1]", [1]),
    ]

    @Test(arguments: accepted) func accepts(text: String, value: JSON) throws {
        #expect(try JSON(parsing: text) == value)
    }

    /// The RFC's own examples (RFC 8259, section 13).
    @Test func readsTheExamplesOfTheRFC() throws {
        let image = try JSON(
            parsing: """
                {"Image": {"Width": 800, "Title": "View from 15th Floor", "Animated" : false,
                "Thumbnail": {"Url": "http://www.example.com/image/481989943", "Height": 125},
                "IDs": [116, 943, 234, 38793]}}
                """)
        #expect(image["Image"]?["Thumbnail"]?["Height"]?.int == 125)
        #expect(image["Image"]?["Animated"]?.bool == false)
        #expect(image["Image"]?["IDs"]?.array?.compactMap(\.int) == [116, 943, 234, 38793])
        let places = try JSON(
            parsing: "[{\"precision\": \"zip\", \"Latitude\": 37.7668, \"Longitude\": -122.3959}]")
        #expect(places.array?.first?["Longitude"]?.double == -122.3959)
    }

    @Test(arguments: [
        ("", "the text ends where a value is due"), ("  ", "the text ends"), ("[1", "expected ','"),
        ("[1,]", "expected a value"), ("[,1]", "expected a value"), ("[1 2]", "expected ','"),
        ("{\"a\":1,}", "expected a member name"), ("{a:1}", "expected a member name"),
        ("{\"a\" 1}", "expected ':'"), ("{\"a\":}", "expected a value"), ("{", "expected a member"),
        ("{\"a\":1 \"b\":2}", "expected ',' or '}'"), ("]", "expected a value"),
        ("1 2", "text after the document's end"), ("nul", "expected null"), ("True", "expected a"),
        ("truex", "text after"), ("NaN", "expected a value"), ("Infinity", "expected a value"),
        ("-Infinity", "expected a digit"), ("+1", "expected a value"), ("01", "a leading zero"),
        ("-01", "a leading zero"), ("1.", "expected a digit"), (".5", "expected a value"),
        ("1e", "expected a digit"), ("1e+", "expected a digit"), ("-", "expected a digit"),
        ("0x10", "text after"), ("1e400", "out of range"), ("'a'", "expected a value"),
        ("\"abc", "never ends"), ("\"abc\\", "unknown escape"), ("\"\\x\"", "unknown escape"),
        ("\"a\nb\"", "control character"), ("\"\\n\u{1}\"", "control character"),
        ("\"\\u12\"", "four hexadecimal"), ("\"\\u12G4\"", "four hexadecimal"),
        ("\"\\ud800\"", "lone surrogate"), ("\"\\udc00\"", "lone surrogate"),
        ("\"\\ud800x\"", "lone surrogate"), ("\"\\ud800\\n\"", "lone surrogate"),
        ("\"\\ud800\\u0041\"", "lone surrogate"), ("\"\\ud800\\ud800\"", "lone surrogate"),
        ("// no\n1", "expected a value"), ("[1]\u{0}", "text after"), ("\u{0}", "expected a value"),
        ("{\"a\":1,\"a\":2}", "the name \"a\" appears twice"),
        ("{\"a\":1,\"\\u0061\":2}", "the name \"a\" appears twice"),
        ("[{\"x\":{\"é\":1,\"é\":1}}]", "appears twice"),
    ])
    func refuses(text: String, says: String) {
        let said = refusal(text)
        #expect(said.contains(says) && said.hasPrefix("not valid JSON at line"), "\(said)")
    }

    @Test(
        arguments: [
            [0x22, 0xFF, 0x22], [0x22, 0xC3, 0x22], [0x22, 0xC0, 0x80, 0x22],
            [0x22, 0xED, 0xA0, 0x80, 0x22], [0x22, 0xF5, 0x80, 0x80, 0x80, 0x22],
            [0x22, 0x5C, 0x6E, 0x80, 0x22],
        ] as [[UInt8]])
    func refusesWhatIsNotUTF8(bytes: [UInt8]) {
        #expect(refusal(bytes).contains("not UTF-8"))
    }

    @Test func refusesAnEscapeOfNonASCIIDigits() {
        #expect(refusal("\"\\u００４１\"").contains("four hexadecimal"))
    }

    @Test func errorsNameThePlace() {
        #expect(
            refusal("{\n  \"a\": 1,\n  \"b\": tru\n}")
                == "not valid JSON at line 3, column 8: expected true")
        #expect(refusal("[1,\n2,\n").hasPrefix("not valid JSON at line 3, column 1:"))
    }

    @Test func depthIsLimited() throws {
        let deep = String(repeating: "[", count: 128) + String(repeating: "]", count: 128)
        _ = try JSON(parsing: deep)
        #expect(refusal("[" + deep + "]").contains("nested deeper than 128"))
        #expect(
            refusal([UInt8](repeating: UInt8(ascii: "["), count: 5_000_000)).contains("deeper"))
        #expect(
            refusal(String(repeating: "{\"a\":", count: 100_000)).contains("deeper than 128"))
        #expect(throws: JSONError.self) { try JSON(parsing: "[[1]]", maxDepth: 2) }
        #expect(try JSON(parsing: "[[]]", maxDepth: 2) == [[]])
    }

    @Test func namesThatOnlyLookAlikeAreTwo() throws {
        let composed = "\u{E9}"
        let decomposed = "e\u{301}"
        let json = try JSON(parsing: "{\"\(composed)\": 1, \"\(decomposed)\": 2}")
        #expect(json.object?.count == 2)
        #expect(json[composed]?.int == 1 && json[decomposed]?.int == 2)
        #expect(JSON.Name(composed) != JSON.Name(decomposed))
        #expect(JSON.Name(decomposed) < JSON.Name(composed))
        #expect(Set([JSON.Name(composed), JSON.Name(decomposed), JSON.Name("\u{E9}")]).count == 2)
    }

    @Test func membersKeepTheirOrder() throws {
        let json = try JSON(parsing: "{\"z\": 1, \"a\": 2, \"m\": 3}")
        #expect(json.object?.keys.map(\.text) == ["z", "a", "m"])
    }
}

@Suite struct JSONValueTests {
    @Test func accessorsTakeOnlyTheirKind() {
        #expect(JSON.integer(3).int == 3 && JSON.number(3).int == 3)
        #expect(JSON.number(3.5).int == nil && JSON.number(1e300).int == nil)
        #expect(JSON.string("3").int == nil && JSON.bool(true).int == nil)
        #expect(JSON.integer(3).double == 3 && JSON.null.double == nil)
        #expect(JSON.bool(true).bool == true && JSON.integer(1).bool == nil)
        #expect(JSON.null.isNull && !JSON.bool(false).isNull)
        #expect(JSON.array([1])["a"] == nil && JSON.null.array == nil && JSON.null.object == nil)
        #expect(
            [JSON.null, true, 1, 1.5, "a", [], [:]].map(\.kind)
                == [
                    "null", "a boolean", "an integer", "a number", "a string", "an array",
                    "an object",
                ])
    }
}

@Suite struct JSONWritingTests {
    @Test func writesCompactAndIndented() throws {
        let json: JSON = ["b": [1, 2], "a": ["x": nil, "y": []], "c": [[true], [:]]]
        #expect(
            json.text(indent: nil)
                == "{\"b\":[1,2],\"a\":{\"x\":null,\"y\":[]},\"c\":[[true],{}]}")
        #expect(
            json.text(indent: nil, sortedKeys: true)
                == "{\"a\":{\"x\":null,\"y\":[]},\"b\":[1,2],\"c\":[[true],{}]}")
        #expect(
            JSON.object(["a": [1, 2], "b": [:]]).text()
                == "{\n  \"a\": [1, 2],\n  \"b\": {}\n}")
    }

    @Test func escapesWhatItMust() {
        #expect(
            JSON.string("\"\\\n\r\t\u{0}\u{1f}\u{7f}é\u{1D11E}/").text()
                == "\"\\\"\\\\\\n\\r\\t\\u0000\\u001f\u{7f}é\u{1D11E}/\"")
        #expect(JSON.string("\r\n").text() == "\"\\r\\n\"")
        #expect(JSON.number(.nan).text() == "null" && JSON.number(-.infinity).text() == "null")
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func randomDocumentsComeBack(seed: UInt64) throws {
        var random = SplitMix64(state: seed)
        for _ in 0..<300 {
            let json = JSON.random(depth: 0, &random)
            for text in [json.text(indent: nil), json.text(), json.text(indent: 7)] {
                let back = try JSON(parsing: text)
                #expect(back == json)
                // `==` on strings forgives other normal forms; the bytes must agree as well.
                #expect(back.text(indent: nil).utf8.elementsEqual(json.text(indent: nil).utf8))
            }
        }
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func mutatedDocumentsNeverTrap(seed: UInt64) throws {
        var random = SplitMix64(state: seed &+ 50)
        var accepted = 0
        for _ in 0..<3000 {
            var bytes = Array(JSON.random(depth: 0, &random).text(indent: nil).utf8)
            for _ in 0..<Int.random(in: 1...3, using: &random) where !bytes.isEmpty {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes[place] = .random(in: 0...255, using: &random)
                case 1: bytes.removeLast(bytes.count - place)
                case 2:
                    bytes.insert(
                        contentsOf: Array("\\u{[\"".utf8).shuffled(using: &random), at: place)
                default: bytes.remove(at: place)
                }
            }
            guard let json = try? JSON(parsing: bytes) else { continue }
            accepted += 1
            let text = json.text(indent: nil)
            #expect(try JSON(parsing: text).text(indent: nil).utf8.elementsEqual(text.utf8))
        }
        #expect(accepted > 100 && accepted < 2900)
    }
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

extension JSON {
    /// A document of a few levels with all kinds of values.
    fileprivate static func random(depth: Int, _ random: inout SplitMix64) -> JSON {
        func text() -> String {
            let alphabet = ["a", "\"", "\\", "\n", "é", "e\u{301}", "\r\n", "\u{1D11E}", "\u{0}"]
            return (0..<Int.random(in: 0...6, using: &random))
                .compactMap { _ in alphabet.randomElement(using: &random) }.joined()
        }
        switch Int.random(in: 0..<(depth < 4 ? 8 : 6), using: &random) {
        case 0: return .null
        case 1: return .bool(.random(using: &random))
        case 2: return .integer(.random(in: .min ... .max, using: &random))
        case 3:
            // Fractions only: a whole number is written as an integer would be.
            return .number(Double.random(in: -1...1, using: &random) * 1e-3)
        case 4, 5: return .string(text())
        case 6:
            return .array(
                (0..<Int.random(in: 0...4, using: &random)).map { _ in
                    JSON.random(depth: depth + 1, &random)
                })
        default:
            var members: [(Name, JSON)] = []
            for _ in 0..<Int.random(in: 0...4, using: &random) {
                members.append((Name(text()), JSON.random(depth: depth + 1, &random)))
            }
            return .object(.init(members, uniquingKeysWith: { first, _ in first }))
        }
    }
}
