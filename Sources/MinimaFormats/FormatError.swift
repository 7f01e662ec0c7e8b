import MinimaCore

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
    case notSplit(format: String, side: String, outputs: Int, inputs: Int)
    case tooLarge(format: String)
    case wrongTensor(format: String, name: String, found: [Int], needed: [Int])
    case wrongTensorCount(format: String, found: Int, needed: Int)
    case wrongType(format: String, name: String, found: String, needed: String)
    case unusedFields(format: String, fields: [String])
    case sizesDoNotAddUp(format: String, sizes: [Int], size: Int, side: String)
    case wrongPartCount(format: String, found: Int, needed: String)
    case tooDeep(format: String)
    case badIndices(format: String, name: String, count: Int, limit: Int)
    case wrongBits(format: String, found: Int?, allowed: [Int])
    case wrongLevels(format: String, found: FormatSpec.Levels, bits: Int)
    case wrongGroupSize(format: String, found: Int)
    case wrongParts(format: String, found: [String], needed: String)

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
        case .notSplit(let format, let side, let outputs, let inputs):
            """
            \(format) has no modes that split the \(side)s of a weight [\(outputs), \(inputs)]; keep \
            modes whole, or choose another format or sizes with more divisors
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
        case .wrongType(let format, let name, let found, let needed):
            "\(format) needs \(name) in \(needed), found \(found)"
        case .unusedFields(let format, let fields):
            "\(format) does not use \(fields.joined(separator: ", ")); leave them out"
        case .sizesDoNotAddUp(let format, let sizes, let size, let side):
            """
            \(format) cuts \(size) \(side)s into blocks \(sizes); choose positive sizes that add up \
            to it
            """
        case .wrongPartCount(let format, let found, let needed):
            "\(format) needs \(needed) parts, \(found) were given"
        case .tooDeep(let format):
            "\(format) is nested more than \(FormatSpec.deepest) formats deep"
        case .badIndices(let format, let name, let count, let limit):
            """
            \(format) needs \(name) of \(count) ascending indices below \(limit); the file that states \
            others is damaged
            """
        case .wrongBits(let format, let found, let allowed):
            """
            \(format) stores codes of \(allowed.map(String.init).joined(separator: ", ")) bits; \
            \(found.map { "\($0) were asked for" } ?? "the specification states no bits")
            """
        case .wrongLevels(let format, let found, let bits):
            """
            \(format) has \(found.rawValue) levels for codes of 8 bits only, and \(bits) were asked for; \
            take 8 bits, or \(FormatSpec.Levels.normal.rawValue) levels
            """
        case .wrongGroupSize(let format, let found):
            "\(format) needs groups of 1 value or more; a group size of \(found) was given"
        case .wrongParts(let format, let found, let needed):
            "\(format) needs \(needed) as its parts, found [\(found.joined(separator: ", "))]"
        }
    }
}
