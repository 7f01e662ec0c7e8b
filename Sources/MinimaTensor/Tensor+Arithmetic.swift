import MinimaCore

private enum Ops {
    static let add = Operator("aten::add", "Tensor")
    static let addScalar = Operator("aten::add", "Scalar")
    static let addInPlace = Operator("aten::add_", "Tensor")
    static let sub = Operator("aten::sub", "Tensor")
    static let mul = Operator("aten::mul", "Tensor")
    static let mulScalar = Operator("aten::mul", "Scalar")
    static let mulInPlace = Operator("aten::mul_", "Tensor")
    static let div = Operator("aten::div", "Tensor")
    static let divScalar = Operator("aten::div", "Scalar")
    static let exp = Operator("aten::exp")
    static let sqrt = Operator("aten::sqrt")
    static let abs = Operator("aten::abs")
    static let square = Operator("aten::square")
    static let cos = Operator("aten::cos")
    static let sin = Operator("aten::sin")
    static let clampMin = Operator("aten::clamp_min")
    static let sum = Operator("aten::sum", "dim_IntList")
    static let sumAll = Operator("aten::sum")
    static let mean = Operator("aten::mean", "dim")
    static let meanAll = Operator("aten::mean")
    static let amax = Operator("aten::amax")
    static let argmax = Operator("aten::argmax")
    static let cumsum = Operator("aten::cumsum")
    static let sort = Operator("aten::sort")
    static let topk = Operator("aten::topk")
    static let norm = Operator("aten::linalg_vector_norm")
    static let softmax = Operator("aten::softmax", "int")
    static let logSoftmax = Operator("aten::log_softmax", "int")
    static let logsumexp = Operator("aten::logsumexp")
    static let eq = Operator("aten::eq", "Scalar")
    static let eqTensor = Operator("aten::eq", "Tensor")
    static let lt = Operator("aten::lt", "Scalar")
    static let leTensor = Operator("aten::le", "Tensor")
    static let logicalAnd = Operator("aten::logical_and")
    static let logicalOr = Operator("aten::logical_or")
    static let logicalNot = Operator("aten::logical_not")
    static let maskedFill = Operator("aten::masked_fill", "Scalar")
    static let isfinite = Operator("aten::isfinite")
    static let exponential = Operator("aten::exponential_")
    static let equal = Operator("aten::equal")
}

extension Tensor {
    /// Elementwise sum, broadcast.
    public static func + (left: Tensor, right: Tensor) throws(TensorError) -> Tensor {
        try Ops.add(.tensor(left), .tensor(right))
    }

    /// Adds a number to every element.
    public static func + (left: Tensor, right: Double) throws(TensorError) -> Tensor {
        try Ops.addScalar(.tensor(left), .double(right))
    }

    /// Elementwise difference, broadcast.
    public static func - (left: Tensor, right: Tensor) throws(TensorError) -> Tensor {
        try Ops.sub(.tensor(left), .tensor(right))
    }

    /// Elementwise product, broadcast.
    public static func * (left: Tensor, right: Tensor) throws(TensorError) -> Tensor {
        try Ops.mul(.tensor(left), .tensor(right))
    }

    /// Multiplies every element by a number.
    public static func * (left: Tensor, right: Double) throws(TensorError) -> Tensor {
        try Ops.mulScalar(.tensor(left), .double(right))
    }

    /// Elementwise quotient, broadcast.
    public static func / (left: Tensor, right: Tensor) throws(TensorError) -> Tensor {
        try Ops.div(.tensor(left), .tensor(right))
    }

    /// Divides every element by a number.
    public static func / (left: Tensor, right: Double) throws(TensorError) -> Tensor {
        try Ops.divScalar(.tensor(left), .double(right))
    }

    /// Adds `other`, broadcast, times `scale` to this tensor's storage.
    public func addInPlace(_ other: Tensor, scale: Double = 1) throws(TensorError) {
        _ = try Ops.addInPlace(.tensor(self), .tensor(other), .double(scale))
    }

    /// Multiplies this tensor's storage by `other`, elementwise and broadcast.
    public func multiplyInPlace(_ other: Tensor) throws(TensorError) {
        _ = try Ops.mulInPlace(.tensor(self), .tensor(other))
    }

    /// e to the power of every element.
    public func exp() throws(TensorError) -> Tensor {
        try Ops.exp(.tensor(self))
    }

    /// The square root of every element.
    public func sqrt() throws(TensorError) -> Tensor {
        try Ops.sqrt(.tensor(self))
    }

    /// The magnitude of every element.
    public func abs() throws(TensorError) -> Tensor {
        try Ops.abs(.tensor(self))
    }

    /// The square of every element.
    public func square() throws(TensorError) -> Tensor {
        try Ops.square(.tensor(self))
    }

    /// The cosine of every element, in radians.
    public func cos() throws(TensorError) -> Tensor {
        try Ops.cos(.tensor(self))
    }

    /// The sine of every element, in radians.
    public func sin() throws(TensorError) -> Tensor {
        try Ops.sin(.tensor(self))
    }

    /// Every element, or `minimum` where it is smaller.
    public func clamp(min minimum: Double) throws(TensorError) -> Tensor {
        try Ops.clampMin(.tensor(self), .double(minimum))
    }

