/// Which tokens may come next in one request, such as those that keep its answer within a grammar.
///
/// Belongs to one request, is called from the engine's thread only, and sees each of the request's new
/// tokens once, in order.
public protocol TokenConstraint: AnyObject, Sendable {
    /// Sets the bits of the tokens that may come next and clears the others; stop tokens are among them
    /// where the answer may end.
    ///
    /// - Parameter mask: (vocabulary + 31) / 32 words; token 0 is the lowest bit of the first.
    /// - Returns: Whether anything is excluded; otherwise the mask counts for nothing.
    func allowed(_ mask: inout [UInt32]) -> Bool

    /// Moves on by a token that was chosen.
    ///
    /// - Returns: False when the token was not allowed: nothing has moved then.
    func accept(_ token: Int32) -> Bool
}

/// A request's constraint with the mask of its next token, which is asked for once.
struct ConstraintState {
    private let constraint: any TokenConstraint
    private let vocabulary: Int
    private var mask: [UInt32] = []

    init(_ constraint: any TokenConstraint, vocabulary: Int) {
        self.constraint = constraint
        self.vocabulary = vocabulary
    }

    /// Which tokens may come after `length` tokens; all bits of the vocabulary where any may.
    mutating func mask(after length: Int) throws(EngineError) -> [UInt32] {
        guard mask.isEmpty else { return mask }
        let words = (vocabulary + 31) / 32
        var found = [UInt32](repeating: 0, count: words)
        if !constraint.allowed(&found) { found = Array(repeating: .max, count: words) }
        guard found.count == words else {
            throw .stepFailed("a constraint's mask has \(found.count) words instead of \(words)")
        }
        // Bits behind the vocabulary are no tokens.
        found[words - 1] &= .max >> UInt32(words * 32 - vocabulary)
        guard found.contains(where: { $0 != 0 }) else { throw .nothingAllowed(position: length) }
        mask = found
        return found
    }

    /// Moves on by the token that came after `length` tokens.
    mutating func accept(_ token: Int32, after length: Int) throws(EngineError) {
        mask = []
        guard constraint.accept(token) else {
            throw .tokenNotAllowed(id: token, position: length)
        }
    }
}
