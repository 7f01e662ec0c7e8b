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