    /// Sum over `dims`, or over everything; accumulated in `dtype` when given.
    public func sum(_ dims: [Int]? = nil, keepDims: Bool = false, dtype: DType? = nil)
        throws(TensorError) -> Tensor
    {
        let dtype = dtype.map { Operator.Argument.dtype($0) } ?? .none
        guard let dims else { return try Ops.sumAll(.tensor(self), dtype) }
        return try Ops.sum(.tensor(self), .ints(dims), .bool(keepDims), dtype)
    }

    /// Mean over `dims`, or over everything.
    public func mean(_ dims: [Int]? = nil, keepDims: Bool = false) throws(TensorError) -> Tensor {
        guard let dims else { return try Ops.meanAll(.tensor(self)) }
        return try Ops.mean(.tensor(self), .ints(dims), .bool(keepDims))
    }

    /// Largest element along `dims`, or of all.
    public func max(_ dims: [Int] = [], keepDims: Bool = false) throws(TensorError) -> Tensor {
        try Ops.amax(.tensor(self), .ints(dims), .bool(keepDims))
    }

    /// int64 index of the largest element along `dim`; the first of equals.
    public func argmax(_ dim: Int) throws(TensorError) -> Tensor {
        try Ops.argmax(.tensor(self), .int(dim))
    }

    /// Running sum along `dim`.
    public func cumulativeSum(_ dim: Int) throws(TensorError) -> Tensor {
        try Ops.cumsum(.tensor(self), .int(dim))
    }

    /// Elements sorted along `dim`, and their int64 indices.
    public func sorted(_ dim: Int = -1, descending: Bool = false) throws(TensorError)
        -> (values: Tensor, indices: Tensor)
    {
        let results = try Ops.sort.tensors(.tensor(self), .int(dim), .bool(descending))
        return (results[0], results[1])
    }

    /// The `count` largest elements along the last dimension, descending, and their int64 indices.
    public func topK(_ count: Int) throws(TensorError) -> (values: Tensor, indices: Tensor) {
        let results = try Ops.topk.tensors(.tensor(self), .int(count))
        return (results[0], results[1])
    }

    /// Euclidean norm of all elements (Frobenius norm of a matrix), as a scalar tensor.
    public func norm() throws(TensorError) -> Tensor {
        try Ops.norm(.tensor(self))
    }

    /// Softmax along `dim`.
    public func softmax(_ dim: Int = -1, dtype: DType? = nil) throws(TensorError) -> Tensor {
        try Ops.softmax(
            .tensor(self), .int(dim), dtype.map { Operator.Argument.dtype($0) } ?? .none)
    }

    /// Logarithm of the softmax along `dim`.
    public func logSoftmax(_ dim: Int = -1, dtype: DType? = nil) throws(TensorError) -> Tensor {
        try Ops.logSoftmax(
            .tensor(self), .int(dim), dtype.map { Operator.Argument.dtype($0) } ?? .none)
    }

    /// Logarithm of the sum of exponentials along `dim`.
    public func logSumExp(_ dim: Int = -1) throws(TensorError) -> Tensor {
        try Ops.logsumexp(.tensor(self), .ints([dim]))
    }

    /// Where elements equal `value`; bool.
    public func equals(_ value: Double) throws(TensorError) -> Tensor {
        try Ops.eq(.tensor(self), .double(value))
    }

    /// Where elements equal those of `other`; bool, broadcast.
    public func equals(_ other: Tensor) throws(TensorError) -> Tensor {
        try Ops.eqTensor(.tensor(self), .tensor(other))
    }

    /// Where elements are below `value`; bool.
    public func isLess(than value: Double) throws(TensorError) -> Tensor {
        try Ops.lt(.tensor(self), .double(value))
    }

    /// Where elements are at most those of `other`; bool, broadcast.
    public func isAtMost(_ other: Tensor) throws(TensorError) -> Tensor {
        try Ops.leTensor(.tensor(self), .tensor(other))
    }

    /// Where both bool tensors are true, broadcast.
    public func and(_ other: Tensor) throws(TensorError) -> Tensor {
        try Ops.logicalAnd(.tensor(self), .tensor(other))
    }

    /// Where either bool tensor is true, broadcast.
    public func or(_ other: Tensor) throws(TensorError) -> Tensor {
        try Ops.logicalOr(.tensor(self), .tensor(other))
    }

    /// Where this bool tensor is false.
    public func not() throws(TensorError) -> Tensor {
        try Ops.logicalNot(.tensor(self))
    }

    /// `value` where the bool `mask` is true, this tensor elsewhere.
    public func maskedFill(_ mask: Tensor, _ value: Double) throws(TensorError) -> Tensor {
        try Ops.maskedFill(.tensor(self), .tensor(mask), .double(value))
    }

    /// Where elements are neither NaN nor infinite; bool.
    public func isFinite() throws(TensorError) -> Tensor {
        try Ops.isfinite(.tensor(self))
    }

    /// Overwrites the storage with independent standard exponential numbers.
    public func fillExponential(generator: RandomGenerator) throws(TensorError) {
        _ = try Ops.exponential(.tensor(self), .double(1), .generator(generator))
    }

    /// Whether both have the same shape and equal elements.
    public func isIdentical(to other: Tensor) throws(TensorError) -> Bool {
        guard shape == other.shape, dtype == other.dtype else { return false }
        let outputs = try Ops.equal.call([.tensor(self), .tensor(other)])
        guard case .bool(let same) = outputs.first else {
            throw .unexpectedResult(call: "aten::equal", found: "\(outputs)")
        }
        return same
    }
}
