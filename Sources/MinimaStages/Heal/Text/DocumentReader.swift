import MinimaCore

/// Gathers the tokens of a file's documents.
struct DocumentReader {
    private let path: String
    private let documentStart: Int32
    private let encode: (String) throws -> [Int32]

    /// Documents so far.
    private(set) var documents = 0
    /// Their tokens.
    private(set) var tokens: [Int32] = []
    /// By token, 1 where it counts for cross-entropy; `nil` until a pair is met.
    private(set) var isTarget: [UInt8]?

    init(_ path: String, documentStart: Int32, encode: @escaping (String) throws -> [Int32]) {
        self.path = path
        self.documentStart = documentStart
        self.encode = encode
    }

    /// Adds plain text: documents with NUL bytes between them.
    mutating func addPlainText(_ bytes: [UInt8]) throws(HealingTextError) {
        let mark: [UInt8] = [0xEF, 0xBB, 0xBF]
        let body = bytes.starts(with: mark) ? bytes.dropFirst(mark.count) : bytes[...]
        var line = 1
        for document in body.split(separator: 0, omittingEmptySubsequences: false) {
            guard let text = String(validating: document, as: UTF8.self) else {
                throw .notUTF8(path: path, line: line + Self.linesBeforeDefect(document))
            }
            try addText(text, line: line)
            line += document.count { $0 == Self.newline }
        }
    }

    /// Adds JSON Lines.
    mutating func addLines(_ bytes: [UInt8]) throws(HealingTextError) {
        let lines = bytes.split(separator: Self.newline, omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() where !line.allSatisfy(Self.isSpace) {
            let json: JSON
            do {
                json = try JSON(parsing: Array(line))
            } catch {
                throw .notJSON(
                    path: path, line: index + 1, column: error.column, reason: error.reason)
            }
            try add(json, line: index + 1)
        }
    }

    private mutating func add(_ json: JSON, line: Int) throws(HealingTextError) {
        if let text = json["text"]?.string, json.object?.count == 1 {
            return try addText(text, line: line)
        }
        guard let prompt = json["prompt"]?.string, let completion = json["completion"]?.string,
            json.object?.count == 2
        else { throw .notDocument(path: path, line: line, found: Self.found(json)) }
        if isTarget == nil { isTarget = [UInt8](repeating: 1, count: tokens.count) }
        append([documentStart], counts: false)
        append(try ids(prompt, line), counts: false)
        append(try ids(completion, line), counts: true)
        documents += 1
    }

    private mutating func addText(_ text: String, line: Int) throws(HealingTextError) {
        guard !text.utf8.allSatisfy(Self.isSpace) else { return }
        append([documentStart], counts: true)
        append(try ids(text, line), counts: true)
        documents += 1
    }

    private mutating func append(_ ids: [Int32], counts: Bool) {
        tokens += ids
        isTarget?.append(contentsOf: repeatElement(counts ? 1 : 0, count: ids.count))
    }

    private func ids(_ text: String, _ line: Int) throws(HealingTextError) -> [Int32] {
        do {
            return try encode(text)
        } catch {
            throw .notEncoded(path: path, line: line, reason: "\(error)")
        }
    }

    private static let newline = UInt8(ascii: "\n")

    private static func isSpace(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || (0x09...0x0D).contains(byte)
    }

    /// Lines before the first one that is not UTF-8; no character spans two.
    private static func linesBeforeDefect(_ bytes: ArraySlice<UInt8>) -> Int {
        bytes.split(separator: newline, omittingEmptySubsequences: false)
            .prefix { String(validating: $0, as: UTF8.self) != nil }.count
    }

    /// A line's value in words: its kind, or its members with theirs.
    private static func found(_ json: JSON) -> String {
        guard let object = json.object else { return json.kind }
        guard !object.isEmpty else { return "an empty object" }
        let members = object.prefix(4).map { name, value in
            "\(JSON.string(String(name.text.prefix(40))).text(indent: nil)) (\(value.kind))"
        }
        let rest = object.count > members.count ? " and \(object.count - members.count) more" : ""
        return "an object with \(members.joined(separator: ", "))\(rest)"
    }
}
