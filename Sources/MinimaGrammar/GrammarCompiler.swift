import Glibc
import MinimaCore
import Synchronization

/// What a compiler lets one form cost.
public struct GrammarLimits: Sendable {
    /// Bytes of a form's text.
    public var bytes: Int
    /// Seconds that a request waits for its form.
    public var seconds: Int
    /// Forms that are compiled at one time.
    public var running: Int
    /// Forms that may wait for it.
    public var waiting: Int
    /// Memory of compiled forms that are kept, in bytes.
    public var cacheBytes: Int

    /// Limits; the defaults suit a server.
    public init(
        bytes: Int = 256 << 10, seconds: Int = 20, running: Int = 2, waiting: Int = 256,
        cacheBytes: Int = 256 << 20
    ) {
        self.bytes = bytes
        self.seconds = seconds
        self.running = running
        self.waiting = waiting
        self.cacheBytes = cacheBytes
    }
}

/// Makes constraints for one vocabulary.
///
/// A form is compiled once, on a thread of its own, and kept while there is room. A form that takes
/// too long fails the requests that wait for it; its thread ends when the library is done with it,
/// and until then holds one of the places of ``GrammarLimits/running``.
public final class GrammarCompiler: Sendable {
    private let library: GrammarLibrary
    private let compiler: ForeignInterface.Value
    private let stop: Set<Int32>
    private let tokens: Int
    private let limits: GrammarLimits

    private typealias Outcome = Result<CompiledGrammar, GrammarError>

    /// A form that is being compiled, or waits for it.
    private struct Flight {
        var start: ContinuousClock.Instant?
        var waiters: [Int: CheckedContinuation<Outcome, Never>] = [:]
    }

    private struct State {
        var cache = GrammarCache()
        var flights: [AnswerForm: Flight] = [:]
        var queue: [AnswerForm] = []
        var running = 0
        var nextWaiter = 0
    }

    private let state = Mutex(State())
    private let json = Mutex<ForeignInterface.Value?>(nil)

    /// - Throws: `GrammarError.badVocabulary` when answers could not end, or `.failed`.
    public init(
        _ library: GrammarLibrary, _ vocabulary: GrammarVocabulary,
        limits: GrammarLimits = GrammarLimits()
    ) throws(GrammarError) {
        let count = vocabulary.tokens.count
        let stop = vocabulary.stop.filter { (0..<count).contains(Int($0)) }
        guard !stop.isEmpty else {
            throw .badVocabulary(reason: "it has no token that ends an answer")
        }
        self.library = library
        self.stop = stop
        self.limits = limits
        tokens = count
        let interface = library.interface
        var texts: [ForeignInterface.Value] = []
        texts.reserveCapacity(count)
        for bytes in vocabulary.tokens { texts.append(try interface.bytes(bytes)) }
        let (raw, addPrefixSpace) = (0, false)
        let info = try interface.call(
            library.makeVocabulary,
            [
                .value(try interface.array(texts.map { .value($0) })), .integer(raw),
                .integer(count),
                .value(try interface.array(stop.sorted().map { .integer(Int($0)) })),
                .bool(addPrefixSpace),
            ])
        // An error on a thread of the library's own would end the process, its cache keeps errors for
        // good, and what it hashes for it fails for some patterns.
        let (threads, caches, unlimited) = (1, false, -1)
        compiler = try interface.call(
            library.makeCompiler,
            [.value(info), .integer(threads), .bool(caches), .integer(unlimited)])
    }

    /// A form, ready for use: from the cache, or compiled elsewhere while this task waits.
    ///
    /// - Throws: `GrammarError.refused` where the form is to blame, `.tooSlow` or `.busy`.
    public func compile(_ form: AnswerForm) async throws(GrammarError) -> CompiledGrammar {
        let id = state.withLock { state in
            state.nextWaiter += 1
            return state.nextWaiter
        }
        let seconds = limits.seconds
        var timer: Task<Void, Never>?
        let outcome = await withCheckedContinuation {
            (continuation: CheckedContinuation<Outcome, Never>) in
            if let outcome = enroll(form, id, continuation) {
                continuation.resume(returning: outcome)
                return
            }
            // Started once the waiter is there, whom it may have to find.
            timer = Task { [weak self] in
                try? await Task.sleep(for: .seconds(seconds))
                if !Task.isCancelled { self?.expire(form, id) }
            }
        }
        timer?.cancel()
        return try outcome.get()
    }

    /// Adds a waiter to a form; an outcome when there is nothing to wait for.
    private func enroll(
        _ form: AnswerForm, _ id: Int, _ continuation: CheckedContinuation<Outcome, Never>
    ) -> Outcome? {
        let outcome = state.withLock { state -> Outcome? in
            if let grammar = state.cache[form] { return .success(grammar) }
            var flight = state.flights[form] ?? Flight()
            if let start = flight.start, .now - start > .seconds(limits.seconds) {
                return .failure(.tooSlow(seconds: limits.seconds))
            }
            if state.flights[form] == nil {
                guard state.queue.count < limits.waiting else { return .failure(.busy) }
                state.queue.append(form)
            }
            flight.waiters[id] = continuation
            state.flights[form] = flight
            return nil
        }
        if outcome == nil { startNext() }
        return outcome
    }

