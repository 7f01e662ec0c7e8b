/// Guesses of what follows a sequence, as a tree: each node is a token after its parent's.
///
/// Where a chain names one token for each place, a tree names several for some and fewer for others
/// (Li et al. 2024, "EAGLE-2"). One pass of the target verifies all of it, each node seeing its own
/// branch only.
struct DraftTree: Hashable {
    /// The nodes' tokens; parents come before their children.
    private(set) var tokens: [Int32] = []
    /// Of each node the one before it; -1: the sequence's last token.
    private(set) var parents: [Int] = []

    /// A tree without nodes.
    init() {}

    /// Tokens that follow each other.
    init(chain: some Sequence<Int32>) {
        for token in chain { append(token, after: tokens.count - 1) }
    }

    /// Adds a node after an earlier one, or after -1.
    mutating func append(_ token: Int32, after parent: Int) {
        tokens.append(token)
        parents.append(parent)
    }

    /// Nodes.
    var count: Int { tokens.count }

    /// Whether each node follows the one before it.
    var isChain: Bool { parents.indices.allSatisfy { parents[$0] == $0 - 1 } }

    /// The node of `token` after `parent`; `nil` without one.
    func node(_ token: Int32, after parent: Int) -> Int? {
        tokens.indices.first { parents[$0] == parent && tokens[$0] == token }
    }

    /// The nodes that a text goes along, from the sequence's last token on, as far as there are any.
    func path(of text: some Sequence<Int32>) -> [Int] {
        var path: [Int] = []
        for token in text {
            guard let next = node(token, after: path.last ?? -1) else { break }
            path.append(next)
        }
        return path
    }

    /// The first `count` nodes, without those that are no tokens of a vocabulary and what follows them.
    func valid(count: Int, vocabulary: Int) -> Self {
        var tree = Self()
        var places = [-1: -1]
        for (node, (token, parent)) in zip(tokens, parents).prefix(count).enumerated() {
            guard token >= 0, Int(token) < vocabulary, parent < node, let place = places[parent]
            else { continue }
            places[node] = tree.count
            tree.append(token, after: place)
        }
        return tree
    }
}
