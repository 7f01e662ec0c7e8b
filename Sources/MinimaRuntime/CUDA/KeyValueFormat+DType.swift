import MinimaCore
import MinimaKernels

extension KeyValueFormat {
    /// The type of a stored key or value.
    public var dtype: DType {
        switch self {
        case .bfloat16: .bfloat16
        case .float8: .float8e4m3
        }
    }
}
