import Glibc
import MinimaCore
import MinimaModels
import MinimaTensor

/// Second moments `C = E[x·xᵀ]` of the inputs of a model's linear layers.
public final class SecondMoments {
    private var sums: [String: Tensor] = [:]
    /// Rows that each sum holds.
    public private(set) var tokens = 0

    /// No inputs seen yet.
    public init() {}

    /// `C` `[inputs, inputs]`, float64, for the module called `name`.
    public func moment(_ name: String) throws -> Tensor? {
        try sums[name].map { try $0 / Double(max(tokens, 1)) }
    }

    /// Runs `model` over `windows` and adds up the inputs of its linear layers.
    ///
    /// Products are taken in float32 per pass and summed in float64. Layers that share an input
    /// share its moment.
    ///
    /// - Throws: `StageError.notEnoughMemory` before anything is computed.
    public func accumulate(
        _ model: any LanguageModel, _ windows: [[Int32]], tokensPerPass: Int? = nil,
        progress: ProgressHandler = { _ in }
    ) throws {
        guard let context = windows.first?.count, context > 0 else {
            throw StageError.tooLittleText(tokens: 0, needed: 1, purpose: "calibration")
        }
        let vocabulary = model.dimensions.vocabulary
        for id in windows.joined() where id < 0 || id >= vocabulary {
            throw StageError.tokenOutOfRange(id: id, vocabulary: vocabulary)
        }
        let total = windows.reduce(0) { $0 + $1.count }
        let perPass = tokensPerPass ?? (model.device == .cpu ? 2048 : 32768)
        for batch in TokenWindows.batches(windows, size: max(perPass / context, 1)) {
            try withoutGradients {
                _ = try model.run(TokenWindows.tensor(batch)) { names, input in
                    try self.add(names, input)
                }
            }
            tokens += batch.count * batch[0].count
            try progress(
                StageProgress(stage: "calibrate", done: tokens, total: total, unit: "tokens"))
        }
    }

    private func add(_ names: [String], _ input: Tensor) throws {
        let width = input.shape[input.rank - 1]
        let rows = try input.reshape([-1, width]).to(dtype: .float32)
        let product = try rows.transpose().matmul(rows)
        if let sum = sums[names[0]] {
            try sum.addInPlace(product)
        } else {
            let sum = try product.to(dtype: .float64)
            for name in names { sums[name] = sum }
        }
    }

    /// Bytes that the moments of layers of these shapes take, at most.
    ///
    /// Layers that share an input share its moment, so this counts each width once per
    /// distinct parent module.
    static func byteCount(_ shapes: [LinearShape]) -> Int {
        var seen: Set<String> = []
        return shapes.reduce(0) { bytes, shape in
            let parent = shape.name.split(separator: ".").dropLast().joined(separator: ".")
            let isNew = seen.insert("\(parent) \(shape.inputs)").inserted
            return bytes + (isNew ? shape.inputs * shape.inputs * 8 : 0)
        }
    }

    /// Throws when the moments of these layers do not fit the device's free memory.
    public static func checkMemory(_ shapes: [LinearShape], on device: Device) throws {
        let needed = byteCount(shapes)
        let available =
            try device.memory()?.free
            ?? Int(sysconf(Int32(_SC_AVPHYS_PAGES))) * Int(sysconf(Int32(_SC_PAGESIZE)))
        guard needed <= available else {
            throw StageError.notEnoughMemory(
                purpose: "calibration (second moments of \(shapes.count) layers)",
                neededBytes: needed, availableBytes: available)
        }
    }
}
