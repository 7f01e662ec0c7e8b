import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaRuntime
import MinimaStages

/// How random weights are stored: `FORMAT[:SHARE[@PART]][:intBITS]`.
struct WeightChoice: Hashable, ExpressibleByArgument {
    var format: String
    /// Share of the linear layers' parameters that is removed.
    var ratio = 0.0
    /// A component of the names of the layers that it is removed from; `nil`: all.
    var part: String?
    /// Bits of codes; `nil` for bfloat16.
    var bits: Int?

    /// Neighbours that share a scale.
    static let groupSize = 64
    /// Ranks are multiples of this: a stage of the decoding kernel's, whatever the weights' type.
    static let alignment = 128

    init(format: String) {
        self.format = format
    }

    /// Reads `dense`, `dense:int4`, `interpolative:0.383`, `tt:0.383@mlp:int8`.
    init?(argument: String) {
        var parts = argument.split(separator: ":", omittingEmptySubsequences: false)[...]
        guard let name = parts.popFirst(), !name.isEmpty else { return nil }
        format = String(name)
        if let first = parts.first {
            let words = first.split(
                separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
            if let share = Double(words[0]), words.last?.isEmpty == false {
                ratio = share
                part = words.count > 1 ? String(words[1]) : nil
                parts = parts.dropFirst()
            }
        }
        if let text = parts.popFirst() {
            guard text.hasPrefix("int"), let bits = Int(text.dropFirst(3)) else { return nil }
            self.bits = bits
        }
        guard parts.isEmpty else { return nil }
    }

    /// Throws unless the format, the share and the bits exist and go together.
    func check() throws {
        guard try FormatRegistry.format(format) is any BudgetedFormat.Type else {
            let known = FormatRegistry.all.filter { $0 is any BudgetedFormat.Type }.map { $0.name }
            throw ValidationError(
                "--weights \(format) is made of other formats; start with one of "
                    + known.joined(separator: ", "))
        }
        let isDense = format == Dense.name
        guard !isDense || ratio == 0 else {
            throw ValidationError(
                "--weights dense removes nothing, found a share of \(ratio); leave the share out")
        }
        guard isDense || ratio > 0 && ratio < 1 else {
            throw ValidationError(
                "--weights \(format) needs a share to remove between 0 and 1, found "
                    + "\(ratio == 0 ? "none" : "\(ratio)"); write for example \(format):0.35")
        }
        guard let bits else { return }
        let spec = FormatSpec(
            format: Quantized.name, bits: bits, parts: [FormatSpec(format: Dense.name)])
        do throws(FormatError) {
            _ = try Quantized.layout(spec, outputs: 16, inputs: 16)
        } catch {
            throw ValidationError("--weights \(format): \(error)")
        }
    }

    /// What tables call it.
    var label: String {
        let place = part.map { " (\($0))" } ?? ""
        let size = ratio > 0 ? " −\(fixed(100 * ratio, 1))%\(place)" : ""
        return "\(format)\(size) \(bits.map { "int\($0)" } ?? "bf16")"
    }

    /// The plan for all linear layers of `model`.
    func plan(_ model: any WeightSource) throws -> CompressionPlan {
        try .sharing(
            model, ratio: ratio, from: part, format: format, alignment: Self.alignment,
            quantization: bits.map { ($0, Self.groupSize) }, version: Minima.versionNumber)
    }
}

/// What proposes tokens in a benchmark: `ngram`, `random[:intBITS]`, or a draft's directory.
struct DraftChoice: Hashable, ExpressibleByArgument {
    enum Kind: Hashable {
        case ngram
        case random(bits: Int?)
        case directory(String)
    }

    var kind: Kind

    /// Reads `ngram`, `random`, `random:int8`, a path.
    init?(argument: String) {
        let parts = argument.split(separator: ":", omittingEmptySubsequences: false)
        switch (parts.first, parts.count) {
        case ("ngram", 1): kind = .ngram
        case ("random", 1): kind = .random(bits: nil)
        case ("random", 2):
            guard parts[1].hasPrefix("int"), let bits = Int(parts[1].dropFirst(3)) else {
                return nil
            }
            kind = .random(bits: bits)
        default:
            guard !argument.isEmpty else { return nil }
            kind = .directory(argument)
        }
    }

    /// Throws unless the bits exist.
    func check() throws {
        guard case .random(let bits?) = kind else { return }
        var choice = WeightChoice(format: Dense.name)
        choice.bits = bits
        do { try choice.check() } catch {
            throw ValidationError(
                "--draft random:int\(bits): codes have 2, 3, 4, 5, 6 or 8 bits")
        }
    }

    /// What tables call it.
    var label: String {
        switch kind {
        case .ngram: "n-gram"
        case .random(let bits): "random \(bits.map { "int\($0)" } ?? "bf16")"
        case .directory(let path): path
        }
    }

    /// What the benchmark is asked.
    ///
    /// - Throws: `CheckpointError` for a directory that is none.
    func speculation(draftTokens: [Int], lengths: [Double]) throws -> DecodeBench.Speculation {
        let draft: DecodeBench.Speculation.Draft =
            switch kind {
            case .ngram: .ngram
            case .random(let bits): .random(bits: bits)
            case .directory(let path): .head(try Checkpoint(path: path))
            }
        return DecodeBench.Speculation(
            draft: draft, label: label, draftTokens: draftTokens, lengths: lengths)
    }
}

/// Sizes of published models.
enum ModelShape {
    /// `config.json` by name.
    static let all: [String: [(String, Int)]] = [
        "qwen3-32b": qwen3(
            hidden: 5120, intermediate: 25_600, layers: 64, heads: 64, vocabulary: 151_936),
        "qwen3-14b": qwen3(
            hidden: 5120, intermediate: 17_408, layers: 40, heads: 40, vocabulary: 151_936),
        "qwen3-8b": qwen3(
            hidden: 4096, intermediate: 12_288, layers: 36, heads: 32, vocabulary: 151_936),
    ]

    /// For messages.
    static var names: String { all.keys.sorted().joined(separator: ", ") }

    /// The configuration of one of ``all``.
    static func config(_ name: String) throws -> ModelConfig {
        var members: [(JSON.Name, JSON)] = [
            ("model_type", .string("qwen3")), ("dtype", .string("bfloat16")),
            ("tie_word_embeddings", .bool(false)), ("attention_bias", .bool(false)),
            ("hidden_act", .string("silu")), ("rms_norm_eps", .number(1e-6)),
        ]
        for (key, value) in all[name] ?? [] {
            members.append((JSON.Name(key), .integer(Int64(value))))
        }
        return try ModelConfig(json: .object(.init(uniqueKeysWithValues: members)), path: name)
    }

    private static func qwen3(
        hidden: Int, intermediate: Int, layers: Int, heads: Int, vocabulary: Int
    ) -> [(String, Int)] {
        [
            ("hidden_size", hidden), ("intermediate_size", intermediate),
            ("num_hidden_layers", layers), ("num_attention_heads", heads),
            ("num_key_value_heads", 8), ("head_dim", 128), ("vocab_size", vocabulary),
            ("max_position_embeddings", 40_960), ("rope_theta", 1_000_000),
        ]
    }
}
