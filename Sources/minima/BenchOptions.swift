import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaRuntime
import MinimaStages

/// Codes of weights: `intBITS`, with a `u` behind it equally spaced, or `fp8`.
struct CodeChoice: Hashable, ExpressibleByArgument {
    var bits: Int
    var levels = FormatSpec.Levels.normal

    init(bits: Int) {
        self.bits = bits
    }

    /// Reads `int4`, `int4u`, `fp8`.
    init?(_ text: some StringProtocol) {
        guard text != Self.float8 else {
            (bits, levels) = (8, .float8)
            return
        }
        guard text.hasPrefix("int") else { return nil }
        var digits = Substring(text.dropFirst(3))
        if digits.last == "u" {
            levels = .uniform
            digits = digits.dropLast()
        }
        guard let bits = Int(digits) else { return nil }
        self.bits = bits
    }

    /// Reads `int4`, `int4u`, `fp8`.
    init?(argument: String) {
        self.init(argument)
    }

    /// What follows `+head` in `dense:int4+head8`: what codes are called, without `int`.
    init?(head text: some StringProtocol) {
        self.init(text == Self.float8 ? String(text) : "int\(text)")
    }

    private static let float8 = "fp8"

    /// Throws unless codes can have these bits.
    ///
    /// - Parameter option: What they were given to, for the message.
    func check(for option: String) throws {
        do throws(FormatError) {
            _ = try Quantized.layout(spec, outputs: 16, inputs: 16)
        } catch {
            throw ValidationError("\(option): \(error)")
        }
    }

    /// A matrix in such codes.
    var spec: FormatSpec {
        FormatSpec(
            format: Quantized.name, bits: bits, groupSize: WeightChoice.groupSize, levels: levels,
            parts: [FormatSpec(format: Dense.name)])
    }

    /// What tables call it.
    var label: String { spec.title }

    /// As it is asked for.
    var name: String { levels == .float8 ? Self.float8 : "int\(headName)" }

    /// As it is asked for behind `+head`.
    var headName: String {
        levels == .float8 ? Self.float8 : "\(bits)\(levels == .uniform ? "u" : "")"
    }
}

/// How random weights are stored: `FORMAT[/split][:SHARE[@PART]][:CODES][+headCODES]`, the last without
/// `int`.
struct WeightChoice: Hashable, ExpressibleByArgument {
    var format: String
    /// Whether a tensor format's modes are split truly, so that it is no product of two matrices.
    var splitsModes = false
    /// Share of the linear layers' parameters that is removed.
    var ratio = 0.0
    /// A component of the names of the layers that it is removed from; `nil`: all.
    var part: String?
    /// Codes; `nil` for bfloat16.
    var codes: CodeChoice?
    /// The output projection's codes; `nil` for bfloat16.
    var head: CodeChoice?

    /// Neighbours that share a scale.
    static let groupSize = 64
    /// Ranks are multiples of this: a stage of the decoding kernel's, whatever the weights' type.
    static let alignment = 128

    init(format: String) {
        self.format = format
    }

