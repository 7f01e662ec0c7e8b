import MinimaCore
import MinimaModels
import MinimaTensor

/// Texts as packed training windows, in an order that the seed decides.
///
/// Windows of plain texts are numbered first, then those of texts with prompts and completions.
/// A window may hold the end of one document and the beginning of others; it is never padded.
public struct HealingText: Sendable {
    /// How texts become windows.
    public struct Settings: Sendable, Hashable {
        /// Tokens that the model reads per window; it predicts as many.
        public var context: Int
        /// Share of each text's windows, its last ones, that is held out.
        public var heldOutShare = 0.02
        /// Fewest and most windows that are held out of each text; never more than half of it.
        public var heldOutWindows = 1...64
        /// Share of each batch's windows that comes from prompts with completions; `nil`: as many as
        /// there are among all windows.
        public var taskShare: Double?
        /// Seed of the order.
        public var seed: UInt64 = 0

        /// Windows of `context` tokens.
        public init(context: Int) { self.context = context }
    }

    /// Training windows.
    public let count: Int
    /// Training windows that come from prompts with completions: the last ones.
    public let taskCount: Int
    /// Held-out windows of `context` + 1 tokens: the inputs, and the target of the last.
    public let heldOut: [[Int32]]
    /// SHA-256 of all windows, trained on or held out; not of their order.
    public let hash: String
    /// What was read to train on.
    public let texts: [HealingResult.Text]
    /// How texts became windows.
    public let settings: Settings

    private let sources: [PackedText]
    /// The number of each source's first window, and ``count``.
    private let starts: [Int]

    /// Packs texts into windows.
    ///
    /// - Parameters:
    ///   - heldOut: Texts that are held out whole; `nil` holds out the end of each text.
    ///   - settings: A context of at least one token.
    /// - Throws: `HealingTextError` for texts without a whole window, when nothing is held out, and
    ///   for a share of prompts with completions that the texts cannot give.
    public init(
        _ texts: [TokenizedText], heldOut: [TokenizedText]? = nil, settings: Settings
    ) throws(HealingTextError) {
        let ordered = texts.filter { $0.isTarget == nil } + texts.filter { $0.isTarget != nil }
        var hash = SHA256()
        hash.update([settings.context])
        var (starts, sources): ([Int], [PackedText]) = ([0], [])
        var held: [[Int32]] = []
        var tasks = 0
        for text in ordered {
            let source = try PackedText(text, context: settings.context)
            let kept = source.count - (heldOut == nil ? settings.heldOut(of: source.count) : 0)
            held += (kept..<source.count).map { Array(source.tokens($0)) }
            hash.update(text, heldOutFrom: kept)
            if text.isTarget != nil { tasks += kept }
            sources.append(source)
            starts.append((starts.last ?? 0) + kept)
        }
        for text in heldOut ?? [] {
            let source = try PackedText(text, context: settings.context)
            held += (0..<source.count).map { Array(source.tokens($0)) }
            hash.update(text, heldOutFrom: 0)
        }
        count = starts.last ?? 0
        taskCount = tasks
        guard !held.isEmpty, count > 0 else { throw .nothingHeldOut(windows: count) }
        if let share = settings.taskShare {
            let canBeHad = (0...1).contains(share) && (share == 0 || tasks > 0)
            guard canBeHad, share == 1 || tasks < count else {
                throw .badTaskShare(share, taskWindows: tasks, windows: count)
            }
        }
        self.heldOut = held
        self.hash = hash.hexadecimalDigest()
        self.texts = texts.map {
            HealingResult.Text(name: $0.name, documents: $0.documents, tokens: $0.tokens.count)
        }
        self.settings = settings
        self.sources = sources
        self.starts = starts
    }

    /// Throws `ModelError.tokenOutOfRange` where a token is not in `model`'s vocabulary.
    func requireTokens(of model: any LanguageModel) throws(ModelError) {
        for source in sources { try model.requireTokens(source.text.tokens) }
        for window in heldOut { try model.requireTokens(window) }
    }

