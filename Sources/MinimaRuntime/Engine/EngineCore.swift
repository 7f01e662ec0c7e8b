/// The engine without its thread: who waits, who runs, and one step after the other.
///
/// Why it never stops short: pages are handed out through leases, so a request gets no page that
/// another holds. A request is admitted only if the pages of all tokens it can ever have exist. When
/// a running request finds no page, the newest running one gives up all of its own, so the oldest
/// always gets on, and ends. What was preempted waits in order of arrival, before whatever came
/// later; what waits for pages is overtaken a limited number of times.
final class EngineCore {
    let capacity: DecodeCapacity
    private(set) var metrics = EngineMetrics()

    private let backend: any DecodeBackend
    private let options: EngineOptions
    private let reservation: EngineOptions.Reservation
    private let pool: PagePool
    private let buckets: BucketTable
    private let sizer: ChunkSizer
    private let maxRunning: Int
    /// Waiting requests that look for known pages in a step though they do not fit without.
    private static let lookups = 8
    private var freeSlots: [Int]

    /// Both in order of arrival.
    private var waiting: [EngineSequence] = []
    private var running: [EngineSequence] = []
    /// Steps whose results have not been read, oldest first.
    private var queued: [[EngineLaunch]] = []
    private var drafting: DraftPlanner
    private let prefixes: PrefixSharing
    private var rate = TokenRate()

    init(_ backend: any DecodeBackend, _ options: EngineOptions) {
        let capacity = backend.capacity
        self.backend = backend
        self.options = options
        self.capacity = capacity
        // Computing a preempted request again goes other ways than decoding did.
        reservation = options.deterministic ? .whole : options.reservation
        pool = PagePool(count: capacity.pages, pageTokens: capacity.pageTokens)
        maxRunning = max(min(options.maxRunning ?? capacity.slots, capacity.slots), 1)
        freeSlots = (0..<maxRunning).reversed()
        buckets = BucketTable(
            options.deterministic ? [capacity.deterministicBucket] : capacity.buckets,
            rows: maxRunning,
            seconds: { backend.decodeSeconds(bucket: $0, draftTokens: 0) })
        sizer = ChunkSizer(capacity, options)
        drafting = DraftPlanner(
            capacity, options, seconds: backend.decodeSeconds(bucket:draftTokens:))
        prefixes = PrefixSharing(capacity, options, pool, chunk: sizer.chunk)
        publish()
    }

    /// Whether there is nothing to do.
    var isIdle: Bool { waiting.isEmpty && running.isEmpty && queued.isEmpty }

    // MARK: Coming and going

    func add(_ arrival: EngineInbox.Arrival) {
        waiting.append(EngineSequence(arrival, vocabulary: capacity.vocabulary))
    }

    func cancel(_ id: UInt64) {
        if let sequence = (running + waiting).first(where: { $0.id == id }) {
            end(sequence, .cancelled)
        }
    }

    func cancelAll() {
        for sequence in running + waiting { end(sequence, .cancelled) }
    }

    private func end(_ sequence: EngineSequence, _ reason: FinishReason) {
        guard !sequence.hasEnded else { return }
        // What may be wrong is found by nobody any more.
        if case .failed(let error) = reason, error.doubtsPages { pool.forgetAll() }
        release(sequence)
        waiting.removeAll { $0 === sequence }
        sequence.end(reason)
        metrics.finished[reason.name, default: 0] += 1
    }

    private func release(_ sequence: EngineSequence) {
        guard let slot = sequence.slot else { return }
        if sequence.isOpen { backend.close(slot) }
        freeSlots.append(slot)
        running.removeAll { $0 === sequence }
    }

    // MARK: A step

    /// Admits, queues a step, and reads the results of the step before it.
    func step() {
        admit()
        let launches = launch()
        if !launches.isEmpty { queued.append(launches) }
        // What may come next in a constrained sequence follows from the token before it.
        let waits = launches.isEmpty || running.contains(where: \.needsResult)
        let kept = waits ? 0 : max(capacity.queuedSteps, 1) - 1
        while queued.count > kept { collect(queued.removeFirst()) }
        metrics.steps += 1
        publish()
    }

    private func admit() {
        var index = 0
        var lookups = Self.lookups
        while index < waiting.count, running.count < maxRunning {
            let sequence = waiting[index]
            if start(sequence, &lookups) {
                waiting.remove(at: index)
                for earlier in waiting[..<index] { earlier.overtaken += 1 }
            } else if sequence.overtaken >= options.overtakes {
                break
            } else {
                index += 1
            }
        }
    }

