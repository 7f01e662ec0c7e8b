import CMinimaTorchAPI
import MinimaCore

/// An n-dimensional array on a device, with libtorch's semantics: a reference to storage that views
/// may share, copied only when an operator says so.
///
/// Sizes are listed outermost first. Operators throw `TensorError`; none traps.
public struct Tensor: @unchecked Sendable, CustomStringConvertible {
    // libtorch's reference counts are atomic and its operators may run on any thread; concurrent
    // writes to one storage are the caller's to avoid, as everywhere in libtorch.
    let handle: TensorHandle

    /// Takes over a reference that libtorch gave out.
    init(owning pointer: OpaquePointer) {
        handle = TensorHandle(pointer)
    }

    /// Sizes, outermost dimension first.
    public var shape: [Int] {
        let sizes = handle.table.pointee.sizes(handle.pointer)
        let shape = (0..<rank).map { Int(sizes[$0]) }
        return withExtendedLifetime(handle) { shape }
    }

    /// Elements between neighbours along each dimension.
    public var strides: [Int] {
        let strides = handle.table.pointee.strides(handle.pointer)
        let result = (0..<rank).map { Int(strides[$0]) }
        return withExtendedLifetime(handle) { result }
    }

    /// Number of dimensions.
    public var rank: Int {
        withExtendedLifetime(handle) { Int(handle.table.pointee.rank(handle.pointer)) }
    }

    /// Number of elements.
    public var count: Int {
        withExtendedLifetime(handle) { Int(handle.table.pointee.count(handle.pointer)) }
    }

    /// Element type.
    ///
    /// Types outside `DType` (complex numbers) are never made by the operators that Minima calls;
    /// should one appear, this says `uint8` and the next operator refuses the bytes.
    public var dtype: DType {
        let code = withExtendedLifetime(handle) { handle.table.pointee.scalar_type(handle.pointer) }
        return DType(scalarType: code) ?? .uint8
    }

    /// Where the storage is.
    public var device: Device {
        withExtendedLifetime(handle) {
            Device(
                type: handle.table.pointee.device_type(handle.pointer),
                index: handle.table.pointee.device_index(handle.pointer)) ?? .cpu
        }
    }

    /// Type, device and shape: `float32 cpu [2, 3]`.
    public var summary: String { "\(dtype) \(device) \(shape)" }

    /// Type, device and shape.
    public var description: String { "Tensor(\(summary))" }
}

/// The only owner of one reference to a libtorch tensor.
final class TensorHandle {
    let pointer: OpaquePointer
    let table: Torch.Table

    init(_ pointer: OpaquePointer) {
        self.pointer = pointer
        guard let table = try? Torch.table() else {
            preconditionFailure("a tensor handle exists before libtorch was opened")
        }
        self.table = table
    }

    deinit {
        table.pointee.release(pointer)
    }
}

extension DType {
    /// c10::ScalarType's number.
    var scalarType: Int32 {
        switch self {
        case .uint8: 0
        case .int8: 1
        case .int16: 2
        case .int32: 3
        case .int64: 4
        case .float16: 5
        case .float32: 6
        case .float64: 7
        case .bool: 11
        case .bfloat16: 15
        case .float8e5m2: 23
        case .float8e4m3: 24
        case .uint16: 27
        case .uint32: 28
        case .uint64: 29
        }
    }

    init?(scalarType: Int32) {
        guard let type = DType.allCases.first(where: { $0.scalarType == scalarType }) else {
            return nil
        }
        self = type
    }
}

/// A Swift type that tensor elements can be read as and made from.
public protocol TensorElement: Sendable {
    /// The element type with the same bytes.
    static var dtype: DType { get }
}

extension Float: TensorElement {
    /// 32-bit float.
    public static var dtype: DType { .float32 }
}

extension Double: TensorElement {
    /// 64-bit float.
    public static var dtype: DType { .float64 }
}

extension Int64: TensorElement {
    /// 64-bit integer.
    public static var dtype: DType { .int64 }
}

extension Int32: TensorElement {
    /// 32-bit integer.
    public static var dtype: DType { .int32 }
}

extension UInt8: TensorElement {
    /// 8-bit unsigned integer.
    public static var dtype: DType { .uint8 }
}

