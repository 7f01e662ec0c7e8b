import MinimaCore
import MinimaTemplate
import Testing

/// A small deterministic generator (SplitMix64), so that a failing round can be run again.
private struct Dice: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

@Suite("Mutated templates and random contexts give a text or an error")
struct FuzzTests {
    static let limits = TemplateLimits(steps: 20_000, bytes: 1 << 20, depth: 120)

    private static let words = [
        "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "(", ")", "[", "]", "{", "}", "|", ".", ",",
        ":", "=", "==", "~", "*", "**", "//", "%", " if ", " else ", " for ", " in ", " not ",
        " is ", "loop", "'", "\"", "\\", "0", "-1", "9223372036854775807", "1e308", "none", "true",
        "messages", "namespace()", "range(9)", "|tojson", "|list", "|sort", "|length", "|int",
        "{% endif %}", "{% endfor %}", "{% if x %}", "{% set x %}", "{% break %}", "\n", "\r", " ",
        "é", "🙂", "\u{301}", "\0", "[::-1]", ".split()", ".items()", "caller()",
    ]

    private static func value(_ dice: inout Dice, level: Int = 0) -> JSON {
        switch Int.random(in: 0..<(level > 3 ? 6 : 8), using: &dice) {
        case 0: return .null
        case 1: return .bool(Bool.random(using: &dice))
        case 2: return .integer([0, -1, 7, .max, .min].randomElement(using: &dice) ?? 0)
        case 3: return .number([0.5, -1e300, 1e-300, 3].randomElement(using: &dice) ?? 0)
        case 4, 5: return .string(words.randomElement(using: &dice) ?? "")
        case 6:
            var items: [JSON] = []
            for _ in 0..<Int.random(in: 0..<4, using: &dice) {
                items.append(value(&dice, level: level + 1))
            }
            return .array(items)
        default:
            var object: JSON = [:]
            for name in ["role", "content", "function", "name", "tool_calls", "arguments"] {
                guard Bool.random(using: &dice), var members = object.object else { continue }
                members[JSON.Name(name)] = value(&dice, level: level + 1)
                object = .object(members)
            }
            return object
        }
    }

    private static func mutated(_ source: [Unicode.Scalar], _ dice: inout Dice) -> String {
        var scalars = source
        for _ in 0..<Int.random(in: 1...6, using: &dice) {
            let from = Int.random(in: 0...scalars.count, using: &dice)
            let to = min(scalars.count, from + Int.random(in: 0..<12, using: &dice))
            switch Int.random(in: 0..<4, using: &dice) {
            case 0: scalars.removeSubrange(from..<to)
            case 1: scalars.insert(contentsOf: scalars[from..<to], at: 0)
            case 2: scalars.removeLast(min(scalars.count, to - from))
            default:
                let word = words.randomElement(using: &dice) ?? ""
                scalars.replaceSubrange(from..<to, with: word.unicodeScalars)
            }
        }
        var text = String.UnicodeScalarView()
        text.append(contentsOf: scalars)
        return String(text)
    }

    /// Renders and counts; a trap would end the process.
    private static func run(
        _ sources: [String], rounds: Int, seed: UInt64
    ) -> (texts: Int, errors: [TemplateError.Kind: Int]) {
        var dice = Dice(state: seed)
        let pool = sources.map { Array($0.unicodeScalars) }
        var texts = 0
        var errors: [TemplateError.Kind: Int] = [:]
        let now = TemplateDate(unixSeconds: 1_751_619_903)
        for _ in 0..<rounds {
            let source = mutated(pool.randomElement(using: &dice) ?? [], &dice)
            var context: JSON = ["bos_token": "<s>", "eos_token": "</s>"]
            for name in ["messages", "tools", "text", "numbers", "map", "people", "x"] {
                guard var members = context.object else { continue }
                members[JSON.Name(name)] = value(&dice)
                context = .object(members)
            }
            do {
                _ = try ChatTemplate(source: source).render(context, now: now, limits: limits)
                texts += 1
            } catch {
                errors[error.kind, default: 0] += 1
            }
        }
        return (texts, errors)
    }

    @Test("Mutations of whole templates")
    func templates() throws {
        var sources: [String] = []
        for name in [
            "chatml-tools", "headers-dated", "inst-alternating", "harmony-types", "brackets-ids",
        ] {
            sources.append(try Goldens.text("\(Goldens.folder)/templates/\(name).jinja"))
        }
        let result = Self.run(sources, rounds: 400, seed: 1)
        #expect(result.texts > 0)
        #expect((result.errors[.syntax] ?? 0) > 0)
    }

    @Test("Mutations of snippets")
    func snippets() throws {
        let document = try Goldens.json("\(Goldens.folder)/snippets.json")
        let sources = (document["cases"]?.array ?? []).compactMap { $0["source"]?.string }
        let result = Self.run(sources, rounds: 12_000, seed: 2)
        #expect(result.texts > 500)
        for kind in [TemplateError.Kind.syntax, .value, .undefined, .unsupported, .limit] {
            #expect((result.errors[kind] ?? 0) > 0, "no error of kind \(kind)")
        }
    }
}
