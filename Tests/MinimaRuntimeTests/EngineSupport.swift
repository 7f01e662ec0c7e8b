import MinimaCore
import Testing

@testable import MinimaRuntime

/// A backend whose "model" is a hash of all tokens that its pages hold for a sequence, so that a
/// page given to two sequences, lost or written out of order changes what comes out. Each read is also
/// compared with the sequence's tokens. With a head, pages hold pairs of tokens for a draft, too, made
/// and checked as ``CUDAHeadDrafter`` makes and reads them.
///
/// Work is done as late as the protocol allows: when its result is read.
final class HashBackend: DecodeBackend {
    struct Broken: Error, Hashable {}

    /// A call that queued work.
    enum Call: Equatable {
        case prefill(slot: Int, position: Int, count: Int)
        case decode(slots: [Int], bucket: Int, drafts: Int = 0)
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
    var seconds: (decode: (Int, Int) -> Double?, prefill: (Int, Int) -> Double?) = (
        { _, _ in nil }, { _, _ in nil }
    )
    /// What is proposed after tokens; any number of any ids.
    var draft: (_ tokens: [Int32], _ count: Int) -> [Int32] = { _, _ in [] }

    private struct Slot {
        /// Which sequence this is.
        let owner: Int
        /// Tokens whose keys and values were there.
        let cached: Int
        /// Tokens in its pages when everything queued has run, at least and at most as far as read
        /// results tell.
        var least = 0
        var most = 0
        var pages: [Int32] = []
    }

    private struct Work {
        /// Slots and owners of a decode step, and what it proposes.
        var rows: [(slot: Int, owner: Int)] = []
        var drafts = 0
        /// Nothing where there is no result.
        let run: () -> Result<[[SampledToken]], any Error>?
    }

    private var slots: [Int: Slot] = [:]
    private var last: [Int32]
    /// Where each slot's last token stands, as the device knows it.
    private var positions: [Int]
    private var memory: [Int32]
    /// Per place the pair of tokens that a head has seen there.
    private var pairs: [[Int32]]
    /// As the device knows them: the tokens of each slot's sequence, and how many had keys and values.
    private var truth: [[Int32]]
    private var ringStart: [Int]
    /// Places that a round of the head computes anew; 0: there is none.
    private let headPlaces: Int
    private var work: [Work] = []
    private var scores: [Result<[SampledToken], any Error>] = []

    /// - Parameter headPlaces: Places before a step's that the step reads features of again.
    init(
        slots: Int = 4, pages: Int, pageTokens: Int = 4, context: Int = 1000, chunk: Int = 64,
        buckets: [Int] = [1, 2, 4], queuedSteps: Int = 1, draftTokens: [Int] = [0],
        sharesPrefixes: Bool = true, headPlaces: Int = 0
    ) {
        capacity = DecodeCapacity(
            slots: slots, pages: pages, pageTokens: pageTokens, context: context, vocabulary: 50,
            prefillChunk: chunk, buckets: buckets, deterministicBucket: buckets[0],
            queuedSteps: queuedSteps, draftTokens: draftTokens,
            prefixes: !sharesPrefixes
                ? nil
                : headPlaces > 0 ? PrefixReuse(lookahead: 1, computed: headPlaces) : PrefixReuse())
        self.headPlaces = headPlaces
        last = Array(repeating: 0, count: slots)
        positions = Array(repeating: 0, count: slots)
        memory = Array(repeating: -1, count: pages * pageTokens)
        pairs = Array(repeating: [], count: pages * pageTokens)
        truth = Array(repeating: [], count: slots)
        ringStart = Array(repeating: 0, count: slots)
    }

    /// The token after `tokens`.
    static func next(_ tokens: some Sequence<Int32>) -> Int32 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for token in tokens { hash = (hash ^ UInt64(UInt32(bitPattern: token))) &* 0x100_0000_01B3 }
        return Int32((hash >> 20) % 50)
    }

    /// The token after `tokens` among those that may come: the hash, or the next one above it.
    static func next(_ tokens: some Sequence<Int32>, isAllowed: (Int32) -> Bool) -> Int32? {
        let first = next(tokens)
        return (first..<first + 50).map { $0 % 50 }.first(where: isAllowed)
    }

    /// What a request must give.
    static func reference(_ request: GenerationRequest, limit: Int) -> [Int32] {
        var tokens = request.prompt
        let start = tokens.count
        let rule = (request.constraint as? ScriptedConstraint)?.rule ?? { _ in nil }
        while tokens.count < start + limit {
            let isAllowed = rule(Array(tokens[start...])) ?? { _ in true }
            guard let token = next(tokens, isAllowed: isAllowed) else { break }
            if request.stop.contains(token) { break }
            tokens.append(token)
        }
        return Array(tokens[start...])
    }

