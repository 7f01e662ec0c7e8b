import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Healing text: reading")
struct HealTextReadingTests {
    /// One token per byte, from 10 on; the document-start token is 1.
    private func read(_ text: String, as name: String = "a.txt") throws -> TokenizedText {
        try read(Array(text.utf8), as: name)
    }

    private func read(_ bytes: [UInt8], as name: String) throws -> TokenizedText {
        try TokenizedText(name, bytes: bytes, documentStart: 1, encode: Self.encode)
    }

    private static func encode(_ text: String) -> [Int32] { text.utf8.map { Int32($0) + 10 } }

    private func ids(_ text: String) -> [Int32] { Self.encode(text) }

    private func message(_ text: [UInt8], as name: String) -> String? {
        do {
            _ = try read(text, as: name)
            return nil
        } catch {
            return "\(error)"
        }
    }

    private func message(_ text: String, as name: String = "a.jsonl") -> String? {
        message(Array(text.utf8), as: name)
    }

    @Test func plainTextIsDocumentsBetweenNULs() throws {
        let text = try read("\u{FEFF}one\ntwo\0\0 \n\0three\n\0")
        #expect(text.documents == 2)
        #expect(text.tokens == [1] + ids("one\ntwo") + [1] + ids("three\n"))
        #expect(text.isTarget == nil)
        #expect(try read("only").tokens == [1] + ids("only"))
    }

    @Test func linesAreTextsOrPairs() throws {
        let text = try read(
            """
            {"text": "ab"}\r

            {"completion": "z\\u00e9", "prompt": "q"}
            {"text": " "}
            """, as: "a.jsonl")
        #expect(text.documents == 2)
        #expect(text.tokens == [1] + ids("ab") + [1] + ids("q") + ids("zé"))
        #expect(text.isTarget == [1, 1, 1, 0, 0, 1, 1, 1])
        #expect(try read("{\"text\": \"ab\"}", as: "a.jsonl").isTarget == nil)
        // The name decides what a file is.
        #expect(try read("{\"text\": \"ab\"}").tokens == [1] + ids("{\"text\": \"ab\"}"))
    }

    @Test func errorsNameTheLine() {
        let good = "{\"text\": \"a\"}\n"
        let cases: [(String, String)] = [
            ("{\"text\": 3}", "line 3: found an object with \"text\" (an integer)"),
            ("{\"prompt\": \"a\"}", "line 3: found an object with \"prompt\" (a string)"),
            ("[1]", "line 3: found an array"), ("{}", "line 3: found an empty object"),
            (
                "{\"text\": \"a\", \"id\": null}",
                "line 3: found an object with \"text\" (a string), \"id\" (null)"
            ),
            ("{\"prompt\": \"a\", \"completion\": [\"b\"]}", "\"completion\" (an array)"),
            ("{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1}", "(an integer) and 2 more"),
            ("{\"text\": \"a\"", "line 3, column 13: expected ',' or '}'"),
            ("{\"text\": \"a\"} x", "line 3, column 15: text after the document's end"),
            ("{\"text\": \"\\ud800\"}", "line 3, column 17: a lone surrogate"),
        ]
        for (line, expected) in cases {
            let found = message("\(good)\n\(line)\n\(good)") ?? "nothing"
            #expect(found.contains("a.jsonl, line 3") && found.contains(expected), "\(found)")
        }
        #expect(message("{\"t\\u0007\": 1}")?.contains("\"t\\u0007\"") == true)
        let broken = Array("one\ntwo\0three\nfo".utf8) + [0xC3] + Array("ur\nfive".utf8)
        #expect(message(broken, as: "a.txt")?.contains("a.txt, line 3: bytes that are not") == true)
        let line = Array(good.utf8) + Array("{\"text\": \"".utf8) + [0xFF] + Array("\"}".utf8)
        #expect(message(line, as: "b.jsonl")?.contains("b.jsonl, line 2, column 11") == true)
    }

