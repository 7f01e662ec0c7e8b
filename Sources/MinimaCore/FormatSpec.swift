/// How one linear weight `[outputs, inputs]` is represented: everything that fixes the shapes of
/// its tensors, and nothing else.
///
/// This is what a plan lists per module and what a checkpoint's `quantization_config` stores.
public struct FormatSpec: Sendable, Hashable, Codable {
    /// Registered name: `dense`, `lowrank`, `tucker`, `tt`, …
    public var format: String
    /// Factors or blocks of `outputs`, outermost first; empty where the format splits nothing.
    public var outputModes: [Int]
    /// Factors or blocks of `inputs`, outermost first; empty where the format splits nothing.
    public var inputModes: [Int]
    /// Ranks in the format's own order; see the format's type.
    public var ranks: [Int]
    /// Bits of one code, in formats that quantise.
    public var bits: Int?
    /// Neighbouring values of a row that share one scale, in formats that quantise.
    public var groupSize: Int?
    /// How the values that codes stand for are spaced, in formats that quantise; never `uniform`
    /// with 8 bits, where `normal` is the same.
    public var levels: Levels
    /// What a composite format is made of.
    public var parts: [FormatSpec]

    /// The values that codes stand for.
    public enum Levels: String, Sendable, Hashable, Codable, CaseIterable {
        /// Those that leave a normal distribution the least error: denser around 0; with 8 bits
        /// equally spaced.
        case normal
        /// Equally spaced: more error at the same bytes, and less arithmetic to decode.
        case uniform
        /// Of 8 bits: the numbers of float8's e4m3 (Micikevicius et al. 2022, "FP8 formats for deep
        /// learning"; OCP 8-bit floating point specification, 2023), codes being their bits.
        case float8

        /// These levels for codes of `bits` bits, where there are such: with 8 bits `uniform` is
        /// `normal`, with others `float8` is.
        public func fitting(bits: Int) -> Levels {
            switch self {
            case .normal: .normal
            case .uniform: bits == 8 ? .normal : .uniform
            case .float8: bits == 8 ? .float8 : .normal
            }
        }
    }

    /// A specification; whether it suits a weight is checked by its format. Equal ones describe the
    /// same tensors: uniform levels of 8 bits are normal ones.
    public init(
        format: String, outputModes: [Int] = [], inputModes: [Int] = [], ranks: [Int] = [],
        bits: Int? = nil, groupSize: Int? = nil, levels: Levels = .normal,
        parts: [FormatSpec] = []
    ) {
        self.format = format
        self.outputModes = outputModes
        self.inputModes = inputModes
        self.ranks = ranks
        self.bits = bits
        self.groupSize = groupSize
        self.levels = bits == 8 && levels == .uniform ? .normal : levels
        self.parts = parts
    }
}

extension FormatSpec {
    /// Composites inside composites, at most.
    public static let deepest = 4
    /// Sizes in one list, and parts of one composite, at most.
    static let longestList = 4096

    /// This specification as it is stored in `config.json` and `plan.json`; what is empty is left
    /// out.
    public var json: JSON {
        var members: [(JSON.Name, JSON)] = [("format", .string(format))]
        func list(_ key: JSON.Name, _ sizes: [Int]) {
            guard !sizes.isEmpty else { return }
            members.append((key, .array(sizes.map { .integer(Int64($0)) })))
        }
        list("output_modes", outputModes)
        list("input_modes", inputModes)
        list("ranks", ranks)
        if let bits { members.append(("bits", .integer(Int64(bits)))) }
        if let groupSize { members.append(("group_size", .integer(Int64(groupSize)))) }
        if levels != .normal { members.append(("levels", .string(levels.rawValue))) }
        if !parts.isEmpty { members.append(("parts", .array(parts.map(\.json)))) }
        return .object(.init(uniqueKeysWithValues: members))
    }

    /// Reads what ``json`` wrote.
    ///
    /// - Throws: `FormatSpecError` on unknown keys, missing keys and values of another kind.
    public init(json: JSON) throws(FormatSpecError) {
        try self.init(json: json, depth: 1)
    }

    private init(json: JSON, depth: Int) throws(FormatSpecError) {
        guard depth <= Self.deepest else { throw .tooDeep }
        guard let members = json.object else { throw .notAnObject(found: json.kind) }
        let known = [
            "format", "output_modes", "input_modes", "ranks", "bits", "group_size", "levels",
            "parts",
        ]
        if let unknown = members.keys.first(where: { !known.contains($0.text) }) {
            throw .unknownKey(unknown.text, known: known)
        }
        guard let format = json["format"]?.string else { throw .badValue(key: "format") }
        var parts: [FormatSpec] = []
        if let list = json["parts"] {
            guard let entries = list.array, entries.count <= Self.longestList else {
                throw .badValue(key: "parts")
            }
            for entry in entries { parts.append(try FormatSpec(json: entry, depth: depth + 1)) }
        }
        self.init(
            format: format, outputModes: try Self.sizes(json, "output_modes"),
            inputModes: try Self.sizes(json, "input_modes"), ranks: try Self.sizes(json, "ranks"),
            bits: try Self.size(json, "bits"), groupSize: try Self.size(json, "group_size"),
            levels: try Self.levels(json), parts: parts)
    }

