import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// A TCP connection on which any bytes can be sent, HTTP or not.
final class RawConnection: Sendable {
    private let channel: any Channel
    private let received: AsyncStream<ByteBuffer>
    private let isOverdue = Atomic<Bool>(false)

    private init(_ channel: any Channel, _ received: AsyncStream<ByteBuffer>) {
        (self.channel, self.received) = (channel, received)
    }

    deinit { channel.close(promise: nil) }

    /// Connects.
    ///
    /// - Parameter limit: Time after which the connection is closed, whatever it waits for.
    static func open(
        _ address: ServerAddress, limit: TimeAmount,
        on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) async throws(RequestFailure) -> RawConnection {
        let (received, continuation) = AsyncStream<ByteBuffer>.makeStream()
        do {
            let channel = try await ClientBootstrap(group: group)
                .channelOption(ChannelOptions.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            BytesReceiver(continuation))
                    }
                }
                .connect(host: address.host, port: address.port).get()
            let connection = RawConnection(channel, received)
            let timer = channel.eventLoop.scheduleTask(in: limit) { [weak connection] in
                connection?.isOverdue.store(true, ordering: .releasing)
                channel.close(promise: nil)
            }
            channel.closeFuture.whenComplete { _ in timer.cancel() }
            return connection
        } catch {
            throw .connect
        }
    }

    /// Sends bytes; what does not arrive because the other side has gone is no error.
    func send(_ bytes: [UInt8]) async {
        try? await channel.writeAndFlush(channel.allocator.buffer(bytes: bytes)).get()
    }

    /// Closes the sending side.
    func closeOutput() async { try? await channel.close(mode: .output).get() }

    /// Goes, with a reset or in good order.
    func leave(withReset: Bool) async {
        if withReset, let options = channel as? any SocketOptionProvider {
            try? await options.setSoLinger(linger(l_onoff: 1, l_linger: 0)).get()
        }
        try? await channel.close().get()
    }

    /// Waits for so many reads, or the end.
    func wait(pieces: Int) async {
        guard pieces > 0 else { return }
        var count = 0
        for await _ in received {
            count += 1
            if count == pieces { return }
        }
    }

    /// The status of the first response; `nil` when the other side closes without one.
    ///
    /// - Throws: `RequestFailure.timeout` when neither comes in time.
    func status() async throws(RequestFailure) -> Int? {
        var bytes: [UInt8] = []
        for await buffer in received {
            bytes += buffer.readableBytesView
            // "HTTP/1.1 400"
            guard bytes.count >= 12 else { continue }
            let words = String(decoding: bytes.prefix(12), as: UTF8.self).split(separator: " ")
            guard words.count == 2, words[0].hasPrefix("HTTP/1"), let status = Int(words[1]) else {
                throw .malformedHTTP
            }
            return status
        }
        if isOverdue.load(ordering: .acquiring) { throw .timeout }
        return nil
    }
}

/// Hands on what comes on a connection, and its end.
private final class BytesReceiver: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let continuation: AsyncStream<ByteBuffer>.Continuation

    init(_ continuation: AsyncStream<ByteBuffer>.Continuation) { self.continuation = continuation }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        continuation.yield(unwrapInboundIn(data))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        continuation.finish()
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) { continuation.finish() }
}
