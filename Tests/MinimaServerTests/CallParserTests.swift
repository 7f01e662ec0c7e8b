import MinimaCore
import MinimaTemplate
import Testing

@testable import MinimaServer

/// Parsers of calls: every one that is registered.
@Suite("Server: parsers of calls")
struct CallParserTests {
    /// Functions of all tests.
    static let schemas: [String: JSON] = [
        "get_weather": [
            "type": "object",
            "properties": [
                "place": ["type": "string"], "days": ["type": "integer"],
                "any": ["anyOf": [["type": "string"], ["type": "null"]]],
                "unit": ["enum": ["C", "F", 1]], "flag": ["type": "boolean"],
                "list": ["type": "array"],
            ],
        ], "now": ["type": "object", "properties": [:]],
    ]

    private static func parser(
        _ name: String?, reasoning: ReasoningParser? = nil, isOpen: Bool = false,
        isParallel: Bool = true
    ) -> MessageParser {
        MessageParser(
            reasoning: reasoning.map { ReasoningSplitter($0, isOpen: isOpen) },
            calls: ToolParser.all.first { $0.name == name }?.parser.init(schemas),
            isParallel: isParallel)
    }

    /// The message that pieces of a text make, identifiers left out.
    private static func message(
        _ pieces: [String], _ parser: MessageParser, finishes: Bool = true
    ) -> AnswerMessage {
        var parser = parser
        var message = AnswerMessage()
        for piece in pieces { for delta in parser.append(piece) { message.add(delta) } }
        if finishes { for delta in parser.finish() { message.add(delta) } }
        #expect(message.calls.allSatisfy { !$0.id.isEmpty })
        #expect(Set(message.calls.map(\.id)).count == message.calls.count)
        for index in message.calls.indices { message.calls[index].id = "" }
        return message
    }

    private static func expected(
        _ content: String, _ calls: [(String, String)] = [], reasoning: String = ""
    ) -> AnswerMessage {
        AnswerMessage(
            reasoning: reasoning, content: content,
            calls: calls.map { .init(id: "", name: $0.0, arguments: $0.1) })
    }

    private struct Case {
        var parser: String
        var text: String
        var message: AnswerMessage

        init(
            _ parser: String, _ text: String, _ content: String, _ calls: [(String, String)] = []
        ) {
            self.parser = parser
            self.text = text
            message = CallParserTests.expected(content, calls)
        }
    }

