import MinimaCore
import MinimaTemplate
import Testing

@Suite("Errors say where, what was found and what is known")
struct ErrorTests {
    static func error(_ source: String, _ context: JSON = [:]) -> TemplateError? {
        do {
            _ = try ChatTemplate(source: source).render(context)
            return nil
        } catch {
            return error
        }
    }

    @Test("Kind, line and words")
    func messages() throws {
        let cases: [(String, TemplateError.Kind, Int, [String])] = [
            ("a\n{% if x %}\nb\n{% endfor %}", .syntax, 4, ["endfor", "'if' of line 2"]),
            ("a\n{% if x %}\nb", .syntax, 3, ["'if' of line 2 is never closed", "endif"]),
            ("\n\n{{ 1 + }}", .syntax, 3, ["'}}'", "an expression"]),
            ("{{ a\n b }}", .syntax, 2, ["found 'b'", "'}}'"]),
            ("x\r\ny\r\n{{ ( }}", .syntax, 3, ["unexpected '}', expected ')'"]),
            ("\n{{ 'abc }}", .syntax, 2, ["a string that never ends"]),
            ("\n{{ x", .syntax, 2, ["without its '}}'"]),
            ("\n{% include 'x' %}", .unsupported, 2, ["the tag 'include'", "generation, raw"]),
            ("{% for a in b recursive %}{% endfor %}", .unsupported, 1, ["recursive"]),
            ("\n{{ 1|nope }}", .unsupported, 2, ["the filter 'nope'", "tojson", "selectattr"]),
            ("{{ 1 is nope }}", .unsupported, 1, ["the test 'nope'", "defined", "mapping"]),
            ("{{ 99999999999999999999 }}", .unsupported, 1, ["64 bits"]),
            ("{{ 'a'.translate({}) }}", .unsupported, 1, ["the method 'translate'"]),
            ("\n{{ joiner() }}", .unsupported, 2, ["'joiner'"]),
            ("\n{{ x.y }}", .undefined, 2, ["'x' is undefined"]),
            (
                "{% set x = {} %}\n{{ x.y.z }}", .undefined, 2,
                ["'dict' object has no attribute 'y'"]
            ),
            (
                "{% macro m() %}\n{{ 1 + 'a' }}{% endmacro %}{{ m() }}", .value, 2,
                ["'int' and 'str'"]
            ),
            (
                "\n{{ [1].append(2) }}", .undefined, 2,
                ["'append' would change a list", "namespace"]
            ),
            ("\n{{ strftime_now('%d') }}", .value, 2, ["today's date", "'now'"]),
            ("\n{{ raise_exception('No!') }}", .raised, 2, ["No!"]),
            ("\n{{ 'a'.split('') }}", .value, 2, ["empty separator"]),
            ("\n{{ 1|default(1, 2, 3) }}", .value, 2, ["default", "at most 2"]),
            ("\n{{ range(1)|map('upper') }}", .unsupported, 2, ["append '|list'"]),
        ]
        for (source, kind, line, words) in cases {
            let error = try #require(Self.error(source), "\(source)")
            #expect(error.kind == kind, "\(source): \(error)")
            #expect(error.line == line, "\(source): \(error)")
            for word in words { #expect(error.description.contains(word), "\(source): \(error)") }
        }
    }

    @Test("A filter unknown inside 'if' fails only when reached, as in Jinja")
    func deferred() throws {
        let source = "{% if x %}{{ 1|nope }}{% endif %}ok"
        #expect(try ChatTemplate(source: source).render([:]) == "ok")
        #expect(Self.error(source, ["x": true])?.kind == .unsupported)
    }

    @Test("Conversations that are none are refused")
    func conversations() throws {
        let template = try ChatTemplate(source: "{{ messages|length }}")
        for messages in [JSON.null, [], ["x"], 1, [["role": "user"], nil]] {
            #expect(throws: TemplateError.self) {
                try template.render(messages: messages, addGenerationPrompt: true)
            }
        }
    }
}
