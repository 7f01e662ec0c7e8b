import FoundationEssentials
import MinimaCore
import MinimaTemplate
import MinimaTestSupport

/// Cases written by `Tests/Goldens/template/make_template.py`.
enum Goldens {
    static let folder = packageFolder() + "/Tests/Goldens/template"

    struct MissingFile: Error, CustomStringConvertible {
        let path: String
        var description: String { "cannot read \(path)" }
    }

    static func text(_ path: String) throws -> String {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw MissingFile(path: path)
        }
        return String(decoding: data, as: UTF8.self)
    }

    static func json(_ path: String) throws -> JSON { try JSON(parsing: try text(path)) }

    static func now(_ document: JSON) -> TemplateDate? {
        let parts = (document["now"]?.array ?? []).compactMap(\.int)
        guard parts.count == 6 else { return nil }
        return TemplateDate(
            year: parts[0], month: parts[1], day: parts[2], hour: parts[3], minute: parts[4],
            second: parts[5])
    }

    /// Why `render` differs from what a case expects, or `nil` when it does not.
    static func difference(
        _ expected: JSON, _ render: () throws(TemplateError) -> String
    ) -> String? {
        do {
            let text = try render()
            guard let due = expected["text"]?.string else {
                return "gave \(text.debugDescription), expected the failure \(expected.text())"
            }
            if text.utf8.elementsEqual(due.utf8) { return nil }
            return "gave\n\(text.debugDescription), expected\n\(due.debugDescription)"
        } catch {
            if let message = expected["raised"]?.string {
                return error.kind == .raised && error.reason == message ? nil : "failed: \(error)"
            }
            if expected["error"] != nil { return error.kind == .raised ? "raised: \(error)" : nil }
            return "failed: \(error)"
        }
    }

    /// Differences of all cases of a folder with `cases.json` and templates beside it.
    static func differences(
        cases: String, templates: String
    ) throws -> (count: Int, templates: Int, failures: [String]) {
        let document = try json(cases)
        let now = now(document)
        var failures: [String] = []
        var parsed: [String: ChatTemplate] = [:]
        let cases = document["cases"]?.array ?? []
        for item in cases {
            guard let name = item["template"]?.string, let chat = item["conversation"]?.string,
                let conversation = document["conversations"]?[chat]
            else { continue }
            let difference = difference(item) { () throws(TemplateError) in
                let template: ChatTemplate
                if let known = parsed[name] {
                    template = known
                } else {
                    let source = (try? text("\(templates)/\(name).jinja")) ?? "{% missing %}"
                    template = try ChatTemplate(source: source)
                    parsed[name] = template
                }
                return try render(template, conversation, now)
            }
            if let difference { failures.append("\(name), \(chat): \(difference)") }
        }
        return (cases.count, parsed.count, failures)
    }

    static func render(
        _ template: ChatTemplate, _ conversation: JSON, _ now: TemplateDate?
    ) throws(TemplateError) -> String {
        var variables: [String: JSON] = [:]
        for (name, value) in conversation["variables"]?.object ?? [:] {
            variables[name.text] = value
        }
        return try template.render(
            messages: conversation["messages"] ?? .null, tools: conversation["tools"],
            addGenerationPrompt: conversation["add_generation_prompt"]?.bool ?? false,
            variables: variables, now: now)
    }
}
