/// Which page holds the keys and values of which tokens: a tree of pages, from the first page of a
/// sequence on.
///
/// A page's place in the tree is its key: the node of the page before it, and its tokens, which are
/// compared one by one, so different tokens are never taken for each other. A node's number is not
/// used again: below a page that was given away nothing is found any more.
struct PrefixIndex {
    /// What a page is found by.
    struct Key: Hashable {
        /// The page before; ``PrefixIndex/root`` for the first.
        var parent: Int
        /// The page's tokens, and those behind it that what it holds depends on.
        var tokens: [Int32]
        /// Sequences of different salts share nothing.
        var salt: String
    }

    /// The node above first pages.
    private(set) var root = 0

    private var newest = 0
    private var pages: [Key: (page: Int32, node: Int)] = [:]
    private var keys: [Int32: Key] = [:]
    private var nodes: Set<Int> = [0]

    /// Pages that it knows.
    var count: Int { keys.count }

    /// Whether the page is known.
    func holds(_ page: Int32) -> Bool { keys[page] != nil }

    /// The page with this key.
    func find(_ key: Key) -> (page: Int32, node: Int)? { pages[key] }

    /// Enters a page, unless there is one with its key.
    ///
    /// - Returns: The key's node; `nil` where the page before is not known any more.
    mutating func enter(_ page: Int32, _ key: Key) -> Int? {
        if let known = pages[key] { return known.node }
        guard nodes.contains(key.parent), keys[page] == nil else { return nil }
        newest += 1
        pages[key] = (page, newest)
        keys[page] = key
        nodes.insert(newest)
        return newest
    }

    /// Forgets a page.
    mutating func remove(_ page: Int32) {
        guard let key = keys.removeValue(forKey: page), let entry = pages.removeValue(forKey: key)
        else { return }
        nodes.remove(entry.node)
    }

    /// Forgets all pages, and those that are computed but not entered yet.
    mutating func removeAll() {
        newest += 1
        root = newest
        (pages, keys, nodes) = ([:], [:], [root])
    }
}

/// Pages in the order in which they came, any of which can leave; each operation takes the same time.
struct PageQueue {
    private static let none: Int32 = -1

    private(set) var count = 0
    private var first = Self.none
    private var last = Self.none
    /// Of each page its neighbours, where it is in the queue.
    private var links: [(before: Int32, after: Int32)]

    /// A queue for pages `0..<pages`.
    init(pages: Int) {
        links = Array(repeating: (Self.none, Self.none), count: pages)
    }

    /// Puts a page that is not in the queue at its end.
    mutating func append(_ page: Int32) {
        links[Int(page)] = (last, Self.none)
        if last == Self.none { first = page } else { links[Int(last)].after = page }
        last = page
        count += 1
    }

    /// Takes a page that is in the queue out of it.
    mutating func remove(_ page: Int32) {
        let (before, after) = links[Int(page)]
        if before == Self.none { first = after } else { links[Int(before)].after = after }
        if after == Self.none { last = before } else { links[Int(after)].before = before }
        count -= 1
    }

    /// Takes out the page that has been there longest.
    mutating func popFirst() -> Int32? {
        guard first != Self.none else { return nil }
        let page = first
        remove(page)
        return page
    }
}