    /// Gives a waiting sequence its pages and a slot; false while it does not fit.
    ///
    /// - Parameter lookups: How many more that do not fit by themselves may look for known pages.
    private func start(_ sequence: EngineSequence, _ lookups: inout Int) -> Bool {
        let wanted: Int
        var spare = 0
        switch reservation {
        case .whole:
            wanted = min(pool.pages(for: drafting.longest(sequence)), pool.count)
        case .growing:
            wanted = pool.pages(for: sequence.length)
            // A page for each that runs, so that it is not preempted with its first step.
            if !running.isEmpty { spare = running.count + 1 }
        }
        if wanted + spare > pool.free {
            guard lookups > 0 else { return false }
            lookups -= 1
        }
        let prefix = prefixes.prefix(of: sequence)
        guard pool.missing(wanted, sharing: prefix.pages) + spare <= pool.free,
            let slot = freeSlots.last, let lease = try? pool.lease(wanted, sharing: prefix.pages)
        else { return false }
        freeSlots.removeLast()
        sequence.start(in: slot, lease)
        sequence.know(prefix.pages.count, prefix.node)
        // What was begun once goes on before what was not.
        let own = sequence.length - prefix.pages.count * pool.pageTokens
        sequence.due = metrics.promptTokens + (sequence.wasPreempted ? 0 : own)
        let place = running.firstIndex { $0.id > sequence.id } ?? running.count
        running.insert(sequence, at: place)
        return true
    }

    /// Tells the backend of a sequence before its first chunk.
    private func open(_ sequence: EngineSequence) {
        guard let slot = sequence.slot else { return }
        // Since its admission others may have computed more of its beginning.
        let prefix = prefixes.prefix(of: sequence)
        if prefix.pages.count > sequence.knownPages {
            sequence.lease?.share(prefix.pages)
            sequence.know(prefix.pages.count, prefix.node)
        }
        let cached = prefix.pages.count * pool.pageTokens
        do {
            try backend.open(
                slot,
                SequenceStart(
                    tokens: sequence.tokens, promptCount: sequence.request.prompt.count,
                    sampling: sequence.request.sampling, cached: cached))
            sequence.open(cached: cached)
            metrics.cachedTokens += cached
        } catch {
            fail([sequence], error)
        }
    }

    /// Queues the work of one step: running decodes first, then prompts.
    ///
    /// - Returns: The launches that will have a result.
    private func launch() -> [EngineLaunch] {
        guard let rows = growDecodes() else { return [] }
        var launches: [EngineLaunch] = []
        var (spent, computed) = (0.0, 0)
        for rows in drafting.groups(rows) {
            var start = 0
            for bucket in buckets.split(rows.count) {
                let batch = Array(rows[start..<min(start + bucket, rows.count)])
                start += batch.count
                let choice = drafting.choose(bucket, batch) { makeRoom(for: $0, in: batch) }
                if let launch = decode(batch, bucket, choice) { launches.append(launch) }
                computed += batch.count * (choice.draftTokens + 1)
                spent +=
                    backend.decodeSeconds(bucket: bucket, draftTokens: choice.draftTokens) ?? 0
            }
        }
        let budget = sizer.budget(decoding: computed)
        return launches + readPrompts(budget, spent: rows.isEmpty ? nil : spent)
    }

    /// Queues parts of prompts, first of that which is due first. So a short one does not wait for a long
    /// one that is being read, and none is passed by what is admitted once as many tokens were read as
    /// it had to compute.
    ///
    /// - Parameters:
    ///   - most: Tokens of this step.
    ///   - spent: Seconds that the step takes so far; `nil` where its time is not limited.
    private func readPrompts(_ most: Int, spent: Double?) -> [EngineLaunch] {
        let prompts = running.filter { $0.cached < $0.target }
            .sorted { ($0.due, $0.id) < ($1.due, $1.id) }
        var (launches, budget, spent) = ([EngineLaunch](), most, spent)
        for sequence in prompts {
            guard budget > 0 else { break }
            if !sequence.isOpen { open(sequence) }
            guard sequence.isOpen, !sequence.hasEnded else { continue }
            let left = sequence.target - sequence.cached
            let size = sizer.size(
                left: left, position: sequence.cached, budget: budget,
                seconds: spent.map { spent in { spent + $0 } },
                estimate: backend.prefillSeconds(tokens:at:))
            guard size > 0 else { break }
            guard size < left || isContinuable(sequence) else { continue }
            budget -= size
            spent = spent.map {
                $0 + (backend.prefillSeconds(tokens: size, at: sequence.cached) ?? 0)
            }
            launches += prefill(sequence, size)
        }
        return launches
    }

