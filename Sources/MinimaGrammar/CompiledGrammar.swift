import MinimaRuntime

/// A form of answers, ready for a vocabulary; any number of answers may follow it at one time.
public struct CompiledGrammar: Sendable {
    let library: GrammarLibrary
    /// Grammars that an answer must follow all.
    let values: [ForeignInterface.Value]
    let stop: Set<Int32>
    /// Tokens of the vocabulary.
    let tokens: Int
    /// Memory that it takes, about.
    let bytes: Int

    /// A constraint for one answer.
    public func makeConstraint() throws(GrammarError) -> any TokenConstraint {
        var matchers: [ForeignInterface.Value] = []
        for value in values {
            matchers.append(
                try library.interface.call(
                    library.makeMatcher,
                    [.value(value), .none, .bool(false), .integer(-1), .none]))
        }
        return GrammarConstraint(library: library, matchers: matchers, stop: stop, tokens: tokens)
    }
}