    private static func levels(_ json: JSON) throws(FormatSpecError) -> Levels {
        guard let value = json["levels"] else { return .normal }
        guard let levels = value.string.flatMap(Levels.init) else { throw .badValue(key: "levels") }
        return levels
    }

    private static func sizes(_ json: JSON, _ key: String) throws(FormatSpecError) -> [Int] {
        guard let value = json[key] else { return [] }
        let numbers = value.array?.map(\.int)
        guard let numbers, numbers.allSatisfy({ ($0 ?? 0) > 0 }), numbers.count <= longestList
        else {
            throw .badValue(key: key)
        }
        return numbers.compactMap(\.self)
    }

    private static func size(_ json: JSON, _ key: String) throws(FormatSpecError) -> Int? {
        guard let value = json[key] else { return nil }
        guard let number = value.int, number > 0 else { throw .badValue(key: key) }
        return number
    }
}

/// Why a stored format specification cannot be read.
public enum FormatSpecError: Error, Hashable, CustomStringConvertible {
    case notAnObject(found: String)
    case unknownKey(String, known: [String])
    case badValue(key: String)
    case tooDeep

    /// What was found and what belongs there.
    public var description: String {
        switch self {
        case .notAnObject(let found): "a format specification must be an object, found \(found)"
        case .unknownKey(let key, let known):
            "unknown key \"\(key)\"; the keys are \(known.joined(separator: ", "))"
        case .badValue("format"): "\"format\" must be a string"
        case .badValue("levels"):
            "\"levels\" must be one of "
                + FormatSpec.Levels.allCases.map { "\"\($0.rawValue)\"" }.joined(separator: ", ")
        case .badValue("parts"): "\"parts\" must be a list of format specifications"
        case .badValue(let key) where ["bits", "group_size"].contains(key):
            "\"\(key)\" must be a positive integer"
        case .badValue(let key): "\"\(key)\" must be a list of positive integers"
        case .tooDeep: "more than \(FormatSpec.deepest) composites inside each other"
        }
    }
}

extension FormatSpec {
    private enum CodingKeys: CodingKey {
        case format, outputModes, inputModes, ranks, bits, groupSize, levels, parts
    }

    /// Reads what ``encode(to:)`` wrote.
    public init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: CodingKeys.self)
        self.init(
            format: try members.decode(String.self, forKey: .format),
            outputModes: try members.decodeIfPresent([Int].self, forKey: .outputModes) ?? [],
            inputModes: try members.decodeIfPresent([Int].self, forKey: .inputModes) ?? [],
            ranks: try members.decodeIfPresent([Int].self, forKey: .ranks) ?? [],
            bits: try members.decodeIfPresent(Int.self, forKey: .bits),
            groupSize: try members.decodeIfPresent(Int.self, forKey: .groupSize),
            levels: try members.decodeIfPresent(Levels.self, forKey: .levels) ?? .normal,
            parts: try members.decodeIfPresent([FormatSpec].self, forKey: .parts) ?? [])
        // What ``init(json:)`` would refuse must not get into a checkpoint either.
        guard [outputModes, inputModes, ranks].allSatisfy({ $0.count <= Self.longestList }),
            parts.count <= Self.longestList, decoder.codingPath.count <= 64
        else {
            throw DecodingError.dataCorruptedError(
                forKey: .parts, in: members, debugDescription: "more than a checkpoint can hold")
        }
    }

    /// Writes what is not empty.
    public func encode(to encoder: any Encoder) throws {
        var members = encoder.container(keyedBy: CodingKeys.self)
        try members.encode(format, forKey: .format)
        if !outputModes.isEmpty { try members.encode(outputModes, forKey: .outputModes) }
        if !inputModes.isEmpty { try members.encode(inputModes, forKey: .inputModes) }
        if !ranks.isEmpty { try members.encode(ranks, forKey: .ranks) }
        try members.encodeIfPresent(bits, forKey: .bits)
        try members.encodeIfPresent(groupSize, forKey: .groupSize)
        if levels != .normal { try members.encode(levels, forKey: .levels) }
        if !parts.isEmpty { try members.encode(parts, forKey: .parts) }
    }
}
