/// Why a weight cannot be represented as asked.
public enum FormatError: Error, Hashable, CustomStringConvertible {
    case unknownFormat(String, known: [String])
    case wrongFormat(found: String, needed: String)
    case notAMatrix(format: String, shape: [Int])
    case modesDoNotMultiply(modes: [Int], size: Int, side: String)
    case wrongModeCount(format: String, outputs: Int, inputs: Int, needed: String)
    case wrongRankCount(format: String, found: Int, needed: Int)
    case rankOutOfRange(format: String, rank: Int, position: Int, allowed: ClosedRange<Int>)
    case budgetTooSmall(format: String, parameters: Int, smallest: Int)
    case tooLarge(format: String)
    case wrongTensor(format: String, name: String, found: [Int], needed: [Int])
    case wrongTensorCount(format: String, found: Int, needed: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .unknownFormat(let name, let known):
            "unknown format \"\(name)\"; the formats are \(known.joined(separator: ", "))"
        case .wrongFormat(let found, let needed):
            "a specification of \"\(found)\" was given to \(needed); look the format up by its name"
        case .notAMatrix(let format, let shape):
            """
            \(format) represents matrices [outputs, inputs] without empty sides; the weight has shape \
            \(shape)
            """
        case .modesDoNotMultiply(let modes, let size, let side):
            """
            \(side) modes \(modes) do not give \(size) \(side)s; choose modes that multiply to it
            """
        case .wrongModeCount(let format, let outputs, let inputs, let needed):
            """
            \(format) needs \(needed); \(outputs) output and \(inputs) input modes were given
            """
        case .wrongRankCount(let format, let found, let needed):
            "\(format) needs \(needed) ranks, \(found) were given"
        case .rankOutOfRange(let format, let rank, let position, let allowed):
            """
            rank \(rank) at position \(position) of \(format) is not within \
            \(allowed.lowerBound)...\(allowed.upperBound)
            """
        case .budgetTooSmall(let format, let parameters, let smallest):
            """
            \(format) cannot represent this weight with \(parameters) parameters; it needs at least \
            \(smallest)
            """
        case .tooLarge(let format):
            """
            the sizes of this \(format) weight exceed 2^\(Sizes.limitExponent) values; the file that \
            states them is damaged
            """
        case .wrongTensor(let format, let name, let found, let needed):
            "\(format) needs \(name) of shape \(needed), found \(found)"
        case .wrongTensorCount(let format, let found, let needed):
            "\(format) needs \(needed) tensors, \(found) were given"
        }
    }
}