    /// Reads `dense`, `dense:int4u`, `interpolative:0.383`, `tt:0.383@mlp:int8`, `dense:int4+head8`.
    init?(argument: String) {
        var layers = argument[...]
        if let plus = argument.lastIndex(of: "+") {
            let text = argument[argument.index(after: plus)...]
            guard text.hasPrefix("head"), let codes = CodeChoice(head: text.dropFirst(4)) else {
                return nil
            }
            head = codes
            layers = argument[..<plus]
        }
        var parts = layers.split(separator: ":", omittingEmptySubsequences: false)[...]
        guard let name = parts.popFirst(), !name.isEmpty else { return nil }
        splitsModes = name.hasSuffix("/split")
        format = String(splitsModes ? name.dropLast("/split".count) : name)
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
            guard let codes = CodeChoice(text) else { return nil }
            self.codes = codes
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
        guard try !splitsModes || Self.hasWholeModes(FormatRegistry.format(format)) else {
            let known = FormatRegistry.all.filter(Self.hasWholeModes).map { $0.name }
            throw ValidationError(
                "--weights \(format)/split: \(format) keeps no modes whole; write /split behind one of "
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
        if let codes { try codes.check(for: "--weights \(format):\(codes.name)") }
        if let head { try head.check(for: "--weights \(format)+head\(head.headName)") }
    }

    /// Whether a format can keep its modes whole, so that splitting them makes a difference.
    private static func hasWholeModes(_ format: any LinearWeight.Type) -> Bool {
        (format as? any TensorFormat.Type)?.wholeModes(outputs: 64, inputs: 64, rank: 8) != nil
    }

    /// What tables call it.
    var label: String {
        let place = part.map { " (\($0))" } ?? ""
        let size = ratio > 0 ? " −\(fixed(100 * ratio, 1))%\(place)" : ""
        let tail = head.map { ", head \($0.label)" } ?? ""
        return "\(format)\(splitsModes ? " split" : "")\(size) \(codes?.label ?? "bf16")\(tail)"
    }

    /// The plan for all linear layers of `model`, and its output projection.
    func plan(_ model: any WeightSource) throws -> CompressionPlan {
        let plan = try CompressionPlan.sharing(
            model, ratio: ratio, from: part, format: format, splitsModes: splitsModes,
            alignment: Self.alignment,
            quantization: codes.map { ($0.bits, Self.groupSize, $0.levels) },
            version: Minima.versionNumber)
        return try head.map {
            try plan.withHead(bits: $0.bits, levels: $0.levels, of: model)
        } ?? plan
    }
}

/// How many tokens steps of a benchmark propose: a number, or `auto`.
enum ProposalChoice: Hashable, ExpressibleByArgument {
    case fixed(Int)
    case automatic

    /// The number, where it is one.
    var count: Int? {
        guard case .fixed(let count) = self else { return nil }
        return count
    }

    init?(argument: String) {
        guard argument != "auto" else {
            self = .automatic
            return
        }
        guard let count = Int(argument) else { return nil }
        self = .fixed(count)
    }
}

/// What proposes tokens in a benchmark: `ngram`, `random[:SHAPE][:CODES]`, or a draft's directory.
struct DraftChoice: Hashable, ExpressibleByArgument {
    enum Kind: Hashable {
        case ngram
        /// A head of the model's sizes; with a shape's name, a model of that shape.
        case random(shape: String?, codes: CodeChoice?)
        case directory(String)
    }

    var kind: Kind

    /// Reads `ngram`, `random`, `random:int8`, `random:qwen3-0.6b:int4`, a path.
    init?(argument: String) {
        var parts = argument.split(separator: ":", omittingEmptySubsequences: false)[...]
        switch (parts.popFirst(), parts.count) {
        case ("ngram", 0): kind = .ngram
        case ("random", 0...2):
            let codes = parts.last.flatMap { CodeChoice($0) }
            if codes != nil { parts = parts.dropLast() }
            guard parts.count <= 1 else { return nil }
            let shape = parts.first.map(String.init)
            guard shape.map({ ModelShape.all[$0] != nil }) ?? true else { return nil }
            kind = .random(shape: shape, codes: codes)
        default:
            guard !argument.isEmpty else { return nil }
            kind = .directory(argument)
        }
    }

    /// Throws unless the bits exist.
    func check() throws {
        guard case .random(let shape, let codes?) = kind else { return }
        let named = shape.map { "\($0):" } ?? ""
        try codes.check(for: "--draft random:\(named)\(codes.name)")
    }

    /// What tables call it.
    var label: String {
        switch kind {
        case .ngram: "n-gram"
        case .random(let shape, let codes):
            "random \(shape.map { "\($0) " } ?? "")\(codes?.label ?? "bf16")"
        case .directory(let path): path
        }
    }

    /// What the benchmark is asked.
    ///
    /// - Parameter width: Children of proposals at most; 1: chains.
    /// - Throws: `CheckpointError` for a directory that is none, ``GenerateError/noTree(_:)`` for a `width`
    ///   above 1 with what is no EAGLE-3 head.
    func speculation(
        draftTokens: [Int], automatic: Int? = nil, lengths: [Double], width: Int = 1, seed: UInt64
    ) throws -> DecodeBench.Speculation {
        let draft = try draft(seed: seed)
        if width > 1 {
            switch draft {
            case .random, .head: break
            case .ngram, .model: throw GenerateError.noTree(label)
            }
        }
        return DecodeBench.Speculation(
            draft: draft, label: width > 1 ? "\(label) (trees of \(width))" : label,
            draftTokens: draftTokens, automatic: automatic, lengths: lengths, width: width)
    }

    private func draft(seed: UInt64) throws -> DecodeBench.Speculation.Draft {
        switch kind {
        case .ngram: return .ngram
        case .random(nil, let codes): return .random(codes?.spec)
        case .random(let shape?, let codes):
            let config = try ModelShape.config(shape)
            let dense = try RandomWeights(config, path: shape, seed: seed)
            guard let codes else { return .model(dense) }
            var choice = WeightChoice(format: Dense.name)
            choice.codes = codes
            return .model(
                try RandomWeights(
                    config, path: shape, seed: seed, plan: choice.plan(dense).modules))
        case .directory(let path):
            let checkpoint = try Checkpoint(path: path)
            return try EagleConfiguration.describes(checkpoint.config)
                ? .head(checkpoint) : .model(checkpoint)
        }
    }
}

/// Sizes of published models.
enum ModelShape {
    /// `config.json` by name.
    static let all: [String: [(String, JSON)]] = [
        "qwen3-32b": qwen3(
            hidden: 5120, intermediate: 25_600, layers: 64, heads: 64),
        "qwen3-14b": qwen3(
            hidden: 5120, intermediate: 17_408, layers: 40, heads: 40),
        "qwen3-8b": qwen3(
            hidden: 4096, intermediate: 12_288, layers: 36, heads: 32),
        "qwen3-4b": qwen3(
            hidden: 2560, intermediate: 9728, layers: 36, heads: 32, tied: true),
        "qwen3-1.7b": qwen3(
            hidden: 2048, intermediate: 6144, layers: 28, heads: 16, tied: true),
        "qwen3-0.6b": qwen3(
            hidden: 1024, intermediate: 3072, layers: 28, heads: 16, tied: true),
    ]

    /// For messages.
    static var names: String { all.keys.sorted().joined(separator: ", ") }

    /// The configuration of one of ``all``.
    static func config(_ name: String) throws -> ModelConfig {
        let members = (all[name] ?? []).map { (JSON.Name($0.0), $0.1) }
        return try ModelConfig(json: .object(.init(uniqueKeysWithValues: members)), path: name)
    }

    private static func qwen3(
        hidden: Int64, intermediate: Int64, layers: Int64, heads: Int64, tied: Bool = false
    ) -> [(String, JSON)] {
        [
            ("model_type", .string("qwen3")), ("dtype", .string("bfloat16")),
            ("tie_word_embeddings", .bool(tied)), ("attention_bias", .bool(false)),
            ("hidden_act", .string("silu")), ("rms_norm_eps", .number(1e-6)),
            ("hidden_size", .integer(hidden)), ("intermediate_size", .integer(intermediate)),
            ("num_hidden_layers", .integer(layers)), ("num_attention_heads", .integer(heads)),
            ("num_key_value_heads", .integer(8)), ("head_dim", .integer(128)),
            ("vocab_size", .integer(151_936)), ("max_position_embeddings", .integer(40_960)),
            ("rope_theta", .integer(1_000_000)),
        ]
    }
}
