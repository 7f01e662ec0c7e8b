/// A strict reader of the HTML subset that reports use: every element closed in order, every
/// attribute quoted, no bare `<`, every `&` a known reference.
struct TagBalance {
    /// What is wrong, empty for a well-formed page.
    private(set) var problems: [String] = []
    /// Names of the elements, in order.
    private(set) var elements: [String] = []
    /// Attributes of all elements.
    private(set) var attributes: [(name: String, value: String)] = []
    /// The text outside tags and style sheets, references resolved.
    private(set) var text = ""

    private static let void: Set = ["meta", "!DOCTYPE"]

    init(_ html: String) {
        let scalars = Array(html.unicodeScalars)
        var open: [String] = []
        var position = 0
        while position < scalars.count {
            guard scalars[position] == "<" else {
                let end = scalars[position...].firstIndex(of: "<") ?? scalars.count
                let run = String(String.UnicodeScalarView(scalars[position..<end]))
                if open.last != "style" { text += resolved(run) }
                position = end
                continue
            }
            guard let end = closing(scalars, from: position) else {
                problems.append("a tag that never ends")
                return
            }
            let inside = String(String.UnicodeScalarView(scalars[(position + 1)..<end]))
            position = end + 1
            if inside.hasPrefix("/") {
                let name = String(inside.dropFirst())
                if open.popLast() != name { problems.append("</\(name)> closes nothing") }
                continue
            }
            let isClosed = inside.hasSuffix("/")
            let name = String(inside.prefix { $0 != " " && $0 != "/" })
            elements.append(name)
            readAttributes(String(inside.dropFirst(name.count).dropLast(isClosed ? 1 : 0)))
            if !isClosed && !Self.void.contains(name) { open.append(name) }
        }
        if !open.isEmpty { problems.append("never closed: \(open)") }
    }

    /// The `>` of the tag at `start`, quoted ones passed over.
    private func closing(_ scalars: [Unicode.Scalar], from start: Int) -> Int? {
        var isQuoted = false
        for index in start..<scalars.count {
            if scalars[index] == "\"" { isQuoted.toggle() }
            if scalars[index] == ">" && !isQuoted { return index }
        }
        return nil
    }

    private mutating func readAttributes(_ text: String) {
        var rest = text.drop { $0 == " " }
        while !rest.isEmpty {
            let name = String(rest.prefix { $0 != "=" && $0 != " " })
            rest = rest.dropFirst(name.count)
            if name == "html" || name == "open" {
                rest = rest.drop { $0 == " " }
                continue
            }
            guard rest.hasPrefix("=\""),
                let end = rest.dropFirst(2).firstIndex(of: "\"")
            else {
                problems.append("the attribute \(name) has no quoted value")
                return
            }
            attributes.append((name, resolved(String(rest[..<end].dropFirst(2)))))
            rest = rest[rest.index(after: end)...].drop { $0 == " " }
        }
    }

    private mutating func resolved(_ text: String) -> String {
        var result = ""
        var pieces = text.split(separator: "&", omittingEmptySubsequences: false)[...]
        result += pieces.popFirst() ?? ""
        let known = ["amp": "&", "lt": "<", "gt": ">", "quot": "\"", "#39": "'"]
        for piece in pieces {
            let name = String(piece.prefix { $0 != ";" })
            guard let value = known[name] else {
                problems.append("the reference &\(name)")
                continue
            }
            result += value + piece.dropFirst(name.count + 1)
        }
        if text.contains(">") { problems.append("a bare >") }
        return result
    }
}
