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
        #expect(throws: PageError.noSuchPage(index: 2, held: 2)) {
            _ = try lease.makeWritable(2)
        }
    }

    @Test func copiesOnWriteOnlyWhatIsShared() throws {
        let pool = PagePool(count: 4)
        var parent = try pool.lease(2)
        var child = parent.fork(2)
        #expect(child.pages == parent.pages && pool.free == 2)
        let copy = try #require(try child.makeWritable(1))
        #expect(copy.source == 1 && copy.destination == child.pages[1])
        #expect(child.pages[0] == parent.pages[0] && child.pages[1] != parent.pages[1])
        #expect(try child.makeWritable(1) == nil && parent.makeWritable(1) == nil)
        #expect(pool.free == 1)
        parent.truncate(to: 0)
        // Page 0 is the child's alone now.
        #expect(try child.makeWritable(0) == nil)
        #expect(pool.free == 2)
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

    /// Random operations against a model that only counts: no page lost, none held by two leases
    /// unless shared, none free while held.
    @Test(arguments: 0..<20) func randomOperations(seed: UInt64) throws {
        var random = TestRandom(seed)
        let pool = PagePool(count: Int.random(in: 1...40, using: &random))
        var holders: [Holder] = []
        // Pairs of holders that may hold the same pages: the model of sharing, by page.
        var copies: [Int32: Int] = [:]
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
                    for page in holder.lease.pages { #expect(copies[page, default: 0] == 0) }
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
                    for page in added { #expect(copies[page, default: 0] == 0) }
                    count(added, 1)
                } catch {
                    #expect(!fits && holder.lease.pages == before)
                }
            case (2, let index?):
                let kept = Int.random(in: 0...4, using: &random)
                count(holders[index].lease.pages.dropFirst(kept), -1)
                holders[index].lease.truncate(to: kept)
            case (3, let index?):
                let shared = Int.random(in: 0...4, using: &random)
                let fork = Holder(holders[index].lease.fork(shared))
                #expect(fork.lease.pages == Array(holders[index].lease.pages.prefix(shared)))
                count(fork.lease.pages, 1)
                holders.append(fork)
            case (4, let index?):
                let holder = holders[index]
                guard let place = holder.lease.pages.indices.randomElement(using: &random) else {
                    continue
                }
                let page = holder.lease.pages[place]
                let isShared = copies[page, default: 0] > 1
                do {
                    let copy = try holder.lease.makeWritable(place)
                    #expect((copy != nil) == isShared)
                    if let copy {
                        #expect(copy.source == page && copies[copy.destination, default: 0] == 0)
                        count([page], -1)
                        count([copy.destination], 1)
                    }
                } catch {
                    #expect(isShared && pool.free == 0)
                }
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
