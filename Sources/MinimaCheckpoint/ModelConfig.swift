import MinimaCore

/// `config.json` or one of its sections, read value by value with checks.
///
/// A value that is missing, of the wrong kind or outside its range is an error that names the
/// file, the key, what was found and what was expected. `null` counts as absent: transformers
/// writes it for what is not set.
public struct ModelConfig: Sendable {
    /// The largest count or size that is believed: beyond any model, and far from overflow in
    /// products of a few of them.
    public static let largestCount = 1 << 31

    /// The file, for messages.
    public let path: String
    /// The values, all of them, as they were read.
    public let json: JSON

    private let prefix: String

    /// Reads a file.
    public init(path: String) throws(CheckpointError) {
        try self.init(json: JSON(file: path), path: path)
    }

    /// Takes a document already parsed; `path` is where errors say it came from.
    public init(json: JSON, path: String) throws(CheckpointError) {
        guard json.object != nil else {
            throw .value(
                path: path, key: "", found: json.kind, expected: "an object at the top level")
        }
        self.init(json: json, path: path, prefix: "")
    }

    private init(json: JSON, path: String, prefix: String) {
        self.json = json
        self.path = path
        self.prefix = prefix
    }

    /// The value of `key`, or `nil` when absent or `null`.
    public func value(_ key: String) -> JSON? {
        guard let value = json[key], !value.isNull else { return nil }
        return value
    }

    /// The error for a value of `key` that does not fit.
    public func mismatch(_ key: String, expected: String) -> CheckpointError {
        .value(
            path: path, key: prefix + key, found: json[key].map(brief) ?? "missing",
            expected: expected)
    }

    private func required<Value>(
        _ key: String, _ expected: String, _ value: Value?
    ) throws(CheckpointError) -> Value {
        guard let value else { throw mismatch(key, expected: expected) }
        return value
    }

    /// The object at `key`, to be read in the same way; `nil` when absent.
    public func sectionIfPresent(_ key: String) throws(CheckpointError) -> ModelConfig? {
        guard let value = value(key) else { return nil }
        guard value.object != nil else { throw mismatch(key, expected: "an object") }
        return ModelConfig(json: value, path: path, prefix: prefix + key + ".")
    }

    /// A whole number within `range`; `nil` when absent.
    public func intIfPresent(
        _ key: String, in range: ClosedRange<Int> = 1...largestCount
    ) throws(CheckpointError) -> Int? {
        guard let value = value(key) else { return nil }
        guard let int = value.int, range.contains(int) else {
            throw mismatch(key, expected: Self.words(range))
        }
        return int
    }

    /// A whole number within `range`.
    public func int(
        _ key: String, in range: ClosedRange<Int> = 1...largestCount
    ) throws(CheckpointError) -> Int {
        try required(key, Self.words(range), intIfPresent(key, in: range))
    }

    /// A number within `range`; `nil` when absent.
    public func doubleIfPresent(
        _ key: String,
        in range: ClosedRange<Double> = -.greatestFiniteMagnitude ... .greatestFiniteMagnitude
    ) throws(CheckpointError) -> Double? {
        guard let value = value(key) else { return nil }
        guard let double = value.double, range.contains(double) else {
            throw mismatch(key, expected: Self.words(range))
        }
        return double
    }

    /// A number within `range`.
    public func double(
        _ key: String,
        in range: ClosedRange<Double> = -.greatestFiniteMagnitude ... .greatestFiniteMagnitude
    ) throws(CheckpointError) -> Double {
        try required(key, Self.words(range), doubleIfPresent(key, in: range))
    }

    /// A boolean; `nil` when absent.
    public func boolIfPresent(_ key: String) throws(CheckpointError) -> Bool? {
        guard let value = value(key) else { return nil }
        return try required(key, "true or false", value.bool)
    }

    /// A boolean.
    public func bool(_ key: String) throws(CheckpointError) -> Bool {
        try required(key, "true or false", boolIfPresent(key))
    }

    /// A string; `nil` when absent.
    public func stringIfPresent(_ key: String) throws(CheckpointError) -> String? {
        guard let value = value(key) else { return nil }
        return try required(key, "a string", value.string)
    }

    /// A string.
    public func string(_ key: String) throws(CheckpointError) -> String {
        try required(key, "a string", stringIfPresent(key))
    }

    /// A list of strings; empty when absent.
    public func strings(_ key: String) throws(CheckpointError) -> [String] {
        guard let value = value(key) else { return [] }
        let strings = value.array?.compactMap(\.string)
        guard let strings, strings.count == value.array?.count else {
            throw mismatch(key, expected: "a list of strings")
        }
        return strings
    }

