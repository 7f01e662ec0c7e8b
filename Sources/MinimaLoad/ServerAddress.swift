/// Where a server is, from a URL.
public struct ServerAddress: Sendable, Hashable, CustomStringConvertible {
    /// Name or address of the machine.
    public var host: String
    /// TCP port.
    public var port: Int
    /// What comes before `/v1`; empty, or a path that begins with a slash and does not end with one.
    public var base: String

    /// An address in parts.
    public init(host: String, port: Int, base: String = "") {
        (self.host, self.port, self.base) = (host, port, base)
    }

    /// Reads `http://HOST[:PORT][/PATH][/v1]`; the scheme may be left out.
    public init(_ text: String) throws(LoadError) {
        var rest = text[...]
        if let mark = rest.firstRange(of: "://") {
            let scheme = rest[..<mark.lowerBound].lowercased()
            if scheme == "https" { throw .https(text) }
            guard scheme == "http" else {
                throw .badAddress(text, reason: "its scheme is \(scheme)")
            }
            rest = rest[mark.upperBound...]
        }
        guard !rest.contains(where: { $0 == "@" || $0 == "?" || $0 == "#" || $0.isWhitespace })
        else { throw .badAddress(text, reason: "it has more than host, port and path") }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        var path = rest[slash...]
        while path.last == "/" { path.removeLast() }
        if path.hasSuffix("/v1") { path.removeLast(3) }
        while path.last == "/" { path.removeLast() }
        var place = rest[..<slash]
        var host: Substring
        if place.first == "[" {
            guard let end = place.firstIndex(of: "]") else {
                throw .badAddress(text, reason: "the bracket is not closed")
            }
            host = place[place.index(after: place.startIndex)..<end]
            place = place[place.index(after: end)...]
        } else {
            let colon = place.firstIndex(of: ":") ?? place.endIndex
            host = place[..<colon]
            place = place[colon...]
        }
        var port = 80
        if !place.isEmpty {
            guard place.first == ":", let number = Int(place.dropFirst()),
                (1...65535).contains(number)
            else { throw .badAddress(text, reason: "its port is no number from 1 to 65535") }
            port = number
        }
        guard !host.isEmpty else { throw .badAddress(text, reason: "it names no host") }
        guard host.utf8.allSatisfy({ (0x21...0x7E).contains($0) }),
            path.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
        else { throw .badAddress(text, reason: "it has characters outside ASCII") }
        self.init(host: String(host), port: port, base: String(path))
    }

    /// Host and port as a header carries them.
    var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// The URL.
    public var description: String { "http://\(authority)\(base)" }
}
