/// Why there is no constraint.
public enum GrammarError: Error, Hashable, CustomStringConvertible {
    /// xgrammar, or the library below it, could not be opened.
    case libraryNotFound(reason: String)
    /// A version that Minima was not tried with.
    case wrongVersion(library: String, found: String, needed: String)
    /// The vocabulary cannot be used with constraints.
    case badVocabulary(reason: String)
    /// The asked-for form is wrong, too large, or says what cannot be followed.
    case refused(reason: String)
    /// The form was not ready in time.
    case tooSlow(seconds: Int)
    /// Too many forms are being compiled.
    case busy
    /// A call of the library failed that should not.
    case failed(call: String, reason: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .libraryNotFound(let reason):
            """
            xgrammar \(GrammarLibrary.neededVersion) could not be opened: \(reason). Run `make setup`, \
            or install it beside torch: pip install --no-deps \
            xgrammar==\(GrammarLibrary.neededVersion) apache-tvm-ffi==\(ForeignInterface.testedVersion)
            """
        case .wrongVersion(let library, let found, let needed):
            "\(library) \(needed) is needed, \(found) was found; install that version beside torch"
        case .badVocabulary(let reason):
            "answers of this model cannot be constrained: \(reason)"
        case .refused(let reason):
            reason
        case .tooSlow(let seconds):
            "it could not be compiled within \(seconds) s; make it simpler"
        case .busy:
            "too many other forms are being compiled; send the request again"
        case .failed(let call, let reason):
            "xgrammar's \(call) failed: \(reason)"
        }
    }
}