    /// One whole number within `range` or a list of them; empty when absent.
    public func ints(
        _ key: String, in range: ClosedRange<Int> = 0...largestCount
    ) throws(CheckpointError) -> [Int] {
        guard let value = value(key) else { return [] }
        let elements = value.array ?? [value]
        let ints = elements.compactMap(\.int).filter(range.contains)
        guard ints.count == elements.count else {
            throw mismatch(key, expected: "\(Self.words(range)), or a list of such")
        }
        return ints
    }

    private static func words(_ range: ClosedRange<Int>) -> String {
        range.lowerBound == 1 && range.upperBound == largestCount
            ? "a positive whole number"
            : "a whole number from \(range.lowerBound) to \(range.upperBound)"
    }

    private static func words(_ range: ClosedRange<Double>) -> String {
        switch (range.lowerBound, range.upperBound) {
        case (-.greatestFiniteMagnitude, .greatestFiniteMagnitude): "a number"
        case (.leastNonzeroMagnitude, .greatestFiniteMagnitude): "a number above 0"
        case (let low, .greatestFiniteMagnitude): "a number, at least \(low)"
        case (let low, let high): "a number from \(low) to \(high)"
        }
    }
}

/// A value in a few words, for messages.
private func brief(_ value: JSON) -> String {
    switch value {
    case .array(let elements): "a list of \(elements.count)"
    case .object(let members): "an object of \(members.count)"
    default: displayed(value.text(indent: nil), limit: 60)
    }
}

extension ModelConfig {
    /// The model classes that wrote the checkpoint, such as `Qwen3ForCausalLM`.
    public var architectures: [String] {
        get throws(CheckpointError) { try strings("architectures") }
    }

    /// The model's family, such as `qwen3`.
    public var modelType: String {
        get throws(CheckpointError) { try string("model_type") }
    }

    /// The element type the weights were saved in; `nil` when not said.
    ///
    /// `dtype` (transformers 5) comes before `torch_dtype` (transformers 4).
    public var dtype: DType? {
        get throws(CheckpointError) {
            let key = value("dtype") == nil ? "torch_dtype" : "dtype"
            guard let name = try stringIfPresent(key), name != "auto" else { return nil }
            switch name.hasPrefix("torch.") ? String(name.dropFirst(6)) : name {
            case "bfloat16": return .bfloat16
            case "float16", "half": return .float16
            case "float32", "float": return .float32
            case "float64", "double": return .float64
            case "float8_e4m3fn": return .float8e4m3
            case "float8_e5m2": return .float8e5m2
            default:
                throw mismatch(key, expected: "bfloat16, float16, float32 or float64")
            }
        }
    }

    /// Whether the output projection is the embedding; `nil` when the file leaves it to the
    /// family's default.
    public var tieWordEmbeddings: Bool? {
        get throws(CheckpointError) { try boolIfPresent("tie_word_embeddings") }
    }

    /// Tokens that end a text; one, several or none.
    public var eosTokenIDs: [Int] {
        get throws(CheckpointError) { try ints("eos_token_id") }
    }

    /// How the weights are quantised or, with `quant_method` "minima", compressed.
    public var quantizationConfig: JSON? { value("quantization_config") }
}

/// `generation_config.json`: how the checkpoint's authors sample from it. Absent values are `nil`.
public struct GenerationConfig: Sendable {
    /// The file's values.
    public let config: ModelConfig
    /// Tokens that end a text.
    public let eosTokenIDs: [Int]
    /// Whether to sample at all.
    public let doSample: Bool?
    /// The sampling temperature, at least 0.
    public let temperature: Double?
    /// The share of probability that nucleus sampling keeps, 0 to 1.
    public let topP: Double?
    /// How many tokens top-k sampling keeps; 0 keeps all.
    public let topK: Int?
    /// The penalty on tokens that came before, above 0.
    public let repetitionPenalty: Double?

    /// Reads a file.
    public init(path: String) throws(CheckpointError) {
        config = try ModelConfig(path: path)
        eosTokenIDs = try config.ints("eos_token_id")
        doSample = try config.boolIfPresent("do_sample")
        temperature = try config.doubleIfPresent(
            "temperature", in: 0 ... .greatestFiniteMagnitude)
        topP = try config.doubleIfPresent("top_p", in: 0...1)
        topK = try config.intIfPresent("top_k", in: 0...ModelConfig.largestCount)
        repetitionPenalty = try config.doubleIfPresent(
            "repetition_penalty", in: .leastNonzeroMagnitude ... .greatestFiniteMagnitude)
    }

    /// Reads a model directory's file; `nil` when it has none.
    public init?(inDirectory directory: String) throws(CheckpointError) {
        let path = directory + "/generation_config.json"
        guard Files.kind(of: path) != nil else { return nil }
        try self.init(path: path)
    }
}
