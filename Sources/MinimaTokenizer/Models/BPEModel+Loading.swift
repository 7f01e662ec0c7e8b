import MinimaCore

extension BPEModel {
    /// What the model section of tokenizer.json holds.
    struct Parts {
        let vocabulary: Vocabulary
        let merges: MergeTable
        let mergePairs: [(left: Int32, right: Int32)]
        let settings: Settings
    }

    /// Reads and checks the model section.
    static func read(_ section: ConfigSection) throws(TokenizerError) -> Parts {
        let dropout = section.optionalSection("dropout")?.json.double ?? 0
        guard dropout == 0 else {
            throw section.malformed("dropout \(dropout) makes encoding random; remove it")
        }
        let vocabulary = try readVocabulary(try section.section("vocab"))
        let unknown = try section.optionalString("unk_token")
        let settings = Settings(
            unknownToken: unknown,
            unknownID: unknown.flatMap { vocabulary.id(of: Array($0.utf8)) },
            prefix: Array((try section.optionalString("continuing_subword_prefix") ?? "").utf8),
            suffix: Array((try section.optionalString("end_of_word_suffix") ?? "").utf8),
            fusesUnknown: try section.bool("fuse_unk", default: false),
            fallsBackToBytes: try section.bool("byte_fallback", default: false),
            ignoresMerges: try section.bool("ignore_merges", default: false))
        let pairs = try readMerges(
            try section.section("merges"), vocabulary: vocabulary, prefix: settings.prefix)
        var merges = MergeTable(capacity: pairs.count)
        for (rank, pair) in pairs.enumerated() {
            merges.insert(
                left: pair.left, right: pair.right, rank: UInt32(truncatingIfNeeded: rank),
                merged: pair.merged)
        }
        return Parts(
            vocabulary: vocabulary, merges: merges,
            mergePairs: pairs.map { ($0.left, $0.right) }, settings: settings)
    }

    private static func readVocabulary(
        _ section: ConfigSection
    ) throws(TokenizerError) -> Vocabulary {
        guard let members = section.json.object else {
            throw section.malformed("expected an object, found \(section.json.kind)")
        }
        var vocabulary = Vocabulary(capacity: members.count)
        for (name, value) in members {
            guard let id = value.int, id >= 0, id < Tokenizer.idLimit(tokens: members.count) else {
                throw section.malformed(
                    "the token \"\(name)\" has the id \(value.text(indent: nil)); "
                        + "a vocabulary of \(members.count) tokens has ids below "
                        + "\(Tokenizer.idLimit(tokens: members.count))")
            }
            do {
                try vocabulary.insert(
                    Array(name.text.utf8), id: Int32(truncatingIfNeeded: id))
            } catch {
                throw section.malformed("the id \(id) of \"\(name)\" has another token already")
            }
        }
        return vocabulary
    }

    private struct Merge {
        let left: Int32
        let right: Int32
        let merged: Int32
    }

    private static func readMerges(
        _ section: ConfigSection, vocabulary: Vocabulary, prefix: [UInt8]
    ) throws(TokenizerError) -> [Merge] {
        guard let elements = section.json.array else {
            throw section.malformed("expected an array, found \(section.json.kind)")
        }
        var merges: [Merge] = []
        merges.reserveCapacity(elements.count)
        for (index, element) in elements.enumerated() {
            if let text = element.string, text.utf8.starts(with: "#version".utf8) { continue }
            guard let (left, right) = sides(of: element) else {
                throw section.malformed(
                    "merge \(index) is \(element.text(indent: nil)); "
                        + "expected \"left right\" or [\"left\", \"right\"]")
            }
            guard right.starts(with: prefix) else {
                throw section.malformed(
                    "the right side of merge \(index) lacks continuing_subword_prefix")
            }
            guard let leftID = vocabulary.id(of: left), let rightID = vocabulary.id(of: right),
                let merged = vocabulary.id(of: left + right.dropFirst(prefix.count))
            else {
                throw section.malformed(
                    "merge \(index), \(element.text(indent: nil)), has a side or a result that "
                        + "the vocabulary does not hold")
            }
            merges.append(Merge(left: leftID, right: rightID, merged: merged))
        }
        return merges
    }

    private static func sides(of merge: JSON) -> (left: [UInt8], right: [UInt8])? {
        if let text = merge.string {
            let parts = Array(text.utf8).split(
                separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
            guard parts.count == 2 else { return nil }
            return (Array(parts[0]), Array(parts[1]))
        }
        guard let pair = merge.array, pair.count == 2, let left = pair[0].string,
            let right = pair[1].string
        else { return nil }
        return (Array(left.utf8), Array(right.utf8))
    }
}
