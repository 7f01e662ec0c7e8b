import MinimaCore
import MinimaModels
import MinimaTensor

/// How a model is calibrated.
public struct CalibrationSettings: Sendable, Hashable {
    /// Where layers run and statistics are added up.
    public var device: Device
    /// The type that the model computes in; `nil` takes `WeightSource.defaultDType(on:)`.
    ///
    /// Gradients of a float16 model may leave its range; calibrate it in bfloat16 or float32.
    public var dtype: DType?
    /// Windows of which gradients are taken; 0 leaves H out.
    public var gradientWindows: Int
    /// Seed of sampled labels.
    public var seed: UInt64
    /// Outputs up to which H is kept in full: over a whole site with what couples its members, else
    /// over a member. A member with more keeps blocks on the diagonal.
    public var fullMetricLimit = 2048
    /// Tokens that run through a layer at once; `nil` takes 2,048 on the CPU, 32,768 on a GPU.
    public var tokensPerPass: Int?
    /// The same with gradients; `nil` takes 1,024 on the CPU, 8,192 on a GPU.
    public var tokensPerGradientPass: Int?
    /// Bytes of layer inputs that may stay in host memory; `nil` takes half of what is free.
    public var hostBudget: Int?
    /// Bytes of input moments of all layers that may be stored; where they take more, none is.
    public var momentBudget = 8 << 30

    /// Settings.
    public init(
        device: Device = .cpu, dtype: DType? = nil, gradientWindows: Int = 0, seed: UInt64 = 0
    ) {
        self.device = device
        self.dtype = dtype
        self.gradientWindows = gradientWindows
        self.seed = seed
    }

    var forwardTokens: Int { max(tokensPerPass ?? (device == .cpu ? 2048 : 32_768), 1) }
    var gradientTokens: Int { max(tokensPerGradientPass ?? (device == .cpu ? 1024 : 8192), 1) }
}

/// Why statistics cannot be collected or read.
public enum CalibrationError: Error, Hashable, CustomStringConvertible {
    case badWeight(source: String, weight: Double)
    case foreignFile(path: String, reason: String)
    case boundary(asked: Int, layers: Int)
    case noGradient(what: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .badWeight(let source, let weight):
            "\(source) has the weight \(weight); give a finite number above zero"
        case .foreignFile(let path, let reason):
            "\(path) does not belong to this calibration: \(reason); remove it and run again"
        case .boundary(let asked, let layers):
            "activations at layer \(asked) go no further: the model has \(layers) layers"
        case .noGradient(let what):
            "\(what) takes no part in the loss; calibrate without gradients (0 gradient windows)"
        }
    }
}
