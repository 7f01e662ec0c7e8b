/// Why a stage cannot do what it was asked.
public enum StageError: Error, CustomStringConvertible {
    case tooLittleText(tokens: Int, needed: Int, purpose: String)
    case alreadyCompressed(path: String)
    case vocabulariesDiffer(Int, Int)
    case notEnoughMemory(purpose: String, neededBytes: Int, availableBytes: Int)
    case badRatio(Double)
    case moduleTooSmall(name: String, reason: String)
    case notSplit(name: String, reason: String)
    case noAlignedRank(name: String, ranks: [Int], alignment: Int)
    case badPart(String, ratio: Double, known: [String])
    case notFinite(what: String)
    case unknownFormats(String, known: [String])
    case infeasible(target: String, smallest: String)
    case noOptions(site: String)
    case unmeasured(what: String, tokens: Int, measured: [Int])
    case otherSchema(what: String, found: Int, expected: Int)
    case damagedAnalysis(reason: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .tooLittleText(let tokens, let needed, let purpose):
            "\(purpose) needs at least \(needed) tokens of text, \(tokens) were given"
        case .alreadyCompressed(let path):
            "\(path) is compressed already; compress the dense model it came from"
        case .vocabulariesDiffer(let left, let right):
            """
            the models have vocabularies of \(left) and \(right) tokens; KL compares models of one \
            vocabulary only
            """
        case .notEnoughMemory(let purpose, let needed, let available):
            """
            \(purpose) needs \(needed >> 20) MiB, \(available >> 20) MiB are free; use a smaller \
            model or a machine with more memory
            """
        case .badRatio(let ratio):
            "a ratio of \(ratio) removes nothing or everything; give a number between 0 and 1"
        case .moduleTooSmall(let name, let reason):
            "\(name) cannot be compressed that far: \(reason); lower the ratio"
        case .notSplit(let name, let reason):
            "\(name) cannot be split: \(reason)"
        case .noAlignedRank(let name, let ranks, let alignment):
            """
            \(name) would take ranks \(ranks); no multiple of \(alignment) there makes it smaller than \
            dense; take a smaller alignment, another format or a larger model
            """
        case .badPart(let part, let ratio, let known):
            """
            layers with "\(part)" in their names do not hold a share of \(ratio) of all; take a smaller \
            share, or one of \(known.joined(separator: ", "))
            """
        case .notFinite(let what):
            "\(what) is not finite; check the model's weights (`minima inspect --check-finite`)"
        case .unknownFormats(let name, let known):
            "unknown format \"\(name)\"; the formats are \(known.joined(separator: ", "))"
        case .infeasible(let target, let smallest):
            """
            no plan reaches \(target) with the formats and modules that are allowed; the furthest is \
            \(smallest)
            """
        case .otherSchema(let what, let found, let expected):
            """
            \(what) has layout \(found), this version reads \(expected); write it again with this \
            version of Minima
            """
        case .damagedAnalysis(let reason):
            "the analysis is damaged: \(reason); analyze the model again"
        case .unmeasured(let what, let tokens, let measured):
            """
            the decoding times have none of \(what) for \(tokens) requests at once, they are for \
            \(measured.map(String.init).joined(separator: ", ")); measure this model's shapes
            """
        case .noOptions(let site):
            "nothing that is allowed covers \(site); allow another cut of the sites"
        }
    }
}
