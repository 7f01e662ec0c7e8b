import MinimaCore
import MinimaTensor

/// What sampling keeps on the device for each slot, from step to step.
public struct SamplingState: Sendable {
    /// Slots.
    public let slots: Int
    /// Tokens of the model.
    public let vocabulary: Int
    /// Tokens that a step may choose for a slot: one more than it may verify.
    public let places: Int
    /// Index of the input token of the next step, int32 `[slots]`; the sampling kernel adds 1.
    public let positions: Tensor
    /// The token chosen last, int32 `[slots]`; −1 where a logit was not finite.
    public let tokens: Tensor
    /// The tokens chosen in the slot's last step, int32 `[slots, places]`…
    public let emitted: Tensor
    /// …and how many they are, int32 `[slots]`.
    public let counts: Tensor
    /// Proposals for the next step, int32 `[slots, places − 1]`; negative for none. A column of its own
    /// where there are no proposals.
    public let drafts: Tensor
    /// Of each proposal the row of what it follows among a step's rows, int32 `[slots, places − 1]`: 0 the
    /// slot's last token, i + 1 proposal i, which comes before; `nil` where proposals follow each other.
    public let parents: Tensor?
    /// The rows from which the last step's tokens were chosen, int32 `[slots, places]`; `nil` likewise.
    public let path: Tensor?
    /// Natural logarithm of the sum of e^logit behind each chosen token, float32 `[slots, places]`, for
    /// slots that want it.
    public let logSums: Tensor
    /// The chosen tokens' logits before bias and penalties, float32 `[slots, places]`, for slots that
    /// want it.
    public let chosenLogits: Tensor
    /// Which tokens may come next, int32 `[slots, 1 + ⌈vocabulary / 32⌉]`: 1 where the slot has a mask,
    /// otherwise 0; then a bit per token, token 0 the lowest of the first word. Rows are as
    /// ``maskRow(_:)`` makes them.
    public let masks: Tensor
    /// All tokens of each slot's sequence, int32 `[slots, length]`; `nil` where nothing asks.
    public let sequence: Tensor?

    /// int32 `[slots, 16]`.
    let settings: Tensor
    /// int32 and float32 `[slots, mostBiases]`.
    let biasTokens: Tensor
    let biasValues: Tensor
    /// Which tokens each slot's sequence holds, 16 bits each; `nil` where no slot has penalties.
    let history: Tensor?

    /// Bytes on the device.
    public static func bytes(
        slots: Int, vocabulary: Int, places: Int = 1, sequenceLength: Int = 0,
        keepsHistory: Bool = true, holdsTrees: Bool = false
    ) -> Int {
        let row =
            12 + 4 * SamplingKernel.settingWords + 8 * SamplingKernel.mostBiases
            + 4 * (1 + maskWords(vocabulary))
        let tree = holdsTrees ? 4 * places + 4 * max(places - 1, 1) : 0
        let step = 12 * places + 4 * max(places - 1, 1) + 4 * sequenceLength + tree
        return slots * (row + step + (keepsHistory ? 2 * historyStride(vocabulary) : 0))
    }

    /// Words of a mask of a bit per token.
    public static func maskWords(_ vocabulary: Int) -> Int { (vocabulary + 31) / 32 }

    /// What the beginning of a slot's row of ``masks`` becomes with a mask of ``maskWords(_:)`` words, or
    /// without.
    public static func maskRow(_ mask: [UInt32]?) -> [Int32] {
        guard let mask else { return [0] }
        return [1] + mask.map { Int32(bitPattern: $0) }
    }

    static func historyStride(_ vocabulary: Int) -> Int { (vocabulary + 7) / 8 * 8 }

    /// Allocates the state of `slots` slots.
    ///
    /// - Parameters:
    ///   - places: Tokens that a step may choose for a slot, at least 1.
    ///   - sequenceLength: Tokens of the longest sequence where ``sequence`` is kept, else 0.
    ///   - keepsHistory: Whether slots may have penalties; costs two bytes per slot and token of the
    ///     vocabulary.
    ///   - holdsTrees: Whether proposals are trees.
    public init(
        slots: Int, vocabulary: Int, places: Int = 1, sequenceLength: Int = 0,
        keepsHistory: Bool = true, holdsTrees: Bool = false, device: Device
    ) throws(TensorError) {
        self.slots = slots
        self.vocabulary = vocabulary
        self.places = places
        func zeros(_ shape: [Int], _ dtype: DType) throws(TensorError) -> Tensor {
            try Tensor.zeros(shape, dtype: dtype, device: device)
        }
        positions = try zeros([slots], .int32)
        tokens = try zeros([slots], .int32)
        emitted = try zeros([slots, places], .int32)
        counts = try zeros([slots], .int32)
        drafts = try Tensor.full(
            [slots, max(places - 1, 1)], -1, dtype: .int32, device: device)
        parents = holdsTrees ? try zeros([slots, max(places - 1, 1)], .int32) : nil
        path = holdsTrees ? try zeros([slots, places], .int32) : nil
        logSums = try zeros([slots, places], .float32)
        chosenLogits = try zeros([slots, places], .float32)
        sequence = sequenceLength > 0 ? try zeros([slots, sequenceLength], .int32) : nil
        settings = try zeros([slots, SamplingKernel.settingWords], .int32)
        biasTokens = try zeros([slots, SamplingKernel.mostBiases], .int32)
        biasValues = try zeros([slots, SamplingKernel.mostBiases], .float32)
        masks = try zeros([slots, 1 + Self.maskWords(vocabulary)], .int32)
        history =
            keepsHistory ? try zeros([slots, Self.historyStride(vocabulary)], .int16) : nil
        // The zeros were written on another stream than the ones that launches will use.
        try device.synchronize()
    }
}
