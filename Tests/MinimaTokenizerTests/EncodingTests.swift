import MinimaCore
import MinimaTestSupport
import Testing

@testable import MinimaTokenizer

/// Properties of encoding, beside agreement with the goldens.
@Suite struct EncodingTests {
    @Test(arguments: ["gpt2", "llama3", "gpt-oss", "deepseek"])
    func byteLevelTextComesBack(name: String) throws {
        let tokenizer = try Goldens.style(name).tokenizer()
        var generator = SplitMix(5)
        for _ in 0..<300 {
            let text = generator.text(length: Int.random(in: 0...200, using: &generator))
            let ids = try tokenizer.encode(text, addSpecialTokens: false)
            let decoded = tokenizer.decode(ids, skipSpecialTokens: false)
            #expect(Array(decoded.utf8) == Array(text.utf8), "\(text.debugDescription)")
        }
    }

    @Test(arguments: ["qwen3", "gpt2", "llama3", "gpt-oss", "deepseek", "starcoder"])
    func rawBytesGiveTheTokensOfTheirSpelling(name: String) throws {
        let style = try Goldens.style(name)
        let (fast, slow) = (try style.tokenizer(), try style.tokenizer(prefersRawBytes: false))
        var generator = SplitMix(6)
        for _ in 0..<200 {
            let text = generator.text(length: Int.random(in: 0...150, using: &generator))
            #expect(try fast.encode(text) == slow.encode(text), "\(text.debugDescription)")
        }
    }

