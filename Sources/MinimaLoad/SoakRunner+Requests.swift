import MinimaCore
import NIOCore
import NIOHTTP1

extension SoakRunner {
    /// Makes a request and judges what comes of it.
    func perform(
        _ request: SoakRequest, _ questions: [SoakQuestion], _ number: Int
    ) async -> SoakOutcome {
        do throws(RequestFailure) {
            switch request {
            case .ask(let index, let streams, let asksUsage, let isSlow):
                let question = questions[index]
                let body = question.body(streams: streams, asksUsage: asksUsage)
                return isSlow
                    ? try await askSlowly(question, body, number)
                    : await ask(question, body)
            case .leave(let index, let point, let withReset):
                try await leave(questions[index], point, withReset: withReset)
                return .left
            case .halfClose(let index):
                let question = questions[index]
                let connection = try await RawConnection.open(options.address, limit: client.limit)
                await connection.send(post(question.path, question.body(streams: true)))
                await connection.closeOutput()
                // A client that closed one side is taken for one that has gone.
                _ = try await connection.status()
                return .left
            case .malformedHTTP(let bytes):
                let connection = try await RawConnection.open(options.address, limit: client.limit)
                await connection.send(bytes)
                await connection.closeOutput()
                let status = try await connection.status()
                return judge(status, isExpected: status.map { $0 / 100 == 4 } ?? true)
            case .refused(_, let path, let body):
                return await refusal(path, body)
            case .oversize(let isChunked):
                let status = try await oversize(isChunked: isChunked)
                return judge(status, isExpected: status == 413)
            case .other(let path, let body, let status):
                let method: HTTPMethod = body == nil ? .GET : .POST
                let response = try await client.whole(method, path, body: body)
                guard response.status == status else {
                    return .unexpected("\(path): status \(response.status)")
                }
                return status == 200 ? .proper : .refused
            }
        } catch {
            return .unexpected("\(error)")
        }
    }

    private func judge(_ status: Int?, isExpected: Bool) -> SoakOutcome {
        isExpected
            ? .refused : .unexpected(status.map { "status \($0)" } ?? "closed without a response")
    }

    // MARK: Answers

    private func ask(_ question: SoakQuestion, _ body: [UInt8]) async -> SoakOutcome {
        while true {
            let answer = await client.answer(to: body, question.path)
            if let outcome = await judge(answer, to: question) { return outcome }
        }
    }

    /// What an answer says; `nil` where the server was busy and is to be asked again, which is after the
    /// time that it named.
    private func judge(_ answer: AnswerOutcome, to question: SoakQuestion) async -> SoakOutcome? {
        switch answer {
        case .complete(let answer): return compare(question, answer)
        case .failed(.status(429), let wait, _):
            record.retry()
            try? await Task.sleep(for: .seconds(wait ?? 1))
            return Task.isCancelled ? .left : nil
        case .failed(let failure, _, let message):
            return .unexpected("\(failure) \(message)", isCut: failure == .unfinished)
        }
    }

    private func compare(_ question: SoakQuestion, _ answer: Answer) -> SoakOutcome {
        let reply = SoakQuestion.Reply(answer)
        guard let wanted = question.reply else { return .unexpected("nothing to compare with") }
        if reply == wanted { return .answered(isRight: true, detail: "") }
        let request = String(decoding: question.body(streams: false), as: UTF8.self)
        return .answered(
            isRight: false, detail: "\(reply) instead of \(wanted); the request: \(request)")
    }

    /// Reads an answer with pauses in which nothing is taken from the connection.
    private func askSlowly(
        _ question: SoakQuestion, _ body: [UInt8], _ number: Int
    ) async throws(RequestFailure) -> SoakOutcome {
        var random = SplitMix(UInt64(number))
        while true {
            let connection = try await HTTPConnection.open(
                options.address, HTTPConnection.Settings(receiveBuffer: 2048))
            var reader = AnswerReader()
            var pauses = 4
            let events = connection.send(
                .POST, question.path, headers: client.headers, body: body, limit: client.limit)
            for await event in events {
                if case .failed(let failure) = event.event {
                    return .unexpected("\(failure)", isCut: reader.hasBegun)
                }
                try reader.add(event)
                guard pauses > 0 else { continue }
                pauses -= 1
                connection.setReading(false)
                let pause = Int.random(in: 5...60, using: &random)
                try? await Task.sleep(for: .milliseconds(pause))
                connection.setReading(true)
            }
            connection.close()
            if let outcome = await judge(try reader.outcome(), to: question) { return outcome }
        }
    }

    // MARK: What must be refused

    private func refusal(_ path: String, _ body: [UInt8]) async -> SoakOutcome {
        switch await client.answer(to: body, path) {
        case .complete: .unexpected("answered")
        case .failed(.status(let status), _, let message) where status / 100 == 4:
            // A refusal says why.
            message.isEmpty ? .unexpected("no message") : .refused
        case .failed(let failure, _, let message): .unexpected("\(failure) \(message)")
        }
    }

    /// Sends a body of more bytes than a server takes, and no more than it reads.
    private func oversize(isChunked: Bool) async throws(RequestFailure) -> Int? {
        let connection = try await RawConnection.open(options.address, limit: client.limit)
        let path = LoadOptions.Interface.chat.path
        let piece = Array(repeating: UInt8(ascii: " "), count: 1 << 16)
        if isChunked {
            await connection.send(head("POST", path, "Transfer-Encoding: chunked"))
            for _ in 0..<160 {
                await connection.send(Array("10000\r\n".utf8) + piece + Array("\r\n".utf8))
            }
        } else {
            await connection.send(head("POST", path, "Content-Length: \(1 << 30)"))
            await connection.send(piece)
        }
        return try await connection.status()
    }

    // MARK: Clients that go

    private func leave(
        _ question: SoakQuestion, _ point: SoakRequest.LeavingPoint, withReset: Bool
    ) async throws(RequestFailure) {
        let bytes = post(question.path, question.body(streams: true))
        let connection = try await RawConnection.open(options.address, limit: client.limit)
        switch point {
        case .connected: break
        case .partOfHead: await connection.send(Array(bytes.prefix(30)))
        case .partOfBody: await connection.send(Array(bytes.dropLast(10)))
        case .asked(let milliseconds):
            await connection.send(bytes)
            if milliseconds > 0 { try? await Task.sleep(for: .milliseconds(milliseconds)) }
        case .answering(let pieces):
            await connection.send(bytes)
            await connection.wait(pieces: pieces)
        }
        await connection.leave(withReset: withReset)
    }

    // MARK: Bytes

    private func post(_ path: String, _ body: [UInt8]) -> [UInt8] {
        head("POST", path, "Content-Length: \(body.count)") + body
    }

    private func head(_ method: String, _ path: String, _ length: String) -> [UInt8] {
        let address = options.address
        var lines = [
            "\(method) \(address.base)\(path) HTTP/1.1", "Host: \(address.authority)",
            "Content-Type: application/json", "Connection: close", length,
        ]
        lines += client.headers.map { "\($0.0): \($0.1)" }
        return Array((lines.joined(separator: "\r\n") + "\r\n\r\n").utf8)
    }
}