    /// The sequences that decode now, each with a page for its next token.
    ///
    /// - Returns: `nil` when pages ran out and results must be read before anyone is preempted.
    private func growDecodes() -> [EngineSequence]? {
        var rows: [EngineSequence] = []
        var index = 0
        while index < running.count {
            let sequence = running[index]
            guard sequence.canDecode, drafting.canStep(sequence) else {
                index += 1
                continue
            }
            guard isContinuable(sequence) else { continue }
            do {
                try sequence.lease?.grow(to: pool.pages(for: sequence.most + 1))
                rows.append(sequence)
                index += 1
            } catch {
                // A queued token may end a sequence, or belong to the one that is preempted.
                guard queued.isEmpty else { return nil }
                preemptNewest()
            }
        }
        return rows
    }

    /// Whether some token may come next; if not, the sequence has failed and is gone.
    private func isContinuable(_ sequence: EngineSequence) -> Bool {
        do throws(EngineError) {
            _ = try sequence.mask()
            return true
        } catch {
            end(sequence, .failed(error))
            return false
        }
    }

    /// Takes pages for proposals, as long as one for each running request stays free: what may be
    /// wrong is no reason to preempt.
    ///
    /// - Returns: How many proposals of those asked for all rows have room for.
    private func makeRoom(for draftTokens: Int, in batch: [EngineSequence]) -> Int {
        var room = draftTokens
        for sequence in batch {
            let end = sequence.most + 1
            let wanted = pool.pages(for: end + room)
            let held = sequence.lease?.pages.count ?? 0
            // What cannot be leased leaves the pages that there are.
            if wanted > held, pool.free - (wanted - held) >= running.count {
                try? sequence.lease?.grow(to: wanted)
            }
            let places = (sequence.lease?.pages.count ?? 0) * pool.pageTokens
            room = max(min(room, places - end), 0)
        }
        return room
    }

    private func preemptNewest() {
        guard let sequence = running.last else { return }
        release(sequence)
        sequence.suspend()
        let place = waiting.firstIndex { $0.id > sequence.id } ?? waiting.count
        waiting.insert(sequence, at: place)
        metrics.preemptions += 1
    }

    private func decode(
        _ batch: [EngineSequence], _ bucket: Int, _ choice: SpeculationController.Choice
    ) -> EngineLaunch? {
        var launch = EngineLaunch(
            rows: batch, bucket: bucket, choice: choice, prefills: drafting.prefills)
        do {
            let rows = try batch.compactMap { sequence -> DecodeBatch.Row? in
                guard let slot = sequence.slot else { return nil }
                return DecodeBatch.Row(
                    slot: slot, position: sequence.cached, pages: sequence.lease?.pages ?? [],
                    mask: try sequence.mask())
            }
            try backend.decode(
                DecodeBatch(rows: rows, bucket: bucket, draftTokens: choice.draftTokens))
        } catch {
            fail(batch, error)
            return nil
        }
        launch.isQueued()
        for sequence in batch { sequence.queueStep(draftTokens: choice.draftTokens) }
        return launch
    }

    /// Queues the next `size` tokens of a prompt.
    ///
    /// - Returns: The launches that will have a result: scores of the prompt, and the token after it.
    private func prefill(_ sequence: EngineSequence, _ size: Int) -> [EngineLaunch] {
        guard let slot = sequence.slot else { return [] }
        let end = sequence.cached + size
        let scoring = sequence.scoring(to: end)
        let samples = sequence.samples(after: end)
        drafting.prefills += 1
        do {
            try backend.prefill(
                PrefillChunk(
                    slot: slot, position: sequence.cached,
                    tokens: sequence.tokens[sequence.cached..<end],
                    pages: sequence.lease?.pages ?? [], samples: samples, scoring: scoring,
                    mask: samples ? sequence.mask() : nil))
        } catch {
            fail([sequence], error)
            return []
        }
        sequence.queuePrompt(to: end)
        // Whatever is queued behind it finds its keys and values.
        prefixes.enter(sequence, computed: end, seen: end, isPrompt: true)
        metrics.promptTokens += size
        var launches: [EngineLaunch] = []
        if let scoring {
            var launch = EngineLaunch(prompt: sequence, prefills: drafting.prefills)
            launch.scores = scoring.tokens.count
            launches.append(launch)
        }
        if samples {
            launches.append(EngineLaunch(prompt: sequence, prefills: drafting.prefills))
        }
        if sequence.isComplete { self.end(sequence, .length) }
        return launches
    }

