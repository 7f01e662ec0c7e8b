/// How one linear weight `[outputs, inputs]` is represented: everything that fixes the shapes of
/// its tensors, and nothing else.
///
/// This is what a plan lists per module and what a checkpoint's `quantization_config` stores.
public struct FormatSpec: Sendable, Hashable, Codable {
    /// Registered name: `dense`, `lowrank`, `tucker`, `tt`, `tr`.
    public var format: String
    /// Factors of `outputs`, outermost first; empty where the format splits nothing.
    public var outputModes: [Int]
    /// Factors of `inputs`, outermost first; empty where the format splits nothing.
    public var inputModes: [Int]
    /// Ranks in the format's own order; see the format's type.
    public var ranks: [Int]

    /// A specification; whether it suits a weight is checked by its format.
    public init(
        format: String, outputModes: [Int] = [], inputModes: [Int] = [], ranks: [Int] = []
    ) {
        self.format = format
        self.outputModes = outputModes
        self.inputModes = inputModes
        self.ranks = ranks
    }
}

extension FormatSpec {
    /// This specification as it is stored in `config.json` and `plan.json`.
    public var json: JSON {
        .object([
            "format": .string(format),
            "output_modes": .array(outputModes.map { .integer(Int64($0)) }),
            "input_modes": .array(inputModes.map { .integer(Int64($0)) }),
            "ranks": .array(ranks.map { .integer(Int64($0)) }),
        ])
    }

    /// Reads what ``json`` wrote.
    ///
    /// - Throws: `FormatSpecError` on unknown keys, missing keys and values of another kind.
    public init(json: JSON) throws(FormatSpecError) {
        guard let members = json.object else { throw .notAnObject(found: json.kind) }
        let known = ["format", "output_modes", "input_modes", "ranks"]
        if let unknown = members.keys.first(where: { !known.contains($0.text) }) {
            throw .unknownKey(unknown.text, known: known)
        }
        guard let format = json["format"]?.string else { throw .badValue(key: "format") }
        self.init(
            format: format, outputModes: try Self.sizes(json, "output_modes"),
            inputModes: try Self.sizes(json, "input_modes"), ranks: try Self.sizes(json, "ranks"))
    }

    private static func sizes(_ json: JSON, _ key: String) throws(FormatSpecError) -> [Int] {
        let numbers = json[key]?.array?.map(\.int)
        guard let numbers, numbers.allSatisfy({ ($0 ?? 0) > 0 }), numbers.count <= 64 else {
            throw .badValue(key: key)
        }
        return numbers.compactMap(\.self)
    }
}

/// Why a stored format specification cannot be read.
public enum FormatSpecError: Error, Hashable, CustomStringConvertible {
    case notAnObject(found: String)
    case unknownKey(String, known: [String])
    case badValue(key: String)

    /// What was found and what belongs there.
    public var description: String {
        switch self {
        case .notAnObject(let found): "a format specification must be an object, found \(found)"
        case .unknownKey(let key, let known):
            "unknown key \"\(key)\"; the keys are \(known.joined(separator: ", "))"
        case .badValue(let key):
            key == "format"
                ? "\"format\" must be a string" : "\"\(key)\" must be a list of positive integers"
        }
    }
}
