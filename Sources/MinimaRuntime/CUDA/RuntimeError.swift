import MinimaKernels

/// What the engine on a CUDA device cannot do.
public enum RuntimeError: Error, Hashable, CustomStringConvertible {
    case unsupportedFamily(String, known: [String])
    case noSuchBucket(Int, known: [Int])
    case unsupportedSize(name: String, found: Int, needed: String)
    case pagesTooFew(slot: Int, tokens: Int, pages: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .unsupportedFamily(let type, let known):
            """
            the decoding kernels do not know the layers of "\(type)"; they know \
            \(known.joined(separator: ", ")); decode through libtorch
            """
        case .noSuchBucket(let bucket, let known):
            "a step of \(bucket) rows was asked for; there are graphs for \(known)"
        case .unsupportedSize(let name, let found, let needed):
            "\(name) is \(found), the decoding kernels need \(needed); decode through libtorch"
        case .pagesTooFew(let slot, let tokens, let pages):
            """
            the step may write up to token \(tokens) of slot \(slot), whose \(pages) pages of \
            \(PagedKeyValues.pageTokens) hold fewer; lease more pages or verify fewer tokens
            """
        }
    }
}
