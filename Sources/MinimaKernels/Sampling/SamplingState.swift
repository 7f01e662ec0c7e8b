import MinimaCore
import MinimaTensor

/// What sampling keeps on the device for each slot, from step to step.
public struct SamplingState: Sendable {
    /// Slots.
    public let slots: Int
    /// Tokens of the model.
    public let vocabulary: Int
    /// Index of the input token of the next step, int32 `[slots]`; the sampling kernel adds 1.
    public let positions: Tensor
    /// The token chosen last, int32 `[slots]`; −1 where a logit was not finite.
    public let tokens: Tensor
    /// Natural logarithm of the sum of e^logit, float32 `[slots]`, for slots that want it.
    public let logSums: Tensor
    /// The chosen token's logit before bias and penalties, float32 `[slots]`, for slots that want it.
    public let chosenLogits: Tensor

    /// int32 `[slots, 16]`.
    let settings: Tensor
    /// int32 and float32 `[slots, mostBiases]`.
    let biasTokens: Tensor
    let biasValues: Tensor
    /// Which tokens each slot's sequence holds, 16 bits each; `nil` where no slot has penalties.
    let history: Tensor?

    /// Bytes on the device.
    public static func bytes(slots: Int, vocabulary: Int, keepsHistory: Bool = true) -> Int {
        let row = 16 + 4 * SamplingKernel.settingWords + 8 * SamplingKernel.mostBiases
        return slots * (row + (keepsHistory ? 2 * historyStride(vocabulary) : 0))
    }

    static func historyStride(_ vocabulary: Int) -> Int { (vocabulary + 7) / 8 * 8 }

    /// Allocates the state of `slots` slots.
    ///
    /// - Parameter keepsHistory: Whether slots may have penalties; costs two bytes per slot and token
    ///   of the vocabulary.
    public init(
        slots: Int, vocabulary: Int, keepsHistory: Bool = true, device: Device
    ) throws(TensorError) {
        self.slots = slots
        self.vocabulary = vocabulary
        func zeros(_ shape: [Int], _ dtype: DType) throws(TensorError) -> Tensor {
            try Tensor.zeros(shape, dtype: dtype, device: device)
        }
        positions = try zeros([slots], .int32)
        tokens = try zeros([slots], .int32)
        logSums = try zeros([slots], .float32)
        chosenLogits = try zeros([slots], .float32)
        settings = try zeros([slots, SamplingKernel.settingWords], .int32)
        biasTokens = try zeros([slots, SamplingKernel.mostBiases], .int32)
        biasValues = try zeros([slots, SamplingKernel.mostBiases], .float32)
        history =
            keepsHistory ? try zeros([slots, Self.historyStride(vocabulary)], .int16) : nil
    }
}