    /// Starts what waits, as far as there are places.
    private func startNext() {
        while true {
            let form = state.withLock { state -> AnswerForm? in
                guard state.running < limits.running, !state.queue.isEmpty else { return nil }
                state.running += 1
                let form = state.queue.removeFirst()
                state.flights[form]?.start = .now
                return form
            }
            guard let form else { return }
            let hasStarted = startThread { [self] in
                do throws(GrammarError) {
                    finish(form, .success(try compiled(form)))
                } catch {
                    finish(form, .failure(error))
                }
                startNext()
            }
            if !hasStarted { finish(form, .failure(.busy)) }
        }
    }

    private func finish(_ form: AnswerForm, _ outcome: Outcome) {
        let flight = state.withLock { state in
            state.running -= 1
            if case .success(let grammar) = outcome {
                state.cache.add(form, grammar, limit: limits.cacheBytes)
            }
            return state.flights.removeValue(forKey: form)
        }
        for waiter in flight?.waiters.values ?? [:].values { waiter.resume(returning: outcome) }
    }

    /// Ends a waiter's wait.
    private func expire(_ form: AnswerForm, _ id: Int) {
        let (waiter, isRunning) = state.withLock { state in
            let waiter = state.flights[form]?.waiters.removeValue(forKey: id)
            let isRunning = state.flights[form]?.start != nil
            if let flight = state.flights[form], flight.start == nil, flight.waiters.isEmpty {
                state.flights[form] = nil
                state.queue.removeAll { $0 == form }
            }
            return (waiter, isRunning)
        }
        waiter?.resume(
            returning: .failure(isRunning ? .tooSlow(seconds: limits.seconds) : .busy))
    }

    // MARK: Compiling

    /// Compiles a form on the calling thread.
    func compiled(_ form: AnswerForm) throws(GrammarError) -> CompiledGrammar {
        try form.check(limits)
        let value: ForeignInterface.Value
        do throws(GrammarError) {
            value = try compiledValue(form)
        } catch {
            guard case .failed(_, let reason) = error else { throw error }
            throw .refused(
                reason: "\(form.title) cannot be followed: \(LibraryMessage.cleaned(reason))")
        }
        var values = [value]
        switch try form.withoutStringLimits() {
        case nil: break
        case .jsonSchema: values.append(try anyJSON())
        case .some(let free): values.append(try compiledValue(free))
        }
        var bytes = 0
        for value in values {
            bytes += Int(
                try library.interface.call(library.memorySize, [.value(value)]).integer ?? 0)
        }
        let grammar = CompiledGrammar(
            library: library, values: values, stop: stop, tokens: tokens, bytes: bytes)
        var mask = Array(repeating: UInt32(0), count: (tokens + 31) / 32)
        guard try !grammar.makeConstraint().allowed(&mask) || mask.contains(where: { $0 != 0 })
        else { throw .refused(reason: "\(form.title) describes no text at all") }
        return grammar
    }

    /// Any JSON, which many forms are followed together with.
    private func anyJSON() throws(GrammarError) -> ForeignInterface.Value {
        if let value = json.withLock(\.self) { return value }
        let value = try compiledSchema(true, mostWhitespace: nil)
        json.withLock { $0 = value }
        return value
    }

    private func compiledSchema(
        _ schema: JSON, mostWhitespace: Int?
    ) throws(GrammarError) -> ForeignInterface.Value {
        let text = try library.interface.string(schema.text(indent: nil))
        let (anyWhitespace, isStrict, prints, anyOrder) = (true, true, false, false)
        return try compiledGrammar(
            library.parseSchema,
            [
                .value(text), .bool(anyWhitespace), .none, .none, .bool(isStrict),
                mostWhitespace.map { .integer($0) } ?? .none, .bool(prints), .bool(anyOrder),
            ])
    }

    private func compiledGrammar(
        _ parse: ForeignInterface.Function, _ arguments: [ForeignInterface.Argument]
    ) throws(GrammarError) -> ForeignInterface.Value {
        let grammar = try library.interface.call(parse, arguments)
        return try library.interface.call(
            library.compileGrammar, [.value(compiler), .value(grammar)])
    }

    private func compiledValue(_ form: AnswerForm) throws(GrammarError) -> ForeignInterface.Value {
        let interface = library.interface
        switch form {
        case .jsonObject:
            return try compiledSchema(
                AnswerForm.anyObject, mostWhitespace: AnswerForm.mostWhitespace)
        case .jsonSchema(let schema):
            return try compiledSchema(schema, mostWhitespace: AnswerForm.mostWhitespace)
        case .regex(let pattern):
            return try compiledGrammar(
                library.parseRegex, [.value(try interface.string(pattern)), .bool(false)])
        case .grammar(let grammar):
            return try compiledGrammar(
                library.parseGrammar,
                [.value(try interface.string(grammar)), .value(try interface.string("root"))])
        case .choice, .structure, .after:
            let tag: JSON = ["type": "structural_tag", "format": form.format]
            return try interface.call(
                library.compileStructure,
                [.value(compiler), .value(try interface.string(tag.text(indent: nil)))])
        }
    }
}

/// Runs a closure on a thread with a stack for deep recursion; false: there is no thread to be had.
private func startThread(_ body: @escaping @Sendable () -> Void) -> Bool {
    final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, 64 << 20)
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    let box = Unmanaged.passRetained(Body(body))
    var thread = pthread_t()
    let status = pthread_create(
        &thread, &attributes,
        { argument in
            guard let argument else { return nil }
            Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
            return nil
        }, box.toOpaque())
    if status != 0 { box.release() }
    return status == 0
}
