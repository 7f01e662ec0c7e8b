import Testing

@testable import MinimaRuntime

/// A constraint that follows a rule, and notes what the engine does that its protocol forbids.
final class ScriptedConstraint: TokenConstraint {
    /// The tokens that may come after those of the answer so far; `nil`: any.
    typealias Rule = @Sendable (_ answer: [Int32]) -> (@Sendable (Int32) -> Bool)?

    let rule: Rule
    private let state = Monitor(State())

    private struct State {
        var answer: [Int32] = []
        var isAsked = false
        var violations: [String] = []
    }

    init(_ rule: @escaping Rule) { self.rule = rule }

    /// The tokens that it was told.
    var answer: [Int32] { state.withLock { $0.answer } }
    var violations: [String] { state.withLock { $0.violations } }

    func allowed(_ mask: inout [UInt32]) -> Bool {
        state.withLock { state in
            if state.isAsked { state.violations.append("asked twice after \(state.answer)") }
            state.isAsked = true
            guard let isAllowed = rule(state.answer) else { return false }
            // Bits behind the vocabulary mean nothing.
            for token in 0..<mask.count * 32 {
                let bit: UInt32 = 1 << UInt32(token % 32)
                if isAllowed(Int32(token)) {
                    mask[token / 32] |= bit
                } else {
                    mask[token / 32] &= ~bit
                }
            }
            return true
        }
    }

    func accept(_ token: Int32) -> Bool {
        state.withLock { state in
            if !state.isAsked { state.violations.append("\(token) came unasked") }
            guard rule(state.answer)?(token) ?? true else { return false }
            state.answer.append(token)
            state.isAsked = false
            return true
        }
    }
}

/// What constraints in tests ask for.
enum ConstraintRule: CaseIterable {
    case anything, allOfThem, even, text, afterTrigger, shrinking

    /// The only answer that ``text`` allows; then comes ``end``.
    static let answer: [Int32] = [9, 1, 1, 33, 2, 48, 6, 31, 32]
    static let end: Int32 = 7

    /// A constraint of its own for one request.
    var constraint: ScriptedConstraint { ScriptedConstraint(rule) }

    var rule: ScriptedConstraint.Rule {
        { answer in
            guard !isOpen(after: answer) else { return nil }
            return { isAllowed($0, after: answer) }
        }
    }

    private func isOpen(after answer: [Int32]) -> Bool {
        switch self {
        case .anything: true
        // Anything until a token of a fifth of the vocabulary; only such tokens after it.
        case .afterTrigger: !answer.contains { $0 % 5 == 0 }
        case .allOfThem, .even, .text, .shrinking: false
        }
    }

    private func isAllowed(_ token: Int32, after answer: [Int32]) -> Bool {
        switch self {
        case .anything, .allOfThem: true
        case .even: token % 2 == 0
        case .text:
            token == (answer.count < Self.answer.count ? Self.answer[answer.count] : Self.end)
        case .afterTrigger: token % 5 == 0
        // None of the last 40.
        case .shrinking: !answer.suffix(40).contains(token)
        }
    }

    /// Whether tokens come as they would without.
    var isFree: Bool { self == .anything || self == .allOfThem }

    /// Whether all tokens of an answer were allowed in their places.
    func allows(_ answer: [Int32]) -> Bool {
        answer.indices.allSatisfy { rule(Array(answer[..<$0]))?(answer[$0]) ?? true }
    }
}

extension GenerationRequest {
    /// What the engine did wrong with the constraint, and whether it told it other tokens than these.
    func constraintIsUpheld(_ tokens: [Int32]) -> Bool {
        guard let scripted = constraint as? ScriptedConstraint else { return true }
        return scripted.violations == [] && scripted.answer == tokens
    }
}