    private static let weather = #"{"name": "get_weather", "arguments": {"place": "Ulm"}}"#
    private static let ulm = ("get_weather", #"{"place": "Ulm"}"#)

    private static let hermes: [Case] = [
        Case("hermes", "Hello", "Hello"), Case("hermes", " a <b> \n", " a <b> \n"),
        Case("hermes", "<tool_call>\n\(weather)\n</tool_call>", "", [ulm]),
        Case("hermes", "Let me see.\n\n<tool_call>\(weather)</tool_call>\n", "Let me see.", [ulm]),
        Case(
            "hermes",
            "<tool_call>\(weather)</tool_call>\n<tool_call>\n{\"name\":\"now\"}\n</tool_call>", "",
            [ulm, ("now", "{}")]),
        // Content behind and between calls is content.
        Case(
            "hermes", "A\n<tool_call>\(weather)</tool_call>\nB <tool_call>\(weather)</tool_call> C",
            "A\n\nB  C", [ulm, ulm]),
        // Marks, braces and escapes in a text of the arguments.
        Case(
            "hermes",
            #"<tool_call>{"name":"get_weather","arguments":{"place":"</tool_call>}\"]\\"}}</tool_call>"#,
            "", [("get_weather", #"{"place":"</tool_call>}\"]\\"}"#)]),
        // White space and everything else as written.
        Case(
            "hermes",
            "<tool_call>{\"name\" :\"get_weather\" , \"arguments\":  { \"days\" : 1.50e1 ,\n"
                + "\"place\":\"\\u00dclm ü\"} }</tool_call>",
            "", [("get_weather", "{ \"days\" : 1.50e1 ,\n\"place\":\"\\u00dclm ü\"}")]),
        Case(
            "hermes", #"<tool_call>{"arguments": {"place": "Ulm"}, "name": "get_weather"}"#, "",
            [ulm]),
        Case(
            "hermes",
            #"<tool_call>{"name": "get_weather", "arguments": "{\"place\": \"Ulm\"}"}</tool_call>"#,
            "", [ulm]),
        Case(
            "hermes", #"<tool_call>{"name":"now","arguments":null}</tool_call>"#, "",
            [("now", "{}")]),
        Case("hermes", "<tool_call>\(weather)}</tool_call>x", "x", [ulm]),
        Case(
            "hermes",
            #"<tool_call>{"name": "get_weather", "arguments": {"place": "Ulm"}</tool_call> B"#, "B",
            [ulm]),
        Case("hermes", "<tool_call>\(weather)<tool_call>\(weather)", "", [ulm, ulm]),
        // What is no call stays as it was written.
        Case("hermes", "</tool_call> x", "</tool_call> x"),
        Case("hermes", "<tool_call> is a mark", "<tool_call> is a mark"),
        Case(
            "hermes", #"<tool_call>{"name": "other", "arguments": {}}</tool_call>"#,
            #"<tool_call>{"name": "other", "arguments": {}}</tool_call>"#),
        Case("hermes", #"<tool_call>{"name": "now", x}"#, #"<tool_call>{"name": "now", x}"#),
        Case(
            "hermes", #"<tool_call>{"place": 1}</tool_call>"#,
            #"<tool_call>{"place": 1}</tool_call>"#),
        Case(
            "hermes", "<tool_call><tool_call>\(weather)</tool_call>", "<tool_call>", [ulm]),
        // Arguments that are no JSON, once they have begun.
        Case(
            "hermes", #"<tool_call>{"name":"now","arguments":{"a":]}}</tool_call> B"#, "B",
            [("now", #"{"a":]}}"#)]),
        // Answers cut short.
        Case("hermes", "A <tool_c", "A <tool_c"),
        Case("hermes", #"<tool_call>{"name": "now", "argu"#, #"<tool_call>{"name": "now", "argu"#),
        Case(
            "hermes", #"<tool_call>{"name": "get_weather", "arguments": {"place": "U"#, "",
            [("get_weather", #"{"place": "U"#)]),
        Case("hermes", "<tool_call>\(weather)\n</tool", "</tool", [ulm]),
    ]

    private static let parameters = #"{"name": "get_weather", "parameters": {"place": "Ulm"}}"#

    private static let llama: [Case] = [
        Case("llama3_json", "Hello {\"a\": 1}", "Hello {\"a\": 1}"),
        Case("llama3_json", "\n\(parameters)\n", "", [ulm]),
        Case("llama3_json", "<|python_tag|>\(parameters)", "", [ulm]),
        Case("llama3_json", "So: <|python_tag|> \(weather)", "So:", [ulm]),
        Case("llama3_json", "\(parameters); \(parameters);", "", [ulm, ulm]),
        Case("llama3_json", "\(parameters)\n\nThat was it.", "That was it.", [ulm]),
        Case(
            "llama3_json", #"{"type": "function", "name": "now", "parameters": {}}"#, "",
            [("now", "{}")]),
        // Answers that are JSON, or a program.
        Case("llama3_json", #"{"city": "Ulm", "name": "now"}"#, #"{"city": "Ulm", "name": "now"}"#),
        Case("llama3_json", #" {"name": "Ulm"}"#, #" {"name": "Ulm"}"#),
        Case("llama3_json", "<|python_tag|>print(1)", "<|python_tag|>print(1)"),
        Case("llama3_json", "\(parameters); then", "; then", [ulm]),
        Case("llama3_json", #"{"name": "now""#, #"{"name": "now""#),
    ]

    private static let mistral: [Case] = [
        Case("mistral", "[TOOL] is [no] mark", "[TOOL] is [no] mark"),
        Case("mistral", "[TOOL_CALLS] [\(weather)]", "", [ulm]),
        Case(
            "mistral",
            "So: [TOOL_CALLS][\(weather), {\"name\":\"now\",\"arguments\":{},\"id\":\"a\"}]",
            "So:", [ulm, ("now", "{}")]),
        Case("mistral", "[TOOL_CALLS]\(weather)", "", [ulm]),
        Case(
            "mistral", #"[TOOL_CALLS]get_weather[ARGS]{"place": "Ulm"}[TOOL_CALLS]now{}"#, "",
            [ulm, ("now", "{}")]),
        Case("mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}", "", [("now", "{}")]),
        Case("mistral", "[TOOL_CALLS]other[ARGS]{}", "[TOOL_CALLS]other[ARGS]{}"),
        Case("mistral", "[TOOL_CALLS] []", "[TOOL_CALLS] []"),
        Case("mistral", "[TOOL_CALLS][\(weather), 5] x", ", 5] x", [ulm]),
        Case("mistral", "[TOOL_CALLS] [{\"name\": \"now\"", "[TOOL_CALLS] [{\"name\": \"now\""),
        Case("mistral", "[TOOL_CALLS]now[AR", "[TOOL_CALLS]now[AR"),
        Case("mistral", "[TOOL_CALLS]now{\"a\": [1", "", [("now", "{\"a\": [1")]),
    ]

    private static let coder: [Case] = [
        Case("qwen3_coder", "a < b <tool", "a < b <tool"),
        Case(
            "qwen3_coder",
            "So.\n<tool_call>\n<function=get_weather>\n<parameter=place>\nUlm\n</parameter>\n"
                + "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
            "So.", [("get_weather", #"{"place": "Ulm", "days": 3}"#)]),
        Case("qwen3_coder", "<function=now>\n</function>\n</tool_call> B", "B", [("now", "{}")]),
        // Texts keep their lines; the schema decides what is a text.
        Case(
            "qwen3_coder",
            "<function=get_weather><parameter=place>\n\na \"b\"\\\n</p>\n\n</parameter>"
                + "<parameter=any>12</parameter><parameter=flag>True</parameter>"
                + "<parameter=list>[1, \"x\"]</parameter><parameter=x>7</parameter></function>",
            "",
            [
                (
                    "get_weather",
                    #"{"place": "\na \"b\"\\\n</p>\n", "any": "12", "flag": true, "list": [1, "x"], "#
                        + #""x": "7"}"#
                )
            ]),
        Case(
            "qwen3_coder",
            "<function=get_weather><parameter=days>three</parameter>"
                + "<parameter=any>null</parameter></tool_call>",
            "", [("get_weather", #"{"days": "three", "any": null}"#)]),
        Case(
            "qwen3_coder",
            "<function=get_weather><parameter=unit> C\n\n</parameter></function>", "",
            [("get_weather", #"{"unit": "C"}"#)]),
        Case(
            "qwen3_coder", "<function=get_weather><parameter=unit>1</parameter></function>", "",
            [("get_weather", #"{"unit": 1}"#)]),
        Case("qwen3_coder", "<tool_call><function=other>", "<tool_call><function=other>"),
        Case("qwen3_coder", "<tool_call>{}", "<tool_call>{}"),
        Case(
            "qwen3_coder", "<function=get_weather>\n<parameter=place>\nUl", "",
            [("get_weather", #"{"place": "Ul"#)]),
    ]

    private static let cases = hermes + llama + mistral + coder

    @Test func eachForm() {
        for item in Self.cases {
            let found = Self.message([item.text], Self.parser(item.parser))
            #expect(found == item.message, "\(item.parser): \(item.text)")
        }
    }

    /// Wherever a text is cut, and wherever it ends: the deltas of a stream are those of the message,
    /// and what has been told once stays.
    @Test func anyCutsGiveTheSame() {
        for item in Self.cases {
            let scalars = Array(item.text.unicodeScalars)
            func text(_ range: Range<Int>) -> String {
                var view = String.UnicodeScalarView()
                view.append(contentsOf: scalars[range])
                return String(view)
            }
            let parser = Self.parser(item.parser)
            let single = Self.message(scalars.indices.map { text($0..<$0 + 1) }, parser)
            #expect(single == item.message, "\(item.text)")
            for cut in scalars.indices {
                let pieces = [text(0..<cut), text(cut..<scalars.count)]
                #expect(Self.message(pieces, parser) == item.message, "\(pieces)")
                let told = Self.message([pieces[0]], parser, finishes: false)
                #expect(item.message.content.hasPrefix(told.content), "\(pieces)")
                #expect(told.calls.count <= item.message.calls.count)
                for (early, call) in zip(told.calls, item.message.calls) {
                    #expect(call.arguments.hasPrefix(early.arguments) && call.name == early.name)
                }
            }
        }
    }

    // MARK: At random

    /// How a model writes calls in each form; what is registered must be here.
    private static let written: [String: @Sendable ([(String, JSON, String)]) -> String] = [
        "hermes": { calls in
            calls.map {
                "<tool_call>\n{\"name\": \"\($0.0)\", \"arguments\": \($0.2)}\n</tool_call>"
            }
            .joined(separator: "\n")
        },
        "llama3_json": { calls in
            "<|python_tag|>"
                + calls.map { "{\"name\": \"\($0.0)\", \"parameters\": \($0.2)}" }
                .joined(separator: "; ")
        },
        "mistral": { calls in
            "[TOOL_CALLS] ["
                + calls.map { "{\"name\": \"\($0.0)\", \"arguments\": \($0.2)}" }
                .joined(separator: ", ") + "]"
        },
        "qwen3_coder": { calls in
            calls.map { name, arguments, _ in
                let parameters = (arguments.object ?? [:]).map {
                    "<parameter=\($0.key.text)>\n\($0.value.string ?? "")\n</parameter>\n"
                }
                return
                    "<tool_call>\n<function=\(name)>\n\(parameters.joined())</function>\n</tool_call>"
            }.joined(separator: "\n")
        },
    ]

    private static func cut(_ text: String, _ random: inout Numbers) -> [String] {
        var pieces: [String] = []
        var rest = text.unicodeScalars[...]
        while !rest.isEmpty {
            let piece = rest.prefix(Int.random(in: 1...9, using: &random))
            pieces.append(String(piece))
            rest = rest.dropFirst(piece.count)
        }
        return pieces
    }

    /// Whatever calls are made, they are read as they were written.
    @Test(arguments: ToolParser.all.map(\.name)) func callsComeBack(name: String) throws {
        let write = try #require(Self.written[name], "how is a call written in this form?")
        var random = Numbers(seed: 7)
        let words = ["Ulm", "a \"b\"", "\\", "ü🙂", "</tool_call", "{", "}]", "[TOOL", "\n", "<|"]
        for _ in 0..<150 {
            var calls: [(String, JSON, String)] = []
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                var arguments: [JSON.Name: JSON] = [:]
                for key in ["place", "other", "third"].prefix(Int.random(in: 0...3, using: &random))
                {
                    let value = (0..<Int.random(in: 1...4, using: &random)).map { _ in
                        words.randomElement(using: &random) ?? ""
                    }
                    arguments[JSON.Name(key)] = .string(value.joined())
                }
                let json = JSON.object(.init(uniqueKeysWithValues: arguments.map { ($0, $1) }))
                calls.append(
                    ("get_weather", json, json.text(indent: Bool.random(using: &random) ? 1 : nil)))
            }
            let text = "Wait. " + write(calls)
            let found = Self.message(Self.cut(text, &random), Self.parser(name))
            #expect(found.content == "Wait.", "\(text)")
            #expect(found.calls.map(\.name) == calls.map(\.0), "\(text)")
            #expect(
                try found.calls.map { try JSON(parsing: $0.arguments) } == calls.map(\.1), "\(text)"
            )
            if name != "qwen3_coder" { #expect(found.calls.map(\.arguments) == calls.map(\.2)) }
        }
    }

    /// Texts made of what parsers look for, in any order: cuts change nothing, and a message without
    /// calls has all of the text.
    @Test(arguments: ToolParser.all.map(\.name)) func anyText(name: String) throws {
        let write = try #require(Self.written[name])
        let call = write([("now", [:], "{}")])
        let fragments = [
            call, call, String(call.dropLast(3)),
            "<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=",
            "</parameter>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "now", "get_weather", ">",
            "{", "}", "[", "]", "\"", ":", ",", ";", " ", "\n", "\\", "\"name\": \"now\"",
            "\"arguments\": {", "\"parameters\":", "null", "1", "place", "ü", "🙂", "<", "</", "\0",
            Self.weather, "{\"name\": \"now\", ",
        ]
        var random = Numbers(seed: 3)
        var withCalls = 0
        for round in 0..<1000 {
            let text =
                round % 10 == 0
                ? String(
                    decoding: (0..<60).map { _ in UInt8.random(in: 0...255, using: &random) },
                    as: UTF8.self)
                : (0..<Int.random(in: 1...16, using: &random)).map { _ in
                    fragments.randomElement(using: &random) ?? ""
                }.joined()
            let whole = Self.message([text], Self.parser(name))
            #expect(Self.message(Self.cut(text, &random), Self.parser(name)) == whole, "\(text)")
            if whole.calls.isEmpty {
                #expect(whole.content.utf8.elementsEqual(text.utf8), "\(text)")
            } else {
                withCalls += 1
            }
        }
        #expect(withCalls > 50)
    }

    @Test func oneCallOnly() {
        let text = "<tool_call>\(Self.weather)</tool_call>\n<tool_call>\(Self.weather)</tool_call>"
        var parser = Self.parser("hermes", isParallel: false)
        let cut = text.utf8.count / 2
        _ = parser.append(String(text.prefix(cut)))
        #expect(parser.isComplete)
        #expect(
            Self.message([text], Self.parser("hermes", isParallel: false))
                == Self.expected("", [Self.ulm]))
    }

    // MARK: Reasoning

    @Test func reasoning() {
        let think = ReasoningParser.all[0]
        let call = "<tool_call>\(Self.weather)</tool_call>"
        let cases: [(text: String, isOpen: Bool, message: AnswerMessage)] = [
            (
                "<think>\nHm.\n\nSo.\n</think>\n\nYes.", false,
                Self.expected("Yes.", reasoning: "Hm.\n\nSo.")
            ),
            ("\n<think></think>Yes.\n", false, Self.expected("Yes.\n")),
            ("Hm.\n</think>\n\nYes.", true, Self.expected("Yes.", reasoning: "Hm.")),
            (" Yes <think>no</think>", false, Self.expected(" Yes <think>no</think>")),
            ("<thin ice", false, Self.expected("<thin ice")),
            ("<think", false, Self.expected("<think")),
            ("<think>cut </th", false, Self.expected("", reasoning: "cut </th")),
            ("<think>cut \n", false, Self.expected("", reasoning: "cut \n")),
            ("<think>a</think>\n\n\(call)", false, Self.expected("", [Self.ulm], reasoning: "a")),
            // A call that is only thought of is none.
            ("<think>\(call)</think>x", false, Self.expected("x", reasoning: call)),
            (" \n ", false, Self.expected(" \n ")),
        ]
        for (text, isOpen, message) in cases {
            let parser = Self.parser("hermes", reasoning: think, isOpen: isOpen)
            #expect(Self.message([text], parser) == message, "\(text)")
            #expect(Self.message(text.unicodeScalars.map { String($0) }, parser) == message)
            let plain = Self.parser(nil, reasoning: think, isOpen: isOpen)
            if message.calls.isEmpty { #expect(Self.message([text], plain) == message, "\(text)") }
        }
        #expect(think.isOpen(after: "<|im_start|>assistant\n<think>\n"))
        #expect(!think.isOpen(after: "<|im_start|>assistant\n<think>\n\n</think>\n\n"))
        #expect(Self.message([" a\n"], Self.parser(nil)) == Self.expected(" a\n"))
    }

    // MARK: Templates

    @Test func templatesNameTheirForm() throws {
        let cases: [(source: String, parser: String?)] = [
            ("{{ tools }}<tool_call>{\"name\": …, \"arguments\": …}</tool_call>", "hermes"),
            ("{{ tools }}<tool_call><function=f><parameter=arguments>", "qwen3_coder"),
            ("{{ tools }}<tool_call>{{ name }}<arg_key>arguments", nil),
            ("{% if tools %}[TOOL_CALLS]{% endif %}", "mistral"),
            ("{{ tools }}{\"name\": function name, \"parameters\": dictionary}", "llama3_json"),
            ("{{ tools }}<|python_tag|>", "llama3_json"), ("{{ tools }}", nil),
            // In a comment or as a member it is not read.
            ("{# tools #}{{ messages.tools }}<tool_call> arguments", nil),
        ]
        for (source, parser) in cases {
            let template = try ChatTemplate(source: source)
            #expect(ToolParser.detect(in: template)?.name == parser, "\(source)")
        }
        let thinking = try ChatTemplate(source: "{{ text.split('</think>') }}")
        #expect(ReasoningParser.detect(in: thinking)?.name == "think")
        #expect(ReasoningParser.detect(in: try ChatTemplate(source: "<think>")) == nil)
    }

    @Test func identifiers() {
        for parser in ToolParser.all.map(\.parser) {
            let id = parser.identifier()
            #expect(id != parser.identifier())
            if parser.name == "mistral" {
                #expect(
                    id.count == 9 && id.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber) })
            } else {
                #expect(id.hasPrefix("call_") && id.count == 29)
            }
        }
    }
}
