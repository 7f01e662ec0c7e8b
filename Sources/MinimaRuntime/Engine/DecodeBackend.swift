/// What the engine asks of a device: key-value pages, prefill, and decode steps over many requests.
///
/// A backend owns *slots*, one per running request. A slot keeps what a step needs and the host does
/// not: the token sampled last, the sampling state, the page table. `prefill` and `decode` only queue
/// work, and calls take effect in the order in which they are made, so the engine may queue step
/// n + 1 while step n runs, give a slot or a page away while work that uses it is queued, and read
/// step n's tokens afterwards. A request whose end shows in step n has then been decoded once too
/// often; the engine drops that token. A synchronous backend computes at once and only keeps the
/// results until ``collect()``.
///
/// A step may also propose tokens and verify them (``DecodeBatch/draftTokens``). A draft only guesses:
/// at every place the target's token is chosen as it would be without, from the same draw, and what was
/// guessed wrong ends the row's step. So speculation changes how many tokens a step makes, never which.
///
/// All calls come from the engine's thread, which also made the backend: thread-local state of
/// libtorch and of CUDA holds from call to call.
public protocol DecodeBackend: AnyObject {
    /// What fits; constant.
    var capacity: DecodeCapacity { get }

    /// Gives `slot` to a sequence. Nothing of its former owner may influence the new one.
    func open(_ slot: Int, _ sequence: SequenceStart) throws

    /// Queues a part of a prompt: writes keys and values of its tokens and, with
    /// ``PrefillChunk/samples``, samples the token after it, which stays in the slot as the next
    /// decode step's input and makes one result of one token.
    ///
    /// With ``PrefillChunk/scoring`` it also makes one result for ``collectScores()``.
    ///
    /// - Throws: Nothing of the chunk counts then, and there will be no result for it.
    func prefill(_ chunk: PrefillChunk) throws

    /// Queues one decode step: each row's last token goes in, its next one is sampled and becomes
    /// the slot's last. Makes one result with 1 to `draftTokens` + 1 tokens per row.
    ///
    /// - Throws: Nothing of the step counts then, and there will be no result for it.
    func decode(_ batch: DecodeBatch) throws

    /// Waits for the oldest result that has not been read, in the order of the calls that make one.
    ///
    /// - Returns: The new tokens of each row, in order; a token that is not finite is a row's last.
    /// - Throws: What went wrong in that call on the device; the result counts as read.
    func collect() throws -> [[SampledToken]]

    /// Waits for the oldest scores that have not been read, in the order of the chunks that ask for
    /// some; the chunk's token, if it samples one, is read afterwards.
    ///
    /// - Returns: For each row of ``PromptScoring/rows`` the token that follows it in the prompt, with
    ///   its likelihood after what comes before; ``SampledToken/notFinite`` where the logits were not
    ///   finite.
    /// - Throws: What went wrong on the device; the result counts as read.
    func collectScores() throws -> [SampledToken]

    /// Ends a sequence. Work queued for it may still run.
    func close(_ slot: Int)

    /// Seconds of a decode step in `bucket` that proposes and verifies `draftTokens` per row, as
    /// measured or estimated; `nil` when unknown.
    func decodeSeconds(bucket: Int, draftTokens: Int) -> Double?

    /// Seconds of prefilling `tokens` after `position` earlier ones; `nil` when unknown.
    func prefillSeconds(tokens: Int, at position: Int) -> Double?
}

extension DecodeBackend {
    /// Fails requests that ask for the likelihood of their prompts.
    public func collectScores() throws -> [SampledToken] {
        throw EngineError.stepFailed("this backend tells no log-probabilities of prompts")
    }
    /// Unknown.
    public func decodeSeconds(bucket: Int, draftTokens: Int) -> Double? { nil }
    /// Unknown.
    public func prefillSeconds(tokens: Int, at position: Int) -> Double? { nil }
}

