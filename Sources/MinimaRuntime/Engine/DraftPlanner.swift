import MinimaCore

/// A launch whose result the engine has not read.
struct EngineLaunch {
    let rows: [EngineSequence]
    /// The decode step's bucket; 0 for the token after a prompt.
    let bucket: Int
    let choice: SpeculationController.Choice
    /// Tokens of a prompt whose scores it makes; `nil` where it makes tokens.
    var scores: Int?
    /// When it was made.
    private(set) var times: LaunchTimer.Launch

    init(
        rows: [EngineSequence], bucket: Int, choice: SpeculationController.Choice, prefills: Int
    ) {
        self.rows = rows
        self.bucket = bucket
        self.choice = choice
        times = LaunchTimer.Launch(prefills: prefills)
    }

    init(prompt: EngineSequence, prefills: Int) {
        self.init(rows: [prompt], bucket: 0, choice: .init(), prefills: prefills)
    }

    mutating func isQueued() { times.isQueued() }
}

/// Decides what steps propose, and times them.
struct DraftPlanner {
    /// Chunks of prompts queued so far.
    var prefills = 0

    private let capacity: DecodeCapacity
    private let choices: [Int]
    private let seconds: (Int, Int) -> Double?
    private let isDeterministic: Bool
    /// `nil`: always as many as ``fixed``.
    private var controller: SpeculationController?
    private let fixed: Int
    private var timer: LaunchTimer

    init(
        _ capacity: DecodeCapacity, _ options: EngineOptions,
        seconds: @escaping (_ bucket: Int, _ draftTokens: Int) -> Double?
    ) {
        self.capacity = capacity
        self.seconds = seconds
        timer = LaunchTimer(queuedSteps: capacity.queuedSteps)
        isDeterministic = options.deterministic
        let all = capacity.draftTokens.filter { $0 >= 0 }
        switch options.speculation {
        case .off: (choices, fixed) = ([0], 0)
        case .fixed(let count):
            choices = all.filter { $0 <= count }
            fixed = choices.max() ?? 0
        case .automatic:
            choices = options.deterministic ? [0] : all
            fixed = 0
            if choices.contains(where: { $0 > 0 }) {
                controller = SpeculationController(choices, seconds: seconds)
            }
        }
    }

    private var mostDrafts: Int { choices.max() ?? 0 }

    /// Most tokens that a sequence's pages hold: steps queued behind its end write, too.
    func longest(_ sequence: EngineSequence) -> Int {
        let beyond = mostDrafts * max(capacity.queuedSteps, 1)
        return max(min(sequence.longest + beyond, capacity.context), sequence.longest)
    }

    /// Whether there is a place for the sequence's next token wherever it may stand; if not, results
    /// are to come.
    func canStep(_ sequence: EngineSequence) -> Bool {
        guard sequence.uncertain > 0 else { return true }
        // With the flag, what is proposed follows from the sequence, not from when results are read.
        let needed = isDeterministic ? fixed + 1 : 1
        return sequence.most + needed <= capacity.context
    }

    /// Rows that may share a launch: with the flag, those without room for all proposals get none,
    /// and take none from the others; so with those whose tokens are constrained.
    func groups(_ rows: [EngineSequence]) -> [[EngineSequence]] {
        guard isDeterministic, fixed > 0 else { return [rows] }
        func isPlain(_ row: EngineSequence) -> Bool {
            row.isConstrained || row.most + 1 + fixed > capacity.context
        }
        return [rows.filter { !isPlain($0) }, rows.filter(isPlain)].filter { !$0.isEmpty }
    }

    /// What a launch proposes.
    ///
    /// - Parameter makeRoom: Takes a number of proposals and says how many of them have pages.
    mutating func choose(
        _ bucket: Int, _ rows: [EngineSequence], makeRoom: (Int) -> Int
    ) -> SpeculationController.Choice {
        let free = rows.count { !$0.isConstrained }
        guard free > 0 else { return SpeculationController.Choice() }
        var choice =
            controller?.choose(bucket: bucket, share: Double(free) / Double(rows.count))
            ?? SpeculationController.Choice(draftTokens: fixed)
        guard choice.draftTokens > 0 else { return choice }
        let highest = rows.reduce(0) { max($0, $1.most) }
        let room = makeRoom(min(choice.draftTokens, max(capacity.context - highest - 1, 0)))
        let allowed = isDeterministic && room < fixed ? 0 : room
        choice.draftTokens =
            choices.last { $0 <= allowed && seconds(bucket, $0)?.isFinite ?? true } ?? 0
        return choice
    }

    /// Seconds that a launch took on the device; `nil` where that cannot be told from other work.
    mutating func seconds(
        _ launch: EngineLaunch, collecting: ContinuousClock.Instant, _ now: ContinuousClock.Instant
    ) -> Double? {
        timer.seconds(launch.times, collecting: collecting, now)
    }

    /// Learns from a decode step, in which that many constrained rows verified nothing.
    mutating func record(
        _ launch: EngineLaunch, accepted: [Int], constrained: Int, seconds: Double?
    ) {
        controller?.record(
            launch.choice, bucket: launch.bucket, accepted: accepted, constrained: constrained,
            seconds: seconds)
    }
}
