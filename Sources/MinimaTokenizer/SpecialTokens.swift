import MinimaCore

/// The tokens with a role, as tokenizer_config.json names them.
public struct SpecialTokens: Sendable {
    /// A token with a role.
    public struct Token: Sendable, Hashable {
        /// The token's text.
        public let text: String
        /// Its id; `nil` when the tokenizer does not hold the token.
        public let id: Int32?
    }

    /// Beginning of a sequence.
    public let beginning: Token?
    /// End of a sequence; generation stops at it.
    public let end: Token?
    /// Padding of batches.
    public let padding: Token?
    /// What stands for text without tokens.
    public let unknown: Token?
    /// What `add_bos_token` and `add_eos_token` ask for, when the file says either.
    let template: TemplateProcessing?

    init(
        _ config: JSON?, id: (String) -> Int32?
    ) throws(TokenizerError) {
        let root = ConfigSection(
            json: config ?? .object([:]), file: "tokenizer_config.json", path: "")
        guard root.json.object != nil else {
            throw root.malformed("expected an object, found \(root.json.kind)")
        }
        func token(_ name: String) throws(TokenizerError) -> Token? {
            guard let section = root.optionalSection(name) else { return nil }
            // Either the text or an object with its settings.
            let text = section.json.string ?? section.json["content"]?.string
            guard let text else {
                throw section.malformed("expected a token, found \(section.json.kind)")
            }
            return Token(text: text, id: id(text))
        }
        beginning = try token("bos_token")
        end = try token("eos_token")
        padding = try token("pad_token")
        unknown = try token("unk_token")
        template = try Self.template(root, beginning: beginning, end: end)
    }

    /// As transformers does it: a file that says `add_bos_token` or `add_eos_token` replaces the
    /// post-processor of tokenizer.json.
    private static func template(
        _ root: ConfigSection, beginning: Token?, end: Token?
    ) throws(TokenizerError) -> TemplateProcessing? {
        let names = ["add_bos_token", "add_eos_token"]
        guard names.contains(where: { root.optionalSection($0) != nil }) else { return nil }
        func ids(_ name: String, _ token: Token?) throws(TokenizerError) -> [Int32] {
            guard try root.bool(name, default: false), let token else { return [] }
            guard let id = token.id else {
                throw root.malformed("\(name) is true, but tokenizer.json lacks \"\(token.text)\"")
            }
            return [id]
        }
        return TemplateProcessing(
            before: try ids("add_bos_token", beginning), after: try ids("add_eos_token", end))
    }
}
