import FoundationEssentials
import MinimaCore
import MinimaTemplate
import MinimaTestSupport
import Testing

@Suite("Messages, dates and checkpoints")
struct ChatTemplateTests {
    @Test("Typed messages look as transformers' do")
    func typedMessages() throws {
        let template = try ChatTemplate(source: "{{ messages|tojson }}{{ tools }}{{ documents }}")
        let call = ChatMessage.ToolCall(id: "c1", name: "now", arguments: ["zone": "UTC"])
        let text = try template.render(
            messages: [
                ChatMessage(role: "user", content: "Hi"),
                ChatMessage(role: "assistant", reasoning: "Hm.", toolCalls: [call]),
                ChatMessage(role: "tool", content: "12:00", toolCallID: "c1"),
            ], addGenerationPrompt: false)
        #expect(
            text == """
                [{"role": "user", "content": "Hi"}, {"thinking": "Hm.", "role": "assistant", \
                "reasoning_content": "Hm.", "tool_calls": [{"type": "function", "id": "c1", \
                "function": {"name": "now", "arguments": {"zone": "UTC"}}}]}, \
                {"role": "tool", "content": "12:00", "tool_call_id": "c1"}]NoneNone
                """)
    }

    @Test("Variables come beside the messages and can be false, unset or override")
    func variables() throws {
        let template = try ChatTemplate(
            source:
                "{{ bos_token }}{{ enable_thinking is false }}{{ add_generation_prompt }}{{ pad_token is defined }}"
        )
        let text = try template.render(
            messages: [["role": "user", "content": "x"]], addGenerationPrompt: true,
            variables: ["bos_token": "<s>", "enable_thinking": false])
        #expect(text == "<s>TrueTrueFalse")
    }

    @Test("Composed and decomposed letters stay distinct")
    func scalars() throws {
        let template = try ChatTemplate(
            source:
                "{{ a == b }}{{ a|length }}{{ b|length }}{{ a in {b: 1} }}{{ b.split(a)|length }}{{ crlf|length }}"
        )
        let context: JSON = ["a": "\u{E9}", "b": "e\u{301}", "crlf": "\r\n"]
        #expect(try template.render(context) == "False12False12")
    }

    @Test("Dates: leap years, centuries, the ends of the calendar")
    func dates() throws {
        let template = try ChatTemplate(source: "{{ strftime_now('%Y-%m-%d %a %j %H:%M:%S') }}")
        let cases: [(Int, String)] = [
            (0, "1970-01-01 Thu 001 00:00:00"), (-1, "1969-12-31 Wed 365 23:59:59"),
            (951_782_400, "2000-02-29 Tue 060 00:00:00"),
            (4_107_542_399, "2100-02-28 Sun 059 23:59:59"),
            (4_107_542_400, "2100-03-01 Mon 060 00:00:00"),
            (-62_135_596_800, "1-01-01 Mon 001 00:00:00"), (.min, "1-01-01 Mon 001 00:00:00"),
            (.max, "9999-12-31 Fri 365 23:59:59"),
        ]
        for (seconds, text) in cases {
            #expect(try template.render([:], now: TemplateDate(unixSeconds: seconds)) == text)
        }
        let shifted = TemplateDate(unixSeconds: 0, offset: -3600)
        #expect(try template.render([:], now: shifted) == "1969-12-31 Wed 365 23:00:00")
        let built = try #require(TemplateDate(year: 2024, month: 2, day: 29, hour: 23))
        #expect(try template.render([:], now: built) == "2024-02-29 Thu 060 23:00:00")
        #expect(TemplateDate(year: 2023, month: 2, day: 29) == nil)
        #expect(TemplateDate(year: 2024, month: 4, day: 31) == nil)
        #expect(TemplateDate(year: 2024, month: 1, day: 1, hour: 24) == nil)
    }

    // MARK: Checkpoints

    /// The result of `body` on a directory with the given files.
    private func withFolder<Result>(
        _ files: [String: Data], _ body: (String) throws -> Result
    ) throws -> Result {
        let scratch = try Scratch()
        try FileManager.default.createDirectory(
            atPath: "\(scratch.path)/chat_templates", withIntermediateDirectories: true)
        for (name, data) in files { try scratch.write(data, to: name) }
        return try body(scratch.path)
    }

    private func found(_ files: [String: String]) throws -> CheckpointTemplates? {
        try withFolder(files.mapValues { Data($0.utf8) }) { try CheckpointTemplates.find(in: $0) }
    }

    private func rendered(_ files: [String: String], withTools: Bool = false) throws -> String? {
        try found(files)?.template(withTools: withTools).render([:])
    }

    @Test("The file wins over the configuration, that over chat_template.json")
    func precedence() throws {
        let config = """
            {"chat_template": "config", "bos_token": {"content": "<s>"}, "eos_token": "</s>",
            "pad_token": null}
            """
        let old = #"{"chat_template": "old"}"#
        #expect(try found([:]) == nil)
        #expect(try found(["tokenizer_config.json": "{}"]) == nil)
        #expect(try rendered(["chat_template.json": old]) == "old")
        let both = ["chat_template.json": old, "tokenizer_config.json": config]
        #expect(try rendered(both) == "config")
        let files = ["chat_template.jinja": "file", "tokenizer_config.json": config]
        #expect(try rendered(files) == "file")
        #expect(try found(files)?.specialTokens == ["bos_token": "<s>", "eos_token": "</s>"])
    }

    @Test("Named templates: one for tools, one for the rest")
    func named() throws {
        let list = """
            {"chat_template": [{"name": "default", "template": "plain"},
            {"name": "tool_use", "template": "tools"}]}
            """
        #expect(try rendered(["tokenizer_config.json": list]) == "plain")
        #expect(try rendered(["tokenizer_config.json": list], withTools: true) == "tools")
        let files = ["chat_templates/tool_use.jinja": "tools", "chat_template.jinja": "file"]
        #expect(try rendered(files) == "file")
        #expect(try rendered(files, withTools: true) == "tools")
        #expect(throws: TemplateError.self) {
            try rendered(["chat_templates/rag.jinja": "rag"])
        }
    }

    @Test(
        "Malformed files are errors that name them",
        arguments: [
            ("tokenizer_config.json", "{"), ("tokenizer_config.json", #"{"chat_template": 5}"#),
            ("tokenizer_config.json", #"{"chat_template": [{"name": "x"}]}"#),
            ("chat_template.json", "[1"),
        ])
    func malformed(file: String, text: String) throws {
        let error = try #require(throws: TemplateError.self) { try found([file: text]) }
        #expect(error.kind == .file)
        #expect(error.description.contains(file))
    }

    @Test("A template that is not UTF-8, and a folder in a template's place")
    func unreadable() throws {
        let bytes = ["chat_template.jinja": Data([0x7B, 0xFF, 0xFE])]
        let error = try #require(throws: TemplateError.self) {
            try withFolder(bytes) { try CheckpointTemplates.find(in: $0) }
        }
        #expect(error.description.contains("chat_template.jinja is not UTF-8"))
        #expect(throws: TemplateError.self) {
            try withFolder([:]) { folder in
                try FileManager.default.createDirectory(
                    atPath: folder + "/chat_template.jinja", withIntermediateDirectories: false)
                return try CheckpointTemplates.find(in: folder)
            }
        }
    }
}