/// What a backend can hold and do at one time.
public struct DecodeCapacity: Sendable, Hashable {
    /// Requests that can run at one time; slots are `0..<slots`.
    public var slots: Int
    /// Pages of keys and values that may be handed out, `0..<pages`.
    public var pages: Int
    /// Tokens per page.
    public var pageTokens: Int
    /// Tokens of the longest sequence, prompt and new ones.
    public var context: Int
    /// Token ids are `0..<vocabulary`.
    public var vocabulary: Int
    /// Most tokens of one ``PrefillChunk``.
    public var prefillChunk: Int
    /// Rows that a decode step is made for, ascending; a smaller batch is padded by the backend.
    public var buckets: [Int]
    /// The bucket in which a row's result depends neither on the other rows nor on its place.
    public var deterministicBucket: Int
    /// Steps that may be queued before the first is read: 1 for a synchronous backend, 2 where the
    /// host prepares a step while another runs.
    public var queuedSteps: Int
    /// Numbers of tokens that a step may propose per row, ascending, 0 first. Large buckets may have fewer:
    /// ``DecodeBackend/decodeSeconds(bucket:draftTokens:)`` of a step that does not exist is infinite.
    public var draftTokens: [Int]
    /// How sequences with a common beginning may share its pages; `nil`: not at all, such as where
    /// keys depend on the length of the whole sequence.
    public var prefixes: PrefixReuse?

    /// Describes a backend.
    public init(
        slots: Int, pages: Int, pageTokens: Int = 64, context: Int, vocabulary: Int,
        prefillChunk: Int = 2048, buckets: [Int], deterministicBucket: Int, queuedSteps: Int,
        draftTokens: [Int] = [0], prefixes: PrefixReuse? = nil
    ) {
        self.slots = slots
        self.pages = pages
        self.pageTokens = pageTokens
        self.context = context
        self.vocabulary = vocabulary
        self.prefillChunk = prefillChunk
        self.buckets = buckets
        self.deterministicBucket = deterministicBucket
        self.queuedSteps = queuedSteps
        self.draftTokens = draftTokens
        self.prefixes = prefixes
    }

    /// Pages that hold `tokens`.
    public func pages(for tokens: Int) -> Int {
        tokens / pageTokens + (tokens % pageTokens > 0 ? 1 : 0)
    }
}

/// What a backend needs so that a sequence can begin with pages that another has filled.
public struct PrefixReuse: Sendable, Hashable {
    /// Tokens behind a page that what it holds depends on: 1 where a draft pairs each place with the
    /// token after it.
    public var lookahead: Int
    /// Tokens at the end of a prompt that are computed in any case, at least 1: their outputs are
    /// needed.
    public var computed: Int

    /// The needs of a backend whose pages depend on the tokens up to their ends alone, by default.
    public init(lookahead: Int = 0, computed: Int = 1) {
        self.lookahead = max(lookahead, 0)
        self.computed = max(computed, 1)
    }
}

/// What a slot learns about its sequence before anything is computed.
public struct SequenceStart: Sendable {
    /// The prompt and, when a preempted request comes back, the tokens already generated.
    public var tokens: [Int32]
    /// How many of `tokens` are the prompt; penalties treat the others as generated.
    public var promptCount: Int
    /// How tokens are chosen. Draws depend on the seed and on the index of the drawn token in the
    /// sequence only, so a sequence that is computed again draws the same.
    public var sampling: SamplingParameters
    /// How many of `tokens` have keys and values in the sequence's first pages already, whole pages of
    /// them: the first chunk begins behind. Nobody writes to those pages.
    public var cached: Int

    /// A sequence that begins with `tokens`.
    public init(
        tokens: [Int32], promptCount: Int, sampling: SamplingParameters, cached: Int = 0
    ) {
        self.tokens = tokens
        self.promptCount = promptCount
        self.sampling = sampling
        self.cached = cached
    }
}

/// Consecutive tokens of one sequence that are computed together.
public struct PrefillChunk: Sendable {
    /// The sequence's slot.
    public var slot: Int
    /// Tokens of the sequence before this chunk; their keys and values are in `pages`.
    public var position: Int
    /// At least one token.
    public var tokens: ArraySlice<Int32>
    /// Page of each ``DecodeCapacity/pageTokens`` positions, from the first. Entries stay as they are
    /// until the slot is closed; later calls may append more.
    public var pages: [Int32]
    /// Whether this is the end of the prompt: the token after it is sampled.
    public var samples: Bool
    /// What is to be told of the prompt's likelihood; `nil`: nothing.
    public var scoring: PromptScoring?
    /// Which tokens may be sampled: as ``DecodeBatch/Row/mask``.
    public var mask: [UInt32]?

