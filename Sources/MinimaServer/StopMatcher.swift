/// Finds the first of some texts in a text that comes in pieces, wherever the pieces are cut.
///
/// The first one is that which is complete first; of several that are complete at one place, the
/// longest.
///
/// Compares UTF-8, so that texts that Swift holds for equal but which are spelt otherwise differ.
struct StopMatcher {
    private let stops: [[UInt8]]
    /// Whether the text that was found comes out, too.
    private let includesFound: Bool
    /// The longest of them.
    private let longest: Int
    /// What may be the beginning of one.
    private var held: [UInt8] = []
    /// Whether one was found: nothing after it comes out.
    private(set) var hasMatched = false

    init(_ stops: [String], includesFound: Bool = false) {
        self.stops = stops.map { Array($0.utf8) }
        self.includesFound = includesFound
        longest = self.stops.map(\.count).max() ?? 0
    }

    /// Takes a piece of text.
    ///
    /// - Parameter mayEnd: Whether a text that is complete with this piece ends it.
    /// - Returns: What can be passed on, without the beginning of a text searched for at its end.
    mutating func append(_ piece: String, mayEnd: Bool = true) -> String {
        guard !hasMatched else { return "" }
        guard longest > 0 else { return piece }
        let before = held.count
        held += piece.utf8
        let found = stops.compactMap { Self.first($0, in: held, endingAfter: before) }
            .min { ($0.upperBound, $0.lowerBound) < ($1.upperBound, $1.lowerBound) }
        if mayEnd, let found {
            hasMatched = true
            return take(includesFound ? found.upperBound : found.lowerBound)
        }
        return take(held.count - beginning())
    }

    /// What was held back, at the text's end.
    mutating func finish() -> String {
        hasMatched ? "" : take(held.count)
    }

    private mutating func take(_ count: Int) -> String {
        defer { held.removeFirst(hasMatched ? held.count : count) }
        return String(decoding: held[..<count], as: UTF8.self)
    }

    private static func first(
        _ stop: [UInt8], in text: [UInt8], endingAfter end: Int
    ) -> Range<Int>? {
        let least = max(end + 1 - stop.count, 0)
        guard least + stop.count <= text.count else { return nil }
        let place = (least...text.count - stop.count).first { place in
            text[place] == stop[0] && text[place..<place + stop.count].elementsEqual(stop)
        }
        return place.map { $0..<$0 + stop.count }
    }

    /// Bytes at the end that are the longest beginning of a text searched for.
    private func beginning() -> Int {
        var length = min(held.count, longest - 1)
        while length > 0 {
            let end = held.suffix(length)
            if stops.contains(where: { $0.count > length && $0.starts(with: end) }) {
                return length
            }
            length -= 1
        }
        return 0
    }
}
