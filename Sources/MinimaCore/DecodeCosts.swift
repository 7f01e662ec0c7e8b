/// How long linear layers take while decoding on one card, by format and size: what a planner
/// weighs against their damage.
///
/// Times are those of a layer alone between others that stream their weights, so that they add up to
/// a step's; ``DecodeTimes`` looks them up.
public struct DecodeCosts: StageResult, Hashable {
    /// `decode-costs`.
    public static let kind = "decode-costs"
    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// One linear layer `[outputs, inputs]` in one format.
    public struct Row: Codable, Sendable, Hashable {
        /// Its format with modes, ranks, bits and group size.
        public var spec: FormatSpec
        /// Rows of W.
        public var outputs: Int
        /// Columns of W.
        public var inputs: Int
        /// Tokens that it multiplies at once: one of each request.
        public var tokens: Int
        /// Nanoseconds of all its launches together.
        public var nanoseconds: BenchResult.Spread
        /// Bytes that they read, as laid out on the device: factors that were multiplied out count
        /// as such.
        public var bytes: Int
        /// The way of storing all layers that it was measured in: `interpolative −38.3% int8`; `nil`:
        /// not recorded.
        public var label: String?
        /// What its launches are called: `qkv`, `gate_up`; once for each way of storing all layers. `nil`:
        /// not recorded.
        public var site: String?

        /// A measurement.
        public init(
            spec: FormatSpec, outputs: Int, inputs: Int, tokens: Int,
            nanoseconds: BenchResult.Spread, bytes: Int, label: String? = nil, site: String? = nil
        ) {
            self.spec = spec
            self.outputs = outputs
            self.inputs = inputs
            self.tokens = tokens
            self.nanoseconds = nanoseconds
            self.bytes = bytes
            self.label = label
            self.site = site
        }
    }

    /// Version of Minima.
    public var version: String
    /// Version of this account's layout.
    public var schema: Int
    /// The card: `NVIDIA H200`.
    public var card: String
    /// Bytes per second that were read from memory much larger than the cache in the same run, see
    /// ``BenchResult/Card/readBandwidth``.
    public var readBandwidth: BenchResult.Spread
    /// The command line.
    public var command: String
    /// What was measured.
    public var rows: [Row]

    /// An account of measurements.
    public init(
        version: String, schema: Int = currentSchema, card: String,
        readBandwidth: BenchResult.Spread, command: String, rows: [Row]
    ) {
        self.version = version
        self.schema = schema
        self.card = card
        self.readBandwidth = readBandwidth
        self.command = command
        self.rows = rows
    }
}

/// Why measured times cannot be used.
public enum DecodeCostsError: Error, Hashable, CustomStringConvertible {
    case otherSchema(found: Int, expected: Int)
    case badRow(index: Int)

    /// What was found and what to do.
    public var description: String {
        switch self {
        case .otherSchema(let found, let expected):
            """
            the decoding times have layout \(found), this version reads \(expected); measure again \
            with this version of Minima
            """
        case .badRow(let index):
            """
            rows[\(index)] has no sizes between 1 and \(DecodeTimes.largestSize) or no time between 1 \
            and \(Int(DecodeTimes.longest)) ns; measure again
            """
        }
    }
}
