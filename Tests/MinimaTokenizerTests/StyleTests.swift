import MinimaCore
import Testing

@testable import MinimaTokenizer

/// Ids and texts of Hugging Face `tokenizers` for the configurations of public checkpoints.
@Suite struct StyleTests {
    @Test(arguments: try Goldens.styles(), [true, false])
    func idsAreThoseOfTheGoldens(style: Goldens.Style, prefersRawBytes: Bool) throws {
        let tokenizer = try style.tokenizer(prefersRawBytes: prefersRawBytes)
        #expect(style.cases.count > 25)
        for (text, ids, _) in style.cases {
            #expect(try tokenizer.encode(text) == ids, "\(style.name): \(text.debugDescription)")
            // The second time words come from the cache.
            #expect(try tokenizer.encode(text) == ids, "\(style.name): \(text.debugDescription)")
        }
        #expect(try tokenizer.encode(style.plainText, addSpecialTokens: false) == style.plain)
    }

    @Test(arguments: try Goldens.styles())
    func textsAreThoseOfTheGoldens(style: Goldens.Style) throws {
        let tokenizer = try style.tokenizer()
        for (_, ids, decoded) in style.cases {
            expectSame(tokenizer.decode(ids, skipSpecialTokens: true), decoded, "\(ids)")
        }
        #expect(style.noise.count == 12)
        for (ids, decoded) in style.noise {
            expectSame(tokenizer.decode(ids, skipSpecialTokens: false), decoded, "\(ids)")
        }
    }

    @Test(arguments: try Goldens.styles())
    func streamsGiveTheSameTextPieceByPiece(style: Goldens.Style) throws {
        let tokenizer = try style.tokenizer()
        for (ids, decoded) in style.noise {
            var stream = tokenizer.makeStream(skipSpecialTokens: false)
            var text = ids.map { stream.append($0) }
            text.append(stream.finish())
            expectSame(text.joined(), decoded, "\(ids)")
            #expect(stream.append(ids[0]) == "" && stream.finish() == "")
        }
    }

    @Test func scalarsComeOutWholeAndAtOnce() throws {
        let tokenizer = try Goldens.style("qwen3").tokenizer()
        let ids = try tokenizer.encode("a🙂b", addSpecialTokens: false)
        #expect(ids.count == 6)
        var stream = tokenizer.makeStream()
        #expect(ids.map { stream.append($0) } == ["a", "", "", "", "🙂", "b"])
        #expect(stream.finish() == "")

        var cut = tokenizer.makeStream()
        #expect(ids.prefix(3).map { cut.append($0) } == ["a", "", ""])
        #expect(cut.finish() == "\u{FFFD}")
    }

    @Test func fusedTextStreamsWithoutItsFirstSpace() throws {
        let tokenizer = try Goldens.style("llama2").tokenizer()
        let ids = try tokenizer.encode("the 🙂 river")
        var stream = tokenizer.makeStream()
        let parts = ids.map { stream.append($0) }
        #expect(parts.joined() + stream.finish() == "the 🙂 river")
        #expect(parts.count { !$0.isEmpty } >= 3, "text comes out before the end: \(parts)")
    }

    @Test func cutsAtSeparatorsDoNotChangeTokens() throws {
        // With `ignore_merges` no piece is cut; for a text that is no token the rest is the same.
        let style = try Goldens.style("llama2")
        var members = style.document.object ?? [:]
        var model = members["model"]?.object ?? [:]
        model["ignore_merges"] = true
        members["model"] = .object(model)
        let cutting = try style.tokenizer()
        let whole = try Tokenizer(tokenizerJSON: .object(members))
        var generator = SplitMix(11)
        for _ in 0..<200 {
            var text = generator.text(length: Int.random(in: 30...300, using: &generator))
            for word in ["▁", " ", "the", " water", "▁▁", "\n"] where Bool.random(using: &generator)
            {
                let place = text.unicodeScalars.indices.randomElement(using: &generator)
                text.unicodeScalars.insert(
                    contentsOf: word.unicodeScalars, at: place ?? text.startIndex)
            }
            #expect(try cutting.encode(text) == whole.encode(text), "\(text.debugDescription)")
        }
    }

    private func expectSame(_ found: String, _ expected: String, _ comment: String) {
        // `==` on strings would take é and e + U+0301 for the same.
        #expect(
            Array(found.unicodeScalars) == Array(expected.unicodeScalars),
            "\(comment): \(found.debugDescription), not \(expected.debugDescription)")
    }
}
