import MinimaCore
import MinimaRuntime

/// What a request says of tokens one by one: which alone may come, which never, and how many before the
/// answer may end. As in vLLM (`allowed_token_ids`, `bad_words`, `min_tokens`).
struct TokenRules: Sendable {
    /// The only tokens that may come; `nil`: all.
    var allowed: Set<Int32>?
    /// Tokens that never come one behind the other; none is empty.
    var refused: [[Int32]] = []
    /// New tokens before an end token, or a text that ends the answer, may come.
    var least = 0
    private let vocabulary: Int

    /// Words that are refused, and the bytes of each, at most.
    private static let mostWords = 256
    private static let longestWord = 256

    init(
        _ fields: RequestFields, model: ServedModel, vocabulary: Int
    ) throws(APIError) {
        self.vocabulary = vocabulary
        least = try fields.int("min_tokens", in: 0...Int.max) ?? 0
        if let ids = try fields.array("allowed_token_ids") {
            guard !ids.isEmpty else {
                throw .invalid(
                    "allowed_token_ids is an empty array, so nothing could come; name tokens, or "
                        + "leave it out", "allowed_token_ids", code: "out_of_range")
            }
            allowed = Set(
                try RequestFields.tokens(ids, of: "allowed_token_ids", vocabulary: vocabulary))
        }
        let words = try fields.array("bad_words") ?? []
        guard words.count <= Self.mostWords else {
            throw .invalid(
                "bad_words holds \(words.count) words, at most \(Self.mostWords) are possible",
                "bad_words", code: "out_of_range")
        }
        for word in words {
            guard let text = word.string, (1...Self.longestWord).contains(text.utf8.count) else {
                throw .invalid(
                    "bad_words holds something other than a text of 1 to \(Self.longestWord) bytes",
                    "bad_words", code: "invalid_type")
            }
            // At the beginning of a text and behind a space, whichever was asked for.
            let bare = String(text.drop { $0 == " " })
            for spelling in bare.isEmpty ? [text] : [bare, " " + bare] {
                let tokens = try model.encode(
                    spelling, addSpecialTokens: false, parameter: "bad_words")
                let isKnown = tokens.allSatisfy { (0..<vocabulary).contains(Int($0)) }
                if isKnown, !tokens.isEmpty, !refused.contains(tokens) { refused.append(tokens) }
            }
        }
    }

    /// A constraint for one answer; `inner` itself where nothing is ruled.
    ///
    /// - Parameters:
    ///   - stop: Tokens that end the answer.
    ///   - inner: What else must hold.
    func constraint(
        stop: Set<Int32>, _ inner: (any TokenConstraint)?
    ) -> (any TokenConstraint)? {
        // Where no token ends the answer none is to be kept from it.
        guard allowed != nil || !refused.isEmpty || least > 0 && !stop.isEmpty else { return inner }
        return TokenRuleConstraint(self, stop: stop, vocabulary: vocabulary, inner)
    }
}

/// ``TokenRules`` over one answer, beside another constraint.
///
/// Used from the engine's thread only, as the protocol says.
private final class TokenRuleConstraint: TokenConstraint, @unchecked Sendable {
    private let refused: [[Int32]]
    private let least: Int
    private let inner: (any TokenConstraint)?
    /// Masks of all tokens, of those that alone may come, and of those that may before the end.
    private let all: [UInt32]
    private let alone: [UInt32]?
    private let unending: [UInt32]
    private let longest: Int
    private var count = 0
    /// The last new tokens, as many as the longest refused text has but for one.
    private var last: [Int32] = []

    init(
        _ rules: TokenRules, stop: Set<Int32>, vocabulary: Int, _ inner: (any TokenConstraint)?
    ) {
        refused = rules.refused
        least = rules.least
        self.inner = inner
        let words = (vocabulary + 31) / 32
        func mask(_ tokens: Set<Int32>) -> [UInt32] {
            var mask = [UInt32](repeating: 0, count: words)
            // A checkpoint may name end tokens that no vocabulary has.
            for token in tokens where (0..<vocabulary).contains(Int(token)) {
                mask[Int(token) / 32] |= 1 << (UInt32(token) % 32)
            }
            return mask
        }
        var all = [UInt32](repeating: .max, count: words)
        // Bits behind the vocabulary would count as something left.
        if vocabulary % 32 > 0 { all[words - 1] = .max >> UInt32(32 - vocabulary % 32) }
        self.all = all
        alone = rules.allowed.map(mask)
        unending = zip(all, mask(stop)).map { $0 & ~$1 }
        longest = refused.map(\.count).max() ?? 0
    }

    /// A rule that would leave nothing does not hold: a form comes first, then what alone may come.
    func allowed(_ mask: inout [UInt32]) -> Bool {
        let isInner = inner?.allowed(&mask) ?? false
        guard alone != nil || longest > 0 || count < least else { return isInner }
        if !isInner { mask = all }
        if let alone { keep(&mask, alone) }
        // What refused texts leave.
        var rest = all
        for text in refused where last.suffix(text.count - 1).elementsEqual(text.dropLast()) {
            guard let token = text.last else { continue }
            rest[Int(token) / 32] &= ~(1 << (UInt32(token) % 32))
        }
        keep(&mask, rest)
        if count < least { keep(&mask, unending) }
        return true
    }

    /// Leaves of a mask what another has, too, unless that is nothing.
    private func keep(_ mask: inout [UInt32], _ other: [UInt32]) {
        var rest = mask
        for word in rest.indices { rest[word] &= other[word] }
        if rest.contains(where: { $0 != 0 }) { mask = rest }
    }

    func accept(_ token: Int32) -> Bool {
        guard inner?.accept(token) ?? true else { return false }
        count += 1
        last.append(token)
        if last.count >= max(longest, 1) { last.removeFirst() }
        return true
    }
}
