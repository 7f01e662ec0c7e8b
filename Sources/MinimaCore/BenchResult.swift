/// What `minima bench` measured: how fast models decode on one card, against what that card could do
/// in the same run.
///
/// Times are seconds, sizes bytes, rates per second; ``figures`` has what follows from them.
public struct BenchResult: StageResult, Hashable {
    /// `bench`.
    public static let kind = "bench"
    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// A value that was measured several times.
    public struct Spread: Codable, Sendable, Hashable {
        /// The middle one, or the mean of the two in the middle.
        public var median: Double
        /// The least.
        public var lowest: Double
        /// The largest.
        public var highest: Double
        /// How many there were.
        public var repetitions: Int

        /// A summary as it was stored.
        public init(median: Double, lowest: Double, highest: Double, repetitions: Int) {
            self.median = median
            self.lowest = lowest
            self.highest = highest
            self.repetitions = repetitions
        }

        /// The summary of `values`; `nil` where there are none.
        public init?(_ values: [Double]) {
            let sorted = values.sorted()
            guard let first = sorted.first, let last = sorted.last else { return nil }
            let middle = sorted.count / 2
            median =
                sorted.count.isMultiple(of: 2)
                ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
            lowest = first
            highest = last
            repetitions = sorted.count
        }
    }

    /// The card, and what it reached in this run.
    public struct Card: Codable, Sendable, Hashable {
        /// `NVIDIA H200`.
        public var name: String
        /// What kernels were compiled for: `sm_90a`.
        public var architecture: String
        /// Version of the driver.
        public var driver: String
        /// Bytes of device memory.
        public var memoryBytes: Int
        /// Streaming multiprocessors.
        public var multiprocessors: Int
        /// Bytes per second that the fastest of ``readers`` got from memory much larger than the cache.
        public var readBandwidth: Spread
        /// What read, and how fast; `nil` where a matrix-vector product alone did.
        public var readers: [String: Spread]?
        /// Bytes per second, read and written together, of a large copy.
        public var copyBandwidth: Spread
        /// Floating-point operations per second of a large matrix product, bfloat16.
        public var matrixRate: Spread

        /// A card.
        public init(
            name: String, architecture: String, driver: String, memoryBytes: Int,
            multiprocessors: Int, readBandwidth: Spread, readers: [String: Spread]? = nil,
            copyBandwidth: Spread, matrixRate: Spread
        ) {
            self.name = name
            self.architecture = architecture
            self.driver = driver
            self.memoryBytes = memoryBytes
            self.multiprocessors = multiprocessors
            self.readBandwidth = readBandwidth
            self.readers = readers
            self.copyBandwidth = copyBandwidth
            self.matrixRate = matrixRate
        }

        /// The one of ``readers`` that ``readBandwidth`` is of; of equally fast ones the first by name.
        public var reader: String? {
            readers?.sorted { $0.key < $1.key }.max { $0.value.median < $1.value.median }?.key
        }
    }

    /// Version of Minima; empty where another engine was measured alone.
    public var version: String
    /// Version of this account's layout.
    public var schema: Int
    /// The model's directory, or the name of its shape: `qwen3-32b`.
    public var model: String
    /// The model's sizes.
    public var dimensions: DecoderDimensions
    /// The card.
    public var card: Card
    /// Where random weights and tokens came from.
    public var seed: UInt64
    /// The command line.
    public var command: String
    /// Versions by name: `libtorch`, `cuda`.
    public var versions: [String: String]
    /// What was measured, in order; of runs that can be compared, the first is the reference.
    public var runs: [Run]

    /// An account of measurements.
    public init(
        version: String, schema: Int = currentSchema, model: String,
        dimensions: DecoderDimensions, card: Card, seed: UInt64, command: String,
        versions: [String: String], runs: [Run]
    ) {
        self.version = version
        self.schema = schema
        self.model = model
        self.dimensions = dimensions
        self.card = card
        self.seed = seed
        self.command = command
        self.versions = versions
        self.runs = runs
    }

