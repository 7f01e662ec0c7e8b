import MinimaCore
import Testing

@testable import MinimaTokenizer

/// Files that are not what they should be: an error says so, and nothing traps.
@Suite struct MalformedFileTests {
    /// A small file with a component of nearly every kind.
    private static let document: JSON = [
        "version": "1.0",
        "added_tokens": [
            [
                "id": 9, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true,
                "normalized": false, "special": true,
            ],
            ["id": 0, "content": "a", "special": false, "normalized": true, "single_word": true],
        ],
        "normalizer": [
            "type": "Sequence",
            "normalizers": [
                ["type": "NFC"], ["type": "Prepend", "prepend": "b"],
                ["type": "Replace", "pattern": ["Regex": " +"], "content": " "],
                ["type": "Strip", "strip_left": false, "strip_right": true],
            ],
        ],
        "pre_tokenizer": [
            "type": "Sequence",
            "pretokenizers": [
                [
                    "type": "Split", "pattern": ["Regex": #"\p{N}{1,3}|[^\s\p{L}]?\p{L}+"#],
                    "behavior": "Isolated", "invert": false,
                ],
                ["type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"],
                ["type": "Digits", "individual_digits": true],
                ["type": "ByteLevel", "add_prefix_space": false, "use_regex": false],
            ],
        ],
        "post_processor": [
            "type": "TemplateProcessing",
            "single": [
                ["SpecialToken": ["id": "<s>", "type_id": 0]],
                ["Sequence": ["id": "A", "type_id": 0]],
            ],
            "special_tokens": ["<s>": ["id": "<s>", "ids": [9], "tokens": ["<s>"]]],
        ],
        "decoder": [
            "type": "Sequence",
            "decoders": [
                ["type": "Replace", "pattern": ["String": "▁"], "content": " "],
                ["type": "ByteFallback"], ["type": "Fuse"],
                ["type": "Strip", "content": " ", "start": 1, "stop": 1],
            ],
        ],
        "model": [
            "type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
            "ignore_merges": false, "dropout": nil, "continuing_subword_prefix": nil,
            "vocab": [
                "<unk>": 0, "a": 1, "b": 2, "ab": 3, "<0x41>": 4, "Ġ": 5, "Ġa": 6, "bb": 7,
                "abb": 8,
            ],
            "merges": [["a", "b"], ["Ġ", "a"], ["b", "b"], ["ab", "b"], ["a", "bb"]],
        ],
    ]

    private static let texts = ["ab abb ba", "<s> a  12 é\u{301}🙂", "", "abbbbbbbabab" + "b ab"]

    /// Loads a document; what loads must also work.
    private func exercise(_ document: JSON) -> Bool {
        do {
            let tokenizer = try Tokenizer(tokenizerJSON: document)
            for text in Self.texts {
                guard let ids = try? tokenizer.encode(text) else { continue }
                _ = tokenizer.decode(ids, skipSpecialTokens: false)
            }
            _ = tokenizer.decode([-1, 0, 1, 4, 7, .max, .min], skipSpecialTokens: true)
            return true
        } catch {
            #expect(!error.description.isEmpty)
            return false
        }
    }

    @Test func theDocumentItselfLoads() throws {
        let tokenizer = try Tokenizer(tokenizerJSON: Self.document)
        #expect(try tokenizer.encode("ab").first == 9)
        #expect(tokenizer.vocabularySize == 10)
    }

    @Test func mutatedBytesNeverTrap() throws {
        let original = Array(Self.document.text(indent: nil).utf8)
        var generator = SplitMix(1)
        var (loaded, refused) = (0, 0)
        for _ in 0..<2500 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...3, using: &generator) where !bytes.isEmpty {
                let place = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<5, using: &generator) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes.remove(at: place)
                case 2:
                    bytes.insert(
                        Array("0123456789\"{}[]:,-\\e".utf8).randomElement(using: &generator) ?? 0,
                        at: place)
                case 3: bytes.removeLast(bytes.count - place)
                default:
                    let end = min(bytes.count, place + Int.random(in: 1...40, using: &generator))
                    bytes.insert(contentsOf: bytes[place..<end], at: place)
                }
            }
            guard let document = try? JSON(parsing: bytes) else { continue }
            if exercise(document) { loaded += 1 } else { refused += 1 }
        }
        #expect(loaded > 20 && refused > 20, "\(loaded) loaded, \(refused) refused")
    }

    @Test func mutatedValuesNeverTrap() throws {
        let values: [JSON] = [
            nil, true, -1, 0, 1, 3, .integer(Int64(Int32.max)), .integer(1 << 31), .integer(.max),
            .integer(.min), 0.5, 1e300, "", " ", "a", "ab", "▁▁", "é", "\u{0}", "first", "NFD",
            "Sequence", "Removed", "(", #"(a*)*b"#, #"\p{L}+"#, #"(?<=a)\K"#, [], [[]], ["a"],
            ["a", "b", "c"], [:], ["type": "Fuse"], ["String": ""], ["Regex": "x*"], ["a": 0],
            ["type": "ByteLevel", "add_prefix_space": true],
        ]
        var generator = SplitMix(2)
        var (loaded, refused) = (0, 0)
        for _ in 0..<2500 {
            var document = Self.document
            for _ in 0..<Int.random(in: 1...2, using: &generator) {
                document = mutated(document, values, &generator)
            }
            if exercise(document) { loaded += 1 } else { refused += 1 }
        }
        #expect(loaded > 300 && refused > 300, "\(loaded) loaded, \(refused) refused")
    }

    /// `json` with one value somewhere replaced, removed or repeated.
    private func mutated(
        _ json: JSON, _ values: [JSON], _ generator: inout SplitMix
    ) -> JSON {
        let stops = Int.random(in: 0..<8, using: &generator) == 0
        switch json {
        case .array(var elements) where !elements.isEmpty && !stops:
            let index = Int.random(in: 0..<elements.count, using: &generator)
            switch Int.random(in: 0..<6, using: &generator) {
            case 0: elements.remove(at: index)
            case 1: elements.append(elements[index])
            default: elements[index] = mutated(elements[index], values, &generator)
            }
            return .array(elements)
        case .object(var members) where !members.isEmpty && !stops:
            let name = members.keys[Int.random(in: 0..<members.count, using: &generator)]
            if Int.random(in: 0..<8, using: &generator) == 0 {
                members[name] = nil
            } else {
                members[name] = mutated(members[name] ?? nil, values, &generator)
            }
            return .object(members)
        default: return values.randomElement(using: &generator) ?? nil
        }
    }

    /// The document with another model section.
    private func document(model changes: [(String, JSON)]) -> JSON {
        var members = Self.document.object ?? [:]
        var model = members["model"]?.object ?? [:]
        for (name, value) in changes { model[JSON.Name(name)] = value }
        members["model"] = .object(model)
        return .object(members)
    }

    @Test(arguments: [
        (#"{"a": 0, "b": 0}"#, "[]", "the id 0 of \"b\" has another token already"),
        (#"{"a": 2147483648}"#, "[]", "has the id 2147483648"),
        (#"{"a": 99999999}"#, "[]", "has the id 99999999"),
        (#"{"a": -1}"#, "[]", "has the id -1"),
        (#"{"a": 0.5}"#, "[]", "has the id 0.5"),
        (#"{"a": 0}"#, #"["a b"]"#, "the vocabulary does not hold"),
        (#"{"a": 0, "b": 1}"#, #"[["a", "b"]]"#, "the vocabulary does not hold"),
        (#"{"a": 0, "aa": 1}"#, #"["a a a"]"#, "expected \"left right\""),
        (#"{"a": 0, "aa": 1}"#, #"[["a"]]"#, "expected \"left right\""),
        (#"{"a": 0, "aa": 1}"#, "[7]", "merge 0 is 7"),
        (#"{"a": 0}"#, "{}", "expected an array, found an object"),
        (#"["a"]"#, "[]", "expected an object, found an array"),
    ])
    func modelErrorsNameTheTrouble(vocabulary: String, merges: String, message: String) throws {
        let changed = document(model: [
            ("vocab", try JSON(parsing: vocabulary)), ("merges", try JSON(parsing: merges)),
        ])
        let error = #expect(throws: TokenizerError.self) {
            try Tokenizer(tokenizerJSON: changed, file: "dir/tokenizer.json")
        }
        let text = error?.description ?? ""
        #expect(text.contains(message) && text.contains("dir/tokenizer.json"), "\(text)")
    }

    @Test func mergesThatLeadInACircleEnd() throws {
        // "aa" is made of "a" and "a", and "a" cannot be made again: ranks out of order are fine.
        let changed = document(model: [
            ("vocab", ["a": 0, "aa": 1, "aaa": 2, "<unk>": 3]),
            ("merges", ["aa a", "a aa", "a a", "aa a"]),
        ])
        let tokenizer = try Tokenizer(tokenizerJSON: changed)
        let text = String(repeating: "a", count: 500)
        #expect(try !tokenizer.encode(text).isEmpty)
    }

    @Test(arguments: [
        ("normalizer", "Precompiled"), ("normalizer", "NFKC"), ("normalizer", "BertNormalizer"),
        ("pre_tokenizer", "UnicodeScripts"), ("pre_tokenizer", "BertPreTokenizer"),
        ("post_processor", "Unknown"), ("decoder", "WordPiece"), ("decoder", "CTC"),
        ("model", "Unigram"), ("model", "WordPiece"),
    ])
    func unsupportedComponentsAreNamed(section: String, type: String) throws {
        var members = Self.document.object ?? [:]
        members[JSON.Name(section)] = ["type": .string(type)]
        let error = #expect(throws: TokenizerError.self) {
            try Tokenizer(tokenizerJSON: .object(members))
        }
        let text = error?.description ?? ""
        #expect(text.contains("tokenizer.json: \(section) is of type \"\(type)\""), "\(text)")
    }

    @Test(arguments: ["(", "[", "a{2", "[a&&b]", "[a[b]]", "(?s:a)", #"\p{Nonsense}"#, "*", #"\"#])
    func patternsThatCannotBeCompiledAreErrors(pattern: String) throws {
        var members = Self.document.object ?? [:]
        members["pre_tokenizer"] = [
            "type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Removed",
            "invert": false,
        ]
        // An unfinished interval is literal text in Oniguruma's syntax.
        if pattern == "a{2" {
            #expect(try Tokenizer(tokenizerJSON: .object(members)).encode("xa{2").count > 0)
            return
        }
        let error = #expect(throws: TokenizerError.self) {
            try Tokenizer(tokenizerJSON: .object(members))
        }
        #expect(error?.description.contains("regular expression \(pattern)") == true)
    }

    @Test func endlessBacktrackingIsAnError() throws {
        var members = Self.document.object ?? [:]
        members["normalizer"] = nil
        members["pre_tokenizer"] = [
            "type": "Split", "pattern": ["Regex": "(a+a+)+$"], "behavior": "Removed",
            "invert": false,
        ]
        let tokenizer = try Tokenizer(tokenizerJSON: .object(members))
        let error = #expect(throws: TokenizerError.self) {
            try tokenizer.encode(String(repeating: "a", count: 60) + "b")
        }
        #expect(error?.description.contains("matching (a+a+)+$ failed") == true)
    }

    @Test func aMissingUnknownTokenIsAnErrorOnlyWhenItIsNeeded() throws {
        let changed = document(model: [("unk_token", "<missing>"), ("byte_fallback", false)])
        var members = changed.object ?? [:]
        members["normalizer"] = nil
        members["pre_tokenizer"] = nil
        let tokenizer = try Tokenizer(tokenizerJSON: .object(members))
        #expect(try tokenizer.encode("abb") == [9, 8])
        #expect(throws: TokenizerError.unknownTokenMissing("<missing>")) {
            try tokenizer.encode("é")
        }
    }
}
