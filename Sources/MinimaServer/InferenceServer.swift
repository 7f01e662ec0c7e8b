import HTTPTypes
import HummingbirdCore
import Logging
import MinimaCore
import MinimaGrammar
import MinimaRuntime
import NIOCore
import NIOPosix
import Synchronization

/// An HTTP server that answers as OpenAI's does, from one engine.
///
/// A request goes through four gates before the engine sees it: its size, its key, its form, its
/// length in tokens. What passes is queued in the engine, whose bound is the server's. Each request
/// has a task of its own, and tokens wait in the engine's handles, so a client that reads slowly
/// holds up nobody. Whatever ends a request early (a client that goes, a deadline, a stop) cancels
/// its handles, and its pages are free within one step.
///
/// Neither prompts, answers, keys nor addresses are logged.
public final class InferenceServer: Sendable {
    let model: ServedModel
    let engine: Engine
    let options: ServerOptions
    let metrics = ServerMetrics()
    let watch: EngineWatch
    let gate: BrowserGate
    let page: ChatPage
    let deviceMemory: @Sendable () -> DeviceMemory?
    let json: AnswerJSON
    let constraints: AnswerConstraints
    let log: @Sendable (String) -> Void

    private struct State {
        var requests: [ObjectIdentifier: RequestLifetime] = [:]
        var stop: (@Sendable () async -> Void)?
        var drain: Task<Void, Never>?
    }

    private let state = Mutex(State())

    /// A server that is not listening yet.
    ///
    /// - Parameters:
    ///   - engine: Stays the caller's, who shuts it down after ``run(onListening:)`` has returned.
    ///   - deviceMemory: How much of the device's memory is in use, from any thread; `nil` where
    ///     there is no device.
    ///   - log: Receives lines of a log, from any thread.
    public init(
        model: ServedModel, engine: Engine, options: ServerOptions,
        deviceMemory: @escaping @Sendable () -> DeviceMemory? = { nil },
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        self.model = model
        self.engine = engine
        self.options = options
        self.deviceMemory = deviceMemory
        self.log = log
        gate = BrowserGate(options)
        page = ChatPage(chat: model.chat != nil, needsKey: !options.keys.isEmpty)
        watch = EngineWatch(stallTime: options.stallTime)
        json = AnswerJSON(texts: TokenTexts(tokenizer: model.tokenizer))
        constraints = AnswerConstraints(
            model, vocabulary: engine.capacity.vocabulary, folders: options.packageFolders)
    }

    // MARK: Running

    /// Listens and answers until ``drain()``, or until the task is cancelled.
    ///
    /// - Parameter onListening: Called once requests are taken, with the port.
    /// - Throws: ``ServerError`` when the address cannot be had.
    public func run(onListening: @escaping @Sendable (Int) -> Void = { _ in }) async throws {
        let sendBuffer = options.sendBuffer
        let http = HTTP1Channel(
            responder: { [self] request, writer, channel in
                try await respond(request, writer, channel)
            },
            configuration: .init(
                additionalChannelHandlers: [ConnectionHandler(sendBuffer: sendBuffer)],
                idleTimeout: TimeAmount(options.idleTimeout)))
        let silent = Logger(label: "minima") { _ in SwiftLogNoOpLogHandler() }
        let server = Server(
            childChannelSetup: http,
            configuration: ServerConfiguration(
                address: .hostname(options.host, port: options.port),
                availableConnectionsDelegate: MaximumAvailableConnections(
                    options.maxConnections, logger: silent)),
            onServerRunning: { channel in onListening(channel.localAddress?.port ?? 0) },
            eventLoopGroup: MultiThreadedEventLoopGroup.singleton, logger: silent)
        state.withLock { state in
            state.stop = { try? await server.shutdownGracefully() }
        }
        // Asked to stop before there was anything to stop.
        if watch.isDraining { return }
        let pulse = Task { [self] in
            // Health tells an engine that works from one that hangs by what changes between looks.
            while !Task.isCancelled {
                _ = health
                try? await Task.sleep(for: .seconds(1))
            }
        }
        defer { pulse.cancel() }
        do {
            try await server.run()
        } catch let error as IOError {
            throw ServerError.cannotListen(
                host: options.host, port: options.port, reason: "\(error)")
        } catch let error as SocketAddressError {
            throw ServerError.cannotListen(
                host: options.host, port: options.port, reason: "\(error)")
        } catch {
            // Asked to stop before it listened.
            guard watch.isDraining else { throw error }
        }
        await state.withLock(\.drain)?.value
    }

    /// Takes no more requests and ends once those that run have ended; after the drain time they are
    /// ended. Returns at once.
    public func drain() {
        watch.drain()
        state.withLock { state in
            guard state.drain == nil, let stop = state.stop else { return }
            let limit = options.drainTime
            state.drain = Task { [self] in
                let timer = Task {
                    try? await Task.sleep(for: limit)
                    if !Task.isCancelled { endRequests() }
                }
                await stop()
                timer.cancel()
            }
        }
    }

    /// Ends all requests at once.
    private func endRequests() {
        let requests = state.withLock { Array($0.requests.values) }
        for request in requests { request.end(.stopping) }
    }

    /// Tokens of the longest request, prompt and new ones.
    var context: Int { min(options.context ?? engine.context, engine.context) }

    /// How the engine is doing.
    var health: EngineWatch.Health { watch.health(engine.metrics, isAlive: engine.isAlive) }

    // MARK: Requests

    func begin(_ request: RequestLifetime) {
        state.withLock { $0.requests[ObjectIdentifier(request)] = request }
    }

    func finish(_ request: RequestLifetime) {
        _ = state.withLock { $0.requests.removeValue(forKey: ObjectIdentifier(request)) }
    }

    /// Hands one answer's request to the engine.
    ///
    /// - Parameter promptLogprobs: As ``GenerationRequest/promptLogprobs``.
    func submit(
        _ prompt: [Int32], limit: Int, _ parameters: AnswerParameters, number: Int,
        promptLogprobs: Int? = nil, grammar: CompiledGrammar? = nil, _ request: RequestLifetime
    ) throws(APIError) -> GenerationHandle {
        let constraint: (any TokenConstraint)?
        do throws(GrammarError) {
            constraint = parameters.rules.constraint(
                stop: parameters.stopTokens, try grammar?.makeConstraint())
        } catch {
            throw .failed("the answer could not be constrained")
        }
        let handle: GenerationHandle
        do throws(EngineError) {
            handle = try engine.submit(
                GenerationRequest(
                    prompt: prompt, maxTokens: limit,
                    sampling: parameters.sampling.forSequence(number),
                    stop: parameters.stopTokens, promptLogprobs: promptLogprobs,
                    constraint: constraint, cacheSalt: parameters.cacheSalt))
        } catch {
            throw refusal(error)
        }
        request.add(handle)
        return handle
    }

    /// What a client is told of the engine's refusal.
    func refusal(_ error: EngineError) -> APIError {
        APIError(error, retryAfter: metrics.retryAfter)
    }

    /// What a client is told of an answer's early end; `nil` for a proper one.
    func failure(_ reason: FinishReason, _ request: RequestLifetime) -> APIError? {
        switch reason {
        case .stop, .length: return nil
        case .failed(let error):
            log("an answer failed: \(error)")
            return refusal(error)
        case .cancelled: break
        }
        switch request.end {
        case .deadline: return .deadline(options.deadline ?? .zero)
        case .disconnected, .stopping: return .stopping
        case nil:
            // Nobody here asked for it: the engine has been shut down.
            return watch.isDraining ? .stopping : .engineGone
        }
    }
}
