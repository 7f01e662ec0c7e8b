import MinimaCheckpoint
import MinimaCore

/// Which modules of a checkpoint are stored in which format: the `quantization_config` of a
/// Minima checkpoint's `config.json`.
public struct CompressionManifest: Sendable, Hashable {
    /// The `quant_method` under which Hugging Face's registries find Minima's plug-in.
    public static let method = "minima"
    /// The version of this layout.
    public static let currentVersion = 1

    /// Formats of the modules that are not dense, by module name
    /// (`model.layers.0.mlp.gate_proj`).
    public var modules: [String: FormatSpec]

    /// A manifest of `modules`.
    public init(modules: [String: FormatSpec] = [:]) {
        self.modules = modules
    }

    /// The value of `quantization_config`.
    public var json: JSON {
        let entries = modules.sorted { $0.key < $1.key }.map { (JSON.Name($0), $1.json) }
        return .object([
            "quant_method": .string(Self.method),
            "format_version": .integer(Int64(Self.currentVersion)),
            "modules": .object(.init(uniqueKeysWithValues: entries)),
        ])
    }

    /// The manifest of a checkpoint; empty when nothing is compressed, also where weights are
    /// stored in blocks of float8 (`Float8Blocks`), which are read as the numbers that they stand
    /// for.
    ///
    /// - Throws: `CheckpointError` for another method or version and for unknown or bad values.
    public init(_ config: ModelConfig) throws(CheckpointError) {
        self.init()
        guard let section = try config.sectionIfPresent("quantization_config") else { return }
        let method = try section.string("quant_method")
        guard try Float8Blocks(config) == nil else { return }
        guard method == Self.method else {
            throw section.mismatch(
                "quant_method",
                expected: "\"\(Self.method)\" or \"\(Float8Blocks.method)\"; take the original "
                    + "checkpoint, not one quantised by another tool")
        }
        let version = try section.int("format_version")
        guard version == Self.currentVersion else {
            throw section.mismatch(
                "format_version", expected: "\(Self.currentVersion); use the Minima that wrote it")
        }
        let known = ["quant_method", "format_version", "modules"]
        for key in section.json.object?.keys ?? [] where !known.contains(key.text) {
            throw section.mismatch(key.text, expected: "one of the keys \(known)")
        }
        guard let entries = try section.sectionIfPresent("modules")?.json.object else {
            throw section.mismatch("modules", expected: "an object")
        }
        for (name, entry) in entries {
            do throws(FormatSpecError) {
                modules[name.text] = try FormatSpec(json: entry)
            } catch {
                throw .value(
                    path: section.path, key: "quantization_config.modules.\(name)",
                    found: entry.text(indent: nil), expected: "a format specification: \(error)")
            }
        }
    }
}