    /// Adds the runs of another engine that was measured on the same card.
    ///
    /// - Throws: `BenchError` where the card or the model is another.
    public mutating func add(peer: BenchResult) throws(BenchError) {
        guard peer.card.name == card.name else {
            throw .otherCard(found: peer.card.name, expected: card.name)
        }
        guard peer.dimensions == dimensions else {
            throw .otherModel(found: peer.model, expected: model)
        }
        for var run in peer.runs {
            if run.command == nil { run.command = peer.command }
            run.versions.merge(peer.versions) { own, _ in own }
            runs.append(run)
        }
    }
}

extension BenchResult {
    /// One model at one context and number of requests.
    public struct Run: Codable, Sendable, Hashable {
        /// Reading a prompt.
        public struct Prefill: Codable, Sendable, Hashable {
            /// Tokens of all prompts together.
            public var tokens: Int
            /// Tokens per chunk.
            public var chunk: Int
            /// Seconds until all of it is in the cache.
            public var seconds: Spread
            /// Floating-point operations of it, see
            /// ``DecoderDimensions/prefillFlops(tokens:linearParameters:)``; without those of a draft that
            /// reads it, too.
            public var flops: Double

            /// A prefill.
            public init(tokens: Int, chunk: Int, seconds: Spread, flops: Double) {
                self.tokens = tokens
                self.chunk = chunk
                self.seconds = seconds
                self.flops = flops
            }
        }

        /// One kernel's part of a decode step.
        public struct Kernel: Codable, Sendable, Hashable {
            /// What it does: `qkv`, `attention`, `gate_up R`.
            public var name: String
            /// Launches per step.
            public var launches: Int
            /// Bytes that all of its launches in a step must move.
            public var bytes: Int
            /// Median seconds of all of its launches in a step, each measured behind others of its
            /// kind.
            public var seconds: Double

            /// A kernel.
            public init(name: String, launches: Int, bytes: Int, seconds: Double) {
                self.name = name
                self.launches = launches
                self.bytes = bytes
                self.seconds = seconds
            }
        }

        /// Steps that propose tokens and verify them.
        public struct Speculation: Codable, Sendable, Hashable {
            /// A part of a step against what it must move.
            public struct Part: Codable, Sendable, Hashable {
                /// Median seconds.
                public var seconds: Double
                /// Bytes of weights, and of the keys and values that are read.
                public var bytes: Int

                /// A part.
                public init(seconds: Double, bytes: Int) {
                    self.seconds = seconds
                    self.bytes = bytes
                }
            }

            /// What proposes: `random`, `ngram`, a directory.
            public var draft: String
            /// Tokens that are proposed and verified for each request; the most, with ``shares``.
            public var draftTokens: Int
            /// Where the number is chosen before each step, none included: shares of steps by it. Parts
            /// are means over steps then. `nil`: it is always the same.
            public var shares: [Int: Double]?
            /// Tokens that a step makes for each request, on average: where it was prescribed, as
            /// expected from that.
            public var acceptanceLength: Double
            /// The average that was prescribed for the most proposals, these counting as right by chance;
            /// `nil`: they were compared.
            public var simulatedLength: Double?
            /// Bytes on the device that the run without speculation does not need.
            public var addedBytes: Int
            /// Proposing.
            public var round: Part
            /// The rest of the step.
            public var verification: Part

            /// An account of speculation.
            public init(
                draft: String, draftTokens: Int, shares: [Int: Double]? = nil,
                acceptanceLength: Double, simulatedLength: Double? = nil, addedBytes: Int,
                round: Part, verification: Part
            ) {
                self.draft = draft
                self.draftTokens = draftTokens
                self.shares = shares
                self.acceptanceLength = acceptanceLength
                self.simulatedLength = simulatedLength
                self.addedBytes = addedBytes
                self.round = round
                self.verification = verification
            }

