/// The pages of a key-value cache: who holds which.
///
/// A page is a number; its storage is the backend's. Pages are held through ``PageLease``s only, and
/// a page is free exactly when no lease holds it: leases cannot be copied, and give back what they
/// hold when they end. Used by one thread.
public final class PagePool {
    /// All pages, `0..<count`.
    public let count: Int
    /// Tokens per page.
    public let pageTokens: Int

    /// Leases that hold each page.
    private var holders: [Int32]
    private var freePages: [Int32]

    /// A pool of `count` free pages; at most as many as page numbers, 2³¹ − 1.
    public init(count: Int, pageTokens: Int = 64) {
        self.count = min(max(count, 0), Int(Int32.max))
        self.pageTokens = max(pageTokens, 1)
        holders = Array(repeating: 0, count: self.count)
        // The last is taken first, so pages are handed out in ascending order.
        freePages = (0..<Int32(self.count)).reversed()
    }

    /// Pages that no lease holds.
    public var free: Int { freePages.count }

    /// Pages that hold `tokens`.
    public func pages(for tokens: Int) -> Int {
        tokens / pageTokens + (tokens % pageTokens > 0 ? 1 : 0)
    }

    /// A lease of `count` pages that nobody else holds.
    ///
    /// - Throws: `PageError.exhausted`; nothing is taken then.
    public func lease(_ count: Int) throws(PageError) -> PageLease {
        var lease = PageLease(self)
        try lease.grow(to: count)
        return lease
    }

    fileprivate func take(_ wanted: Int) throws(PageError) -> [Int32] {
        guard wanted <= free else { throw .exhausted(wanted: wanted, free: free, total: count) }
        let taken = Array(freePages.suffix(wanted).reversed())
        freePages.removeLast(wanted)
        for page in taken { holders[Int(page)] = 1 }
        return taken
    }

    fileprivate func share(_ pages: [Int32]) {
        for page in pages { holders[Int(page)] += 1 }
    }

    fileprivate func isShared(_ page: Int32) -> Bool { holders[Int(page)] > 1 }

    fileprivate func giveBack(_ pages: some Sequence<Int32>) {
        for page in pages {
            holders[Int(page)] -= 1
            if holders[Int(page)] == 0 { freePages.append(page) }
        }
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

    /// A second lease of the first `count` pages: what sequences with a common beginning share.
    ///
    /// Neither may write to a shared page; see ``makeWritable(_:)``.
    public borrowing func fork(_ count: Int) -> PageLease {
        var lease = PageLease(pool)
        lease.pages = Array(pages.prefix(max(count, 0)))
        pool.share(lease.pages)
        return lease
    }

    /// Makes sure that no other lease holds page `index` of this sequence.
    ///
    /// - Returns: Which page's content must be copied where before the next write; `nil` when the
    ///   page was this lease's alone.
    /// - Throws: `PageError.exhausted` when there is no page for the copy, `.noSuchPage`.
    public mutating func makeWritable(_ index: Int) throws(PageError) -> (
        source: Int32, destination: Int32
    )? {
        guard pages.indices.contains(index) else {
            throw .noSuchPage(index: index, held: pages.count)
        }
        let source = pages[index]
        guard pool.isShared(source) else { return nil }
        let destination = try pool.take(1)[0]
        pages[index] = destination
        pool.giveBack(CollectionOfOne(source))
        return (source, destination)
    }
}

/// Why pages cannot be had.
public enum PageError: Error, Hashable, CustomStringConvertible {
    case exhausted(wanted: Int, free: Int, total: Int)
    case noSuchPage(index: Int, held: Int)

    /// What was asked and what there is.
    public var description: String {
        switch self {
        case .exhausted(let wanted, let free, let total):
            "\(wanted) pages of keys and values were asked for; \(free) of \(total) are free"
        case .noSuchPage(let index, let held):
            "page \(index) of a sequence that holds \(held) was asked for"
        }
    }
}
