import MinimaCore
import Testing

@testable import MinimaRuntime

@Suite("Pages of keys and values")
struct PagePoolTests {
    @Test func leasesTakeAndGiveBack() throws {
        let pool = PagePool(count: 5, pageTokens: 4)
        do {
            var lease = try pool.lease(2)
            #expect(lease.pages == [0, 1] && pool.free == 3)
            try lease.grow(to: 4)
            #expect(pool.free == 1)
            try lease.grow(to: 3)
            #expect(lease.pages.count == 4)
            lease.truncate(to: 1)
            #expect(lease.pages == [0] && pool.free == 4)
        }
        #expect(pool.free == 5)
    }

    @Test func refusalsTakeNothing() throws {
        let pool = PagePool(count: 3)
        var lease = try pool.lease(2)
        #expect(throws: PageError.exhausted(wanted: 2, free: 1, total: 3)) {
            try lease.grow(to: 4)
        }
        #expect(lease.pages.count == 2 && pool.free == 1)
        #expect(throws: PageError.self) { _ = try pool.lease(2).pages }
        #expect(pool.free == 1)
    }

    private func key(_ pool: PagePool, _ parent: Int?, _ tokens: [Int32], salt: String = "")
        -> PrefixIndex.Key
    {
        PrefixIndex.Key(parent: parent ?? pool.root, tokens: tokens, salt: salt)
    }

    @Test func sharedPagesAreHeldUntilTheLastLeaseEnds() throws {
        let pool = PagePool(count: 6)
        var parent = try pool.lease(3)
        var child = try pool.lease(4, sharing: Array(parent.pages.prefix(2)))
        #expect(child.pages.prefix(2) == parent.pages.prefix(2) && pool.free == 1)
        #expect(pool.missing(5, sharing: parent.pages) == 2)
        parent.truncate(to: 0)
        #expect(pool.free == 2)
        child.truncate(to: 1)
        #expect(pool.free == 5)
    }

    /// Known pages stay known while they are free, and go last page first, longest unused first.
    @Test func knownPagesAreTakenLast() throws {
        let pool = PagePool(count: 5, pageTokens: 1)
        for (start, length) in [(10, 2), (20, 1)] as [(Int32, Int)] {
            let lease = try pool.lease(length)
            var node: Int?
            for (index, page) in lease.pages.enumerated() {
                node = pool.enter(page, key(pool, node, [start + Int32(index)]))
            }
        }
        #expect(pool.free == 5 && pool.known == 3)
        let first = try #require(pool.find(key(pool, nil, [10])))
        #expect(pool.find(key(pool, first.node, [11])) != nil)
        #expect(pool.find(key(pool, nil, [11])) == nil)
        #expect(pool.find(key(pool, nil, [10], salt: "other")) == nil)
        // Two of which nothing is known, then the second page of the first sequence.
        var lease = try pool.lease(3)
        #expect(pool.known == 2 && pool.find(key(pool, first.node, [11])) == nil)
        // What is shared is not taken.
        let other = try pool.lease(1, sharing: [first.page])
        try lease.grow(to: 4)
        #expect(pool.free == 0 && pool.find(key(pool, nil, [20])) == nil)
        #expect(pool.find(key(pool, nil, [10]))?.page == other.pages[0])
        #expect(throws: PageError.exhausted(wanted: 1, free: 0, total: 5)) {
            _ = try pool.lease(2, sharing: other.pages).pages
        }
    }

    /// Nothing is found below a page that was given away, not even when its tokens come back.
    @Test func lostPagesTakeWhatFollowsAlong() throws {
        let pool = PagePool(count: 3, pageTokens: 1)
        let holder = try pool.lease(2)
        let first = try #require(pool.enter(holder.pages[0], key(pool, nil, [1])))
        #expect(pool.enter(holder.pages[1], key(pool, first, [2])) != nil)
        // The same tokens again are the page that there is.
        do {
            let copy = try pool.lease(1)
            #expect(pool.enter(copy.pages[0], key(pool, nil, [1])) == first)
        }
        #expect(pool.known == 0)
        pool.forgetAll()
        #expect(pool.find(key(pool, nil, [1])) == nil)
        let lease = try pool.lease(1)
        let again = try #require(pool.enter(lease.pages[0], key(pool, nil, [1])))
        #expect(again != first && pool.find(key(pool, again, [2])) == nil)
        #expect(pool.enter(holder.pages[1], key(pool, first, [3])) == nil)
    }

    @Test func pagesForTokens() {
        let pool = PagePool(count: 4, pageTokens: 64)
        #expect([0, 1, 64, 65, 128].map(pool.pages(for:)) == [0, 1, 1, 2, 2])
    }

    /// A lease that a class can hold, so that an array can.
    private final class Holder {
        var lease: PageLease
        init(_ lease: consuming PageLease) { self.lease = lease }
    }

    /// Random operations against a model that counts, and knows what was written to each page: no page
    /// lost, none held by two leases unless shared, none free while held, none found that another was
    /// written over.
    @Test(arguments: 0..<20) func randomOperations(seed: UInt64) throws {
        var random = SplitMix(seed)
        let pool = PagePool(count: Int.random(in: 1...40, using: &random))
        var holders: [Holder] = []
        // Pairs of holders that may hold the same pages: the model of sharing, by page.
        var copies: [Int32: Int] = [:]
        // What each page holds, as far as it was entered since somebody took it.
        var contents: [Int32: PrefixIndex.Key] = [:]
        func count(_ pages: some Sequence<Int32>, _ change: Int) {
            for page in pages { copies[page, default: 0] += change }
        }
        for _ in 0..<400 {
            let index = holders.indices.randomElement(using: &random)
            switch (Int.random(in: 0..<6, using: &random), index) {
            case (0, _):
                let wanted = Int.random(in: 0...8, using: &random)
                let fits = wanted <= pool.free
                do {
                    let holder = Holder(try pool.lease(wanted))
                    #expect(fits)
                    // New pages were nobody's.
                    for page in holder.lease.pages {
                        #expect(copies[page, default: 0] == 0)
                        contents[page] = nil
                    }
                    count(holder.lease.pages, 1)
                    holders.append(holder)
                } catch {
                    #expect(!fits)
                }
            case (1, let index?):
                let holder = holders[index]
                let before = holder.lease.pages
                let wanted = before.count + Int.random(in: 0...3, using: &random)
                let fits = wanted - before.count <= pool.free
                do {
                    try holder.lease.grow(to: wanted)
                    #expect(fits && holder.lease.pages.starts(with: before))
                    let added = holder.lease.pages[before.count...]
                    for page in added {
                        #expect(copies[page, default: 0] == 0)
                        contents[page] = nil
                    }
                    count(added, 1)
                } catch {
                    #expect(!fits && holder.lease.pages == before)
                }
            case (2, let index?):
                let kept = Int.random(in: 0...4, using: &random)
                count(holders[index].lease.pages.dropFirst(kept), -1)
                holders[index].lease.truncate(to: kept)
            case (3, let index?):
                let shared = Array(
                    holders[index].lease.pages.prefix(Int.random(in: 0...4, using: &random)))
                let fork = Holder(try pool.lease(shared.count, sharing: shared))
                #expect(fork.lease.pages == shared)
                count(fork.lease.pages, 1)
                holders.append(fork)
            case (4, let index?):
                // Pages are entered below each other, of few tokens, so that many are alike…
                var node: Int? = pool.root
                for page in holders[index].lease.pages {
                    let key = key(pool, node, [Int32.random(in: 0...2, using: &random)])
                    guard contents[page] == nil else { break }
                    let isNew = pool.find(key) == nil
                    node = pool.enter(page, key)
                    if isNew { contents[page] = key }
                    guard node != nil else { break }
                }
                // …and looked for from the first.
                var (found, next) = ([Int32](), pool.root)
                while let page = pool.find(
                    key(pool, next, [Int32.random(in: 0...2, using: &random)]))
                {
                    #expect(contents[page.page]?.parent == next)
                    (found, next) = (found + [page.page], page.node)
                }
                let wanted = found.count + 1
                guard pool.missing(wanted, sharing: found) <= pool.free else { continue }
                let lease = Holder(try pool.lease(wanted, sharing: found))
                #expect(lease.lease.pages.starts(with: found))
                contents[lease.lease.pages[found.count]] = nil
                count(lease.lease.pages, 1)
                holders.append(lease)
            case (5, let index?):
                count(holders[index].lease.pages, -1)
                holders.remove(at: index)
            default: break
            }
            #expect(pool.free == pool.count - copies.values.count { $0 > 0 })
            var held: [Int32: Int] = [:]
            for holder in holders { for page in holder.lease.pages { held[page, default: 0] += 1 } }
            #expect(held == copies.filter { $0.value > 0 })
        }
        holders = []
        #expect(pool.free == pool.count)
    }
}

