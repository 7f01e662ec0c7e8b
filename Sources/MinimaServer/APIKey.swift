/// A secret that a request must show.
public struct APIKey: Sendable {
    private let bytes: [UInt8]

    /// A key from its text.
    public init(_ text: String) {
        bytes = Array(text.utf8)
    }

    /// The keys of a file: one per line; empty lines and those that begin with `#` are left out.
    ///
    /// - Throws: ``ServerError`` when there is none, or one that no header can carry.
    public static func keys(in text: String) throws(ServerError) -> [APIKey] {
        var keys: [APIKey] = []
        let lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 || byte == 0x0D }
            let key = line.drop(while: isSpace).reversed().drop(while: isSpace).reversed()
            guard let first = key.first, first != UInt8(ascii: "#") else { continue }
            guard key.allSatisfy({ (0x21...0x7E).contains($0) }) else {
                throw .badKey(line: index + 1)
            }
            keys.append(APIKey(String(decoding: key, as: UTF8.self)))
        }
        guard !keys.isEmpty else { throw .noKeys }
        return keys
    }

    /// Whether `given` is this key.
    ///
    /// Takes a time that depends on the length of `given` only: neither the first byte that differs
    /// nor the key's length shows.
    func matches(_ given: [UInt8]) -> Bool {
        guard !bytes.isEmpty else { return false }
        var difference: UInt8 = given.count == bytes.count ? 0 : 1
        var place = 0
        for byte in given {
            difference |= byte ^ bytes[place]
            place = place + 1 == bytes.count ? 0 : place + 1
        }
        return difference == 0
    }
}

extension [APIKey] {
    /// Whether a request with this `Authorization` header may pass; all keys are looked at.
    func admits(_ header: String?) -> Bool {
        guard !isEmpty else { return true }
        guard let header, header.utf8.count <= 4096 else { return false }
        let parts = header.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0].lowercased() == "bearer" else { return false }
        let given = [UInt8](parts[1].utf8)
        return reduce(false) { found, key in
            let isMatch = key.matches(given)
            return isMatch || found
        }
    }
}
