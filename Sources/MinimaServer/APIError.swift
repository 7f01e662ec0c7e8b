import MinimaCore
import MinimaGrammar
import MinimaRuntime

/// Why a request gets no answer, as OpenAI's interface words it.
struct APIError: Error, Hashable {
    /// HTTP's status code.
    var status: Int
    /// OpenAI's name of the kind of error.
    var type: String
    /// What was asked, what was found, what to do.
    var message: String
    /// The member of the request that is to blame.
    var parameter: String?
    /// A name for programs.
    var code: String?
    /// Seconds after which the same request may pass.
    var retryAfter: Int?

    private init(
        _ status: Int, _ type: String, _ message: String, parameter: String? = nil,
        code: String? = nil, retryAfter: Int? = nil
    ) {
        self.status = status
        self.type = type
        self.message = message
        self.parameter = parameter
        self.code = code
        self.retryAfter = retryAfter
    }

    /// The response's body.
    var json: JSON {
        [
            "error": [
                "message": .string(message), "type": .string(type),
                "param": parameter.map { .string($0) } ?? .null,
                "code": code.map { .string($0) } ?? .null,
            ]
        ]
    }

    // MARK: The client's fault

    static func invalid(_ message: String, _ parameter: String? = nil, code: String? = nil)
        -> APIError
    {
        APIError(400, "invalid_request_error", message, parameter: parameter, code: code)
    }

    static let unauthorized = APIError(
        401, "invalid_request_error",
        """
        no valid API key was given; send one of the server's keys in the header \
        "Authorization: Bearer KEY"
        """, code: "invalid_api_key")

    static func forbidden(origin: String) -> APIError {
        let origin = String(origin.unicodeScalars.prefix(128))
        return APIError(
            403, "invalid_request_error",
            "this server does not answer pages of \(origin); if they are meant to use it, start it "
                + "with --allow-origin \(origin)", code: "origin_not_allowed")
    }

    static func notFound(_ message: String, code: String? = nil, parameter: String? = nil)
        -> APIError
    {
        APIError(404, "invalid_request_error", message, parameter: parameter, code: code)
    }

    static func badMethod(_ allowed: String) -> APIError {
        APIError(
            405, "invalid_request_error", "this address answers \(allowed) only",
            code: "method_not_allowed")
    }

    static func bodyTooLarge(limit: Int) -> APIError {
        APIError(
            413, "invalid_request_error",
            "the request's body has more than the \(limit) bytes that this server takes; shorten it",
            code: "request_too_large")
    }

    static let notJSON = APIError(
        415, "invalid_request_error",
        "the body must be JSON, sent with the header \"Content-Type: application/json\"",
        code: "unsupported_media_type")

    /// A prompt and an answer that do not fit the model.
    static func contextExceeded(
        context: Int, prompt: Int, asked: Int? = nil, parameter: String
    ) -> APIError {
        let wanted =
            asked.map { "the prompt has \(prompt) tokens and \($0) new ones were asked for" }
            ?? "the prompt has \(prompt) tokens, which leaves no room for a new one"
        return invalid(
            "this model's context has \(context) tokens, but \(wanted); shorten the prompt"
                + (asked == nil ? "" : " or ask for fewer new tokens"),
            parameter, code: "context_length_exceeded")
    }

    // MARK: The server's state

    static func queueFull(retryAfter: Int) -> APIError {
        APIError(
            429, "rate_limit_error",
            "the server's queue is full; send the request again after \(retryAfter) s",
            code: "queue_full", retryAfter: retryAfter)
    }

    static let stopping = APIError(
        503, "server_error", "the server is stopping and takes no new requests",
        code: "server_stopping", retryAfter: 30)

    static let engineGone = APIError(
        503, "server_error", "the engine has stopped; the server must be started again",
        code: "engine_dead")

    static let busyConstraints = APIError(
        503, "server_error", "too many forms of answers are being compiled; send the request again",
        code: "constraints_busy", retryAfter: 5)

    static func noConstraints(_ parameter: String) -> APIError {
        APIError(
            501, "server_error",
            "this server has no xgrammar \(GrammarLibrary.neededVersion), without which answers cannot "
                + "be constrained; leave \(parameter) out, or have it installed beside torch",
            parameter: parameter, code: "constraints_unavailable")
    }

    static func deadline(_ limit: Duration) -> APIError {
        APIError(
            504, "server_error",
            "the answer was not complete after the \(limit.components.seconds) s that this server "
                + "gives a request; ask for fewer tokens",
            code: "deadline_exceeded")
    }

    static func failed(_ message: String) -> APIError {
        APIError(500, "server_error", message, code: "internal_error")
    }

    /// What the engine says of a request that it refuses.
    init(_ error: EngineError, retryAfter: Int) {
        switch error {
        case .queueFull: self = .queueFull(retryAfter: retryAfter)
        case .shutDown, .noThread: self = .engineGone
        case .emptyPrompt, .tokenOutOfRange, .noNewTokens, .badSampling, .contextExceeded:
            self = .invalid(error.description)
        case .notFinite, .nothingAllowed, .tokenNotAllowed, .stepFailed:
            // Reasons name sizes, devices and operators, none of which is the client's business.
            self = .failed("the answer could not be computed; the server's log says why")
        }
    }
}
