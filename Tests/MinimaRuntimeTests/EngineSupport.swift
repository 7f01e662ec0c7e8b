import MinimaCore

@testable import MinimaRuntime

/// A backend whose "model" is a hash of all tokens that its pages hold for a sequence, so that a
/// page given to two sequences, lost or written out of order changes what comes out.
///
/// Work is done as late as the protocol allows: when its result is read.
final class HashBackend: DecodeBackend {
    struct Broken: Error, Hashable {}

    /// A call that queued work.
    enum Call: Equatable {
        case prefill(slot: Int, position: Int, count: Int)
        case decode(slots: [Int], bucket: Int)
    }

    let capacity: DecodeCapacity
    /// Calls so far.
    private(set) var calls: [Call] = []
    /// What the engine did that the protocol forbids.
    private(set) var violations: [String] = []
    private(set) var opened: [SequenceStart] = []
    /// Decides whether a call throws at once.
    var queueFailure: (Call) -> Bool = { _ in false }
    /// Decides whether the result of a call throws.
    var resultFailure: (Call) -> Bool = { _ in false }
    /// Sequences whose token of this index is not finite, by their first token.
    var notFinite: [Int32: Int] = [:]
    var seconds: (decode: (Int) -> Double?, prefill: (Int, Int) -> Double?) = (
        { _ in nil }, { _, _ in nil }
    )

    private struct Slot {
        var cached = 0
        var pages: [Int32] = []
    }

    private var slots: [Int: Slot] = [:]
    private var last: [Int32]
    private var memory: [Int32]
    private var work: [() -> Result<[SampledToken], any Error>?] = []

    init(
        slots: Int = 4, pages: Int, pageTokens: Int = 4, context: Int = 1000, chunk: Int = 64,
        buckets: [Int] = [1, 2, 4], queuedSteps: Int = 1
    ) {
        capacity = DecodeCapacity(
            slots: slots, pages: pages, pageTokens: pageTokens, context: context, vocabulary: 50,
            prefillChunk: chunk, buckets: buckets, deterministicBucket: buckets[0],
            queuedSteps: queuedSteps)
        last = Array(repeating: 0, count: slots)
        memory = Array(repeating: -1, count: pages * pageTokens)
    }