@Suite("Budget of keys and values")
struct KeyValueBudgetTests {
    /// Qwen3-32B on a card of 141 GB: 256 KiB per token in bfloat16.
    @Test func exactCounts() {
        let budget = KeyValueBudget(
            deviceBytes: 150_000_000_000, weightBytes: 65_500_000_000,
            activationBytes: 1_000_000_000, bytesPerToken: 2 * 64 * 8 * 128 * 2)
        #expect(budget.pageBytes == 16_777_216)
        #expect(budget.pages == 83_500_000_000 / 16_777_216)
        #expect(budget.pages(for: 8192) == 128)
        #expect(budget.requests(of: 8192) == budget.pages / 128)
        // One token more needs one page more.
        #expect(budget.requests(of: 8193) == budget.pages / 129)
    }

    @Test func tableRowsFillTheDeviceAndNoMore() {
        let budget = KeyValueBudget(
            deviceBytes: 1000, weightBytes: 300, activationBytes: 50, bytesPerToken: 3,
            pageTokens: 4)
        for row in budget.table(lengths: [1, 4, 5, 17, 200]) {
            #expect(row.bytes <= 1000)
            #expect(budget.bytes(requests: row.requests + 1, of: row.length) > 1000)
            #expect(row.pages == (row.length + 3) / 4)
        }
    }

    @Test func nothingFitsBesideTooLargeWeights() {
        let budget = KeyValueBudget(
            deviceBytes: 10, weightBytes: 20, activationBytes: 0, bytesPerToken: 1)
        #expect(budget.freeBytes == -10 && budget.pages == 0 && budget.requests(of: 1) == 0)
    }

    @Test func absurdSizesDoNotTrap() {
        let budget = KeyValueBudget(
            deviceBytes: .max, weightBytes: .max, activationBytes: .min, bytesPerToken: .max,
            pageTokens: .max)
        #expect(budget.pages == 0 && budget.requests(of: .max) == 0)
        #expect(budget.bytes(requests: .max, of: .max) == .max)
        #expect(budget.description.hasPrefix("0 pages"))
    }

    @Test func description() {
        let budget = KeyValueBudget(
            deviceBytes: 64 << 20, weightBytes: 0, activationBytes: 0, bytesPerToken: 24_576)
        #expect(
            budget.description == "42 pages of 64 tokens, 1.5 MiB each: 2688 tokens in all")
    }
}
