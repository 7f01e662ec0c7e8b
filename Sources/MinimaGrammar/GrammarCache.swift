/// Compiled forms, the least used of which go first.
struct GrammarCache {
    private struct Entry {
        var grammar: CompiledGrammar
        var lastUse: UInt64
    }

    private var entries: [AnswerForm: Entry] = [:]
    private var uses: UInt64 = 0

    /// Memory of all, about.
    private(set) var bytes = 0

    var count: Int { entries.count }

    subscript(form: AnswerForm) -> CompiledGrammar? {
        mutating get {
            uses += 1
            entries[form]?.lastUse = uses
            return entries[form]?.grammar
        }
    }

    /// Keeps a form, unless it alone takes more than there is room for.
    ///
    /// - Complexity: O(n) for each form that goes.
    mutating func add(_ form: AnswerForm, _ grammar: CompiledGrammar, limit: Int) {
        guard grammar.bytes <= limit else { return }
        uses += 1
        if let old = entries.updateValue(Entry(grammar: grammar, lastUse: uses), forKey: form) {
            bytes -= old.grammar.bytes
        }
        bytes += grammar.bytes
        while bytes > limit, let oldest = entries.min(by: { $0.value.lastUse < $1.value.lastUse }) {
            bytes -= oldest.value.grammar.bytes
            entries[oldest.key] = nil
        }
    }
}
