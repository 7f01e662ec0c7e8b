import FoundationEssentials
import Glibc
import MinimaCore
import OrderedCollections

/// The chat templates of a checkpoint directory, and the special tokens they print.
public struct CheckpointTemplates: Sendable, Hashable {
    /// Sources by name; a checkpoint with one template calls it `default`.
    public let sources: [String: String]
    /// `bos_token`, `eos_token` and their like, as variables of a rendering.
    public let specialTokens: [String: JSON]

    /// Reads the templates of a checkpoint.
    ///
    /// As in transformers, `chat_template.jinja` and `chat_templates/*.jinja` come before
    /// `chat_template` in `tokenizer_config.json`, and that before `chat_template.json`.
    ///
    /// - Parameter directory: Path of the checkpoint.
    /// - Returns: `nil` when the checkpoint has no template.
    /// - Throws: `TemplateError` of kind `file`, naming the file, when one is malformed.
    public static func find(in directory: String) throws(TemplateError) -> CheckpointTemplates? {
        let config = try json("\(directory)/tokenizer_config.json")
        var sources = try files(in: directory)
        if sources.isEmpty, let template = config?["chat_template"] {
            sources = try named(template, file: "\(directory)/tokenizer_config.json")
        }
        if sources.isEmpty, let file = try json("\(directory)/chat_template.json"),
            let template = file["chat_template"]
        {
            sources = try named(template, file: "\(directory)/chat_template.json")
        }
        guard !sources.isEmpty else { return nil }
        return CheckpointTemplates(sources: sources, specialTokens: tokens(of: config))
    }

    /// The template for a conversation with or without tools, parsed.
    ///
    /// - Throws: `TemplateError`; of kind `file` when there are several templates, none for this.
    public func template(withTools: Bool = false) throws(TemplateError) -> ChatTemplate {
        let preferred = withTools ? sources["tool_use"] : nil
        guard let source = preferred ?? sources["default"] else {
            let names = sources.keys.sorted().joined(separator: ", ")
            throw TemplateError(
                .file, "the checkpoint has the templates \(names), but none is called default")
        }
        return try ChatTemplate(source: source)
    }

    private static func files(in directory: String) throws(TemplateError) -> [String: String] {
        var sources: [String: String] = [:]
        if let text = try text("\(directory)/chat_template.jinja") { sources["default"] = text }
        let folder = "\(directory)/chat_templates"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        for name in names where name.hasSuffix(".jinja") {
            if let text = try text("\(folder)/\(name)") { sources[String(name.dropLast(6))] = text }
        }
        return sources
    }

    /// The templates of a `chat_template` member: one text, or a list of names and texts.
    private static func named(
        _ template: JSON, file: String
    ) throws(TemplateError) -> [String: String] {
        switch template {
        case .null: return [:]
        case .string(let source): return ["default": source]
        case .array(let items):
            var sources: [String: String] = [:]
            for item in items {
                guard let name = item["name"]?.string, let source = item["template"]?.string else {
                    throw TemplateError(
                        .file,
                        "\(file): an element of chat_template lacks the strings "
                            + "\"name\" and \"template\"")
                }
                sources[name] = source
            }
            return sources
        default:
            throw TemplateError(
                .file, "\(file): chat_template is \(template.kind), expected a string or an array")
        }
    }

    /// Special tokens, written as texts or as objects with a `content`.
    private static func tokens(of config: JSON?) -> [String: JSON] {
        var tokens: [String: JSON] = [:]
        let kinds = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
        for name in kinds.map({ "\($0)_token" }) {
            guard let token = config?[name] else { continue }
            if let text = token.string ?? token["content"]?.string { tokens[name] = .string(text) }
        }
        return tokens
    }

    /// The text of a file, or `nil` when there is none.
    private static func text(_ path: String) throws(TemplateError) -> String? {
        guard let bytes = try bytes(path, limit: TemplateLimits.sourceBytes) else { return nil }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw TemplateError(.file, "\(path) is not UTF-8")
        }
        return text
    }

    private static func json(_ path: String) throws(TemplateError) -> JSON? {
        guard let bytes = try bytes(path, limit: 256 << 20) else { return nil }
        do {
            return try JSON(parsing: bytes)
        } catch {
            throw TemplateError(.file, "\(path): \(error)")
        }
    }

    private static func bytes(_ path: String, limit: Int) throws(TemplateError) -> [UInt8]? {
        let manager = FileManager.default
        guard manager.fileExists(atPath: path) else { return nil }
        var status = stat()
        guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw TemplateError(.file, "\(path) is not a readable file")
        }
        guard status.st_size <= limit else {
            throw TemplateError(.file, "\(path) has \(status.st_size) bytes, at most \(limit)")
        }
        guard let data = manager.contents(atPath: path) else {
            throw TemplateError(.file, "\(path) cannot be read; check its permissions")
        }
        return [UInt8](data)
    }
}
