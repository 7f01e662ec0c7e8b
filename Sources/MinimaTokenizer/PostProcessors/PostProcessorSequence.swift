/// Applies post-processors one after the other.
struct PostProcessorSequence: PostProcessor {
    static let typeName = "Sequence"

    private let parts: [any PostProcessor]

    init(_ section: ConfigSection) throws(TokenizerError) {
        var parts: [any PostProcessor] = []
        for element in try section.section("processors").elements() {
            parts.append(try Registry.postProcessor(element))
        }
        self.parts = parts
    }

    func process(_ ids: [Int32]) -> [Int32] {
        parts.reduce(ids) { ids, part in part.process(ids) }
    }
}