            /// `K = 5, 2.80 tokens per step simulated`, `K = auto to 5, …`.
            public var words: String {
                // Files may hold any number.
                let length = min(max(0, simulatedLength ?? acceptanceLength), 1e6)
                let hundredths = Int((length * 100).rounded())
                let digits = "\(hundredths / 100).\(hundredths % 100 / 10)\(hundredths % 10)"
                return
                    "K = \(shares == nil ? "" : "auto to ")\(draftTokens), \(digits) tokens per step"
                    + (simulatedLength == nil ? "" : " simulated")
            }
        }

        /// What it is: `dense bf16`, `−35 % interpolative bf16`.
        public var label: String
        /// What ran it: `minima`, `transformers`.
        public var engine: String
        /// The plan's file, where there was one.
        public var plan: String?
        /// Numbers that the model stores.
        public var parameters: Int
        /// Bytes of its weights, the embedding among them.
        public var weightBytes: Int
        /// The type of stored keys and values.
        public var cacheType: DType
        /// Tokens that each request has in the cache when the timed steps begin.
        public var context: Int
        /// Requests at once.
        public var requests: Int
        /// Decode steps of a repetition.
        public var steps: Int
        /// Seconds of a decode step as a user sees it: time per output token, also where a step makes
        /// several.
        public var step: Spread
        /// Seconds of a replay of the step's graph alone, however many tokens it makes.
        public var graph: Spread?
        /// Seconds from a prompt to its first token, all requests at once.
        public var firstToken: Spread?
        /// Reading the prompts.
        public var prefill: Prefill?
        /// Most bytes allocated on the device.
        public var peakBytes: Int?
        /// What the peak was predicted to be.
        public var predictedMemory: DecodeMemory?
        /// Bytes that a step must move.
        public var traffic: DecodeTraffic
        /// Kernels of a step in their order.
        public var kernels: [Kernel]
        /// How tokens were proposed and verified; `nil`: one token per step.
        public var speculation: Speculation?
        /// What was chosen, by name: `bucket`, `splits`, `compile`.
        public var settings: [String: String]
        /// The command line where it is another than that of the whole.
        public var command: String?
        /// Versions where the engine is another.
        public var versions: [String: String]

        /// A run.
        public init(
            label: String, engine: String = "minima", plan: String? = nil, parameters: Int,
            weightBytes: Int, cacheType: DType, context: Int, requests: Int, steps: Int,
            step: Spread, graph: Spread? = nil, firstToken: Spread? = nil,
            prefill: Prefill? = nil, peakBytes: Int? = nil, predictedMemory: DecodeMemory? = nil,
            traffic: DecodeTraffic, kernels: [Kernel] = [], speculation: Speculation? = nil,
            settings: [String: String] = [:], command: String? = nil,
            versions: [String: String] = [:]
        ) {
            self.label = label
            self.engine = engine
            self.plan = plan
            self.parameters = parameters
            self.weightBytes = weightBytes
            self.cacheType = cacheType
            self.context = context
            self.requests = requests
            self.steps = steps
            self.step = step
            self.graph = graph
            self.firstToken = firstToken
            self.prefill = prefill
            self.peakBytes = peakBytes
            self.predictedMemory = predictedMemory
            self.traffic = traffic
            self.kernels = kernels
            self.speculation = speculation
            self.settings = settings
            self.command = command
            self.versions = versions
        }
    }
}

/// Why measurements cannot stand side by side.
public enum BenchError: Error, Hashable, CustomStringConvertible {
    case otherCard(found: String, expected: String)
    case otherModel(found: String, expected: String)

    /// What was found, what was expected and what to do.
    public var description: String {
        switch self {
        case .otherCard(let found, let expected):
            "the peer ran on \(found), this is \(expected); run both on one card"
        case .otherModel(let found, let expected):
            "the peer ran \(found), whose sizes are not those of \(expected); "
                + "give both the same config.json"
        }
    }
}
