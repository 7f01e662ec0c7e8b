import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

/// Second moments `C = E[x·xᵀ]` of the inputs of a model's linear layers.
///
/// All of them live at once, `inputs²` float64 values for each distinct input, beside the model:
/// 370 GiB for Qwen3-32B, which therefore does not fit. ``checkMemory(_:dtype:on:)`` says so
/// beforehand; calibration that streams layer by layer is the next stage's work.
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
    /// share its moment. Empty windows are left out.
    ///
    /// - Throws: `StageError.tooLittleText` where that leaves none, `ModelError.tokenOutOfRange`
    ///   for foreign token ids.
    public func accumulate(
        _ model: any LanguageModel, _ windows: [[Int32]], tokensPerPass: Int? = nil,
        progress: ProgressHandler = { _ in }
    ) throws {
        let total = windows.reduce(0) { $0 + $1.count }
        guard total > 0 else {
            throw StageError.tooLittleText(tokens: 0, needed: 1, purpose: "calibration")
        }
        try model.requireTokens(windows.joined())
        let perPass = tokensPerPass ?? (model.device == .cpu ? 2048 : 32768)
        var done = 0
        for batch in TokenWindows.batches(windows, tokens: perPass) {
            try withoutGradients {
                _ = try model.run(TokenWindows.tensor(batch)) { names, input in
                    try self.add(names, input)
                }
            }
            done += batch.count * batch[0].count
            tokens += batch.count * batch[0].count
            try progress(
                StageProgress(stage: "calibrate", done: done, total: total, unit: "tokens"))
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

    /// Bytes that the moments of layers of these shapes take: one moment for each distinct input.
    static func byteCount(_ shapes: [LinearShape]) -> Int {
        var seen: Set<String> = []
        return Saturating.sum(
            shapes.filter { seen.insert($0.input).inserted }.map {
                Saturating.product([$0.inputs, $0.inputs, DType.float64.byteCount])
            })
    }

    /// Throws `StageError.notEnoughMemory` when the model of `checkpoint` in `dtype` and the
    /// moments of its linear layers do not fit the device's free memory together.
    public static func checkMemory(_ checkpoint: Checkpoint, dtype: DType, on device: Device) throws
    {
        let shapes = try FamilyRegistry.family(checkpoint.config).linearShapes(checkpoint.config)
        let parameters = Saturating.sum(checkpoint.tensors.map(\.elementCount))
        let weights = Saturating.product([parameters, dtype.byteCount])
        let needed = Saturating.sum([weights, byteCount(shapes)])
        guard let available = try device.memory()?.free ?? HostMemory.available(),
            needed > available
        else { return }
        throw StageError.notEnoughMemory(
            purpose: "calibration (the model and the second moments of \(shapes.count) layers)",
            neededBytes: needed, availableBytes: available)
    }
}
