import Synchronization

/// What one encoder writes while it works: its word cache and the symbols of the word at hand.
final class EncoderScratch {
    let cache = WordCache()
    var symbols: [Int32] = []
    var ranks: [UInt32] = []
    var merged: [Int32] = []
    var previous: [Int32] = []
    var next: [Int32] = []
    var heap: [UInt64] = []
}

/// Scratch space for as many encoders as run at the same time, kept warm between calls.
final class ScratchPool: Sendable {
    /// Idle scratch spaces beyond this number are freed; each takes up to about 8 MB.
    private static let keptLimit = 8

    private let idle = Mutex<[Transfer]>([])

    /// An idle scratch space has no other owner, so it may change threads.
    private struct Transfer: @unchecked Sendable {
        let scratch: EncoderScratch
    }

    /// A scratch space that nobody else uses until it is given back.
    func take() -> EncoderScratch {
        idle.withLock { $0.popLast() }?.scratch ?? EncoderScratch()
    }

    /// Gives a scratch space back.
    func put(_ scratch: EncoderScratch) {
        let transfer = Transfer(scratch: scratch)
        idle.withLock { if $0.count < Self.keptLimit { $0.append(transfer) } }
    }
}
