import Glibc
import HTTPTypes

/// Sites whose pages may use a server besides its own page.
public struct AllowedOrigin: Sendable, Hashable {
    /// As browsers send it: `https://chat.example.org`, `http://localhost:3000`, `null`; `*` is any.
    let text: String

    /// An origin from what a user wrote.
    ///
    /// - Throws: ``ServerError`` when no browser would send it.
    public init(_ text: String) throws(ServerError) {
        let origin = text.hasSuffix("/") ? String(text.dropLast()) : text
        if origin != "*", origin != "null" {
            guard let (scheme, host) = Self.parts(origin), !scheme.isEmpty, !host.isEmpty,
                host.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "/") })
            else { throw .badOrigin(text) }
        }
        self.text = origin.lowercased()
    }

    /// Scheme and host with port.
    static func parts(_ origin: String) -> (scheme: Substring, host: Substring)? {
        guard let mark = origin.firstRange(of: "://") else { return nil }
        return (origin[..<mark.lowerBound], origin[mark.upperBound...])
    }
}

/// Decides which requests of browsers are answered.
///
/// A browser sends any site's requests to any address it can reach, this machine's included, and a
/// site may also give its own name that address (DNS rebinding), so that the browser takes the
/// server for the site. `Origin` says whose page sends a request; other programs leave it out. A request
/// with one is answered if it is where the request itself went, under a name that no stranger can own,
/// or if the server was told to allow it. A server without keys that listens on this machine only wants
/// such a name also where `Origin` is missing, as a rebound name's pages read without it.
struct BrowserGate: Sendable {
    enum Verdict: Hashable {
        case own
        /// With what `Access-Control-Allow-Origin` says.
        case allowed(String)
        case refused(String)
    }

    private let origins: Set<String>
    /// Names that are the server's besides addresses.
    private let names: Set<String>
    private let asksKeys: Bool
    private let isLocal: Bool

    init(_ options: ServerOptions, machine: String = Self.machineName()) {
        origins = Set(options.allowedOrigins.map(\.text))
        let allowed = origins.compactMap { AllowedOrigin.parts($0)?.host }.map(Self.name)
        names = Set(allowed + [options.host.lowercased(), machine.lowercased()])
        asksKeys = !options.keys.isEmpty
        isLocal =
            options.host.lowercased() == "localhost" || options.host == "::1"
            || options.host.hasPrefix("127.")
    }

    /// What becomes of a request.
    func judge(origin: String?, host: String?) -> Verdict {
        if origins.contains("*") { return origin == nil ? .own : .allowed("*") }
        let host = host?.lowercased()
        let belongs = host.map { isOwn(name: Self.name($0)) } ?? true
        guard let origin = origin?.lowercased() else {
            let isFit = belongs || asksKeys || !isLocal
            return isFit ? .own : .refused("http://" + (host ?? ""))
        }
        if origins.contains(origin) { return .allowed(origin) }
        let isSame = AllowedOrigin.parts(origin).map { String($0.host) } == host
        // Who shows a key is known to mean this server.
        return isSame && (belongs || asksKeys) ? .own : .refused(origin)
    }

    /// Whether a name is the server's: an address, a name without a dot or under one that is kept for
    /// private use, this machine's, or one that the server was started with.
    private func isOwn(name: String) -> Bool {
        names.contains(name) || !name.contains(".") || name.hasSuffix(".localhost")
            || name.hasSuffix(".internal") || Self.isAddress(name)
    }

    /// A host without its port and without a dot at its end.
    private static func name(_ host: some StringProtocol) -> String {
        if host.hasPrefix("["), let end = host.firstIndex(of: "]") { return String(host[...end]) }
        let name = host.prefix { $0 != ":" }
        return String(name.hasSuffix(".") ? name.dropLast() : name)
    }

    private static func isAddress(_ name: String) -> Bool {
        if name.hasPrefix("[") { return true }
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts.allSatisfy { UInt8($0) != nil }
    }

    /// The name of this machine; empty when there is none.
    static func machineName() -> String {
        var name = [CChar](repeating: 0, count: 256)
        guard gethostname(&name, name.count - 1) == 0 else { return "" }
        return String(
            decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension BrowserGate.Verdict {
    /// What a browser needs to see to hand an answer to a page of another site.
    var fields: HTTPFields {
        guard case .allowed(let origin) = self else { return [:] }
        return [
            .accessControlAllowOrigin: origin, .accessControlExposeHeaders: "Retry-After",
            .vary: "Origin",
        ]
    }

    /// The answer to a browser that asks before it sends a page's request.
    func preflight(wanted: String?) -> HTTPFields {
        guard case .allowed = self else { return [:] }
        // Clients have headers of their own, which say nothing that this server reads.
        let isList = wanted.map {
            $0.utf8.count <= 1024
                && $0.utf8.allSatisfy { byte in
                    (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte)
                        || (0x61...0x7A).contains(byte) || "-_, ".utf8.contains(byte)
                }
        }
        return [
            .accessControlAllowMethods: "GET, POST",
            .accessControlAllowHeaders: isList == true
                ? wanted ?? "" : "Authorization, Content-Type",
            .accessControlMaxAge: "600",
        ]
    }
}
