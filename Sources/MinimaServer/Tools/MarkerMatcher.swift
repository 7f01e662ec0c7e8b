/// Finds marks in a text that comes byte by byte.
///
/// No mark is the beginning of another.
struct MarkerMatcher: Sendable {
    private let marks: [[UInt8]]
    /// What may be the beginning of a mark.
    private var held: [UInt8] = []

    init(_ marks: [String]) {
        self.marks = marks.map { Array($0.utf8) }
    }

    /// Takes a byte.
    ///
    /// - Returns: Bytes that belong to no mark, and the number of the mark that this byte completes.
    mutating func take(_ byte: UInt8) -> (passed: [UInt8], found: Int?) {
        held.append(byte)
        var count = 0
        while count < held.count, !marks.contains(where: { $0.starts(with: held[count...]) }) {
            count += 1
        }
        let passed = Array(held[..<count])
        held.removeFirst(count)
        let found = marks.firstIndex { $0 == held }
        if found != nil { held = [] }
        return (passed, found)
    }

    /// What was held back, at the text's end.
    mutating func finish() -> [UInt8] {
        defer { held = [] }
        return held
    }
}
