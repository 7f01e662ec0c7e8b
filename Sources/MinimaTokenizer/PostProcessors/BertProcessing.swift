/// Puts the classifier token before the text and the separator behind it.
struct BertProcessing: PostProcessor {
    static let typeName = "BertProcessing"

    private let template: TemplateProcessing

    init(_ section: ConfigSection) throws(TokenizerError) {
        template = TemplateProcessing(
            before: [try section.idOfPair("cls")], after: [try section.idOfPair("sep")])
    }

    func process(_ ids: [Int32]) -> [Int32] { template.process(ids) }
}
