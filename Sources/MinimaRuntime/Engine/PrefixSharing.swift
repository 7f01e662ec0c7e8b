/// Which pages sequences take from earlier ones, and which of theirs later ones may find.
///
/// A page can be found when all of its tokens are settled, so nobody writes to it again: neither what
/// runs, nor steps that were queued before their sequence ended. What finds pages at its admission
/// looks again before its first chunk, as others may have computed more of its beginning meanwhile.
struct PrefixSharing {
    private let pool: PagePool
    private let reuse: PrefixReuse?
    /// Whether pages are taken in whole chunks, which prompts have written.
    private let isDeterministic: Bool
    /// Pages of a chunk with the flag, otherwise 1.
    private let unit: Int

    /// - Parameter chunk: Tokens of a prompt that are computed at once with the flag.
    init(_ capacity: DecodeCapacity, _ options: EngineOptions, _ pool: PagePool, chunk: Int) {
        self.pool = pool
        isDeterministic = options.deterministic
        unit = isDeterministic ? chunk / pool.pageTokens : 1
        let fits = unit > 0 && (!isDeterministic || chunk % pool.pageTokens == 0)
        reuse = options.prefixCaching && fits ? capacity.prefixes : nil
    }

    /// What is known of a sequence's beginning.
    struct Prefix {
        var pages: [Int32] = []
        /// What stands above the next page.
        var node: Int?
    }

    /// The longest known beginning of a waiting sequence, or what it has and is known behind it.
    func prefix(of sequence: EngineSequence) -> Prefix {
        guard let reuse else { return Prefix() }
        var prefix = Prefix()
        if sequence.slot != nil {
            prefix.pages = Array(sequence.lease?.pages.prefix(sequence.knownPages) ?? [])
            prefix.node = sequence.node
        } else {
            prefix.node = pool.root
        }
        let first = prefix
        let most = (sequence.length - max(reuse.lookahead, reuse.computed)) / pool.pageTokens
        var found = prefix
        while prefix.pages.count < most, sequence.readsKnownPages, let node = prefix.node,
            let next = pool.find(key(sequence, prefix.pages.count, node, reuse))
        {
            prefix.pages.append(next.page)
            prefix.node = next.node
            if prefix.pages.count % unit == 0 { found = prefix }
        }
        return found.pages.count > first.pages.count ? found : first
    }

    /// Lets others find what a sequence has computed.
    ///
    /// - Parameters:
    ///   - computed: Tokens whose keys and values are final.
    ///   - seen: Tokens that a draft has seen; counts where it looks ahead.
    func enter(_ sequence: EngineSequence, computed: Int, seen: Int, isPrompt: Bool) {
        guard let reuse, isPrompt || !isDeterministic, let pages = sequence.lease?.pages else {
            return
        }
        let final = reuse.lookahead > 0 ? min(computed, seen - reuse.lookahead) : computed
        // With the flag, pages of whole chunks only.
        let count = min(final / pool.pageTokens, computed / pool.pageTokens / unit * unit)
        while sequence.knownPages < min(count, pages.count), let node = sequence.node {
            let index = sequence.knownPages
            let next = pool.enter(pages[index], key(sequence, index, node, reuse))
            sequence.know(index + 1, next)
        }
    }

    private func key(
        _ sequence: EngineSequence, _ index: Int, _ parent: Int, _ reuse: PrefixReuse
    ) -> PrefixIndex.Key {
        let start = index * pool.pageTokens
        return PrefixIndex.Key(
            parent: parent,
            tokens: sequence.tokens(start..<start + pool.pageTokens + reuse.lookahead),
            salt: sequence.request.cacheSalt)
    }
}
