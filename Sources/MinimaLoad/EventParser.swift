/// Takes server-sent events out of a stream's bytes, however these are cut (WHATWG HTML, 9.2.6).
struct EventParser {
    /// Bytes that no answer's event has.
    static let longestEvent = 16 << 20

    private let longest: Int
    private var line: [UInt8] = []
    private var data: [UInt8] = []
    private var hasData = false
    private var followsReturn = false
    private var isFirstLine = true

    /// - Parameter longest: Bytes of an event, at most.
    init(longest: Int = EventParser.longestEvent) { self.longest = longest }

    /// Events that `bytes` complete: their data, lines joined by line feeds.
    ///
    /// - Throws: `RequestFailure.malformedEvent` when an event is longer than any answer's.
    mutating func add(_ bytes: some Sequence<UInt8>) throws(RequestFailure) -> [[UInt8]] {
        var events: [[UInt8]] = []
        for byte in bytes {
            if byte == 0x0A && followsReturn {
                followsReturn = false
                continue
            }
            followsReturn = byte == 0x0D
            guard byte == 0x0A || byte == 0x0D else {
                line.append(byte)
                guard line.count + data.count <= longest else { throw .malformedEvent }
                continue
            }
            if let event = endLine() { events.append(event) }
        }
        return events
    }

    /// Whether an event has begun that is not complete.
    var isWithin: Bool { hasData || !line.isEmpty }

    private mutating func endLine() -> [UInt8]? {
        defer { line.removeAll(keepingCapacity: true) }
        if isFirstLine {
            isFirstLine = false
            if line.starts(with: [0xEF, 0xBB, 0xBF]) { line.removeFirst(3) }
        }
        if line.isEmpty {
            defer { (data, hasData) = ([], false) }
            return hasData ? data : nil
        }
        let colon = line.firstIndex(of: UInt8(ascii: ":")) ?? line.endIndex
        // Comments have an empty name; other fields say nothing about the answer.
        guard line[..<colon].elementsEqual("data".utf8) else { return nil }
        var value = line[colon...].dropFirst()
        if value.first == UInt8(ascii: " ") { value = value.dropFirst() }
        if hasData { data.append(0x0A) }
        data += value
        hasData = true
        return nil
    }
}
