import FoundationEssentials
import MinimaCore
import MinimaTemplate
import Testing

@Suite("Renderings equal those of transformers")
struct GoldenTests {
    @Test("Templates in the styles of public ones, over many conversations")
    func templates() throws {
        let result = try Goldens.differences(
            cases: "\(Goldens.folder)/cases.json", templates: "\(Goldens.folder)/templates")
        #expect(result.count >= 150)
        #expect(result.templates == 5)
        #expect(result.failures.isEmpty, "\(result.failures.joined(separator: "\n\n"))")
    }

    @Test("Snippets, one per construct")
    func snippets() throws {
        let document = try Goldens.json("\(Goldens.folder)/snippets.json")
        let context = document["context"] ?? .null
        let now = Goldens.now(document)
        let cases = document["cases"]?.array ?? []
        var failures: [String] = []
        for item in cases {
            let source = item["source"]?.string ?? ""
            let difference = Goldens.difference(item) { () throws(TemplateError) in
                try ChatTemplate(source: source).render(context, now: now)
            }
            if let difference { failures.append("\(source.debugDescription): \(difference)") }
        }
        #expect(cases.count >= 250)
        #expect(failures.isEmpty, "\(failures.joined(separator: "\n\n"))")
    }

    static let publicFolder = ProcessInfo.processInfo.environment["MINIMA_TEMPLATES"]

    @Test(
        "Public templates, kept outside of the repository",
        .enabled(
            if: publicFolder != nil,
            "MINIMA_TEMPLATES names no folder made by make_template.py --public"))
    func publicTemplates() throws {
        let folder = try #require(Self.publicFolder)
        let result = try Goldens.differences(cases: "\(folder)/cases.json", templates: folder)
        print(
            "\(folder): \(result.count) cases of \(result.templates) templates,",
            "\(result.failures.count) differ")
        #expect(result.count > 0)
        #expect(result.failures.isEmpty, "\(result.failures.joined(separator: "\n\n"))")
    }
}
