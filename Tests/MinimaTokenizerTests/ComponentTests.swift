@_spi(_Unicode) import Swift
import MinimaCore
import Testing

@testable import MinimaTokenizer

/// Single components against Hugging Face `tokenizers`.
@Suite struct ComponentTests {
    private func section(_ json: JSON?) -> ConfigSection {
        ConfigSection(json: json ?? .null, file: "components.json", path: "configuration")
    }

    private func scalars(_ texts: [String]) -> [[Unicode.Scalar]] {
        texts.map { Array($0.unicodeScalars) }
    }

    @Test func piecesAreThoseOfTheGoldens() throws {
        let root = try Goldens.document("components.json")
        let texts = (root["pieceTexts"]?.array ?? []).compactMap(\.string)
        let entries = root["pieces"]?.array ?? []
        #expect(entries.count > 60 && texts.count > 5)
        var seen: Set<String> = []
        for entry in entries {
            let preTokenizer = try Registry.preTokenizer(section(entry["configuration"]))
            seen.insert(entry["configuration"]?["type"]?.string ?? "")
            let cases = entry["cases"]?.array ?? []
            #expect(cases.count == texts.count)
            for (text, expected) in zip(texts, cases) {
                var pieces = Pieces(
                    NormalizedText(bytes: Array(text.utf8), startsAtOrigin: true))
                try preTokenizer.split(&pieces)
                let found = pieces.ranges.map {
                    String(decoding: pieces.bytes[$0.lower..<$0.upper], as: UTF8.self)
                }
                let strings = (expected.array ?? []).compactMap(\.string)
                #expect(
                    scalars(found) == scalars(strings),
                    "\(entry["configuration"]?.text(indent: nil) ?? ""): \(text.debugDescription)")
            }
        }
        #expect(seen == Set(Registry.preTokenizers.map { $0.typeName }))
    }

    @Test func normalizedTextsAreThoseOfTheGoldens() throws {
        let root = try Goldens.document("components.json")
        let texts = (root["normalizerTexts"]?.array ?? []).compactMap(\.string)
        var seen: Set<String> = []
        for entry in root["normalized"]?.array ?? [] {
            let normalizer = try Registry.normalizer(section(entry["configuration"]))
            seen.insert(entry["configuration"]?["type"]?.string ?? "")
            let cases = (entry["cases"]?.array ?? []).compactMap(\.string)
            #expect(cases.count == texts.count)
            for (text, expected) in zip(texts, cases) {
                var found = NormalizedText(bytes: Array(text.utf8), startsAtOrigin: true)
                try normalizer.normalize(&found)
                #expect(
                    found.bytes == Array(expected.utf8),
                    "\(entry["configuration"]?.text(indent: nil) ?? ""): \(text.debugDescription)")
            }
        }
        #expect(seen == Set(Registry.normalizers.map { $0.typeName }))
    }

    @Test func decodedTokensAreThoseOfTheGoldens() throws {
        let root = try Goldens.document("components.json")
        let lists = (root["decoderTokens"]?.array ?? []).map {
            ($0.array ?? []).compactMap(\.string)
        }
        var seen: Set<String> = []
        for entry in root["decoded"]?.array ?? [] {
            let decoder = try Registry.decoder(section(entry["configuration"]))
            seen.insert(entry["configuration"]?["type"]?.string ?? "")
            let cases = entry["cases"]?.array ?? []
            #expect(cases.count == lists.count)
            for (tokens, expected) in zip(lists, cases) {
                let found = decode(tokens, decoder)
                // Null where Hugging Face's library panics; Minima decodes to something.
                guard let expected = expected.string else { continue }
                #expect(
                    Array(found.unicodeScalars) == Array(expected.unicodeScalars),
                    "\(entry["configuration"]?.text(indent: nil) ?? ""): \(tokens)")
            }
        }
        #expect(seen == Set(Registry.decoders.map { $0.typeName }))
    }

    @Test func stylesHaveEveryPostProcessor() throws {
        var seen: Set<String> = []
        for style in try Goldens.styles() {
            guard let processor = style.document["post_processor"], !processor.isNull else {
                continue
            }
            for part in [processor] + (processor["processors"]?.array ?? []) {
                seen.insert(part["type"]?.string ?? "")
            }
        }
        #expect(seen == Set(Registry.postProcessors.map { $0.typeName }))
    }

    private func decode(_ tokens: [String], _ decoder: any Decoder) -> String {
        var stage = decoder.makeStage()
        var output: [TokenPart] = []
        for token in tokens {
            stage.consume(TokenPart(bytes: Array(token.utf8), endsToken: true), into: &output)
        }
        stage.finish(into: &output)
        return String(decoding: output.flatMap(\.bytes), as: UTF8.self)
    }

    @Test func stableScalarsNeitherChangeNorCompose() throws {
        // Scalars that follow another one in a canonical composition.
        var trailing: Set<Unicode.Scalar> = []
        let form = try NFDNormalizer(section(.object([:])))
        for value in UInt32(0x80)...0x2FFFF {
            guard let scalar = Unicode.Scalar(value), !(0xAC00...0xD7A3).contains(value) else {
                continue
            }
            var text = NormalizedText(bytes: Array(String(scalar).utf8), startsAtOrigin: true)
            try form.normalize(&text)
            trailing.formUnion(
                String(decoding: text.bytes, as: UTF8.self).unicodeScalars.dropFirst())
        }
        #expect(trailing.contains("\u{301}") && trailing.contains("\u{3099}"))
        var checked = 0
        for value in NFCNormalizer.stableRanges.joined() {
            let scalar = try #require(Unicode.Scalar(value))
            #expect(scalar.properties.canonicalCombiningClass == .notReordered)
            #expect(!trailing.contains(scalar), "U+\(String(value, radix: 16))")
            var text = NormalizedText(bytes: Array(String(scalar).utf8), startsAtOrigin: true)
            try NFCNormalizer(section(.object([:]))).normalize(&text)
            #expect(text.bytes == Array(String(scalar).utf8))
            checked += 1
        }
        #expect(checked > 30_000)
    }

    @Test func formCOfStretchesIsFormCOfTheWhole() throws {
        var generator = SplitMix(3)
        let marks = [
            "\u{301}", "\u{323}", "\u{93C}", "\u{3099}", "\u{11A8}", "\u{1161}", "\u{30A}",
        ]
        let bases = ["e", "A", "क", "か", "각", "가", "\u{1100}", "漢", "—", "\u{212B}", "я", " "]
        for _ in 0..<2000 {
            var text = ""
            for _ in 0..<Int.random(in: 0...12, using: &generator) {
                let pool = Bool.random(using: &generator) ? marks : bases
                text += pool.randomElement(using: &generator) ?? ""
            }
            let bytes = Array(text.utf8)
            let found = bytes.withUnsafeBufferPointer { NFCNormalizer.normalized($0) } ?? bytes
            var decomposed = NormalizedText(bytes: bytes, startsAtOrigin: true)
            var composed = NormalizedText(bytes: found, startsAtOrigin: true)
            let form = try NFDNormalizer(section(.object([:])))
            try form.normalize(&decomposed)
            try form.normalize(&composed)
            #expect(decomposed.bytes == composed.bytes, "\(text.debugDescription)")
            #expect(
                (found.withUnsafeBufferPointer { NFCNormalizer.normalized($0) } ?? found) == found)
            #expect(Array(String(decoding: bytes, as: UTF8.self).composedScalars) == found)
        }
    }
}

extension String {
    /// UTF-8 of form C of the whole string, by the standard library.
    fileprivate var composedScalars: [UInt8] {
        var output: [UInt8] = []
        for scalar in _nfc { UTF8Text.append(scalar, to: &output) }
        return output
    }
}
