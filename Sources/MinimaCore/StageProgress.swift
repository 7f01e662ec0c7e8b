/// How far a long operation has come.
public struct StageProgress: Sendable, Hashable {
    /// What is being done, in a few words: `calibrate`, `decompose`.
    public var stage: String
    /// Units done.
    public var done: Int
    /// Units in all.
    public var total: Int
    /// Those of the units done that an earlier run did, which tell nothing about this one's speed.
    public var resumed: Int
    /// What is counted: `tokens`, `layers`.
    public var unit: String
    /// The latest finding, such as a running perplexity; may be empty.
    public var note: String

    /// A report of progress.
    public init(
        stage: String, done: Int, total: Int, resumed: Int = 0, unit: String, note: String = ""
    ) {
        self.stage = stage
        self.done = done
        self.total = total
        self.resumed = resumed
        self.unit = unit
        self.note = note
    }
}

/// Receives progress; throws to cancel the operation, which then undoes what it has begun.
public typealias ProgressHandler = (StageProgress) throws -> Void
