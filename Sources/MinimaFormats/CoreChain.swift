import MinimaTensor

/// The shapes of a closed chain of cores that stands for a matrix, and the order in which a vector
/// meets them.
///
/// Core k is `[bonds[k], outputModes[k], inputModes[k], bonds[k + 1]]`, the bond after the last core
/// is `bonds[0]`, and the matrix is the trace over it. A tensor train is a chain with
/// `bonds[0] == 1`.
///
/// A vector, reshaped to its modes, absorbs one core after another, each a neighbour of those
/// absorbed before, so that at most two bonds are open at any time. Which core is first and which
/// side follows is what costs the fewest multiply-adds; among equals the first core with the lowest
/// index, then the right side.
struct CoreChain: Sendable, Hashable {
    let outputModes: [Int]
    let inputModes: [Int]
    let bonds: [Int]

    /// Cores at most: libtorch's tensors have no more dimensions, and the search for a path, which
    /// takes more than the third power of their number, is short.
    static let longest = 64

    /// Number of cores.
    var order: Int { bonds.count }

    /// `[bond, output mode, input mode, next bond]` of core `index`.
    func coreShape(_ index: Int) -> [Int] {
        [bonds[index], outputModes[index], inputModes[index], bonds[(index + 1) % order]]
    }

    /// Shapes of all cores.
    var coreShapes: [[Int]] { (0..<order).map(coreShape) }

    /// Sizes of the matrix entries that one core indexes.
    var pairs: [Int] { zip(outputModes, inputModes).map(*) }

    /// The largest useful value of bond `index`: a larger one would have more columns than either
    /// neighbouring core has rows, and a change of basis would remove them.
    func limit(ofBond index: Int) -> Int {
        let left = (index + order - 1) % order
        return min(
            Sizes.saturatingProduct([bonds[left], pairs[left]]),
            Sizes.saturatingProduct([pairs[index], bonds[(index + 1) % order]]))
    }
}

extension CoreChain {
    /// The order of absorption and its cost.
    struct Path: Sendable, Hashable {
        /// Cores in the order in which they are absorbed.
        let cores: [Int]
        /// Multiply-adds per vector; `Int.max` when it overflows.
        let multiplyAdds: Int
        /// Values of the largest intermediate result per vector; `Int.max` when it overflows.
        let largestState: Int
    }

    /// The cheapest path over all that grow one interval of the chain.
    ///
    /// - Complexity: O(order³).
    func cheapestPath() -> Path {
        // best[start]: the cheapest way to have absorbed `length` cores from `start` on.
        var best = (0..<order).map { start in
            extended(
                Path(cores: [], multiplyAdds: 0, largestState: 0), by: start, start: start,
                length: 1)
        }
        for length in 2..<(order + 1) {
            best = (0..<order).map { start in
                let (last, next) = ((start + length - 1) % order, (start + 1) % order)
                let right = extended(best[start], by: last, start: start, length: length)
                let left = extended(best[next], by: start, start: start, length: length)
                return left.multiplyAdds < right.multiplyAdds ? left : right
            }
        }
        return best.dropFirst().reduce(best[0]) { cheapest, path in
            path.multiplyAdds < cheapest.multiplyAdds ? path : cheapest
        }
    }

    /// `path` followed by `core`, which completes the interval `[start, start + length)`.
    ///
    /// The cost is the size of the result times what is summed over.
    private func extended(_ path: Path, by core: Int, start: Int, length: Int) -> Path {
        let absorbed = Set((0..<length).map { (start + $0) % order })
        var state = (0..<order).map { absorbed.contains($0) ? outputModes[$0] : inputModes[$0] }
        var summed = [inputModes[core]]
        if length == order {
            // Both bonds of the last core are summed over.
            summed += [bonds[core], bonds[(core + 1) % order]]
        } else {
            state += [bonds[start], bonds[(start + length) % order]]
            if length > 1 { summed.append(bonds[core == start ? (start + 1) % order : core]) }
        }
        let size = Sizes.saturatingProduct(state)
        return Path(
            cores: path.cores + [core],
            multiplyAdds: Sizes.saturatingSum([
                path.multiplyAdds, Sizes.saturatingProduct([size] + summed),
            ]),
            largestState: max(path.largestState, size))
    }
}
