import MinimaRuntime
import NIOCore
import Synchronization

/// Why a request is over before its answer is complete.
enum RequestEnd: Sendable, Hashable {
    /// The client has gone.
    case disconnected
    /// It took too long.
    case deadline
    /// The server stops.
    case stopping
}

/// Ends what the engine does for a request, from whatever side the end comes.
final class RequestLifetime: Sendable {
    private struct State {
        var end: RequestEnd?
        var handles: [GenerationHandle] = []
    }

    private let state = Mutex(State())
    private let channel: any Channel

    init(_ channel: any Channel) {
        self.channel = channel
    }

    /// Why the request is over; `nil` while it goes on.
    var end: RequestEnd? { state.withLock(\.end) }

    /// Binds a request of the engine to this one.
    func add(_ handle: GenerationHandle) {
        let isOver = state.withLock { state in
            state.handles.append(handle)
            return state.end != nil
        }
        if isOver { handle.cancel() }
    }

    /// Ends the request; its pages are free within one step of the engine.
    func end(_ reason: RequestEnd) {
        let handles = state.withLock { state in
            if state.end == nil { state.end = reason }
            return state.handles
        }
        for handle in handles { handle.cancel() }
        // Whoever does not read what was written would hold the connection for ever.
        if reason != .disconnected {
            channel.eventLoop.scheduleTask(in: Self.grace) { [channel] in
                channel.close(promise: nil)
            }
        }
    }

    /// Time that a client has to read why its request is over.
    private static let grace = TimeAmount.seconds(5)
}

/// A connection's request, and whether the client is still there.
final class ConnectionWatch: Sendable {
    private struct State {
        var isClosed = false
        var request: RequestLifetime?
    }

    private let state = Mutex(State())

    var isClosed: Bool { state.withLock(\.isClosed) }

    /// The request that is answered now.
    func begin(_ request: RequestLifetime) {
        let isClosed = state.withLock { state in
            state.request = request
            return state.isClosed
        }
        if isClosed { request.end(.disconnected) }
    }

    func finish() {
        state.withLock { $0.request = nil }
    }

    fileprivate func close() {
        let request = state.withLock { state in
            state.isClosed = true
            return state.request
        }
        request?.end(.disconnected)
    }
}

/// Sees a client go while its answer is made; nothing else reads the connection then.
final class ConnectionHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = NIOAny

    let watch = ConnectionWatch()
    private let sendBuffer: Int?

    /// - Parameter sendBuffer: See ``ServerOptions/sendBuffer``.
    init(sendBuffer: Int?) { self.sendBuffer = sendBuffer }

    func handlerAdded(context: ChannelHandlerContext) {
        guard let sendBuffer else { return }
        // Where it is refused the system's own size stays.
        _ = context.channel.setOption(
            .socketOption(.so_sndbuf), value: .init(clamping: sendBuffer))
    }

    func channelInactive(context: ChannelHandlerContext) {
        watch.close()
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // A client that closed its side only would not be told from one that has gone.
        if let event = event as? ChannelEvent, event == .inputClosed { watch.close() }
        context.fireUserInboundEventTriggered(event)
    }
}
