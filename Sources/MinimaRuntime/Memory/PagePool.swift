/// The pages of a key-value cache: who holds which, and what is in those that nobody holds.
///
/// A page is a number; its storage is the backend's. Pages are held through ``PageLease``s only, and
/// a page is free exactly when no lease holds it: leases cannot be copied, and give back what they
/// hold when they end. A free page whose tokens are known keeps them until it is taken, which happens
/// to the one first that was used longest ago. Used by one thread.
public final class PagePool {
    /// All pages, `0..<count`.
    public let count: Int
    /// Tokens per page.
    public let pageTokens: Int

    /// Leases that hold each page.
    private var holders: [Int32]
    /// Free pages of which nothing is known.
    private var blank: [Int32]
    /// Free pages with known tokens, least recently used first.
    private var idle: PageQueue
    private var index = PrefixIndex()

    /// A pool of `count` free pages; at most as many as page numbers, 2³¹ − 1.
    public init(count: Int, pageTokens: Int = 64) {
        self.count = min(max(count, 0), Int(Int32.max))
        self.pageTokens = max(pageTokens, 1)
        holders = Array(repeating: 0, count: self.count)
        // The last is taken first, so pages are handed out in ascending order.
        blank = (0..<Int32(self.count)).reversed()
        idle = PageQueue(pages: self.count)
    }

    /// Pages that no lease holds.
    public var free: Int { blank.count + idle.count }

    /// Those of ``free`` whose tokens are known.
    public var known: Int { idle.count }

    /// Pages that hold `tokens`.
    public func pages(for tokens: Int) -> Int {
        tokens / pageTokens + (tokens % pageTokens > 0 ? 1 : 0)
    }

    /// Free pages that a lease of `count` pages takes whose first ones are `shared`.
    func missing(_ count: Int, sharing shared: [Int32]) -> Int {
        count - shared.count { holders[Int($0)] > 0 }
    }

    /// A lease of `count` pages, the first of which others may hold, too, and nobody may write to.
    ///
    /// - Throws: `PageError.exhausted`; nothing is taken then.
    public func lease(_ count: Int, sharing shared: [Int32] = []) throws(PageError) -> PageLease {
        let missing = self.missing(count, sharing: shared)
        guard missing <= free else {
            throw .exhausted(wanted: missing, free: free, total: self.count)
        }
        var lease = PageLease(self)
        lease.share(shared)
        try lease.grow(to: count)
        return lease
    }

    fileprivate func take(_ wanted: Int) throws(PageError) -> [Int32] {
        guard wanted <= free else { throw .exhausted(wanted: wanted, free: free, total: count) }
        let fresh = min(wanted, blank.count)
        var taken = Array(blank.suffix(fresh).reversed())
        blank.removeLast(fresh)
        while taken.count < wanted, let page = idle.popFirst() {
            index.remove(page)
            taken.append(page)
        }
        for page in taken { holders[Int(page)] = 1 }
        return taken
    }

    fileprivate func share(_ pages: [Int32]) {
        for page in pages {
            if holders[Int(page)] == 0 { idle.remove(page) }
            holders[Int(page)] += 1
        }
    }

    fileprivate func giveBack(_ pages: some Sequence<Int32>) {
        for page in pages {
            holders[Int(page)] -= 1
            guard holders[Int(page)] == 0 else { continue }
            if index.holds(page) { idle.append(page) } else { blank.append(page) }
        }
    }

    // MARK: Known tokens

    /// What stands above the first page of every sequence.
    var root: Int { index.root }

    /// The page of these tokens behind `parent`.
    func find(_ key: PrefixIndex.Key) -> (page: Int32, node: Int)? { index.find(key) }

    /// Lets others find a page that a lease holds and that nobody will write to any more.
    ///
    /// - Returns: What stands above the sequence's next page; `nil` when its next pages cannot be found.
    func enter(_ page: Int32, _ key: PrefixIndex.Key) -> Int? { index.enter(page, key) }

    /// Lets nobody find what has been computed so far.
    func forgetAll() {
        index.removeAll()
        while let page = idle.popFirst() { blank.append(page) }
    }
}

/// Sole owner of a place in the pages of one sequence; gives the pages back when it ends.
public struct PageLease: ~Copyable {
    /// The sequence's pages, from its first token.
    public private(set) var pages: [Int32] = []

    private let pool: PagePool

    fileprivate init(_ pool: PagePool) {
        self.pool = pool
    }

    deinit {
        // The last are the first to be taken: without those before them they cannot be found.
        pool.giveBack(pages.reversed())
    }

    /// Takes free pages until there are `count`; fewer than now changes nothing.
    ///
    /// - Throws: `PageError.exhausted`; nothing is taken then.
    public mutating func grow(to count: Int) throws(PageError) {
        guard count > pages.count else { return }
        pages += try pool.take(count - pages.count)
    }

    /// Gives back all but the first `count` pages.
    public mutating func truncate(to count: Int) {
        guard count < pages.count else { return }
        let kept = max(count, 0)
        pool.giveBack(pages[kept...].reversed())
        pages.removeLast(pages.count - kept)
    }

    /// Holds `shared`, which others may hold, too, as the first pages, in place of those that it has
    /// there.
    public mutating func share(_ shared: [Int32]) {
        pool.share(shared)
        let replaced = pages.prefix(shared.count)
        pool.giveBack(replaced.reversed())
        pages.replaceSubrange(replaced.indices, with: shared)
    }
}

/// Why pages cannot be had.
public enum PageError: Error, Hashable, CustomStringConvertible {
    case exhausted(wanted: Int, free: Int, total: Int)

    /// What was asked and what there is.
    public var description: String {
        switch self {
        case .exhausted(let wanted, let free, let total):
            "\(wanted) pages of keys and values were asked for; \(free) of \(total) are free"
        }
    }
}