    /// A chunk of the sequence in `slot`.
    public init(
        slot: Int, position: Int, tokens: ArraySlice<Int32>, pages: [Int32], samples: Bool,
        scoring: PromptScoring? = nil, mask: [UInt32]? = nil
    ) {
        self.slot = slot
        self.position = position
        self.tokens = tokens
        self.pages = pages
        self.samples = samples
        self.scoring = scoring
        self.mask = mask
    }
}

/// Tokens of a prompt whose log-probabilities are wanted: the model's own, before bias, penalties,
/// temperature and filters.
public struct PromptScoring: Sendable, Hashable {
    /// Tokens of the chunk after which the distribution is looked at; not empty.
    public var rows: Range<Int>
    /// The prompt's token behind each of them, which may be the next chunk's first.
    public var tokens: ArraySlice<Int32>
    /// Likeliest tokens told of each distribution, at most ``SamplingParameters/mostLogprobs``.
    public var alternatives: Int

    /// Most rows whose logits a backend holds at one time, in float32: 40 MB for a vocabulary of
    /// 152K. Engines that keep those of a whole chunk or prompt run out of memory there.
    public static let rowsAtOnce = 64

    /// Scores of `tokens`, each behind one of `rows`.
    public init(rows: Range<Int>, tokens: ArraySlice<Int32>, alternatives: Int) {
        self.rows = rows
        self.tokens = tokens
        self.alternatives = alternatives
    }
}

/// One decode step of several sequences.
public struct DecodeBatch: Sendable {
    /// One sequence of the step.
    public struct Row: Sendable {
        /// The sequence's slot, which holds the token that goes in.
        public var slot: Int
        /// Where that token stands: the tokens whose keys and values are already in `pages`. The
        /// sampled token's index in the sequence is `position + 1`. While steps with drafts are queued
        /// whose results nobody has read, this is the least it can be, and the backend knows better.
        public var position: Int
        /// As ``PrefillChunk/pages``, with room for the highest position that the step may write.
        public var pages: [Int32]
        /// Which tokens may come next, 32 to a word, token 0 the lowest bit of the first; `nil`: any.
        /// A row with a mask verifies no proposals: it makes one token.
        public var mask: [UInt32]?

        /// A row of the sequence in `slot`.
        public init(slot: Int, position: Int, pages: [Int32], mask: [UInt32]? = nil) {
            self.slot = slot
            self.position = position
            self.pages = pages
            self.mask = mask
        }
    }

    /// 1 to `bucket` rows, each in a slot of its own.
    public var rows: [Row]
    /// One of the capacity's buckets.
    public var bucket: Int
    /// Tokens that are proposed and verified per row, one of the capacity's ``DecodeCapacity/draftTokens``.
    public var draftTokens: Int

    /// A step of `rows` in a graph made for `bucket` rows.
    public init(rows: [Row], bucket: Int, draftTokens: Int = 0) {
        self.rows = rows
        self.bucket = bucket
        self.draftTokens = draftTokens
    }
}

/// A token as it comes from the device.
public struct SampledToken: Sendable, Hashable {
    /// The token; negative when the logits were not finite.
    public var id: Int32
    /// Natural logarithm of its probability; `nil` unless the sampling parameters ask.
    public var logprob: Float?
    /// The likeliest tokens, likeliest first, as many as the sampling parameters ask for.
    public var alternatives: [Alternative]

    /// A token that might have been chosen.
    public struct Alternative: Sendable, Hashable {
        /// The token.
        public var id: Int32
        /// Natural logarithm of its probability.
        public var logprob: Float

        /// A token and its likelihood.
        public init(id: Int32, logprob: Float) {
            self.id = id
            self.logprob = logprob
        }
    }

    /// What ``id`` is when the logits were not finite. A backend that queues steps may have to decode
    /// such a slot once more, which must disturb no other row.
    public static let notFinite: Int32 = -1

    /// A token, with its likelihood where it was asked for.
    public init(id: Int32, logprob: Float? = nil, alternatives: [Alternative] = []) {
        self.id = id
        self.logprob = logprob
        self.alternatives = alternatives
    }
}
