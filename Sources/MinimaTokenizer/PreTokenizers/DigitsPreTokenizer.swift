/// Makes numbers pieces of their own, scalar by scalar or run by run.
struct DigitsPreTokenizer: PreTokenizer {
    static let typeName = "Digits"

    private let individual: Bool

    init(_ section: ConfigSection) throws(TokenizerError) {
        individual = try section.bool("individual_digits")
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        try pieces.split(individual ? .isolated : .contiguous) { $0.isNumeric }
    }
}
