import MinimaTensor

/// Grows the trees of a batch of sequences together, level by level, towards the likeliest nodes.
///
/// A node's score is the logarithm of the draft's confidence in all tokens up to it. Each level goes on
/// from the `width` best nodes of the level before, each with its `width` best tokens; a tree are the
/// best nodes of all levels. Scores fall along a branch, so a node's parent is always among them, and
/// growing may end where no open node can have a child that is. With a width of 1 that is a chain.
///
/// - Note: Li et al. 2024, "EAGLE-2: Faster Inference of Language Models with Dynamic Draft Trees", 4.
struct DraftBranches {
    /// Nodes of a tree.
    private let count: Int
    private let width: Int
    private var rows: [Row]
    private var depth = 0

    /// A token that may become a node.
    private struct Candidate {
        let token: Int32
        let parent: Int
        let score: Float
    }

    /// A node that is gone on from.
    private struct Open {
        let candidate: Int
        /// Which of the level before it follows.
        let parent: Int
        /// Places of its branch among all nodes that were gone on from, its own last.
        let branch: [Int]
        let sequence: SamplingSequence
    }

    private struct Row {
        let sequence: SamplingSequence
        var candidates: [Candidate] = []
        /// As many for each row.
        var open: [Open]
        /// Of those the ones that are no filling.
        var openCount = 1

        /// The `count` best of some candidates, best first; of equal ones the earlier comes first, so
        /// parents come before their children.
        func best(_ places: Range<Int>, _ count: Int) -> ArraySlice<Int> {
            places.sorted {
                (candidates[$1].score, $0) < (candidates[$0].score, $1)
            }.prefix(count)
        }
    }

    /// Nodes of all rows, as many of each, that a draft computes next.
    struct Level {
        /// Their tokens, `[row][node]`.
        let tokens: [[Int32]]
        /// Which place of the level before each follows, over all rows.
        let parents: [Int64]
        /// Of each the places of its branch among the row's nodes computed so far, its own last.
        let branches: [[[Int]]]
        /// Levels before this.
        let depth: Int
    }

    /// Trees of `count` nodes for sequences whose next tokens are drawn as these say.
    init(_ sequences: [SamplingSequence], count: Int, width: Int) {
        self.count = count
        self.width = max(width, 1)
        rows = sequences.map {
            Row(
                sequence: $0,
                open: [Open(candidate: -1, parent: 0, branch: [], sequence: $0)])
        }
    }

    /// What the tokens after the last level are drawn with, row by row.
    var sequences: [SamplingSequence] { rows.flatMap { $0.open.map(\.sequence) } }

    /// Takes how good each token is after the nodes of the last level; at first, after the sequences.
    ///
    /// - Parameter scores: `[row · node, vocabulary]`, as ``Sampler/scores(_:_:)`` gives them.
    mutating func add(_ scores: Tensor) throws {
        let taken = min(width, scores.shape[1])
        let best = try scores.logSoftmax().topK(taken)
        let values: [Float] = try best.values.values()
        let tokens = try best.indices.values(as: Int64.self)
        let nodes = rows.first?.open.count ?? 0
        for index in rows.indices {
            var row = rows[index]
            let first = row.candidates.count
            for (node, open) in row.open.prefix(row.openCount).enumerated() {
                let start = (index * nodes + node) * taken
                let score = open.candidate < 0 ? 0 : row.candidates[open.candidate].score
                for place in start..<start + taken where values[place].isFinite {
                    row.candidates.append(
                        Candidate(
                            token: Int32(clamping: tokens[place]), parent: open.candidate,
                            score: score + values[place]))
                }
            }
            let fresh = row.best(row.candidates.indices[first...], width)
            let before = Dictionary(
                row.open.enumerated().map { ($1.candidate, $0) }, uniquingKeysWith: { a, _ in a })
            row.open = fresh.enumerated().map { place, candidate in
                let parent = before[row.candidates[candidate].parent] ?? 0
                var sequence = row.open[parent].sequence
                sequence.append(row.candidates[candidate].token)
                return Open(
                    candidate: candidate, parent: index * nodes + parent,
                    branch: row.open[parent].branch + [depth * width + place], sequence: sequence)
            }
            row.openCount = row.open.count
            rows[index] = row
        }
        depth += 1
    }

    /// What to compute next; `nil` where that could not change any tree.
    mutating func next() -> Level? {
        guard depth < count, rows.contains(where: { canGrow($0) }) else { return nil }
        for index in rows.indices {
            // Rows with fewer open nodes are filled up, and nothing is taken from the filling.
            let filling =
                rows[index].open.first
                ?? Open(
                    candidate: -1, parent: 0, branch: [], sequence: rows[index].sequence)
            let branch = filling.branch.dropLast()
            while rows[index].open.count < width {
                let place = depth * width - width + rows[index].open.count
                rows[index].open.append(
                    Open(
                        candidate: filling.candidate, parent: filling.parent,
                        branch: branch + [place], sequence: filling.sequence))
            }
        }
        return Level(
            tokens: rows.map { row in
                row.open.map { $0.candidate < 0 ? 0 : row.candidates[$0.candidate].token }
            },
            parents: rows.flatMap { $0.open.map { Int64($0.parent) } },
            branches: rows.map { $0.open.map(\.branch) }, depth: depth - 1)
    }

    /// Whether a child of an open node could be among the best.
    private func canGrow(_ row: Row) -> Bool {
        guard let best = row.open.prefix(row.openCount).first else { return false }
        guard row.candidates.count >= count else { return true }
        let scores = row.candidates.map(\.score).sorted(by: >)
        return row.candidates[best.candidate].score > scores[count - 1]
    }

    /// The best nodes of each row.
    var trees: [DraftTree] {
        rows.map { row in
            let best = row.best(row.candidates.indices, count)
            var tree = DraftTree()
            var places = [-1: -1]
            for candidate in best {
                guard let parent = places[row.candidates[candidate].parent] else { continue }
                places[candidate] = tree.count
                tree.append(row.candidates[candidate].token, after: parent)
            }
            return tree
        }
    }
}
