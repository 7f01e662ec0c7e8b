import MinimaCore
import NIOCore
import Testing

@testable import MinimaLoad

@Suite("Load: parsing")
struct ParserTests {
    private func events(_ bytes: [UInt8], cuts: [Int] = []) throws -> [String] {
        var parser = EventParser()
        var events: [[UInt8]] = []
        var start = 0
        for cut in cuts + [bytes.count] {
            events += try parser.add(bytes[start..<cut])
            start = cut
        }
        return events.map { String(decoding: $0, as: UTF8.self) }
    }

    @Test func serverSentEvents() throws {
        let cases: [(text: String, events: [String])] = [
            ("data: a\n\n", ["a"]), ("data:a\r\n\r\n", ["a"]),
            ("data: a\r\rdata: b\r\r", ["a", "b"]),
            ("data:  a\ndata: b\n\n", [" a\nb"]), ("data\n\n", [""]), (": hello\n\n", []),
            ("\u{FEFF}data: a\n\n", ["a"]), ("event: x\nid: 5\nretry: 1\ndata: a\n\n", ["a"]),
            ("data: a\n", []), ("data: a", []), ("\n\n\n", []), ("datax: a\n\n", []),
            ("data: ü€🌍\n\n", ["ü€🌍"]), ("data: a\r\n\ndata: b\n\r\n", ["a", "b"]),
        ]
        for (text, wanted) in cases {
            let bytes = Array(text.utf8)
            #expect(try events(bytes) == wanted, "\(text.debugDescription)")
            for cut in 0...bytes.count { #expect(try events(bytes, cuts: [cut]) == wanted) }
        }
        var parser = EventParser(longest: 100)
        #expect(throws: RequestFailure.malformedEvent) {
            for _ in 0..<40 { _ = try parser.add(Array("data: 123\n".utf8)) }
        }
    }

    /// However a stream is cut, the events are the same; and no bytes bring the parsers down.
    @Test func fuzzed() throws {
        var random = SplitMix(11)
        let parts = [
            "data: ", "data:", "\n", "\r\n", "\r", "\n\n", "[DONE]", "{\"choices\":[", "]}",
            "{\"index\":0,\"delta\":{\"content\":\"x\"}}", "{\"text\":\"y\"}", ",", "null",
            "\"usage\":{\"prompt_tokens\":-1}", "{\"error\":1}", ":", "1e999", "\u{FEFF}",
            "\"\\ud800\"", "{\"choices\":[{\"index\":99999999999999999999}]}",
            "{\"usage\":{\"prompt_tokens\":9223372036854775807,\"completion_tokens\":1}}",
            "{\"choices\":[{\"delta\":{\"tool_calls\":[{}]},\"finish_reason\":\"stop\"}]}",
        ]
        var (read, refused) = (0, 0)
        for _ in 0..<3000 {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 0..<12, using: &random) {
                let part = parts[Int.random(in: 0..<parts.count, using: &random)]
                let isEvent = Bool.random(using: &random)
                bytes += (isEvent ? "data: \(part)\n\n" : part).utf8
            }
            if !bytes.isEmpty, Bool.random(using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8(
                    truncatingIfNeeded: random.next())
            }
            let whole = try events(bytes)
            let cuts = (0..<4).map { _ in Int.random(in: 0...bytes.count, using: &random) }
            #expect(try events(bytes, cuts: cuts.sorted()) == whole)
            for event in whole {
                do {
                    _ = try AnswerEvent(Array(event.utf8))
                    read += 1
                } catch {
                    refused += 1
                }
            }
        }
        #expect(read > 100 && refused > 100)
    }

    @Test func answerEvents() throws {
        let event = { (text: String) throws(RequestFailure) in
            try AnswerEvent(Array(text.utf8))
        }
        #expect(try event("[DONE]") == .done)
        #expect(try event("{\"error\":{\"message\":\"m\"}}") == .error("m"))
        let delta = { (text: String, hasToken: Bool, reason: String?) in
            AnswerEvent.deltas(
                [
                    AnswerDelta(index: 0, text: text, hasToken: hasToken, finishReason: reason)
                ], nil)
        }
        #expect(
            try event("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}")
                == delta("", false, nil))
        #expect(
            try event("{\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}")
                == delta("a", true, "stop"))
        for thought in ["\"reasoning_content\":\"t\"", "\"tool_calls\":[{}]", "\"refusal\":\"r\""] {
            #expect(try event("{\"choices\":[{\"delta\":{\(thought)}}]}") == delta("", true, nil))
        }
        for text in ["", "5", "[]", "{\"choices\":{}}", "{\"choices\":[5]}", "{", "\"x\""] {
            #expect(throws: RequestFailure.malformedEvent) { try event(text) }
        }
    }

    @Test func addresses() throws {
        let cases: [(text: String, url: String)] = [
            ("http://localhost:8000", "http://localhost:8000"),
            ("localhost:8000/v1/", "http://localhost:8000"), ("HTTP://a", "http://a:80"),
            ("http://a/b/v1", "http://a:80/b"), ("http://[::1]:81/", "http://[::1]:81"),
            ("http://a:1//", "http://a:1"), ("[fe80::1]", "http://[fe80::1]:80"),
        ]
        for (text, url) in cases { #expect(try ServerAddress(text).description == url) }
        for text in [
            "", "http://", "ftp://a", "http://a:0", "http://a:65536", "http://a:x", "http://u@a",
            "http://a?b", "http://a b", "http://[::1", "http://[::1]x", "http://ä", ":80",
        ] {
            #expect(throws: LoadError.self, "\(text)") { try ServerAddress(text) }
        }
        #expect(throws: LoadError.https("https://a")) { try ServerAddress("https://a") }
    }

    @Test func promptFiles() throws {
        let read = { (text: String) throws(LoadError) in
            try FilePrompt.read(Array(text.utf8), path: "f")
        }
        let lines = try read(
            """
            "plain"

            {"prompt": "one", "max_tokens": 7}
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
            {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}
            """)
        #expect(lines.map(\.text) == ["plain", "one", "s\nu", "h"])
        #expect(lines.map(\.answerTokens) == [nil, 7, nil, nil])
        #expect(lines[3].messages == [["role": "user", "content": "h"]])
        let shared = try read(
            """
            [{"conversations": []}, {"conversations": [{"from": "gpt", "value": "first"}]}]
            """)
        #expect(shared.map(\.text) == ["first"])
        for text in [
            "", "\n \n", "{", "5", "{}", "{\"prompt\": \"\"}", "{\"messages\": []}",
            "{\"messages\": [5]}", "{\"prompt\": \"x\", \"max_tokens\": 0}", "[", "[]",
            "{\"conversations\": [{\"from\": \"human\"}]}",
        ] {
            #expect(throws: LoadError.self, "\(text)") { try read(text) }
        }
    }
}
