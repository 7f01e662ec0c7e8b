/// Puts special tokens around the text as a template says.
struct TemplateProcessing: PostProcessor {
    static let typeName = "TemplateProcessing"

    private enum Piece {
        case text
        case tokens([Int32])
    }

    private let pieces: [Piece]

    init(_ section: ConfigSection) throws(TokenizerError) {
        let tokens = try section.section("special_tokens")
        var pieces: [Piece] = []
        for element in try section.section("single").elements() {
            if element.optionalSection("Sequence") != nil {
                let id = try element.section("Sequence").string("id")
                guard id == "A" else {
                    throw element.malformed("the template of one text names the text \"\(id)\"")
                }
                pieces.append(.text)
            } else {
                let name = try element.section("SpecialToken").string("id")
                guard let token = tokens.optionalSection(name) else {
                    throw element.malformed("\"\(name)\" is not among special_tokens")
                }
                var ids: [Int32] = []
                for id in try token.section("ids").elements() { ids.append(try id.tokenID()) }
                pieces.append(.tokens(ids))
            }
        }
        self.pieces = pieces
    }

    /// A template of tokens before and after the text.
    init(before: [Int32], after: [Int32]) {
        pieces = [.tokens(before), .text, .tokens(after)]
    }

    func process(_ ids: [Int32]) -> [Int32] {
        var processed: [Int32] = []
        processed.reserveCapacity(ids.count + pieces.count)
        for piece in pieces {
            switch piece {
            case .text: processed.append(contentsOf: ids)
            case .tokens(let tokens): processed.append(contentsOf: tokens)
            }
        }
        return processed
    }
}

extension ConfigSection {
    /// This number as a token's id.
    func tokenID() throws(TokenizerError) -> Int32 {
        guard let value = json.int, value >= 0, let id = Int32(exactly: value) else {
            throw malformed("expected a token id, found \(json.text(indent: nil))")
        }
        return id
    }

    /// The id in a `["token", id]` pair.
    func idOfPair(_ name: String) throws(TokenizerError) -> Int32 {
        let pair = try section(name)
        let elements = try pair.elements()
        guard elements.count == 2 else { throw pair.malformed("expected [token, id]") }
        return try elements[1].tokenID()
    }
}