    func open(_ slot: Int, _ sequence: SequenceStart) throws {
        if slots[slot] != nil { violations.append("slot \(slot) was opened twice") }
        if !(0..<capacity.slots).contains(slot) { violations.append("no slot \(slot)") }
        let cached = sequence.cached
        if cached % capacity.pageTokens != 0 || cached >= sequence.tokens.count {
            violations.append("\(cached) of \(sequence.tokens.count) tokens are cached")
        }
        slots[slot] = Slot(owner: opened.count, cached: cached, least: cached, most: cached)
        opened.append(sequence)
        work.append(
            Work { [self] in
                (truth[slot], ringStart[slot]) = (sequence.tokens, cached)
                return nil
            })
    }

    func close(_ slot: Int) {
        if slots.removeValue(forKey: slot) == nil { violations.append("slot \(slot) was closed") }
    }

    /// Checks where new tokens go: `count` for certain, and `drafts` more.
    private func advance(
        _ slot: Int, _ position: Int, by count: Int, drafts: Int = 0, _ pages: [Int32]
    ) {
        guard var state = slots[slot] else {
            return violations.append("slot \(slot) is not open")
        }
        if state.least != position { violations.append("slot \(slot) is not at \(position)") }
        let end = state.most + count + drafts
        if pages.count * capacity.pageTokens < end {
            violations.append("\(pages.count) pages do not hold \(end)")
        }
        if end > capacity.context { violations.append("\(end) tokens pass the context") }
        if !pages.starts(with: state.pages) { violations.append("pages of \(slot) changed") }
        if state.pages.isEmpty, pages.count * capacity.pageTokens < state.cached {
            violations.append("\(state.cached) cached tokens are not in \(pages.count) pages")
        }
        for (other, held) in slots where other != slot {
            let full = (position / capacity.pageTokens, held.least / capacity.pageTokens)
            for (index, page) in pages.enumerated() {
                // Only at the same place of both, full, and behind both.
                guard let place = held.pages.firstIndex(of: page) else { continue }
                if place != index || index >= min(full.0, full.1) {
                    violations.append("slots \(slot) and \(other) share page \(page)")
                }
            }
        }
        (state.least, state.most, state.pages) = (state.least + count, end, pages)
        slots[slot] = state
    }

    private func place(_ pages: [Int32], _ position: Int) -> Int {
        Int(pages[position / capacity.pageTokens]) * capacity.pageTokens
            + position % capacity.pageTokens
    }

    /// The token at index `length`, by what the pages hold before it.
    private func sample(
        _ slot: Int, _ pages: [Int32], length: Int, mask: [UInt32]?
    ) -> SampledToken {
        let tokens = (0..<length).map { memory[place(pages, $0)] }
        // After a prompt's failure the token is not known.
        if truth[slot].count >= length, tokens[...] != truth[slot].prefix(length) {
            violations.append("slot \(slot) reads \(tokens), not \(truth[slot].prefix(length))")
        }
        if notFinite[tokens[0]] == length { return SampledToken(id: SampledToken.notFinite) }
        let token = Self.next(tokens) { token in
            mask.map { $0[Int(token) / 32] >> UInt32(token % 32) & 1 == 1 } ?? true
        }
        return SampledToken(id: token ?? SampledToken.notFinite)
    }

    /// Checks a mask and that its sequence has no token that the host does not know.
    private func check(_ mask: [UInt32]?, _ slot: Int) {
        guard let mask else { return }
        if mask.count != 2 || mask[1] >> 18 != 0 || mask == [0, 0] {
            violations.append("a mask of \(mask)")
        }
        let owner = slots[slot]?.owner
        if work.contains(where: { $0.rows.contains { $0 == slot && $1 == owner } }) {
            violations.append("a mask for slot \(slot) before its token is known")
        }
    }

    func prefill(_ chunk: PrefillChunk) throws {
        let call = Call.prefill(
            slot: chunk.slot, position: chunk.position, count: chunk.tokens.count)
        calls.append(call)
        if queueFailure(call) { throw Broken() }
        advance(chunk.slot, chunk.position, by: chunk.tokens.count, chunk.pages)
        if chunk.tokens.count > capacity.prefillChunk { violations.append("a chunk is too long") }
        if !chunk.samples, chunk.mask != nil { violations.append("a mask for no token") }
        let run: () -> Result<[[SampledToken]], any Error>? = { [self] in
            for (offset, token) in chunk.tokens.enumerated() {
                memory[place(chunk.pages, chunk.position + offset)] = token
            }
            positions[chunk.slot] = chunk.position + chunk.tokens.count
            if headPlaces > 0 {
                pair(chunk.slot, chunk.position..<positions[chunk.slot], chunk.pages)
            }
            if let scoring = chunk.scoring {
                scores.append(
                    resultFailure(call) ? .failure(Broken()) : .success(score(scoring, chunk)))
            }
            return nil
        }
        work.append(Work(run: run))
        guard chunk.samples else { return }
        let sampled: () -> Result<[[SampledToken]], any Error>? = { [self] in
            if resultFailure(call) { return .failure(Broken()) }
            let token = sample(
                chunk.slot, chunk.pages, length: positions[chunk.slot], mask: chunk.mask)
            last[chunk.slot] = token.id
            truth[chunk.slot].append(token.id)
            return .success([[token]])
        }
        work.append(Work(run: sampled))
    }

