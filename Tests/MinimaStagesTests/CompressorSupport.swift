import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport

@testable import MinimaStages

/// The committed example model.
func exampleModel() throws -> Checkpoint {
    try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
}

/// Windows of token ids that mean nothing.
func someSources(_ source: any WeightSource, windows: Int = 16, length: Int = 16) throws
    -> [CalibrationSource]
{
    let vocabulary = try source.config.int("vocab_size")
    let tokens = someTokens(windows * length, vocabulary: vocabulary)
    return [
        CalibrationSource(
            name: "test",
            windows: TokenWindows.split([tokens], context: length, keepRest: false))
    ]
}

/// Text that a model writes itself.
func sampledText(_ model: any LanguageModel, windows: Int, length: Int, seed: UInt64) throws
    -> [[Int32]]
{
    let generator = try RandomGenerator(seed: seed)
    let cache = KVCache(layers: model.dimensions.layers)
    var tokens = try Tensor.zeros([windows, 1], dtype: .int64)
    var text = tokens
    try withoutGradients {
        while text.shape[1] < length {
            let hidden = try model.run(tokens, cache: cache)
            let logits = try model.logits(hidden).to(dtype: .float32)
            // The largest of logit + Gumbel noise is a sample of the softmax.
            let noise = try Tensor.empty(logits.shape)
            try noise.fillExponential(generator: generator)
            let chances = try logits.softmax(-1) / noise
            tokens = try chances.argmax(-1)
            text = try Tensor.cat([text, tokens], dim: 1)
        }
    }
    return try (0..<windows).map { window in
        try text.select(0, window).values(as: Int64.self).map { Int32($0) }
    }
}

/// A dense model whose linear layers are stored in blocks of float8, one each, as public
/// checkpoints have it.
///
/// - Parameter dtype: The type that its configuration names; `nil` names none.
func inBlocksOfFloat8(_ dense: Checkpoint, dtype: String?, at path: String) throws -> Checkpoint {
    var tensors: [(name: String, tensor: Tensor)] = []
    for info in dense.tensors {
        let tensor = try dense.tensor(info.name)
        guard info.name.hasSuffix("_proj.weight") else {
            tensors.append((info.name, tensor))
            continue
        }
        let codes = try (tensor.to(dtype: .float32) * 64).to(dtype: .float8e4m3)
        tensors.append((info.name, codes))
        tensors.append(("\(info.name)_scale_inv", try .full([1, 1], 0x1p-6)))
    }
    var config = dense.config.json.object ?? [:]
    config["quantization_config"] = ["quant_method": "fp8", "weight_block_size": [4096, 4096]]
    for key in ["dtype", "torch_dtype"] { config.removeValue(forKey: JSON.Name(key)) }
    if let dtype { config["torch_dtype"] = .string(dtype) }
    try writeCheckpoint(tensors, config: .object(config), to: path)
    return try Checkpoint(path: path)
}

/// A request for `plan` with reproducible calibration text.
func compression(
    _ source: any WeightSource, _ plan: CompressionPlan, compensation: Compensation = .off,
    sources: [CalibrationSource]? = nil
) throws -> Compressor.Request {
    Compressor.Request(
        plan: plan, sources: try sources ?? someSources(source), seed: 1,
        compensation: compensation, device: .cpu, version: "test", tokensPerPass: 64)
}

/// A plan of the given modules.
func plan(
    _ source: any WeightSource, _ modules: [(name: String, shape: [Int], spec: FormatSpec)]
) -> CompressionPlan {
    CompressionPlan(
        version: "test", model: source.path, fingerprints: [:], target: "test", formats: [],
        linearParametersBefore: 0, linearParametersAfter: 0, linearBytesBefore: 0,
        linearBytesAfter: 0, damage: nil,
        modules: modules.map {
            .init(
                name: $0.name, outputs: $0.shape[0], inputs: $0.shape[1], spec: $0.spec,
                parameters: 0, bytes: 0, damage: nil)
        })
}

/// Contents of all files of a directory but its account, by name.
func weights(_ path: String) throws -> [String: Data] {
    var files: [String: Data] = [:]
    for name in try FileManager.default.contentsOfDirectory(atPath: path)
    where name != "minima.json" {
        files[name] = try Data(contentsOf: URL(filePath: "\(path)/\(name)"))
    }
    return files
}
