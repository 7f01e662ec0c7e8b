/// What requests are sent to a server, and when.
public struct LoadOptions: Sendable {
    /// When requests are sent.
    public enum Arrivals: Sendable, Hashable {
        /// So many users, each of whom waits for an answer before asking again.
        case closed(users: Int)
        /// So many requests a second, whatever becomes of those before; with exponential gaps as of
        /// independent users (Poisson), or with even ones.
        case open(rate: Double, isPoisson: Bool)
    }

    /// Where the requests go.
    public enum Interface: String, Sendable, CaseIterable {
        case chat, completions

        var path: String { self == .chat ? "/v1/chat/completions" : "/v1/completions" }
    }

    /// Where the server is.
    public var address: ServerAddress
    /// What requests show; `nil`: nothing.
    public var key: String?
    /// The model's name; `nil`: the first that the server lists.
    public var model: String?
    /// Chats or completions.
    public var interface: Interface
    /// When requests are sent.
    public var arrivals: Arrivals
    /// Requests that are measured; `nil`: as many as the time allows.
    public var requests: Int?
    /// Time during which requests are sent; `nil`: until all are.
    public var duration: Duration?
    /// Requests before those that are measured.
    public var warmUp: Int
    /// Tokens of prompts.
    public var promptTokens: LengthDistribution
    /// New tokens asked for.
    public var answerTokens: LengthDistribution
    /// Tokens with which all prompts begin alike.
    public var sharedPrefix: Int
    /// Prompts to send in turn, in place of words.
    public var prompts: [FilePrompt]
    /// Whether answers go on after the model ended them.
    public var ignoresEnd: Bool
    /// Temperature of sampling; `nil`: the server's default.
    public var temperature: Double?
    /// Seed of lengths, words and gaps.
    public var seed: UInt64
    /// Time of one request, at most.
    public var limit: Duration
    /// Milliseconds that a good answer stays within.
    public var objectives: Objectives

    /// Options of a run against `address`.
    public init(
        address: ServerAddress, key: String? = nil, model: String? = nil,
        interface: Interface = .chat, arrivals: Arrivals = .closed(users: 8), requests: Int? = 100,
        duration: Duration? = nil, warmUp: Int = 0,
        promptTokens: LengthDistribution = .fixed(256),
        answerTokens: LengthDistribution = .fixed(128), sharedPrefix: Int = 0,
        prompts: [FilePrompt] = [], ignoresEnd: Bool = false, temperature: Double? = nil,
        seed: UInt64 = 0, limit: Duration = .seconds(600), objectives: Objectives = Objectives()
    ) {
        self.address = address
        self.key = key
        self.model = model
        self.interface = interface
        self.arrivals = arrivals
        self.requests = requests
        self.duration = duration
        self.warmUp = warmUp
        self.promptTokens = promptTokens
        self.answerTokens = answerTokens
        self.sharedPrefix = sharedPrefix
        self.prompts = prompts
        self.ignoresEnd = ignoresEnd
        self.temperature = temperature
        self.seed = seed
        self.limit = limit
        self.objectives = objectives
    }
}

/// Service-level objectives: what an answer must keep to count towards goodput.
public struct Objectives: Sendable, Hashable {
    /// Milliseconds to the first token.
    public var ttft: Double?
    /// Milliseconds per token after the first.
    public var tpot: Double?
    /// Milliseconds to the end.
    public var e2el: Double?

    /// No objectives.
    public init() {}

    /// Reads `ttft:500,tpot:50,e2el:10000`, any of them.
    public init(_ text: String) throws(LoadError) {
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let words = part.split(separator: ":", omittingEmptySubsequences: false)
            guard words.count == 2, let value = Double(words[1]), value > 0, value.isFinite else {
                throw .badObjective(text)
            }
            switch words[0] {
            case "ttft" where ttft == nil: ttft = value
            case "tpot" where tpot == nil: tpot = value
            case "e2el" where e2el == nil: e2el = value
            default: throw .badObjective(text)
            }
        }
    }

    /// Whether there are any.
    public var isEmpty: Bool { self == Objectives() }

    /// Whether an answer with these milliseconds keeps them; one without a first token keeps none
    /// that concerns it.
    func holds(ttft: Double?, tpot: Double?, e2el: Double) -> Bool {
        if let limit = self.ttft, (ttft ?? .infinity) > limit { return false }
        if let limit = self.tpot, let tpot, tpot > limit { return false }
        if let limit = self.e2el, e2el > limit { return false }
        return true
    }

    /// The objectives by name.
    var byName: [String: Double] {
        ["ttft": ttft, "tpot": tpot, "e2el": e2el].compactMapValues { $0 }
    }
}