    private func score(_ scoring: PromptScoring, _ chunk: PrefillChunk) -> [SampledToken] {
        if scoring.rows.isEmpty || scoring.rows.upperBound > chunk.tokens.count
            || scoring.rows.count != scoring.tokens.count
        {
            violations.append("scores of \(scoring.rows) of \(chunk.tokens.count) tokens")
        }
        return zip(scoring.rows, scoring.tokens).map { row, token in
            let length = chunk.position + row + 1
            let before = (0..<length).map { memory[place(chunk.pages, $0)] }
            guard notFinite[before[0]] != length else {
                return SampledToken(id: SampledToken.notFinite)
            }
            return Self.score(token, after: before, alternatives: scoring.alternatives)
        }
    }

    /// A prompt's token as it is scored after `tokens`.
    static func score(
        _ token: Int32, after tokens: some Sequence<Int32>, alternatives: Int
    ) -> SampledToken {
        let likely = next(tokens)
        return SampledToken(
            id: token, logprob: -Float(likely) - Float(token) / 64,
            alternatives: (0..<Int32(alternatives)).map {
                .init(id: (likely + $0) % 50, logprob: -Float($0))
            })
    }

    /// What a request must be told of its prompt.
    static func scores(_ request: GenerationRequest) -> [SampledToken] {
        guard let alternatives = request.promptLogprobs else { return [] }
        return request.prompt.indices.map { place in
            place == 0
                ? SampledToken(id: request.prompt[0])
                : score(
                    request.prompt[place], after: request.prompt[..<place],
                    alternatives: alternatives)
        }
    }

    func collectScores() throws -> [SampledToken] {
        while scores.isEmpty, !work.isEmpty {
            if work.removeFirst().run() != nil { violations.append("scores were read too early") }
        }
        guard !scores.isEmpty else {
            violations.append("no scores were queued")
            return []
        }
        return try scores.removeFirst().get()
    }

    func decode(_ batch: DecodeBatch) throws {
        let drafts = batch.draftTokens
        let call = Call.decode(
            slots: batch.rows.map(\.slot), bucket: batch.bucket, drafts: drafts)
        calls.append(call)
        if queueFailure(call) { throw Broken() }
        if batch.rows.isEmpty || batch.rows.count > batch.bucket
            || !capacity.buckets.contains(batch.bucket)
        {
            violations.append("\(batch.rows.count) rows in bucket \(batch.bucket)")
        }
        if !capacity.draftTokens.contains(drafts) { violations.append("\(drafts) proposals") }
        if drafts > 0, batch.rows.allSatisfy({ $0.mask != nil }) {
            violations.append("\(drafts) proposals for rows that verify none")
        }
        for row in batch.rows { check(row.mask, row.slot) }
        for row in batch.rows { advance(row.slot, row.position, by: 1, drafts: drafts, row.pages) }
        work.append(
            Work(
                rows: batch.rows.map { ($0.slot, slots[$0.slot]?.owner ?? -1) }, drafts: drafts,
                run: { [self] in
                    if resultFailure(call) { return .failure(Broken()) }
                    return .success(batch.rows.map { step($0, drafts) })
                }))
    }

    /// Writes a slot's last token and proposals, and keeps of these what the model would have said.
    private func step(_ row: DecodeBatch.Row, _ drafts: Int) -> [SampledToken] {
        let (slot, pages) = (row.slot, row.pages)
        let position = positions[slot]
        if headPlaces > 0 { round(slot, pages) }
        memory[place(pages, position)] = last[slot]
        let before = (0...position).map { memory[place(pages, $0)] }
        let proposals = drafts > 0 ? Array(draft(before, drafts).prefix(drafts)) : []
        // A proposal stands in the page, right or wrong, until the next step writes over it.
        for place in 0..<drafts {
            memory[self.place(pages, position + 1 + place)] =
                place < proposals.count ? proposals[place] : -1
        }
        var tokens: [SampledToken] = []
        repeat {
            tokens.append(
                sample(slot, pages, length: position + 1 + tokens.count, mask: row.mask))
            truth[slot].append(tokens[tokens.count - 1].id)
        } while row.mask == nil && tokens.count <= proposals.count
            && tokens[tokens.count - 1].id >= 0
            && tokens[tokens.count - 1].id == proposals[tokens.count - 1]
        positions[slot] += tokens.count
        last[slot] = tokens[tokens.count - 1].id
        return tokens
    }

