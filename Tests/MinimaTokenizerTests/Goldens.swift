import FoundationEssentials
import MinimaCore
import Testing

@testable import MinimaTokenizer

/// The golden files of Tests/Goldens/tokenizer, made by make_tokenizer_goldens.py.
enum Goldens {
    /// Parses one of the files.
    static func document(_ name: String) throws -> JSON {
        let folder = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Goldens/tokenizer")
        return try JSON(parsing: Array(Data(contentsOf: folder.appending(path: name))))
    }

    /// A tokenizer style of styles.json.
    struct Style: CustomStringConvertible, Sendable {
        let name: String
        /// tokenizer.json as the style has it.
        let document: JSON
        /// Texts, their ids with special tokens, and what those decode to.
        let cases: [(text: String, ids: [Int32], decoded: String)]
        /// Arbitrary ids and what they decode to, special tokens included.
        let noise: [(ids: [Int32], decoded: String)]
        /// The ids of `plainText` without special tokens.
        let plain: [Int32]
        let plainText: String

        var description: String { name }
    }

    /// Every style.
    static func styles() throws -> [Style] {
        let root = try document("styles.json")
        let texts = (root["texts"]?.array ?? []).compactMap(\.string)
        return (root["styles"]?.array ?? []).map { style in
            var members = style["sections"]?.object ?? [:]
            var model = root["models"]?[style["model"]?.string ?? ""]?.object ?? [:]
            for (name, value) in style["changes"]?.object ?? [:] { model[name] = value }
            if style["changes"]?["merges"] == "strings" {
                let merges = root["models"]?[style["model"]?.string ?? ""]?["merges"]?.array ?? []
                model["merges"] = .array(
                    merges.map { pair in
                        .string((pair.array ?? []).compactMap(\.string).joined(separator: " "))
                    })
            }
            members["model"] = .object(model)
            return Style(
                name: style["name"]?.string ?? "", document: .object(members),
                cases: zip(texts, style["cases"]?.array ?? []).map { text, pair in
                    (text, ids(pair.array?.first), pair.array?.last?.string ?? "missing")
                },
                noise: (style["noise"]?.array ?? []).map { pair in
                    (ids(pair.array?.first), pair.array?.last?.string ?? "missing")
                },
                plain: ids(style["plain"]), plainText: texts[3])
        }
    }

    /// The style of this name.
    static func style(_ name: String) throws -> Style {
        let found = try styles().first { $0.name == name }
        return try #require(found)
    }

    private static func ids(_ json: JSON?) -> [Int32] {
        (json?.array ?? []).map { Int32($0.int ?? -1) }
    }
}

extension Goldens.Style {
    /// The style's tokenizer.
    func tokenizer(prefersRawBytes: Bool = true) throws -> Tokenizer {
        try Tokenizer(
            tokenizerJSON: document, config: nil, file: "\(name).json",
            prefersRawBytes: prefersRawBytes)
    }
}

extension SplitMix {
    /// A text of scalars from all over Unicode, mostly from the scripts and symbols that matter.
    mutating func text(length: Int) -> String {
        var scalars = String.UnicodeScalarView()
        while scalars.count < length {
            let range: ClosedRange<UInt32> =
                switch Int.random(in: 0..<12, using: &self) {
                case 0...4: 0x20...0x7E
                case 5: 0x00...0x20
                case 6: 0x80...0x24F
                case 7: 0x300...0x5FF
                case 8: 0x2000...0x206F
                case 9: 0x3000...0x9FFF
                case 10: 0x1F300...0x1FAFF
                default: 0...0x10FFFF
                }
            let run = Bool.random(using: &self) ? 1 : Int.random(in: 1...5, using: &self)
            if let scalar = Unicode.Scalar(UInt32.random(in: range, using: &self)) {
                for _ in 0..<run { scalars.append(scalar) }
            }
        }
        return String(scalars)
    }
}
