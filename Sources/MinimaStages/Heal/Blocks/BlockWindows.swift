import MinimaCore

/// One process's share of the windows that blocks are healed on, cut into steps of the optimiser.
///
/// Step s of an epoch takes `windowsPerStep` neighbouring windows, of which process r of n has those
/// whose number modulo n is r; epochs differ in the order of their steps.
struct BlockWindows {
    /// This process's windows: those of the training steps in turn, then the held-out ones.
    let batches: [TokenBatch]
    /// Which batches belong to each training step of an epoch; empty where a step has fewer windows
    /// than there are processes.
    let steps: [Range<Int>]
    /// Tokens of each training step, those of all processes counted.
    let tokens: [Int]
    /// The held-out batches.
    let heldOut: Range<Int>
    private let seed: UInt64

    /// The batches that train.
    var training: Range<Int> { 0..<heldOut.lowerBound }
    /// Tokens of an epoch, over all processes.
    var tokensPerEpoch: Int { tokens.reduce(0, +) }

    /// Cuts windows, the same for the same arguments; empty windows are left out.
    ///
    /// - Parameter tokensPerPass: Tokens of a batch, at most, where it has more windows than one.
    init(
        training: [[Int32]], heldOut: [[Int32]], windowsPerStep: Int, tokensPerPass: Int,
        seed: UInt64, rank: Int = 0, processes: Int = 1
    ) {
        func share(_ windows: some Sequence<[Int32]>) -> [TokenBatch] {
            let own = windows.enumerated().filter { $0.offset % processes == rank }
            return TokenBatch.batches(
                [CalibrationSource(name: "", windows: own.map(\.element))],
                tokensPerPass: tokensPerPass)
        }
        let windows = training.filter { !$0.isEmpty }
        var batches: [TokenBatch] = []
        var steps: [Range<Int>] = []
        var tokens: [Int] = []
        for start in stride(from: 0, to: windows.count, by: max(windowsPerStep, 1)) {
            let step = windows[start..<min(start + max(windowsPerStep, 1), windows.count)]
            let first = batches.count
            batches += share(step)
            steps.append(first..<batches.count)
            tokens.append(step.reduce(0) { $0 + $1.count })
        }
        let first = batches.count
        batches += share(heldOut.filter { !$0.isEmpty })
        self.batches = batches
        self.steps = steps
        self.tokens = tokens
        self.heldOut = first..<batches.count
        self.seed = seed
    }

    /// Which of ``steps`` the training's step number `step` is.
    func place(ofStep step: Int) -> Int {
        let (epoch, place) = step.quotientAndRemainder(dividingBy: steps.count)
        var random = SplitMix(seed &+ UInt64(epoch))
        return random.shuffled(steps.count)[place]
    }
}
