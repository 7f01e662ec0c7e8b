import MinimaCore
import MinimaTemplate
import Testing

@Suite("No template can hang, exhaust memory or trap")
struct LimitTests {
    static let small = TemplateLimits(steps: 200_000, bytes: 4 << 20, depth: 120)

    static func kind(
        _ source: String, _ context: JSON = [:], limits: TemplateLimits = small
    ) -> TemplateError.Kind? {
        do {
            _ = try ChatTemplate(source: source).render(context, limits: limits)
            return nil
        } catch {
            return error.kind
        }
    }

    @Test(
        "Costly templates reach a limit",
        arguments: [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% set n = namespace(x='ab') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "{% set n = namespace(x=[1]) %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}",
            "{% set n = namespace(x={}) %}{% for i in range(9999) %}{% set n.x = {1: n.x} %}{% endfor %}",
            "{% set n = namespace(x=(1,)) %}{% for i in range(9999) %}{% set n.x = {n.x: (n.x,)}|list|first, 1 %}{% endfor %}",
            "{% set n = namespace(x=[1]) %}{% for i in range(9999) %}{% set n.x = n.x|batch(1)|list %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
            "{{ 'x' * 9223372036854775807 }}", "{{ [1, 2] * 9223372036854775807 }}",
            "{{ 'x'.center(9223372036854775807) }}", "{{ 'x'|indent(9223372036854775807) }}",
            "{{ [1]|batch(9223372036854775807, 0)|list }}", "{{ range(9223372036854775807) }}",
            "{{ range(-9223372036854775807, 9223372036854775807) }}",
            "{{ {'a': [1]}|tojson(indent=9223372036854775807) }}",
            "{{ ('a' * 100000).replace('a', 'b' * 1000) }}",
            "{{ ('a' * 99999)|join('b' * 99999) }}",
            "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ 'b' in s }}{% endfor %}",
            "{% set s = 'a' * 1000000 %}{% set t = 'a' * 1000000 %}{% for i in range(99999) %}{{ s == t }}{% endfor %}",
            "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s|length }}{% endfor %}",
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        ])
    func limited(source: String) {
        #expect(Self.kind(source) == .limit, "\(source)")
    }

    @Test(
        "Arithmetic beyond 64 bits, and other ends of ranges, fail by an error",
        arguments: [
            "{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}",
            "{{ 9223372036854775807 * 2 }}", "{{ 10 ** 19 }}", "{{ 2 ** 9223372036854775807 }}",
            "{{ (-9223372036854775807 - 1) // -1 }}", "{{ -(-9223372036854775807 - 1) }}",
            "{{ (-9223372036854775807 - 1)|abs }}", "{{ 1 / 0 }}", "{{ 1.0 % 0 }}",
            "{{ 0.0 ** -1 }}",
            "{{ 1e300|int }}", "{{ 'x'|round }}", "{{ 1.5|round(9999) }}", "{{ 1.5|round(-9999) }}",
            "{{ 10.0 ** 400 }}", "{{ [1]|batch(0)|list }}", "{{ loop.cycle() }}",
            "{{ 'abc'.zfill() }}", "{{ '%d' % 1e300 }}", "{{ '{' .format(1) }}", "{{ '%' % 1 }}",
        ])
    func beyond(source: String) {
        let kind = Self.kind(source)
        #expect(kind == .value || kind == .undefined, "\(source): \(String(describing: kind))")
    }

    @Test("Ends of ranges that are legal")
    func ends() throws {
        let cases = [
            "{{ (-9223372036854775807 - 1) % -1 }}": "0",
            "{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}": "a",
            "{{ 'abc'[::-9223372036854775807] }}": "c",
            "{{ [1, 2][9223372036854775807] }}|{{ 'ab'[-9223372036854775807 - 1] }}": "|",
            "{{ '' * 9223372036854775807 }}{{ [] * 9223372036854775807 }}": "[]",
            "{{ ''[::-1] }}{{ [][::-1] }}{{ [][-1:] }}": "[][]",
            "{{ range(9223372036854775806, 9223372036854775807)|list }}": "[9223372036854775806]",
        ]
        for (source, text) in cases {
            #expect(try ChatTemplate(source: source).render([:]) == text, "\(source)")
        }
    }

    @Test("Deep or long source is refused, not recursed into")
    func deepSource() {
        let deep = [
            String(repeating: "(", count: 20_000), String(repeating: "[", count: 20_000),
            "{{ " + String(repeating: "-", count: 20_000) + "1 }}",
            "{{ " + String(repeating: "not ", count: 20_000) + "1 }}",
            "{{ 1" + String(repeating: "+1", count: 20_000) + " }}",
            "{{ 1" + String(repeating: "|abs", count: 20_000) + " }}",
            "{{ x" + String(repeating: ".x", count: 20_000) + " }}",
            "{{ 1" + String(repeating: " if 1 else 1", count: 20_000) + " }}",
            "{{ " + String(repeating: "{1:", count: 20_000) + " }}",
            String(repeating: "{% if 1 %}", count: 20_000),
            "{% set " + String(repeating: "(", count: 20_000) + " %}",
            "{% if 1 %}" + String(repeating: "{% elif 1 %}", count: 100) + "{{ ( }}",
        ]
        for source in deep {
            let source = source.hasPrefix("{") ? source : "{{ \(source) }}"
            let kind = Self.kind(source)
            #expect(kind == .limit || kind == .syntax, "\(source.prefix(40))")
        }
        let huge = String(repeating: "x", count: 5 << 20)
        #expect(Self.kind(huge) == .limit)
    }

    @Test("The deepest allowed nesting renders")
    func deepest() throws {
        let open = String(repeating: "{% if 1 %}", count: 60)
        let close = String(repeating: "{% endif %}", count: 60)
        let sum = "1" + String(repeating: "+1", count: 200)
        let brackets = String(repeating: "(", count: 55) + "7" + String(repeating: ")", count: 55)
        #expect(try ChatTemplate(source: open + "{{ 7 }}" + close).render([:]) == "7")
        #expect(try ChatTemplate(source: "{{ \(sum) }}").render([:]) == "201")
        #expect(try ChatTemplate(source: "{{ \(brackets) }}").render([:]) == "7")
        let macro = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% else %}end{% endif %}{% endmacro %}"
        #expect(try ChatTemplate(source: macro + "{{ m(40) }}").render([:]) == "end")
    }

    @Test("The standard limits leave room on the stack of a thread")
    func standardLimits() {
        let standard = TemplateLimits()
        let macro = "{% macro m(x) %}{% if 1 %}{{ [m(x)]|list }}{% endif %}{% endmacro %}{{ m(1) }}"
        #expect(Self.kind(macro, limits: standard) == .limit)
        let nested =
            "{% set n = namespace(x=[]) %}{% for i in range(150) %}{% set n.x = [n.x] %}"
            + "{% endfor %}{{ n.x }}{{ n.x|tojson(indent=1) }}{{ n.x == [n.x] }}"
        #expect(Self.kind(nested, limits: standard) == nil)
        let sum = "{{ 1" + String(repeating: "+1", count: 1_400) + " }}"
        #expect(Self.kind(sum, limits: standard) == .limit)
    }

    @Test("A context that nests too deep is refused")
    func deepContext() throws {
        var context: JSON = 1
        for _ in 0..<1000 { context = [context] }
        #expect(Self.kind("{{ x }}", ["x": context]) == .limit)
        #expect(Self.kind("{{ y }}", ["x": context]) == nil)
        #expect(Self.kind("{{ x }}", [1]) == .value)
    }
}
