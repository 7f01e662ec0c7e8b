import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// What a scripted server does on a connection.
enum Act: Sendable {
    case send(String)
    case wait(TimeAmount)
    case close
    case reset
    /// Waits until the test lets go.
    case hold
}

/// A request as it came.
struct Asked: Sendable {
    /// From 0, over all connections.
    var number: Int
    var method: String
    var path: String
    var head: String
    var body: String
    var time: NIODeadline
}

/// A server whose every byte and pause are written down.
final class ScriptedServer: Sendable {
    typealias Script = @Sendable (Asked) -> [Act]

    private struct State {
        var asked: [Asked] = []
        var held: [EventLoopPromise<Void>] = []
        var isReleased = false
    }

    private let state = Mutex(State())
    private let script: Script
    private let channel = Mutex<(any Channel)?>(nil)

    private init(_ script: @escaping Script) { self.script = script }

    /// Runs `body` against a server that answers as `script` says.
    @discardableResult static func with<Result>(
        _ script: @escaping Script, port: Int = 0,
        _ body: (ScriptedServer) async throws -> Result
    ) async throws -> Result {
        let server = ScriptedServer(script)
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(ChannelOptions.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(ChannelOptions.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ScriptHandler(server))
                }
            }
            .bind(host: "127.0.0.1", port: port).get()
        server.channel.withLock { $0 = channel }
        do {
            let result = try await body(server)
            try await channel.close()
            return result
        } catch {
            try? await channel.close()
            throw error
        }
    }

    var port: Int { channel.withLock { $0?.localAddress?.port ?? 0 } }
    var asked: [Asked] { state.withLock(\.asked) }

    /// Lets all go on that wait.
    func release() {
        let held = state.withLock { state in
            state.isReleased = true
            defer { state.held = [] }
            return state.held
        }
        for promise in held { promise.succeed() }
    }

    fileprivate func take(_ asked: Asked) -> [Act] {
        let asked = state.withLock { state in
            var asked = asked
            asked.number = state.asked.count
            state.asked.append(asked)
            return asked
        }
        return script(asked)
    }

    fileprivate func hold(_ promise: EventLoopPromise<Void>) {
        let goesOn = state.withLock { state in
            if !state.isReleased { state.held.append(promise) }
            return state.isReleased
        }
        if goesOn { promise.succeed() }
    }
}

/// Reads requests and plays their scripts.
private final class ScriptHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let server: ScriptedServer
    private var bytes: [UInt8] = []

    init(_ server: ScriptedServer) { self.server = server }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        bytes += unwrapInboundIn(data).readableBytesView
        guard let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) else { return }
        let head = String(decoding: bytes[..<end.lowerBound], as: UTF8.self)
        let lines = head.split(separator: "\r\n")
        let length =
            lines.first { $0.lowercased().hasPrefix("content-length:") }
            .flatMap { Int($0.split(separator: ":")[1].filter(\.isNumber)) } ?? 0
        guard bytes.count >= end.upperBound + length else { return }
        let words = (lines.first ?? "").split(separator: " ").map(String.init) + ["", ""]
        let asked = Asked(
            number: 0, method: words[0], path: words[1], head: head,
            body: String(
                decoding: bytes[end.upperBound..<end.upperBound + length], as: UTF8.self),
            time: .now())
        bytes.removeFirst(end.upperBound + length)
        play(server.take(asked)[...], context.channel)
    }

    private func play(_ acts: ArraySlice<Act>, _ channel: any Channel) {
        var acts = acts
        while let act = acts.popFirst() {
            switch act {
            case .send(let text):
                channel.writeAndFlush(channel.allocator.buffer(string: text), promise: nil)
            case .close: return channel.close(promise: nil)
            case .reset:
                (channel as? any SocketOptionProvider)?
                    .setSoLinger(linger(l_onoff: 1, l_linger: 0)).whenComplete { _ in
                        channel.close(promise: nil)
                    }
                return
            case .wait(let time):
                let bound = NIOLoopBound((self, acts), eventLoop: channel.eventLoop)
                channel.eventLoop.scheduleTask(in: time) {
                    bound.value.0.play(bound.value.1, channel)
                }
                return
            case .hold:
                let promise = channel.eventLoop.makePromise(of: Void.self)
                let bound = NIOLoopBound((self, acts), eventLoop: channel.eventLoop)
                promise.futureResult.whenSuccess { bound.value.0.play(bound.value.1, channel) }
                return server.hold(promise)
            }
        }
    }
}

// MARK: What servers say

/// A response with a body.
func response(_ status: Int, _ body: String, headers: [String] = []) -> Act {
    let lines =
        ["HTTP/1.1 \(status) X", "Content-Type: application/json"] + headers
        + ["Content-Length: \(body.utf8.count)"]
    return .send(lines.joined(separator: "\r\n") + "\r\n\r\n" + body)
}

/// The head of a stream.
let streamHead = Act.send(
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
/// The end of a chunked body.
let streamEnd = Act.send("0\r\n\r\n")

/// A piece of a chunked body.
func chunk(_ text: String) -> Act {
    .send("\(String(text.utf8.count, radix: 16))\r\n\(text)\r\n")
}

/// An event with a piece of an answer.
func piece(_ text: String) -> Act {
    chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\(text)\"}}]}\n\n")
}

/// An event with token counts.
func usage(_ prompt: Int, _ answer: Int) -> Act {
    chunk(
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":\(prompt),"
            + "\"completion_tokens\":\(answer)}}\n\n")
}

let lastEvent = chunk("data: [DONE]\n\n")

/// A proper answer of so many pieces.
func answer(_ pieces: Int, gap: TimeAmount? = nil) -> [Act] {
    var acts = [streamHead, chunk("data: {\"choices\":[{\"index\":0,\"delta\":{}}]}\n\n")]
    for _ in 0..<pieces {
        if let gap { acts.append(.wait(gap)) }
        acts.append(piece("word "))
    }
    return acts + [usage(7, pieces), lastEvent, streamEnd]
}

/// Answers what a load asks before it begins: the model's name and small requests.
func prologue(_ asked: Asked) -> [Act]? {
    if asked.path == "/v1/models" { return [response(200, "{\"data\":[{\"id\":\"m\"}]}")] }
    guard asked.body.contains("\"stream\":false") else { return nil }
    // Two tokens a word and seven of the template.
    let words = asked.body.split(separator: " ").count
    return [
        response(
            200,
            "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"x\"},\"finish_reason\":"
                + "\"length\"}],\"usage\":{\"prompt_tokens\":\(2 * words + 7),"
                + "\"completion_tokens\":1}}")
    ]
}

/// The requests of the load itself come after four others.
let firstNumber = 4

/// Plays `script` for the load's own requests, numbered from 0.
func afterPrologue(_ script: @escaping @Sendable (Asked) -> [Act]) -> ScriptedServer.Script {
    { asked in
        if let acts = prologue(asked) { return acts }
        var asked = asked
        // The first streamed request tries what the server takes.
        asked.number -= firstNumber
        return asked.number < 0 ? answer(2) : script(asked)
    }
}