extension Tensor {
    /// A CPU tensor with a copy of `values`.
    ///
    /// - Parameter shape: Sizes whose product is the number of values; one dimension by default.
    public init<Element: TensorElement>(_ values: [Element], shape: [Int]? = nil)
        throws(TensorError)
    {
        let shape = shape ?? [values.count]
        guard Self.elements(in: shape) == values.count else {
            throw .invalidArgument(
                function: "Tensor(_:shape:)",
                reason: "\(values.count) values do not fill the shape \(shape)")
        }
        let tensor = try Tensor.empty(shape, dtype: Element.dtype)
        try withExtendedLifetime(tensor) { () throws(TensorError) in
            let destination = try tensor.address()
            values.withUnsafeBytes { source in
                if let base = source.baseAddress, source.count > 0 {
                    destination?.copyMemory(from: base, byteCount: source.count)
                }
            }
        }
        self = tensor
    }

    /// A CPU tensor with a copy of `bytes`, which hold its elements in row-major order.
    public init(bytes: UnsafeRawBufferPointer, shape: [Int], dtype: DType) throws(TensorError) {
        let (wanted, overflow) = (Self.elements(in: shape) ?? -1)
            .multipliedReportingOverflow(by: dtype.byteCount)
        guard !overflow, bytes.count == wanted else {
            throw .invalidArgument(
                function: "Tensor(bytes:shape:dtype:)",
                reason: "\(bytes.count) bytes do not fill \(dtype) \(shape)")
        }
        let tensor = try Tensor.empty(shape, dtype: dtype)
        try withExtendedLifetime(tensor) { () throws(TensorError) in
            guard let source = bytes.baseAddress, bytes.count > 0 else { return }
            try tensor.address()?.copyMemory(from: source, byteCount: bytes.count)
        }
        self = tensor
    }

    /// The product of `shape`; `nil` where a size is negative or the product no `Int`.
    private static func elements(in shape: [Int]) -> Int? {
        var product = 1
        for size in shape {
            let (next, overflow) = product.multipliedReportingOverflow(by: size)
            guard size >= 0, !overflow else { return nil }
            product = next
        }
        return product
    }

    /// The first element's address, valid as long as the caller keeps the tensor alive.
    private func address() throws(TensorError) -> UnsafeMutableRawPointer? {
        var address: UnsafeMutableRawPointer?
        try withExtendedLifetime(handle) { () throws(TensorError) in
            try Torch.check({ "data(\(summary))" }) {
                handle.table.pointee.data(handle.pointer, &address, $0)
            }
        }
        return address
    }

    /// The first element's address on the tensor's device, for kernels; valid as long as the caller
    /// keeps the tensor alive.
    package func deviceAddress() throws(TensorError) -> UInt {
        UInt(bitPattern: try address())
    }

    /// Whether the elements lie in row-major order without gaps.
    package var isContiguous: Bool {
        var expected = 1
        for (size, stride) in zip(shape, strides).reversed() where size != 1 {
            guard stride == expected else { return count == 0 }
            expected *= size
        }
        return true
    }

    /// All elements in row-major order, converted to `Element`.
    public func values<Element: TensorElement>(as type: Element.Type = Element.self)
        throws(TensorError) -> [Element]
    {
        let source = try to(.cpu, dtype: Element.dtype).contiguous()
        return try withExtendedLifetime(source) { () throws(TensorError) in
            let (address, count) = (try source.address(), source.count)
            return [Element](unsafeUninitializedCapacity: count) { buffer, initialized in
                if let base = buffer.baseAddress, let address, count > 0 {
                    UnsafeMutableRawPointer(base).copyMemory(
                        from: address, byteCount: count * MemoryLayout<Element>.stride)
                }
                initialized = count
            }
        }
    }

    /// Reads the bytes of the elements in row-major order.
    ///
    /// The tensor is brought to the CPU and made contiguous first.
    public func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws -> Result {
        let source = try to(.cpu).contiguous()
        return try withExtendedLifetime(source) {
            let address = try source.address()
            let count = address == nil ? 0 : source.count * source.dtype.byteCount
            return try body(UnsafeRawBufferPointer(start: address, count: count))
        }
    }

    /// The only element, as a `Double`.
    public func item() throws(TensorError) -> Double {
        let all = try values(as: Double.self)
        guard let first = all.first, all.count == 1 else {
            throw .invalidArgument(
                function: "item()", reason: "\(summary) has \(all.count) elements, not one")
        }
        return first
    }
}