    @Test func otherFilesAreRefused() throws {
        #expect(
            message([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0, 1], as: "a.xz")?.contains("`xz --d") == true)
        #expect(message([0x1F, 0x8B, 8], as: "a.jsonl")?.contains("`gzip --decompress") == true)
        #expect(message([0x28, 0xB5, 0x2F, 0xFD], as: "a")?.contains("`zstd --decompress") == true)
        for empty in ["", "\n \n", "\0\0", "\u{FEFF}"] {
            #expect(
                message(empty, as: "a.txt") == "a.txt holds no text; give a file with documents")
        }
        #expect(message("\n{\"text\": \"\"}\n")?.contains("holds no text") == true)
        #expect(throws: HealingTextError.self) {
            try TokenizedText(file: "/nowhere/a.txt", documentStart: 1, encode: Self.encode)
        }
        let scratch = try Scratch()
        try AtomicFile.write("hi", to: "\(scratch.path)/a.txt")
        let text = try TokenizedText(
            file: "\(scratch.path)/a.txt", documentStart: 1, encode: Self.encode)
        #expect(text.tokens == [1] + ids("hi"))
    }

    @Test func tokenizersErrorsNameTheLine() {
        struct Refusal: Error {}
        #expect {
            try TokenizedText("a", bytes: Array("x\n\0y".utf8), documentStart: 1) { text in
                if text == "y" { throw Refusal() }
                return []
            }
        } throws: { "\($0)".contains("a, the document at line 2: Refusal()") }
    }

    /// Whatever the bytes: tokens that fit together, or an error of this reader.
    @Test func randomBytesNeverTrap() throws {
        var random = SplitMix(5)
        let seeds = [
            "{\"text\": \"ab\"}\n{\"prompt\": \"é\", \"completion\": \"\\n\"}\n",
            "one\ntwo\0three é",
        ].map { Array($0.utf8) }
        for round in 0..<3000 {
            var bytes = seeds[round % 2]
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let at = Int.random(in: 0..<max(bytes.count, 1), using: &random)
                switch UInt8.random(in: 0...3, using: &random) {
                case 0 where !bytes.isEmpty: bytes[at] = .random(in: 0...255, using: &random)
                case 1 where !bytes.isEmpty: bytes.remove(at: at)
                case 2: bytes.insert(bytes.first ?? 0, at: at)
                default: bytes = Array(bytes.prefix(at))
                }
            }
            do throws(HealingTextError) {
                let text = try TokenizedText(
                    round % 2 == 0 ? "a.jsonl" : "a", bytes: bytes, documentStart: 1,
                    encode: Self.encode)
                #expect(text.tokens.count { $0 == 1 } == text.documents)
                #expect(text.isTarget.map { $0.count == text.tokens.count } ?? true)
            } catch {
                #expect(!error.description.isEmpty)
            }
        }
    }
}

@Suite("Healing text: windows")
struct HealTextTests {
    /// Tokens that say where they stand: `base`, `base` + 1, ….
    private func text(_ base: Int, _ count: Int, tasks: Bool = false) -> TokenizedText {
        TokenizedText(
            name: "\(base)", documents: 1, tokens: (0..<count).map { Int32(base + $0) },
            isTarget: tasks ? (0..<count).map { $0 % 3 == 0 ? 1 : 0 } : nil)
    }

    private func settings(
        _ context: Int, share: Double? = nil, seed: UInt64 = 0, heldOut: ClosedRange<Int> = 1...64
    ) -> HealingText.Settings {
        var settings = HealingText.Settings(context: context)
        settings.taskShare = share
        settings.seed = seed
        settings.heldOutWindows = heldOut
        return settings
    }

    @Test func everyTokenButTheTailIsPredictedOnce() throws {
        // 5 windows of 8 and 4 left over; 3 windows and none left over.
        let healing = try HealingText(
            [text(0, 45), text(1000, 25)], settings: settings(8, heldOut: 1...1))
        #expect(healing.count == 6)
        #expect(healing.heldOut == [Array(32...40), Array(1016...1024)])
        let batch = try healing.batch(Array(0..<6))
        #expect(batch.inputs.shape == [6, 8] && batch.inputs.dtype == .int64)
        #expect(batch.mask == nil)
        let inputs: [Int64] = try batch.inputs.values()
        let targets: [Int64] = try batch.targets.values()
        #expect(inputs == Array(0..<32) + Array(1000..<1016))
        #expect(targets == inputs.map { $0 + 1 })
        #expect(healing.texts.map(\.tokens) == [45, 25])
    }

    @Test func targetsThatDoNotCountAreMasked() throws {
        let healing = try HealingText(
            [text(0, 25, tasks: true), text(1000, 25)], heldOut: [text(5000, 9)],
            settings: settings(8))
        // Plain text is numbered first.
        #expect(healing.count == 6 && healing.taskCount == 3)
        #expect(healing.heldOut == [Array(5000...5008)])
        #expect(try healing.batch([0, 1]).mask == nil)
        let batch = try healing.batch([0, 4])
        #expect(try batch.inputs.values() == Array(1000..<1008) + Array(8..<16) as [Int64])
        let mask: [Double] = try #require(batch.mask).values()
        // Of targets 9...16 those that 3 divides count.
        #expect(mask == [Double](repeating: 1, count: 8) + [1, 0, 0, 1, 0, 0, 1, 0])
        let counts = healing.counts(step: 0, batch: 6)
        // All 24 plain targets, and 8 of 1...24.
        #expect(counts == (48, 32))
    }

