import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// What came of a response.
enum ResponseEvent: Sendable {
    case head(status: Int, headers: HTTPHeaders)
    case body(ByteBuffer)
    case end
    case failed(RequestFailure)
}

/// An event and when the connection's own thread read it: a consumer that is held up measures
/// nothing of its own delay.
struct TimedEvent: Sendable {
    let event: ResponseEvent
    let time: NIODeadline
}

/// A connection to a server, on which one request after the other is made.
final class HTTPConnection: Sendable {
    /// How a connection reads and writes.
    struct Settings: Sendable {
        /// Time for the connection to be made.
        var connectTime = TimeAmount.seconds(30)
        /// Bytes of the system's buffer for what has come; `nil`: the system's choice.
        var receiveBuffer: Int?
    }

    private let address: ServerAddress
    private let channel: any Channel
    private let receiver: NIOLoopBound<ResponseReceiver>
    /// Whether another request may be made.
    private let isIdle = Atomic<Bool>(true)

    private init(
        _ address: ServerAddress, _ channel: any Channel, _ receiver: NIOLoopBound<ResponseReceiver>
    ) {
        (self.address, self.channel, self.receiver) = (address, channel, receiver)
    }

    /// Connects.
    static func open(
        _ address: ServerAddress, _ settings: Settings = Settings(),
        on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) async throws(RequestFailure) -> HTTPConnection {
        var bootstrap = ClientBootstrap(group: group)
            .connectTimeout(settings.connectTime)
            .channelOption(ChannelOptions.tcpOption(.tcp_nodelay), value: 1)
        if let bytes = settings.receiveBuffer {
            bootstrap = bootstrap.channelOption(
                ChannelOptions.socketOption(.so_rcvbuf), value: SocketOptionValue(bytes))
        }
        do {
            let (channel, receiver) = try await bootstrap.connect(
                host: address.host, port: address.port
            ) { channel in
                channel.eventLoop.makeCompletedFuture {
                    let receiver = ResponseReceiver()
                    try channel.pipeline.syncOperations.addHTTPClientHandlers()
                    try channel.pipeline.syncOperations.addHandler(receiver)
                    return (channel, NIOLoopBound(receiver, eventLoop: channel.eventLoop))
                }
            }
            return HTTPConnection(address, channel, receiver)
        } catch {
            throw .connect
        }
    }

    /// Whether another request may be made on this connection.
    var isReusable: Bool { channel.isActive && isIdle.load(ordering: .acquiring) }

    func close() { channel.close(promise: nil) }

    /// Closes so that the other side sees a reset, as of a client that was killed.
    func reset() {
        guard let options = channel as? any SocketOptionProvider else { return close() }
        options.setSoLinger(linger(l_onoff: 1, l_linger: 0)).whenComplete { [channel] _ in
            channel.close(promise: nil)
        }
    }

    /// Tells the other side that nothing more will be sent.
    func closeOutput() { channel.close(mode: .output, promise: nil) }

    /// Whether what comes is read; what is not read fills the buffers of both sides.
    func setReading(_ isReading: Bool) {
        channel.setOption(ChannelOptions.autoRead, value: isReading).whenComplete { [channel] _ in
            if isReading { channel.read() }
        }
    }

    /// Makes a request.
    ///
    /// - Parameters:
    ///   - path: From `/v1` on.
    ///   - limit: Time after which the request fails and the connection is closed.
    /// - Returns: What comes of it, ending with `end` or `failed`. A task that is cancelled while it
    ///   waits closes the connection.
    func send(
        _ method: HTTPMethod, _ path: String, headers: [(String, String)] = [],
        body: [UInt8]? = nil, limit: TimeAmount
    ) -> AsyncStream<TimedEvent> {
        isIdle.store(false, ordering: .releasing)
        var fields = HTTPHeaders([("Host", address.authority), ("Accept", "*/*")])
        fields.add(contentsOf: headers)
        if let body {
            fields.add(name: "Content-Type", value: "application/json")
            fields.add(name: "Content-Length", value: "\(body.count)")
        }
        let head = HTTPRequestHead(
            version: .http1_1, method: method, uri: address.base + path, headers: fields)
        let (events, continuation) = AsyncStream<TimedEvent>.makeStream()
        let channel = channel
        continuation.onTermination = { end in
            if case .cancelled = end { channel.close(promise: nil) }
        }
        channel.eventLoop.execute { [self] in
            receiver.value.begin(continuation, channel, limit: limit) { [self] in
                isIdle.store(true, ordering: .releasing)
            }
            channel.write(HTTPClientRequestPart.head(head), promise: nil)
            if let body {
                let buffer = channel.allocator.buffer(bytes: body)
                channel.write(HTTPClientRequestPart.body(.byteBuffer(buffer)), promise: nil)
            }
            channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
        }
        return events
    }
}

/// Hands a connection's responses to whoever waits for them.
private final class ResponseReceiver: ChannelInboundHandler {
    typealias InboundIn = HTTPClientResponsePart

    private var continuation: AsyncStream<TimedEvent>.Continuation?
    private var onIdle: (() -> Void)?
    private var timer: Scheduled<Void>?
    private var keepsAlive = true
    private var isClosed = false

    func begin(
        _ continuation: AsyncStream<TimedEvent>.Continuation, _ channel: any Channel,
        limit: TimeAmount, onIdle: @escaping () -> Void
    ) {
        self.continuation = continuation
        self.onIdle = onIdle
        guard !isClosed, channel.isActive else { return finish(.failed(.closedEarly)) }
        let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
        timer = channel.eventLoop.scheduleTask(in: limit) {
            bound.value.finish(.failed(.timeout))
            channel.close(promise: nil)
        }
    }

    private func finish(_ event: ResponseEvent) {
        timer?.cancel()
        timer = nil
        continuation?.yield(TimedEvent(event: event, time: .now()))
        continuation?.finish()
        continuation = nil
        onIdle = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let now = NIODeadline.now()
        switch unwrapInboundIn(data) {
        case .head(let head):
            keepsAlive = head.isKeepAlive
            continuation?.yield(
                TimedEvent(
                    event: .head(status: Int(head.status.code), headers: head.headers), time: now))
        case .body(let buffer):
            continuation?.yield(TimedEvent(event: .body(buffer), time: now))
        case .end:
            if keepsAlive { onIdle?() } else { context.close(promise: nil) }
            finish(.end)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        let isReset = error is IOError || error is ChannelError
        let isEarly = (error as? HTTPParserError) == .invalidEOFState
        finish(.failed(isEarly ? .closedEarly : isReset ? .reset : .malformedHTTP))
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        isClosed = true
        finish(.failed(.closedEarly))
        context.fireChannelInactive()
    }
}
