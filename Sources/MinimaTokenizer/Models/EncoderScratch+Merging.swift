extension EncoderScratch {
    /// Merges `symbols` by looking for the lowest rank again after every merge.
    ///
    /// - Complexity: O(n²) for n symbols; the reference for `mergeByHeap`.
    func mergeByScanning(_ merges: MergeTable.View) {
        var count = symbols.count
        guard count > 1 else { return }
        ranks.removeAll(keepingCapacity: true)
        merged.removeAll(keepingCapacity: true)
        for index in 0..<(count - 1) {
            let merge = merges.merge(symbols[index], symbols[index + 1])
            ranks.append(merge.rank)
            merged.append(merge.merged)
        }
        symbols.withUnsafeMutableBufferPointer { symbols in
            ranks.withUnsafeMutableBufferPointer { ranks in
                merged.withUnsafeMutableBufferPointer { merged in
                    while count > 1 {
                        var best = 0
                        var bestRank = ranks[0]
                        for index in 1..<max(1, count - 1) where ranks[index] < bestRank {
                            best = index
                            bestRank = ranks[index]
                        }
                        if bestRank == MergeTable.noRank { break }
                        symbols[best] = merged[best]
                        count -= 1
                        for index in (best + 1)..<max(best + 1, count) {
                            symbols[index] = symbols[index + 1]
                        }
                        for index in best..<max(best, count - 1) {
                            ranks[index] = ranks[index + 1]
                            merged[index] = merged[index + 1]
                        }
                        if best > 0 {
                            let merge = merges.merge(symbols[best - 1], symbols[best])
                            ranks[best - 1] = merge.rank
                            merged[best - 1] = merge.merged
                        }
                        if best + 1 < count {
                            let merge = merges.merge(symbols[best], symbols[best + 1])
                            ranks[best] = merge.rank
                            merged[best] = merge.merged
                        }
                    }
                }
            }
        }
        symbols.removeLast(symbols.count - count)
    }

    /// Merges `symbols` with a heap of candidate pairs.
    ///
    /// - Complexity: O(n·log n) for n symbols.
    func mergeByHeap(_ merges: MergeTable.View) {
        let count = symbols.count
        guard count > 1 else { return }
        prepareHeap(merges)
        symbols.withUnsafeMutableBufferPointer { symbols in
            ranks.withUnsafeMutableBufferPointer { ranks in
                previous.withUnsafeMutableBufferPointer { previous in
                    next.withUnsafeMutableBufferPointer { next in
                        while let top = heap.popLeast() {
                            let left = Int(top & 0xFFFF_FFFF)
                            // Ranks are one to one with pairs: another rank is another pair, and
                            // the entry is out of date.
                            guard ranks[left] == UInt32(truncatingIfNeeded: top >> 32) else {
                                continue
                            }
                            let right = Int(next[left])
                            symbols[left] = merges.merge(symbols[left], symbols[right]).merged
                            ranks[right] = MergeTable.noRank
                            symbols[right] = -1
                            next[left] = next[right]
                            if next[left] < count { previous[Int(next[left])] = Int32(left) }
                            if left > 0 {
                                update(
                                    Int(previous[left]), symbols, &ranks[Int(previous[left])],
                                    next, merges)
                            }
                            update(left, symbols, &ranks[left], next, merges)
                        }
                    }
                }
            }
        }
        symbols.removeAll { $0 < 0 }
    }

    private func prepareHeap(_ merges: MergeTable.View) {
        let count = symbols.count
        ranks.removeAll(keepingCapacity: true)
        previous.removeAll(keepingCapacity: true)
        next.removeAll(keepingCapacity: true)
        heap.removeAll(keepingCapacity: true)
        for index in 0..<count {
            let rank =
                index + 1 < count
                ? merges.merge(symbols[index], symbols[index + 1]).rank : MergeTable.noRank
            ranks.append(rank)
            previous.append(Int32(truncatingIfNeeded: index - 1))
            next.append(Int32(truncatingIfNeeded: index + 1))
            if rank != MergeTable.noRank { heap.append(UInt64(rank) << 32 | UInt64(index)) }
        }
        heap.makeHeap()
    }

    /// Notes the pair that now starts at `index`.
    @inline(__always)
    private func update(
        _ index: Int, _ symbols: UnsafeMutableBufferPointer<Int32>, _ rank: inout UInt32,
        _ next: UnsafeMutableBufferPointer<Int32>, _ merges: MergeTable.View
    ) {
        let right = Int(next[index])
        rank =
            right < symbols.count
            ? merges.merge(symbols[index], symbols[right]).rank : MergeTable.noRank
        if rank != MergeTable.noRank { heap.pushLeast(UInt64(rank) << 32 | UInt64(index)) }
    }
}

extension [UInt64] {
    /// Orders the elements as a binary heap, the least at the root.
    fileprivate mutating func makeHeap() {
        for index in stride(from: count / 2 - 1, through: 0, by: -1) { sink(index) }
    }

    fileprivate mutating func pushLeast(_ element: UInt64) {
        append(element)
        var index = count - 1
        while index > 0, self[(index - 1) / 2] > self[index] {
            swapAt(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    fileprivate mutating func popLeast() -> UInt64? {
        guard let least = first else { return nil }
        let last = removeLast()
        if !isEmpty {
            self[0] = last
            sink(0)
        }
        return least
    }

    private mutating func sink(_ start: Int) {
        var index = start
        while true {
            var least = index
            for child in (2 * index + 1)...(2 * index + 2)
            where child < count && self[child] < self[least] {
                least = child
            }
            if least == index { return }
            swapAt(index, least)
            index = least
        }
    }
}