    /// The windows that process `rank` of `processes` takes in step `step` of `batch` windows: those
    /// whose place in the step modulo `processes` is `rank`.
    ///
    /// Every training window comes once before any comes again, each time in another order; with a
    /// share of prompts with completions, this holds for each of the two kinds.
    /// - Complexity: O(batch), for any step.
    func windows(step: Int, batch: Int, rank: Int = 0, of processes: Int = 1) -> [Int] {
        stride(from: rank, to: batch, by: processes).map { place in
            guard let share = settings.taskShare else {
                return shuffled(step * batch + place, among: count, salt: 0)
            }
            let tasksBefore = Int(Double(step * batch) * share)
            let tasks = Int(Double((step + 1) * batch) * share) - tasksBefore
            let plain = count - taskCount
            guard place >= batch - tasks else {
                return shuffled(step * batch - tasksBefore + place, among: plain, salt: 1)
            }
            return plain
                + shuffled(tasksBefore + place - (batch - tasks), among: taskCount, salt: 2)
        }
    }

    /// The window that comes at `position` of an endless walk through `count` windows.
    private func shuffled(_ position: Int, among count: Int, salt: UInt64) -> Int {
        let order = IndexPermutation(
            count: count, seed: settings.seed ^ salt << 62, epoch: position / count)
        return order(position % count)
    }

    /// The tokens of training windows, by their numbers.
    func batch(_ windows: [Int]) throws(TensorError) -> HealingBatch {
        let shape = [windows.count, settings.context]
        var (inputs, targets): ([Int32], [Int32]) = ([], [])
        var mask: [UInt8] = []
        var masksAny = false
        for window in windows {
            let (source, index) = place(window)
            let tokens = source.tokens(index)
            inputs += tokens.dropLast()
            targets += tokens.dropFirst()
            if let own = source.mask(index) {
                masksAny = true
                mask += own
            } else if taskCount > 0 {
                mask += repeatElement(1, count: settings.context)
            }
        }
        return HealingBatch(
            windows: windows, inputs: try Tensor(inputs, shape: shape).to(dtype: .int64),
            targets: try Tensor(targets, shape: shape).to(dtype: .int64),
            mask: masksAny ? try Tensor(mask, shape: shape).to(dtype: .float32) : nil)
    }

    /// What the model reads of `count` training windows, spread by the seed over all; of all where
    /// there are fewer.
    func inputs(count: Int) -> [[Int32]] {
        windows(step: 0, batch: Swift.min(count, self.count)).map { window in
            let (source, index) = place(window)
            return Array(source.tokens(index).dropLast())
        }
    }

    /// Tokens that step `step` predicts over all processes, and how many of them count for
    /// cross-entropy: what the loss's sums are divided by.
    func counts(step: Int, batch: Int) -> (tokens: Int, targets: Int) {
        let tokens = batch * settings.context
        guard taskCount > 0 else { return (tokens, tokens) }
        let targets = windows(step: step, batch: batch).map { window in
            let (source, index) = place(window)
            return source.mask(index)?.count { $0 != 0 } ?? settings.context
        }
        return (tokens, targets.reduce(0, +))
    }

    /// The text that training window `window` is cut from, and its number there.
    private func place(_ window: Int) -> (source: PackedText, index: Int) {
        precondition((0..<count).contains(window), "no training window \(window) among \(count)")
        let source = starts.lastIndex { $0 <= window } ?? 0
        return (sources[source], window - starts[source])
    }
}

extension HealingText.Settings {
    /// How many of a text's `count` windows are held out.
    fileprivate func heldOut(of count: Int) -> Int {
        let wanted = Int((Double(count) * heldOutShare).rounded())
        return min(max(wanted, heldOutWindows.lowerBound), heldOutWindows.upperBound, count / 2)
    }
}

extension SHA256 {
    fileprivate mutating func update(_ numbers: [Int]) {
        numbers.withUnsafeBytes { update($0) }
    }

    /// A text's tokens, which of them count, and its first window that is held out.
    fileprivate mutating func update(_ text: TokenizedText, heldOutFrom first: Int) {
        update([text.tokens.count, text.isTarget == nil ? 0 : 1, first])
        text.tokens.withUnsafeBytes { update($0) }
        text.isTarget?.withUnsafeBytes { update($0) }
    }
}
