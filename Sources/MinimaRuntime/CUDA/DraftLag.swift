/// By how many tokens a draft that keeps something of every token may be behind each slot's sequence.
///
/// A round reads the last places again, so steps that propose nothing may leave it out for as many tokens:
/// what it costs is shared by them.
struct DraftLag {
    private var most: [Int]

    /// - Parameter slots: Whose sequences have not begun.
    init(slots: Int) {
        most = Array(repeating: 1, count: slots)
    }

    /// A sequence begins: its prompt is read by the draft, too, and the token after it is not.
    mutating func open(_ slot: Int) { most[slot] = 1 }

    /// Whether a step of these rows that proposes nothing may leave the draft as it is.
    ///
    /// - Parameter places: What a round reads again; 0 where nothing is kept.
    func mayLeave(_ slots: [Int], places: Int) -> Bool {
        slots.allSatisfy { most[$0] < places }
    }

    /// A step was queued that makes up to `draftTokens` + 1 tokens of each row.
    ///
    /// - Parameter leavesDraft: Whether it has no round.
    mutating func queued(_ slots: [Int], draftTokens: Int, leavesDraft: Bool) {
        for slot in slots { most[slot] = (leavesDraft ? most[slot] : 0) + draftTokens + 1 }
    }
}
