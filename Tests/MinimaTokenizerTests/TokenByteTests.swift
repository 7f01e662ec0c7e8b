import MinimaCore
import Testing

@testable import MinimaTokenizer

/// The bytes of single tokens.
@Suite struct TokenByteTests {
    /// What GPT-2's published encoder (`bytes_to_unicode`) writes for some bytes.
    @Test func byteLevelTokens() throws {
        let tokenizer = try Goldens.style("gpt2").tokenizer()
        let known: [(String, UInt8)] = [
            ("!", 0x21), ("~", 0x7E), ("¡", 0xA1), ("¬", 0xAC), ("®", 0xAE), ("ÿ", 0xFF),
            ("Ā", 0x00), ("Ċ", 0x0A), ("Ġ", 0x20), ("ġ", 0x7F), ("Ģ", 0x80), ("Ń", 0xAD),
        ]
        for (spelling, byte) in known {
            let id = try #require(tokenizer.id(for: spelling))
            #expect(tokenizer.bytes(of: id) == [byte], "\(spelling)")
        }
        let the = try #require(tokenizer.id(for: "Ġthe"))
        #expect(tokenizer.bytes(of: the) == Array(" the".utf8))
        let end = try #require(
            tokenizer.specialTokens.end?.id ?? tokenizer.id(for: "<|endoftext|>"))
        #expect(tokenizer.bytes(of: end) == Array("<|endoftext|>".utf8))
        #expect(tokenizer.bytes(of: -1) == [])
        #expect(tokenizer.bytes(of: Int32(tokenizer.vocabularySize)) == [])
    }

    /// A vocabulary of all 256 bytes has each of them once, byte-level or as byte tokens.
    @Test(arguments: ["gpt2", "qwen3", "llama3", "gpt-oss", "llama2"])
    func allBytesHaveTokens(name: String) throws {
        let tokenizer = try Goldens.style(name).tokenizer()
        let tokens = (0..<Int32(tokenizer.vocabularySize)).map { tokenizer.bytes(of: $0) }
        #expect(Set(tokens.filter { $0.count == 1 }.map { $0[0] }).count == 256)
    }

    @Test func byteTokensAndVisibleSpaces() throws {
        let tokenizer = try Goldens.style("llama2").tokenizer()
        for byte in UInt8.min ... .max {
            let digits = String(byte, radix: 16, uppercase: true)
            let token = "<0x\(byte < 16 ? "0" : "")\(digits)>"
            let id = try #require(tokenizer.id(for: token))
            #expect(tokenizer.bytes(of: id) == [byte], "\(token)")
        }
        // The space stays, though a text would lose it at its beginning.
        let the = try #require(tokenizer.id(for: "▁the"))
        #expect(tokenizer.bytes(of: the) == Array(" the".utf8))
    }

    /// Bytes of arbitrary ids, joined, are the text that Hugging Face's library gives for them.
    @Test(arguments: try Goldens.styles())
    func joinedTheyAreTheGoldensText(style: Goldens.Style) throws {
        let tokenizer = try style.tokenizer()
        let hasByteTokens = tokenizer.id(for: "<0x00>") != nil
        // The cases' own texts are without special tokens.
        let cases = style.cases.map { known in
            (ids: known.ids, decoded: tokenizer.decode(known.ids, skipSpecialTokens: false))
        }
        for (ids, decoded) in style.noise + cases {
            let bytes = ids.flatMap { tokenizer.bytes(of: $0) }
            // The library reads a run of byte tokens that is not UTF-8 in another way.
            if hasByteTokens, String(validating: bytes, as: UTF8.self) == nil { continue }
            let joined = Array(String(decoding: bytes, as: UTF8.self).unicodeScalars)
            let expected = Array(decoded.unicodeScalars)
            #expect(
                joined == expected || joined == [" "] + expected || joined == expected + [" "],
                "\(style.name): \(ids): \(decoded.debugDescription)")
        }
    }

    /// Decoders that no golden style has by themselves.
    @Test(arguments: [
        (#"null"#, " ab"), (#"{"type": "Fuse"}"#, "ab"),
        (#"{"type": "Strip", "content": "a", "start": 1, "stop": 0}"#, "b"),
        (#"{"type": "Strip", "content": "b", "start": 0, "stop": 2}"#, "a"),
        (#"{"type": "BPEDecoder", "suffix": "b"}"#, "a "),
        (#"{"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": "é"}"#, "éé"),
        (
            #"{"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": true}"#,
            " b"
        ),
        (
            #"{"type": "Sequence", "decoders": [{"type": "Fuse"}, "#
                + #"{"type": "Strip", "content": "a", "start": 1, "stop": 0}]}"#, "ab"
        ),
    ])
    func decoders(decoder: String, expected: String) throws {
        let document = try JSON(
            parsing: Array(
                #"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}, "#
                    .utf8) + Array("\"decoder\": \(decoder)}".utf8))
        let tokenizer = try Tokenizer(tokenizerJSON: document)
        #expect(String(decoding: tokenizer.bytes(of: 2), as: UTF8.self) == expected)
    }
}
