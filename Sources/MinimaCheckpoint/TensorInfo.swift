import MinimaCore

/// What a checkpoint says about one tensor: everything but its values.
public struct TensorInfo: Sendable, Hashable {
    /// The tensor's name.
    public let name: String
    /// The type of its elements.
    public let dtype: DType
    /// Its shape, outermost dimension first; empty for a scalar.
    public let shape: [Int]
    /// Where its bytes lie, counted from the start of the file.
    public let range: Range<Int>

    /// How many bytes it takes.
    public var byteCount: Int { range.count }

    /// How many elements it has: 1 for a scalar, 0 when a dimension is 0.
    public var elementCount: Int { range.count / dtype.byteCount }

    /// Equality of UTF-8 bytes in the name, and of all else.
    public static func == (left: TensorInfo, right: TensorInfo) -> Bool {
        JSON.Name(left.name) == JSON.Name(right.name) && left.dtype == right.dtype
            && left.shape == right.shape && left.range == right.range
    }

    /// Hashes the name's UTF-8 bytes and the range.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(JSON.Name(name))
        hasher.combine(range)
    }
}

/// Bytes of `shape` in `dtype`, or `nil` when a dimension is negative or the count overflows.
func byteCount(of shape: [Int], _ dtype: DType) -> Int? {
    var count = dtype.byteCount
    for dimension in shape {
        guard dimension >= 0 else { return nil }
        let (product, overflow) = count.multipliedReportingOverflow(by: dimension)
        guard !overflow else { return nil }
        count = product
    }
    return count
}
