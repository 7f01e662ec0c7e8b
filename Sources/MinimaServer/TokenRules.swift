import MinimaCore
import MinimaRuntime

/// What a request says of tokens one by one: which alone may come, which never, and that none ends an
/// answer too early. As in vLLM (`allowed_token_ids`, `bad_words`, `min_tokens`).
struct TokenRules: Sendable {
    /// The only tokens that may come; `nil`: all.
    var allowed: Set<Int32>?
    /// Tokens that never come one behind the other; none is empty.
    var refused: [[Int32]] = []
    /// New tokens before an answer may end.
    var least = 0

    /// Words that are refused, and the bytes of each, at most.
    private static let mostWords = 256
    private static let longestWord = 256

    init(
        _ fields: RequestFields, model: ServedModel, vocabulary: Int
    ) throws(APIError) {
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
            // At the beginning of a text and behind a space.
            for spelling in [text, " " + text] {
                let tokens = try model.encode(
                    spelling, addSpecialTokens: false, parameter: "bad_words")
                let isKnown = tokens.allSatisfy { (0..<vocabulary).contains(Int($0)) }
                if isKnown, !tokens.isEmpty, !refused.contains(tokens) { refused.append(tokens) }
            }
        }
    }

    /// Whether anything is ruled.
    private var isEmpty: Bool { allowed == nil && refused.isEmpty && least == 0 }

    /// A constraint for one answer; `inner` itself where nothing is ruled.
    ///
    /// - Parameters:
    ///   - stop: Tokens that end the answer.
    ///   - inner: What else must hold.
    func constraint(
        stop: Set<Int32>, _ inner: (any TokenConstraint)?
    ) -> (any TokenConstraint)? {
        isEmpty ? inner : TokenRuleConstraint(self, stop: stop, inner)
    }
}

/// ``TokenRules`` over one answer, beside another constraint.
///
/// Used from the engine's thread only, as the protocol says.
private final class TokenRuleConstraint: TokenConstraint, @unchecked Sendable {
    private let rules: TokenRules
    private let stop: Set<Int32>
    private let inner: (any TokenConstraint)?
    private let longest: Int
    private var count = 0
    /// The last new tokens, as many as the longest refused text has but for one.
    private var last: [Int32] = []

    init(_ rules: TokenRules, stop: Set<Int32>, _ inner: (any TokenConstraint)?) {
        self.rules = rules
        self.stop = stop
        self.inner = inner
        longest = rules.refused.map(\.count).max() ?? 0
    }

    /// A rule that would leave nothing does not hold: a form comes first, then what alone may come.
    func allowed(_ mask: inout [UInt32]) -> Bool {
        let isInner = inner?.allowed(&mask) ?? false
        guard rules.allowed != nil || longest > 0 || count < rules.least else { return isInner }
        if !isInner { mask = Array(repeating: .max, count: mask.count) }
        if let allowed = rules.allowed {
            var alone = [UInt32](repeating: 0, count: mask.count)
            for token in allowed { alone[Int(token) / 32] |= 1 << (UInt32(token) % 32) }
            keep(&mask) { rest in
                for word in rest.indices { rest[word] &= alone[word] }
            }
        }
        let ends = rules.refused.filter {
            last.suffix($0.count - 1).elementsEqual($0.dropLast())
        }
        keep(&mask) { rest in
            for token in ends.compactMap(\.last) { clear(token, &rest) }
        }
        if count < rules.least {
            keep(&mask) { rest in
                for token in stop { clear(token, &rest) }
            }
        }
        return true
    }

    /// Changes a mask unless that leaves nothing.
    private func keep(_ mask: inout [UInt32], _ change: (inout [UInt32]) -> Void) {
        var rest = mask
        change(&rest)
        if rest.contains(where: { $0 != 0 }) { mask = rest }
    }

    func accept(_ token: Int32) -> Bool {
        guard inner?.accept(token) ?? true else { return false }
        count += 1
        last.append(token)
        if last.count >= max(longest, 1) { last.removeFirst() }
        return true
    }

    private func clear(_ token: Int32, _ mask: inout [UInt32]) {
        guard mask.indices.contains(Int(token) / 32) else { return }
        mask[Int(token) / 32] &= ~(1 << (UInt32(token) % 32))
    }
}
