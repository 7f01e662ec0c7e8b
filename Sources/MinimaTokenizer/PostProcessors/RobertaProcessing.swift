/// Puts the classifier token before the text and the separator behind it; `trim_offsets` and
/// `add_prefix_space` only concern offsets, which Minima has none of.
struct RobertaProcessing: PostProcessor {
    static let typeName = "RobertaProcessing"

    private let template: TemplateProcessing

    init(_ section: ConfigSection) throws(TokenizerError) {
        template = TemplateProcessing(
            before: [try section.idOfPair("cls")], after: [try section.idOfPair("sep")])
    }

    func process(_ ids: [Int32]) -> [Int32] { template.process(ids) }
}
