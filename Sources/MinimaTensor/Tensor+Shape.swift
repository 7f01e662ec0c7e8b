import MinimaCore

private enum Ops {
    static let reshape = Operator("aten::reshape")
    static let permute = Operator("aten::permute")
    static let transpose = Operator("aten::transpose", "int")
    static let contiguous = Operator("aten::contiguous")
    static let expand = Operator("aten::expand")
    static let unsqueeze = Operator("aten::unsqueeze")
    static let squeeze = Operator("aten::squeeze", "dim")
    static let flatten = Operator("aten::flatten", "using_ints")
    static let select = Operator("aten::select", "int")
    static let narrow = Operator("aten::narrow")
    static let gather = Operator("aten::gather")
    static let indexSelect = Operator("aten::index_select")
    static let scatter = Operator("aten::scatter", "src")
    static let split = Operator("aten::split_with_sizes")
    static let clone = Operator("aten::clone")
    static let copy = Operator("aten::copy_")
    static let detach = Operator("aten::detach")
    static let tril = Operator("aten::tril")
    static let triu = Operator("aten::triu")
    static let diagonal = Operator("aten::diagonal")
    static let flip = Operator("aten::flip")
}

extension Tensor {
    /// The same elements in another shape; one size may be -1. Copies only when it must.
    public func reshape(_ shape: [Int]) throws(TensorError) -> Tensor {
        try Ops.reshape(.tensor(self), .ints(shape))
    }

    /// A view whose dimension `i` is this tensor's dimension `order[i]`.
    public func permute(_ order: [Int]) throws(TensorError) -> Tensor {
        try Ops.permute(.tensor(self), .ints(order))
    }

    /// A view with two dimensions exchanged; the last two by default.
    public func transpose(_ first: Int = -2, _ second: Int = -1) throws(TensorError) -> Tensor {
        try Ops.transpose(.tensor(self), .int(first), .int(second))
    }

    /// The same elements without gaps in row-major order; itself when they are so already.
    public func contiguous() throws(TensorError) -> Tensor {
        try Ops.contiguous(.tensor(self))
    }

    /// A copy in storage of its own.
    public func clone() throws(TensorError) -> Tensor {
        try Ops.clone(.tensor(self))
    }

    /// A view of which the gradient does not flow back.
    public func detach() throws(TensorError) -> Tensor {
        try Ops.detach(.tensor(self))
    }

    /// A view that repeats dimensions of size 1; -1 keeps a size.
    public func expand(_ shape: [Int]) throws(TensorError) -> Tensor {
        try Ops.expand(.tensor(self), .ints(shape))
    }

    /// A view with a new dimension of size 1 at `dim`.
    public func unsqueeze(_ dim: Int) throws(TensorError) -> Tensor {
        try Ops.unsqueeze(.tensor(self), .int(dim))
    }

    /// A view without dimension `dim`, if its size is 1.
    public func squeeze(_ dim: Int) throws(TensorError) -> Tensor {
        try Ops.squeeze(.tensor(self), .int(dim))
    }

    /// A view with the dimensions `first...last` merged into one.
    public func flatten(_ first: Int = 0, _ last: Int = -1) throws(TensorError) -> Tensor {
        try Ops.flatten(.tensor(self), .int(first), .int(last))
    }

    /// A view of one index along `dim`, which disappears.
    public func select(_ dim: Int, _ index: Int) throws(TensorError) -> Tensor {
        try Ops.select(.tensor(self), .int(dim), .int(index))
    }

    /// A view of the indices `range` along `dim`.
    public func narrow(_ dim: Int, _ range: Range<Int>) throws(TensorError) -> Tensor {
        try Ops.narrow(.tensor(self), .int(dim), .int(range.lowerBound), .int(range.count))
    }

    /// Views of consecutive pieces of the given sizes along `dim`.
    public func split(_ sizes: [Int], dim: Int) throws(TensorError) -> [Tensor] {
        try Ops.split.tensors(.tensor(self), .ints(sizes), .int(dim))
    }

    /// The slices at int64 `indices` `[n]` along `dim`, which becomes n long.
    public func selecting(_ dim: Int, _ indices: Tensor) throws(TensorError) -> Tensor {
        try Ops.indexSelect(.tensor(self), .int(dim), .tensor(indices))
    }

    /// Elements at int64 `indices` along `dim`; the result has the shape of `indices`.
    public func gather(_ dim: Int, _ indices: Tensor) throws(TensorError) -> Tensor {
        try Ops.gather(.tensor(self), .int(dim), .tensor(indices))
    }

    /// This tensor with the elements of `source` at int64 `indices` along `dim`.
    public func scatter(_ dim: Int, _ indices: Tensor, _ source: Tensor) throws(TensorError)
        -> Tensor
    {
        try Ops.scatter(.tensor(self), .int(dim), .tensor(indices), .tensor(source))
    }

    /// Overwrites this tensor's elements with those of `source`, broadcast and converted.
    public func copy(from source: Tensor) throws(TensorError) {
        _ = try Ops.copy(.tensor(self), .tensor(source))
    }

    /// The elements on and below diagonal `offset` of the last two dimensions, zero elsewhere.
    public func tril(_ offset: Int = 0) throws(TensorError) -> Tensor {
        try Ops.tril(.tensor(self), .int(offset))
    }

    /// The elements on and above diagonal `offset` of the last two dimensions, zero elsewhere.
    public func triu(_ offset: Int = 0) throws(TensorError) -> Tensor {
        try Ops.triu(.tensor(self), .int(offset))
    }

    /// The reverse order along `dims`.
    public func flip(_ dims: [Int]) throws(TensorError) -> Tensor {
        try Ops.flip(.tensor(self), .ints(dims))
    }

    /// The main diagonal of the last two dimensions, as a view.
    public func diagonal() throws(TensorError) -> Tensor {
        try Ops.diagonal(.tensor(self), .int(0), .int(-2), .int(-1))
    }
}
