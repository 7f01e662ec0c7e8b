/// Byte strings to be found in a text, the leftmost first and the longest of those.
struct TokenTrie: Sendable {
    private var children: [UInt64: Int32] = [:]
    /// The token that ends at each node; -1 for none.
    private var tokens: [Int32] = [-1]
    private var startsToken = [Bool](repeating: false, count: 256)

    /// Whether there is nothing to find.
    var isEmpty: Bool { tokens.count == 1 }

    /// Adds a byte string, which is not empty; what it stood for before is forgotten.
    mutating func insert(_ bytes: [UInt8], token: Int32) {
        startsToken[Int(bytes[0])] = true
        var node: Int32 = 0
        for byte in bytes {
            let edge = Self.edge(node, byte)
            if let child = children[edge] {
                node = child
            } else {
                let child = Int32(truncatingIfNeeded: tokens.count)
                tokens.append(-1)
                children[edge] = child
                node = child
            }
        }
        tokens[Int(node)] = token
    }

    /// The first occurrence at or behind `start`.
    func firstMatch(
        in text: UnsafeBufferPointer<UInt8>, from start: Int
    ) -> (token: Int32, start: Int, end: Int)? {
        var index = start
        while index < text.count {
            if startsToken[Int(text[index])], let match = match(in: text, at: index) {
                return (match.token, index, match.end)
            }
            index += 1
        }
        return nil
    }

    private func match(
        in text: UnsafeBufferPointer<UInt8>, at start: Int
    ) -> (token: Int32, end: Int)? {
        var node: Int32 = 0
        var longest: (token: Int32, end: Int)?
        var index = start
        while index < text.count, let child = children[Self.edge(node, text[index])] {
            node = child
            index += 1
            if tokens[Int(node)] >= 0 { longest = (tokens[Int(node)], index) }
        }
        return longest
    }

    private static func edge(_ node: Int32, _ byte: UInt8) -> UInt64 {
        UInt64(UInt32(bitPattern: node)) << 8 | UInt64(byte)
    }
}
