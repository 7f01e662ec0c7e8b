import MinimaTensor

/// One parameter of a kernel. Parameters are scalars and pointers, never structures.
public enum KernelArgument: Sendable {
    /// The address of a tensor's first element. The tensor is contiguous and on the kernel's device.
    case tensor(Tensor)
    /// The same, `byteOffset` bytes further, inside the tensor.
    case tensorAt(Tensor, byteOffset: Int)
    /// A null pointer.
    case none
    /// A 32-bit integer; the value must fit.
    case int32(Int)
    /// A 64-bit integer, signed or not: the bits count.
    case int64(Int)
    /// A 32-bit float, rounded from the value.
    case float(Double)

    /// Bytes that the parameter takes.
    var size: Int {
        switch self {
        case .tensor, .tensorAt, .none, .int64: 8
        case .int32, .float: 4
        }
    }

    /// The tensor that must outlive the kernel's run.
    var tensor: Tensor? {
        switch self {
        case .tensor(let tensor), .tensorAt(let tensor, _): tensor
        case .none, .int32, .int64, .float: nil
        }
    }

    /// The parameter's bytes, the first in the lowest ones.
    func bits(for device: Device) throws(KernelArgumentDefect) -> UInt64 {
        switch self {
        case .tensor(let tensor):
            return try Self.address(tensor, 0, device)
        case .tensorAt(let tensor, let offset):
            return try Self.address(tensor, offset, device)
        case .none: return 0
        case .int32(let value):
            guard let narrow = Int32(exactly: value) else {
                throw KernelArgumentDefect(reason: "\(value) does not fit into 32 bits")
            }
            return UInt64(UInt32(bitPattern: narrow))
        case .int64(let value): return UInt64(bitPattern: Int64(value))
        case .float(let value): return UInt64(Float(value).bitPattern)
        }
    }

    private static func address(
        _ tensor: Tensor, _ offset: Int, _ device: Device
    ) throws(KernelArgumentDefect) -> UInt64 {
        guard tensor.device == device else {
            throw KernelArgumentDefect(
                reason: "\(tensor.summary) is not on \(device); move it there first")
        }
        guard tensor.isContiguous else {
            throw KernelArgumentDefect(
                reason: """
                    \(tensor.summary) has the strides \(tensor.strides); pass its contiguous copy, or \
                    the tensor that it is a view of and a byte offset
                    """)
        }
        let bytes = tensor.count * tensor.dtype.byteCount
        guard (0...bytes).contains(offset) else {
            throw KernelArgumentDefect(
                reason: "byte \(offset) lies outside the \(bytes) bytes of \(tensor.summary)")
        }
        do throws(TensorError) {
            return UInt64(try tensor.deviceAddress()) + UInt64(offset)
        } catch {
            throw KernelArgumentDefect(reason: "\(error)")
        }
    }
}

/// Why a value cannot be passed; the launch adds which kernel and which parameter.
struct KernelArgumentDefect: Error {
    let reason: String
}