    /// Keeps the pairs of places, whose features are known.
    private func pair(_ slot: Int, _ places: Range<Int>, _ pages: [Int32]) {
        for index in places {
            if index < ringStart[slot] { violations.append("slot \(slot) has lost \(index)") }
            pairs[place(pages, index)] = Array(truth[slot].dropFirst(index).prefix(2))
        }
    }

    /// A head's round: the last places anew, then it reads all of them.
    private func round(_ slot: Int, _ pages: [Int32]) {
        let position = positions[slot]
        pair(slot, max(position - headPlaces, 0)..<position, pages)
        for index in 0..<position {
            let right = Array(truth[slot].dropFirst(index).prefix(2))
            if pairs[place(pages, index)] != right {
                violations.append("slot \(slot) has a wrong pair at \(index)")
            }
        }
    }

    func collect() throws -> [[SampledToken]] {
        while !work.isEmpty {
            let next = work.removeFirst()
            guard let result = next.run() else { continue }
            let rows = try result.get()
            for (row, tokens) in zip(next.rows, rows) where slots[row.slot]?.owner == row.owner {
                slots[row.slot]?.least += tokens.count - 1
                slots[row.slot]?.most -= next.drafts - (tokens.count - 1)
            }
            return rows
        }
        violations.append("nothing was queued")
        return []
    }

    /// The next decode step fails: as it is queued, or as its result is read.
    func breakNextDecode(atOnce: Bool) {
        var isBroken = true
        let breaks: (Call) -> Bool = { call in
            guard case .decode = call, isBroken else { return false }
            isBroken = false
            return true
        }
        if atOnce { queueFailure = breaks } else { resultFailure = breaks }
    }

    func decodeSeconds(bucket: Int, draftTokens: Int) -> Double? {
        seconds.decode(bucket, draftTokens)
    }
    func prefillSeconds(tokens: Int, at position: Int) -> Double? {
        seconds.prefill(tokens, position)
    }
}

/// An engine without its thread: a test decides when it steps.
final class SteppedEngine {
    let core: EngineCore
    private var channels: [GenerationChannel] = []
    private(set) var requests: [GenerationRequest] = []

    init(_ backend: any DecodeBackend, _ options: EngineOptions = EngineOptions()) {
        core = EngineCore(backend, options)
    }

    /// Cancels a request that has not ended, by chance, in at most one of `count` calls.
    ///
    /// - Returns: Its number; `nil` where none was.
    func cancelAny(oncePer count: Int, _ random: inout SplitMix) -> Int? {
        guard Int.random(in: 0..<count, using: &random) == 0,
            let id = requests.indices.randomElement(using: &random), outcome(id) == nil
        else { return nil }
        core.cancel(UInt64(id))
        return id
    }

    /// Submits a prompt; returns its number.
    @discardableResult
    func submit(_ prompt: [Int32], maxTokens: Int, stop: Set<Int32> = []) throws -> Int {
        submit(
            try GenerationRequest(
                prompt: prompt, maxTokens: maxTokens, sampling: SamplingParameters(), stop: stop))
    }

    /// Submits a request; returns its number.
    @discardableResult
    func submit(_ request: GenerationRequest) -> Int {
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

    /// Each request got what it must, those in `cancelled` a beginning of it.
    func requireOutcomes(cancelled: Set<Int>) throws {
        for id in requests.indices {
            let outcome = try #require(self.outcome(id))
            let expected = self.expected(id)
            #expect(outcome.ids == tokens(id))
            if cancelled.contains(id) {
                #expect(expected.starts(with: outcome.ids))
            } else {
                #expect(outcome.ids == expected)
                #expect(outcome.reason == (expected.count == limit(id) ? .length : .stop))
            }
        }
    }

    /// Steps until nothing is left; false when that takes more than `most` steps.
    func finish(most: Int = 100_000) -> Bool {
        for _ in 0..<most where !core.isIdle { core.step() }
        return core.isIdle
    }
}

extension SplitMix {
    mutating func tokens(_ count: ClosedRange<Int>, below vocabulary: Int32) -> [Int32] {
        (0..<Int.random(in: count, using: &self)).map { _ in
            Int32.random(in: 0..<vocabulary, using: &self)
        }
    }
}
