import CMinimaPage
import FoundationEssentials
import HTTPTypes
import MinimaCore

/// The chat page: one document that holds its style and its script and loads nothing.
struct ChatPage: Sendable {
    let text: String
    /// Headers that let a browser do nothing but what the page needs: its own script and style, by
    /// their hashes, and requests to its own server.
    private(set) var headers: HTTPFields

    /// - Parameters:
    ///   - chat: Whether the model has a chat template; it continues texts otherwise.
    ///   - needsKey: Whether requests must show a key.
    init(chat: Bool, needsKey: Bool) {
        let style = String(cString: minima_page_style())
        let script = String(cString: minima_page_script())
        text = Self.filled(
            String(cString: minima_page_document()),
            [
                "STYLE": style, "SCRIPT": script, "INTERFACE": chat ? "chat" : "completions",
                "KEY": needsKey ? "required" : "none",
            ])
        let policy = [
            "default-src 'none'", "script-src '\(Self.hash(script))'",
            "style-src '\(Self.hash(style))'", "connect-src 'self'", "img-src data:",
            "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
            // Text cannot become markup, whatever the script does.
            "require-trusted-types-for 'script'", "trusted-types 'none'",
        ]
        headers = [
            .contentSecurityPolicy: policy.joined(separator: "; "), .cacheControl: "no-cache",
            .crossOriginResourcePolicy: "same-origin",
        ]
        if let name = HTTPField.Name("Referrer-Policy") { headers[name] = "no-referrer" }
    }

    /// `document` with the values of its marks, `@NAME@`; a value is not searched for marks.
    private static func filled(_ document: String, _ values: [String: String]) -> String {
        let parts = document.split(separator: "@", omittingEmptySubsequences: false)
        return parts.map { values[String($0)] ?? String($0) }.joined()
    }

    /// The hash by which a policy names `text`.
    static func hash(_ text: String) -> String {
        var hash = SHA256()
        Array(text.utf8).withUnsafeBytes { hash.update($0) }
        return "sha256-\(Data(hash.digest()).base64EncodedString())"
    }
}
