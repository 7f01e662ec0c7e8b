import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// What a survey found in one decoder layer.
struct LayerSurvey: Codable {
    /// What everything in it depends on.
    var key: String
    /// Sites in forward order.
    var sites: [SiteAnalysis]
    /// Patches that are probed.
    var entries: [ProbeDesign.Entry]
    /// ½·tr(ΔᵀHΔC) of each.
    var errors: [Double]
}

/// Surveys and probes that are done, in a directory: `survey-000.json` with the layer's sites,
/// `survey-000.safetensors` with the values of its probed patches, `probes.json` with what was
/// measured. Files of another key are ignored and overwritten.
///
/// Without a directory, everything is kept in memory.
final class SurveyStore {
    private let directory: String?
    let key: String
    private var memory: [Int: (survey: LayerSurvey, values: [Tensor])] = [:]
    private var measured: [String: Double]

    private struct Measured: Codable {
        var key: String
        var divergences: [String: Double]
    }

    init(directory: String?, key: String) {
        self.directory = directory
        self.key = key
        measured = [:]
        if let directory, let data = Self.contents("\(directory)/probes.json"),
            let stored = try? JSONDecoder().decode(Measured.self, from: data), stored.key == key
        {
            measured = stored.divergences
        }
    }

    private static func contents(_ path: String) -> Data? {
        FileManager.default.contents(atPath: path)
    }

    private func path(_ layer: Int, _ ending: String) -> String? {
        directory.map { "\($0)/survey-\(layer.zeroPadded(3)).\(ending)" }
    }

    /// Keeps what was found in `layer`.
    func save(_ survey: LayerSurvey, _ values: [Tensor], layer: Int) throws {
        guard let file = path(layer, "safetensors"), let record = path(layer, "json"),
            let directory
        else {
            memory[layer] = (survey, values)
            return
        }
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        let descriptions = values.enumerated().map {
            TensorDescription(name: "\($0)", dtype: $1.dtype, shape: $1.shape)
        }
        let writer = try SafetensorsWriter(
            file: file, tensors: descriptions, metadata: ["key": key])
        for (index, tensor) in values.enumerated() {
            try tensor.withBytes { (bytes) throws(CheckpointError) in
                try writer.write(bytes, to: "\(index)")
            }
        }
        try writer.finish()
        // Last: a layer whose record is there is complete.
        try AtomicFile.write(Array(JSONEncoder().encode(survey)), to: record)
    }

    /// What was found in `layer`; `nil` when that is not known.
    func survey(layer: Int) -> LayerSurvey? {
        if let kept = memory[layer] { return kept.survey }
        guard let record = path(layer, "json"), let data = Self.contents(record),
            let survey = try? JSONDecoder().decode(LayerSurvey.self, from: data),
            survey.key == key, let file = path(layer, "safetensors"),
            let values = try? SafetensorsFile(path: file),
            values.metadata[JSON.Name("key")] == key, values.tensors.count == survey.entries.count
        else { return nil }
        return survey
    }

    /// Those probed patches of `layer` that are `wanted` with their values, on the CPU.
    func substitutes(layer: Int, _ wanted: Set<ProbeDesign.Entry>) throws -> [PatchSubstitute] {
        guard let survey = survey(layer: layer) else { return [] }
        let indices = survey.entries.indices.filter { wanted.contains(survey.entries[$0]) }
        if let kept = memory[layer] {
            return indices.map {
                PatchSubstitute(
                    entry: survey.entries[$0], values: kept.values[$0], error: survey.errors[$0])
            }
        }
        guard let path = path(layer, "safetensors") else { return [] }
        let file = try SafetensorsFile(path: path)
        return try indices.map { index in
            guard let info = file.tensors.first(where: { $0.name == "\(index)" }) else {
                throw CheckpointError.noSuchTensor(
                    path: path, name: "\(index)", count: file.tensors.count)
            }
            let values = try file.bytes(of: info.name).withUnsafeBytes {
                (bytes) throws(TensorError) in
                try Tensor(bytes: bytes, shape: info.shape, dtype: info.dtype)
            }
            return PatchSubstitute(
                entry: survey.entries[index], values: values, error: survey.errors[index])
        }
    }

    /// The measured divergence of `entry`; `nil` when it was not measured yet.
    func divergence(_ entry: ProbeDesign.Entry) throws -> Double? {
        measured[try Self.name(entry)]
    }

    /// Keeps measured divergences.
    func save(_ divergences: [(entry: ProbeDesign.Entry, value: Double)]) throws {
        for (entry, value) in divergences { measured[try Self.name(entry)] = value }
        guard let directory else { return }
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        let record = try JSONEncoder().encode(Measured(key: key, divergences: measured))
        try AtomicFile.write(Array(record), to: "\(directory)/probes.json")
    }

    private static func name(_ entry: ProbeDesign.Entry) throws -> String {
        "\(entry.site) \(entry.patch) \(entry.spec.json.text(indent: nil))"
    }
}