    @Test func everyWindowComesOncePerEpoch() throws {
        let healing = try HealingText([text(0, 301)], settings: settings(4, heldOut: 1...1))
        #expect(healing.count == 74)
        for batch in [1, 5, 74] {
            // Batches need not divide an epoch.
            let walk = (0..<(74 * 3 + batch)).flatMap { healing.windows(step: $0, batch: batch) }
            let epochs = (0..<3).map { Array(walk[$0 * 74..<($0 + 1) * 74]) }
            for epoch in epochs { #expect(epoch.sorted() == Array(0..<74)) }
            #expect(Set(epochs).count == 3 && epochs[0] != Array(0..<74))
        }
        let other = try HealingText([text(0, 301)], settings: settings(4, seed: 1, heldOut: 1...1))
        #expect(other.windows(step: 0, batch: 74) != healing.windows(step: 0, batch: 74))
        #expect(other.hash == healing.hash)
    }

    @Test(arguments: [1, 2, 3, 8]) func processesShareABatch(processes: Int) throws {
        let healing = try HealingText(
            [text(0, 200), text(1000, 100, tasks: true)], settings: settings(4, share: 0.3))
        for step in [0, 7, 1_000_000] {
            let whole = healing.windows(step: step, batch: 7)
            #expect(whole.count == 7)
            for rank in 0..<processes {
                let own = healing.windows(step: step, batch: 7, rank: rank, of: processes)
                #expect(own == whole.enumerated().filter { $0.0 % processes == rank }.map(\.1))
            }
        }
    }

    @Test func tasksTakeTheirShare() throws {
        let healing = try HealingText(
            [text(0, 200), text(1000, 100, tasks: true)], settings: settings(4, share: 0.3))
        let plain = healing.count - healing.taskCount
        let steps = (0..<100).map { healing.windows(step: $0, batch: 7) }
        let tasks = steps.map { $0.count { $0 >= plain } }
        #expect(tasks.reduce(0, +) == 210 && tasks.allSatisfy { (2...3).contains($0) })
        let walk = steps.joined().filter { $0 >= plain }.prefix(healing.taskCount)
        #expect(walk.sorted() == Array(plain..<healing.count))
        let others = steps.joined().filter { $0 < plain }.prefix(plain)
        #expect(others.sorted() == Array(0..<plain))
        #expect(others.map { $0 } != Array(0..<plain))
        // Without a share, both kinds are one pool.
        let mixed = try HealingText(
            [text(0, 200), text(1000, 100, tasks: true)], settings: settings(4))
        #expect(mixed.windows(step: 0, batch: mixed.count).sorted() == Array(0..<mixed.count))
    }

    @Test func theHashIsTheContents() throws {
        let base = try HealingText([text(0, 200)], settings: settings(4)).hash
        #expect(base.count == 64)
        #expect(try HealingText([text(0, 201)], settings: settings(4)).hash != base)
        #expect(try HealingText([text(1, 200)], settings: settings(4)).hash != base)
        #expect(try HealingText([text(0, 200)], settings: settings(5)).hash != base)
        #expect(try HealingText([text(0, 200, tasks: true)], settings: settings(4)).hash != base)
        #expect(
            try HealingText([text(0, 200)], settings: settings(4, heldOut: 2...2)).hash != base)
        #expect(
            try HealingText([text(0, 200)], heldOut: [text(0, 9)], settings: settings(4)).hash
                != base)
    }

    @Test func whatCannotBePackedIsSaid() throws {
        func message(_ texts: [TokenizedText], _ settings: HealingText.Settings) -> String? {
            do {
                _ = try HealingText(texts, settings: settings)
                return nil
            } catch {
                return "\(error)"
            }
        }
        #expect(message([text(7, 8)], settings(8))?.contains("7 has 8 tokens") == true)
        #expect(message([text(7, 9)], settings(8))?.contains("nothing is held out") == true)
        #expect(message([], settings(8))?.contains("nothing is held out") == true)
        #expect(message([text(7, 90)], settings(8, share: 0.5))?.contains("share of 0.5") == true)
        let tasks = text(7, 90, tasks: true)
        #expect(message([tasks], settings(8, share: 0.5))?.contains("share of 0.5") == true)
        #expect(message([tasks, text(7, 90)], settings(8, share: 1.5))?.contains("1.5") == true)
        #expect(message([tasks, text(7, 90)], settings(8, share: .nan)) != nil)
        #expect(message([tasks], settings(8, share: 1)) == nil)
        #expect(message([text(7, 90)], settings(8, share: 0)) == nil)
    }

    @Test func foreignTokensAreRefused() throws {
        let model = try goldenModel("qwen3-gqa4-tied-v5").loadModel()
        try HealingText([text(0, 60)], settings: settings(4)).requireTokens(of: model)
        let healing = try HealingText([text(10, 60)], settings: settings(4))
        #expect(throws: ModelError.tokenOutOfRange(id: 64, vocabulary: 64)) {
            try healing.requireTokens(of: model)
        }
    }

    @Test func permutationsAreOneToOne() {
        for count in [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000] {
            let order = IndexPermutation(count: count, seed: 3, epoch: 1)
            #expect((0..<count).map { order($0) }.sorted() == Array(0..<count))
        }
        // Large counts need no table.
        let order = IndexPermutation(count: 1 << 40, seed: 3, epoch: 0)
        #expect(Set((0..<1000).map { order($0) }).count == 1000)
    }
}