    // MARK: Results

    private func collect(_ launches: [EngineLaunch]) {
        for launch in launches {
            if let count = launch.scores {
                collect(count, scoresOf: launch.rows)
                continue
            }
            let started = ContinuousClock.now
            do {
                let rows = try backend.collect()
                let most = launch.choice.draftTokens + 1
                guard rows.count == launch.rows.count,
                    rows.allSatisfy({ 1...most ~= $0.count })
                else {
                    throw EngineError.stepFailed(
                        "\(rows.map(\.count)) tokens came back for \(launch.rows.count) rows of at "
                            + "most \(most)")
                }
                metrics.consecutiveFailures = 0
                let seconds = drafting.seconds(launch, collecting: started, .now)
                if launch.bucket > 0 { learn(launch, rows, seconds) }
                for (sequence, row) in zip(launch.rows, rows) where !sequence.hasEnded {
                    sequence.settle(
                        draftTokens: launch.choice.draftTokens, tokens: row.count)
                    receive(sequence, row)
                }
            } catch {
                fail(launch.rows, error)
            }
        }
    }

    /// Reads the scores of a part of a prompt.
    private func collect(_ count: Int, scoresOf sequences: [EngineSequence]) {
        do {
            let scores = try backend.collectScores()
            guard scores.count == count else {
                throw EngineError.stepFailed(
                    "\(scores.count) scores came back for \(count) tokens of a prompt")
            }
            metrics.consecutiveFailures = 0
            for sequence in sequences where !sequence.hasEnded {
                if let reason = sequence.receive(scores: scores) { end(sequence, reason) }
            }
        } catch {
            fail(sequences, error)
        }
    }

    /// Counts what was accepted in a decode step.
    private func learn(_ launch: EngineLaunch, _ rows: [[SampledToken]], _ seconds: Double?) {
        let draftTokens = launch.choice.draftTokens
        var (accepted, constrained) = ([Int](), 0)
        // What comes after a sequence's end is nobody's gain.
        for (sequence, row) in zip(launch.rows, rows) where !sequence.hasEnded {
            if draftTokens > 0, sequence.isConstrained {
                constrained += 1
            } else if let last = row.last, last.id >= 0 {
                // Where the logits were not finite nothing was compared.
                accepted.append(row.count - 1)
            }
        }
        metrics.speculation.add(
            draftTokens: draftTokens, accepted: accepted, constrained: constrained,
            seconds: seconds)
        drafting.record(
            launch, accepted: accepted, constrained: constrained, seconds: seconds)
    }

    private func receive(_ sequence: EngineSequence, _ tokens: [SampledToken]) {
        let (length, before) = (sequence.length, sequence.generated.count)
        var reason: FinishReason?
        for token in tokens where reason == nil { reason = sequence.receive(token) }
        metrics.generatedTokens += sequence.generated.count - before
        // The last token went in before these came out; a draft had seen no more.
        prefixes.enter(
            sequence, computed: min(length - 1 + tokens.count, sequence.length), seen: length,
            isPrompt: false)
        if let reason { end(sequence, reason) }
    }

    private func fail(_ sequences: [EngineSequence], _ error: any Error) {
        metrics.failures += 1
        metrics.consecutiveFailures += 1
        let reason = error as? EngineError ?? .stepFailed("\(error)")
        for sequence in sequences { end(sequence, .failed(reason)) }
    }

    private func publish() {
        metrics.running = running.count
        metrics.waiting = waiting.count
        metrics.freePages = pool.free
        metrics.cachedPages = pool.known
        metrics.totalPages = pool.count
        let now = ContinuousClock.now
        metrics.lastStep = now
        rate.update(metrics.generatedTokens, now)
        metrics.tokensPerSecond = rate.value
    }
}
