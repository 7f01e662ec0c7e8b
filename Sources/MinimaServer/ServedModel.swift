import MinimaCore
import MinimaTemplate
import MinimaTokenizer

/// A model as requests see it: its names, and how text becomes tokens and back.
public struct ServedModel: Sendable {
    /// The name that `/v1/models` lists and answers carry.
    public var name: String
    /// Other names that requests may use.
    public var aliases: [String]
    /// Reads and writes tokens.
    public var tokenizer: Tokenizer
    /// Turns conversations into prompts; `nil`: the model knows none.
    public var chat: Chat?
    /// What an empty prompt begins with; `nil`: empty prompts are refused.
    public var documentStart: Int32?
    /// Tokens that end an answer.
    public var stop: Set<Int32>
    /// What requests that do not say get.
    public var defaults: SamplingDefaults
    /// Seconds since 1970 that `/v1/models` gives.
    public var created: Int
    /// What computed an answer: the same for the same model and program.
    public var fingerprint: String

    /// A model.
    public init(
        name: String, aliases: [String] = [], tokenizer: Tokenizer, chat: Chat? = nil,
        documentStart: Int32? = nil, stop: Set<Int32> = [],
        defaults: SamplingDefaults = SamplingDefaults(), created: Int = 0,
        fingerprint: String = "minima"
    ) {
        self.name = name
        self.aliases = aliases
        self.tokenizer = tokenizer
        self.chat = chat
        self.documentStart = documentStart
        self.stop = stop
        self.defaults = defaults
        self.created = created
        self.fingerprint = fingerprint
    }

    /// A chat template with the checkpoint's variables, and how answers to it are read.
    public struct Chat: Sendable {
        /// The template.
        public var template: ChatTemplate
        /// The template of conversations with tools.
        public var toolTemplate: ChatTemplate
        /// `bos_token` and its like.
        public var variables: [String: JSON]
        /// The form in which the model calls functions; `nil`: none that is known.
        public var toolParser: ToolParser?
        /// The marks of what the model thinks; `nil`: what it thinks is content.
        public var reasoningParser: ReasoningParser?

        /// A template with variables; the parsers are those that the template's text suggests.
        ///
        /// - Parameter toolTemplate: `nil`: the same template.
        public init(
            template: ChatTemplate, toolTemplate: ChatTemplate? = nil, variables: [String: JSON]
        ) {
            self.template = template
            self.toolTemplate = toolTemplate ?? template
            self.variables = variables
            toolParser = .detect(in: self.toolTemplate)
            reasoningParser = .detect(in: template)
        }
    }
}

/// Sampling parameters of requests that do not give them; a checkpoint's generation_config.json may
/// name others.
public struct SamplingDefaults: Sendable, Hashable {
    /// Divides the logits.
    public var temperature: Double
    /// Nucleus sampling.
    public var topP: Double
    /// Likeliest tokens kept; 0 keeps all.
    public var topK: Int
    /// Penalty on tokens that came before.
    public var repetitionPenalty: Double

    /// Defaults; without arguments those of OpenAI's interface.
    public init(
        temperature: Double = 1, topP: Double = 1, topK: Int = 0, repetitionPenalty: Double = 1
    ) {
        self.temperature = temperature
        self.topP = topP
        self.topK = topK
        self.repetitionPenalty = repetitionPenalty
    }
}
