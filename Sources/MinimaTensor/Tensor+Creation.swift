import MinimaCore

private let emptyOperator = Operator("aten::empty", "memory_format")
private let fullOperator = Operator("aten::full")
private let arangeOperator = Operator("aten::arange", "start")
private let eyeOperator = Operator("aten::eye")
private let randnOperator = Operator("aten::randn", "generator")
private let randomOperator = Operator("aten::random_")
private let toOperator = Operator("aten::_to_copy")
private let catOperator = Operator("aten::cat")

extension Tensor {
    /// A tensor whose elements are whatever the memory holds.
    public static func empty(_ shape: [Int], dtype: DType = .float32, device: Device = .cpu)
        throws(TensorError) -> Tensor
    {
        try device.open()
        return try emptyOperator(.ints(shape), .dtype(dtype), .none, .device(device))
    }

    /// A tensor of `shape` with every element equal to `value`.
    public static func full(
        _ shape: [Int], _ value: Double, dtype: DType = .float32, device: Device = .cpu
    ) throws(TensorError) -> Tensor {
        try device.open()
        return try fullOperator(.ints(shape), .double(value), .dtype(dtype), .none, .device(device))
    }

    /// Zeros.
    public static func zeros(_ shape: [Int], dtype: DType = .float32, device: Device = .cpu)
        throws(TensorError) -> Tensor
    {
        try full(shape, 0, dtype: dtype, device: device)
    }

    /// Ones.
    public static func ones(_ shape: [Int], dtype: DType = .float32, device: Device = .cpu)
        throws(TensorError) -> Tensor
    {
        try full(shape, 1, dtype: dtype, device: device)
    }

    /// The integers `range`, as a vector.
    public static func arange(_ range: Range<Int>, dtype: DType = .int64, device: Device = .cpu)
        throws(TensorError) -> Tensor
    {
        try device.open()
        return try arangeOperator(
            .int(range.lowerBound), .int(range.upperBound), .dtype(dtype), .none, .device(device))
    }

    /// The identity matrix `[n, n]`.
    public static func identity(_ n: Int, dtype: DType = .float32, device: Device = .cpu)
        throws(TensorError) -> Tensor
    {
        try device.open()
        return try eyeOperator(.int(n), .dtype(dtype), .none, .device(device))
    }

    /// Independent standard normal numbers.
    public static func randn(
        _ shape: [Int], dtype: DType = .float32, device: Device = .cpu, generator: RandomGenerator
    ) throws(TensorError) -> Tensor {
        try device.open()
        return try randnOperator(
            .ints(shape), .generator(generator), .dtype(dtype), .none, .device(device))
    }

    /// Independent bytes, all equally likely; uint8.
    public static func randomBytes(
        _ shape: [Int], device: Device = .cpu, generator: RandomGenerator
    ) throws(TensorError) -> Tensor {
        let bytes = try empty(shape, dtype: .uint8, device: device)
        _ = try randomOperator(.tensor(bytes), .generator(generator))
        return bytes
    }

    /// This tensor on `device` with element type `dtype`; itself when both are so already.
    public func to(_ device: Device? = nil, dtype: DType? = nil) throws(TensorError) -> Tensor {
        let (device, dtype) = (device ?? self.device, dtype ?? self.dtype)
        if device == self.device && dtype == self.dtype { return self }
        try device.open()
        return try toOperator(.tensor(self), .dtype(dtype), .none, .device(device))
    }

    /// Joins tensors along an existing dimension.
    public static func cat(_ tensors: [Tensor], dim: Int = 0) throws(TensorError) -> Tensor {
        try catOperator(.tensors(tensors), .int(dim))
    }
}
