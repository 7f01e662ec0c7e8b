import MinimaCheckpoint
import MinimaCore
import MinimaFormats

extension InspectionResult {
    /// Configuration values worth a line, under shorter names.
    private static let architectureKeys = [
        ("hidden_size", "hidden"), ("num_hidden_layers", "layers"),
        ("num_attention_heads", "heads"), ("num_key_value_heads", "kv heads"),
        ("head_dim", "head dim"), ("intermediate_size", "FFN"), ("vocab_size", "vocabulary"),
        ("max_position_embeddings", "context"), ("tie_word_embeddings", "tied"),
        ("num_local_experts", "experts"), ("num_experts", "experts"),
        ("num_experts_per_tok", "active experts"), ("moe_intermediate_size", "expert FFN"),
    ]

    /// What the headers of `checkpoint` say; works for families that Minima cannot run, too.
    ///
    /// Packed codes count as the numbers that they stand for.
    ///
    /// - Complexity: O(tensors); no weight is read.
    public init(_ checkpoint: Checkpoint) throws {
        var architecture: [String: String] = [:]
        let method = checkpoint.config.quantizationConfig?["quant_method"]?.string
        var manifest = CompressionManifest()
        if let method, method != CompressionManifest.method {
            architecture["quantised by"] = method
        } else {
            manifest = try CompressionManifest(checkpoint.config)
        }
        for (key, name) in Self.architectureKeys {
            guard let value = checkpoint.config.value(key) else { continue }
            architecture[name] = value.text(indent: nil)
        }
        if manifest.modules[LinearShape.headName] != nil, architecture["tied"] == "true" {
            architecture["tied"] = "false (\(LinearShape.headName) is stored beside the embedding)"
        }
        var dtypes: [String: Int] = [:]
        var parts: [Part] = []
        var modules: [String: Set<String>] = [:]
        let counts = Self.parameterCounts(manifest, checkpoint)
        // Scales are no parameters, and where it is not known what they are, all counts.
        let numbers = (try? checkpoint.contents()).map { Set($0.map { JSON.Name($0.name) }) }
        for tensor in checkpoint.tensors {
            dtypes[tensor.dtype.rawValue, default: 0] += tensor.byteCount
            let module = Self.module(of: tensor.name, manifest)
            let group = Self.group(of: module)
            let index =
                parts.firstIndex { $0.name == group }
                ?? {
                    parts.append(
                        Part(name: group, modules: 0, formats: [:], parameters: 0, bytes: 0))
                    return parts.count - 1
                }()
            if counts[module] == nil, numbers?.contains(JSON.Name(tensor.name)) ?? true {
                parts[index].parameters += tensor.elementCount
            }
            parts[index].bytes += tensor.byteCount
            if modules[group, default: []].insert(module).inserted {
                parts[index].parameters += counts[module] ?? 0
                parts[index].modules += 1
                let format = manifest.modules[module]?.format ?? Dense.name
                parts[index].formats[format, default: 0] += 1
            }
        }
        parts.sort { Self.order($0.name) < Self.order($1.name) }
        self.init(
            model: checkpoint.path, family: try checkpoint.config.modelType,
            architecture: architecture, files: checkpoint.files.count, dtypes: dtypes,
            parameters: parts.reduce(0) { $0 + $1.parameters },
            bytes: checkpoint.byteCount, parts: parts)
    }

    /// Numbers of the compressed modules, as far as the family and so their shapes are known, and
    /// no larger than is believed: sums of many parts may claim anything.
    private static func parameterCounts(_ manifest: CompressionManifest, _ checkpoint: Checkpoint)
        -> [String: Int]
    {
        guard !manifest.modules.isEmpty, let sites = try? checkpoint.sites() else { return [:] }
        var counts: [String: Int] = [:]
        let head = try? checkpoint.config.headSite()
        for site in sites + (head.map { [$0] } ?? []) {
            let shapes =
                [(name: site.name, outputs: site.outputs, inputs: site.inputs)]
                + site.members.map { ($0.name, $0.outputs, $0.inputs) }
            for (name, outputs, inputs) in shapes {
                guard let spec = manifest.modules[name],
                    let count = try? FormatRegistry.format(spec.format)
                        .parameterCount(spec, outputs: outputs, inputs: inputs),
                    count <= ModelConfig.largestMatrix
                else { continue }
                counts[name] = count
            }
        }
        return counts
    }

    /// `model.layers.3.mlp.up_proj` for `model.layers.3.mlp.up_proj.blocks.0.cores.1.codes` where the
    /// manifest names that module; else the tensor's name without its last component.
    private static func module(of tensor: String, _ manifest: CompressionManifest) -> String {
        guard let last = tensor.lastIndex(of: ".") else { return tensor }
        var module = tensor[..<last]
        // Two components per composite, and those of a quantised core.
        for _ in 0..<2 * FormatSpec.deepest + 3 {
            if manifest.modules[String(module)] != nil { return String(module) }
            guard let dot = module.lastIndex(of: ".") else { break }
            module = module[..<dot]
        }
        return String(tensor[..<last])
    }

    /// `mlp.up_proj` for that module: its name without the layer and what stands before it.
    private static func group(of module: String) -> String {
        let components = module.split(separator: ".")
        guard let number = components.firstIndex(where: { Int($0) != nil }) else {
            return components.first == "model"
                ? components.dropFirst().joined(separator: ".") : module
        }
        return components[(number + 1)...].map { Int($0) == nil ? $0 : "*" }
            .joined(separator: ".")
    }

    /// The order in which a forward pass meets the parts.
    private static func order(_ part: String) -> Int {
        let order = [
            "embed_tokens", "input_layernorm", "self_attn.q_proj", "self_attn.k_proj",
            "self_attn.v_proj", "self_attn.qkv_proj", "self_attn.q_norm", "self_attn.k_norm",
            "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
            "mlp.gate_up_proj", "mlp.down_proj", "mlp.gate", "mlp.experts.*.gate_proj",
            "mlp.experts.*.up_proj", "mlp.experts.*.gate_up_proj", "mlp.experts.*.down_proj",
        ]
        if let index = order.firstIndex(of: part) { return index }
        return part == "lm_head" ? 1000 : part == "norm" ? 999 : 500
    }
}
