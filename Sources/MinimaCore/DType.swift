/// An element type of a stored or computed tensor.
///
/// Raw values are the names safetensors uses in its headers.
public enum DType: String, Sendable, Hashable, CaseIterable, Codable {
    case bool = "BOOL"
    case uint8 = "U8"
    case int8 = "I8"
    case uint16 = "U16"
    case int16 = "I16"
    case uint32 = "U32"
    case int32 = "I32"
    case uint64 = "U64"
    case int64 = "I64"
    case float8e4m3 = "F8_E4M3"
    case float8e5m2 = "F8_E5M2"
    case float16 = "F16"
    case bfloat16 = "BF16"
    case float32 = "F32"
    case float64 = "F64"

    /// Bytes of one element.
    public var byteCount: Int {
        switch self {
        case .bool, .uint8, .int8, .float8e4m3, .float8e5m2: 1
        case .uint16, .int16, .float16, .bfloat16: 2
        case .uint32, .int32, .float32: 4
        case .uint64, .int64, .float64: 8
        }
    }

    /// Whether values are floating-point numbers.
    public var isFloatingPoint: Bool {
        switch self {
        case .float8e4m3, .float8e5m2, .float16, .bfloat16, .float32, .float64: true
        default: false
        }
    }

    /// The distance from 1 to the next larger value; 0 for types that are not floating point.
    public var epsilon: Double {
        switch self {
        case .float8e5m2: 0x1p-2
        case .float8e4m3: 0x1p-3
        case .bfloat16: 0x1p-7
        case .float16: 0x1p-10
        case .float32: 0x1p-23
        case .float64: 0x1p-52
        default: 0
        }
    }
}
