/// Why a plan cannot be executed.
public enum CompressionError: Error, Hashable, CustomStringConvertible {
    case otherWeights(model: String, planned: String)
    case unknownModule(String, examples: [String])
    case plannedTwice(String, and: String)
    case otherShape(name: String, planned: [Int], found: [Int])
    case unusable(name: String, reason: String)
    case nothingToDo
    case notBudgeted(format: String, known: [String])
    case badCompensation(String)
    case singular(site: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .otherWeights(let model, let planned):
            """
            the plan was made for other weights (\(planned)) than those of \(model); plan again for \
            this model, or empty the plan's "fingerprints" to apply it anyway
            """
        case .unknownModule(let name, let examples):
            """
            the plan names a module \"\(name)\" that the model does not have; its modules are \
            called \(examples.joined(separator: ", ")), …
            """
        case .plannedTwice(let name, let other) where name == other:
            "the plan names \(name) twice; remove one of the entries"
        case .plannedTwice(let member, let site):
            "the plan names both \(member) and \(site), which contains it; remove one of them"
        case .otherShape(let name, let planned, let found):
            "the plan takes \(name) for \(planned), the model's is \(found); plan again"
        case .unusable(let name, let reason):
            "the plan's format does not suit \(name): \(reason)"
        case .nothingToDo:
            "every module of the plan stays dense; there is nothing to compress"
        case .notBudgeted(let format, let known):
            """
            \(format) has no specification for a ratio; choose one of \
            \(known.joined(separator: ", ")), or make a plan
            """
        case .badCompensation(let text):
            "\"\(text)\" is no compensation; it is off, auto, or a number from 0 to less than 1"
        case .singular(let site):
            """
            the inputs of \(site) cannot be inverted even when they are damped; use more \
            calibration text, or no compensation
            """
        }
    }
}