    /// The token after `tokens`.
    static func next(_ tokens: some Sequence<Int32>) -> Int32 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for token in tokens { hash = (hash ^ UInt64(UInt32(bitPattern: token))) &* 0x100_0000_01B3 }
        return Int32((hash >> 20) % 50)
    }

    /// What a request must give.
    static func reference(_ request: GenerationRequest, limit: Int) -> [Int32] {
        var tokens = request.prompt
        while tokens.count < request.prompt.count + limit {
            let token = next(tokens)
            if request.stop.contains(token) { break }
            tokens.append(token)
        }
        return Array(tokens[request.prompt.count...])
    }

    func open(_ slot: Int, _ sequence: SequenceStart) throws {
        if slots[slot] != nil { violations.append("slot \(slot) was opened twice") }
        if !(0..<capacity.slots).contains(slot) { violations.append("no slot \(slot)") }
        slots[slot] = Slot()
        opened.append(sequence)
    }

    func close(_ slot: Int) {
        if slots.removeValue(forKey: slot) == nil { violations.append("slot \(slot) was closed") }
    }

    /// Checks where new tokens go.
    private func advance(_ slot: Int, _ position: Int, by count: Int, _ pages: [Int32]) {
        guard var state = slots[slot] else {
            return violations.append("slot \(slot) is not open")
        }
        if state.cached != position { violations.append("slot \(slot) is not at \(position)") }
        if pages.count * capacity.pageTokens < position + count {
            violations.append("\(pages.count) pages do not hold \(position + count)")
        }
        if !pages.starts(with: state.pages) { violations.append("pages of \(slot) changed") }
        for (other, held) in slots where other != slot && !Set(held.pages).isDisjoint(with: pages) {
            violations.append("slots \(slot) and \(other) share pages")
        }
        (state.cached, state.pages) = (position + count, pages)
        slots[slot] = state
    }

    private func place(_ pages: [Int32], _ position: Int) -> Int {
        Int(pages[position / capacity.pageTokens]) * capacity.pageTokens
            + position % capacity.pageTokens
    }

    private func sample(_ slot: Int, _ pages: [Int32], length: Int) -> SampledToken {
        let tokens = (0..<length).map { memory[place(pages, $0)] }
        if notFinite[tokens[0]] == length { return SampledToken(id: SampledToken.notFinite) }
        last[slot] = Self.next(tokens)
        return SampledToken(id: last[slot])
    }

    func prefill(_ chunk: PrefillChunk) throws {
        let call = Call.prefill(
            slot: chunk.slot, position: chunk.position, count: chunk.tokens.count)
        calls.append(call)
        if queueFailure(call) { throw Broken() }
        advance(chunk.slot, chunk.position, by: chunk.tokens.count, chunk.pages)
        if chunk.tokens.count > capacity.prefillChunk { violations.append("a chunk is too long") }
        work.append { [self] in
            for (offset, token) in chunk.tokens.enumerated() {
                memory[place(chunk.pages, chunk.position + offset)] = token
            }
            guard chunk.samples else { return nil }
            if resultFailure(call) { return .failure(Broken()) }
            let length = chunk.position + chunk.tokens.count
            return .success([sample(chunk.slot, chunk.pages, length: length)])
        }
    }

    func decode(_ batch: DecodeBatch) throws {
        let call = Call.decode(slots: batch.rows.map(\.slot), bucket: batch.bucket)
        calls.append(call)
        if queueFailure(call) { throw Broken() }
        if batch.rows.isEmpty || batch.rows.count > batch.bucket
            || !capacity.buckets.contains(batch.bucket)
        {
            violations.append("\(batch.rows.count) rows in bucket \(batch.bucket)")
        }
        for row in batch.rows { advance(row.slot, row.position, by: 1, row.pages) }
        work.append { [self] in
            if resultFailure(call) { return .failure(Broken()) }
            return .success(
                batch.rows.map { row in
                    memory[place(row.pages, row.position)] = last[row.slot]
                    return sample(row.slot, row.pages, length: row.position + 1)
                })
        }
    }

    func collect() throws -> [[SampledToken]] {
        while !work.isEmpty {
            if let result = work.removeFirst()() { return try result.get().map { [$0] } }
        }
        violations.append("nothing was queued")
        return []
    }

    func copyPages(from sources: [Int32], to destinations: [Int32]) {}

    func decodeSeconds(bucket: Int, draftTokens: Int) -> Double? { seconds.decode(bucket) }
    func prefillSeconds(tokens: Int, at position: Int) -> Double? {
        seconds.prefill(tokens, position)
    }
}

/// An engine without its thread: a test decides when it steps.
final class SteppedEngine {
    let backend: HashBackend
    let core: EngineCore
    private var channels: [GenerationChannel] = []
    private(set) var requests: [GenerationRequest] = []

    init(_ backend: HashBackend, _ options: EngineOptions = EngineOptions()) {
        self.backend = backend
        core = EngineCore(backend, options)
    }

    /// Submits a prompt; returns its number.
    @discardableResult
    func submit(_ prompt: [Int32], maxTokens: Int, stop: Set<Int32> = []) throws -> Int {
        let request = try GenerationRequest(
            prompt: prompt, maxTokens: maxTokens, sampling: SamplingParameters(), stop: stop)
        requests.append(request)
        channels.append(GenerationChannel())
        let id = requests.count - 1
        core.add(
            EngineInbox.Arrival(
                id: UInt64(id), request: request, limit: limit(id), channel: channels[id],
                submitted: .now))
        return id
    }

    func limit(_ id: Int) -> Int {
        min(requests[id].maxTokens, Engine.context(core.capacity) - requests[id].prompt.count)
    }

    func outcome(_ id: Int) -> GenerationOutcome? { channels[id].progress.outcome }
    func tokens(_ id: Int) -> [Int32] { channels[id].progress.tokens.map(\.id) }
    func expected(_ id: Int) -> [Int32] {
        HashBackend.reference(requests[id], limit: limit(id))
    }

    /// Steps until nothing is left; false when that takes more than `most` steps.
    func finish(most: Int = 100_000) -> Bool {
        for _ in 0..<most where !core.isIdle { core.step() }
        return core.isIdle
    }
}

/// SplitMix64, so that tests draw the same everywhere.
struct TestRandom: RandomNumberGenerator {
    var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var bits = state
        bits = (bits ^ (bits >> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
        return bits ^ (bits >> 31)
    }

    mutating func tokens(_ count: ClosedRange<Int>, below vocabulary: Int32) -> [Int32] {
        (0..<Int.random(in: count, using: &self)).map { _ in
            Int32.random(in: 0..<vocabulary, using: &self)
        }
    }
}
