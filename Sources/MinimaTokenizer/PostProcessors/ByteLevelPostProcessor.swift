/// Trims offsets in Hugging Face's library; ids stay as they are, and Minima has no offsets.
struct ByteLevelPostProcessor: PostProcessor {
    static let typeName = "ByteLevel"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func process(_ ids: [Int32]) -> [Int32] { ids }
}