    @Test func invalidBytesCountAsReplacementCharacters() throws {
        let tokenizer = try Goldens.style("gpt2").tokenizer()
        var generator = SplitMix(7)
        for _ in 0..<500 {
            let bytes = (0..<Int.random(in: 0...40, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            let ids = try tokenizer.encode(utf8: bytes, addSpecialTokens: false)
            #expect(
                Array(tokenizer.decode(ids, skipSpecialTokens: false).utf8)
                    == Array(String(decoding: bytes, as: UTF8.self).utf8))
        }
    }

    @Test func arbitraryIdsStreamToWhatTheyDecodeTo() throws {
        for style in try Goldens.styles() {
            let tokenizer = try style.tokenizer()
            var generator = SplitMix(8)
            for _ in 0..<200 {
                let ids = (0..<Int.random(in: 0...20, using: &generator)).map { _ in
                    Int32.random(in: -2...Int32(tokenizer.vocabularySize + 1), using: &generator)
                }
                for skips in [true, false] {
                    var stream = tokenizer.makeStream(skipSpecialTokens: skips)
                    let text = ids.map { stream.append($0) }.joined() + stream.finish()
                    let whole = tokenizer.decode(ids, skipSpecialTokens: skips)
                    #expect(Array(text.utf8) == Array(whole.utf8), "\(style.name): \(ids)")
                }
            }
        }
    }

    @Test func theHeapMergesAsScanningDoes() throws {
        var generator = SplitMix(9)
        for round in 0..<300 {
            // Symbols 0..<6 and what random pairs of earlier tokens merge to.
            var table = MergeTable(capacity: 60)
            var pairs: Set<[Int32]> = []
            for rank in 0..<60 {
                let limit = Int32(6 + rank)
                let pair = [
                    Int32.random(in: 0..<limit, using: &generator),
                    Int32.random(in: 0..<limit, using: &generator),
                ]
                guard pairs.insert(pair).inserted else { continue }
                table.insert(
                    left: pair[0], right: pair[1], rank: UInt32(rank), merged: Int32(6 + rank))
            }
            let (scanned, heaped) = (EncoderScratch(), EncoderScratch())
            let count = Int.random(in: 0...120, using: &generator)
            scanned.symbols = (0..<count).map { _ in Int32.random(in: 0..<6, using: &generator) }
            heaped.symbols = scanned.symbols
            try table.withView { (view) throws(TokenizerError) in
                scanned.mergeByScanning(view)
                heaped.mergeByHeap(view)
            }
            #expect(scanned.symbols == heaped.symbols, "round \(round)")
        }
    }

    @Test func theCacheNeverMixesWordsUp() {
        let cache = WordCache()
        var generator = SplitMix(10)
        // Far more words than the cache holds, in lengths on both sides of every border.
        for _ in 0..<200_000 {
            let length = Int.random(in: 1...WordCache.maximumKeyLength, using: &generator)
            let letter = UInt8.random(in: 0...255, using: &generator)
            var bytes = [UInt8](repeating: letter, count: length)
            bytes[length / 2] = UInt8.random(in: 0...255, using: &generator)
            let expected = bytes.prefix(Int(bytes[0] % 4)).map { Int32($0) } + [Int32(length)]
            bytes += [UInt8](repeating: .random(in: 0...255, using: &generator), count: 16)
            bytes.withUnsafeBufferPointer { bytes in
                let key = WordCache.key(UnsafeBufferPointer(rebasing: bytes[..<length]))
                var found: [Int32] = []
                if cache.append(key, to: &found) {
                    if found != expected { Issue.record("\(found), not \(expected)") }
                } else {
                    cache.insert(key, expected[...])
                }
            }
        }
    }

    @Test func longWordsAndLongTextsTakeLinearTime() throws {
        let tokenizer = try Goldens.style("qwen3").tokenizer()
        let word = String(repeating: "the", count: 100_000)
        #expect(try tokenizer.decode(tokenizer.encode(word)) == word)
        let spaces = String(repeating: " ", count: 300_000)
        #expect(try tokenizer.decode(tokenizer.encode(spaces)) == spaces)
    }

    @Test func callsMayRunAtTheSameTime() async throws {
        let style = try Goldens.style("llama3")
        let tokenizer = try style.tokenizer()
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for start in 0..<8 {
                group.addTask {
                    for index in 0..<100 {
                        let (text, ids, _) = style.cases[(start + index) % style.cases.count]
                        if try tokenizer.encode(text) != ids { return false }
                    }
                    return true
                }
            }
            for try await isSame in group { #expect(isSame) }
        }
    }

    @Test func directoriesAndTheirConfigurationLoad() throws {
        let folder = try Scratch()
        let missing = #expect(throws: TokenizerError.self) {
            try Tokenizer(directory: folder.path)
        }
        #expect(missing?.description.contains("tokenizer.json") == true)

        try folder.write("{\"model\": ".utf8, to: "tokenizer.json")
        let invalid = #expect(throws: TokenizerError.self) {
            try Tokenizer(directory: folder.path)
        }
        #expect(invalid?.description.contains("not valid JSON at line 1") == true)

        let style = try Goldens.style("gpt2")
        try folder.write(style.document.text(indent: nil).utf8, to: "tokenizer.json")
        let plain = try Tokenizer(directory: folder.path)
        #expect(try plain.encode(style.plainText) == style.plain)
        #expect(plain.specialTokens.end == nil)

        let configuration = #"""
            {"eos_token": {"content": "<|endoftext|>", "special": true}, "bos_token": "<|im_start|>",
             "pad_token": null, "unk_token": "<none>", "add_bos_token": true, "add_eos_token": false}
            """#
        try folder.write(configuration.utf8, to: "tokenizer_config.json")
        let configured = try Tokenizer(directory: folder.path)
        let start = try #require(configured.id(for: "<|im_start|>"))
        #expect(configured.specialTokens.end?.id == configured.id(for: "<|endoftext|>"))
        #expect(configured.specialTokens.beginning == .init(text: "<|im_start|>", id: start))
        #expect(configured.specialTokens.padding == nil)
        #expect(configured.specialTokens.unknown == .init(text: "<none>", id: nil))
        #expect(try configured.encode(style.plainText) == [start] + style.plain)
        #expect(try configured.encode(style.plainText, addSpecialTokens: false) == style.plain)
        #expect(configured.token(for: start) == "<|im_start|>")
        #expect(configured.token(for: Int32(configured.vocabularySize)) == nil)
    }
}
