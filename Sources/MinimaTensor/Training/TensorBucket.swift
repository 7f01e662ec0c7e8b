import MinimaCore

/// A layout of several tensors in one flat buffer, so that few long messages cross between processes
/// instead of many short ones.
struct TensorBucket {
    /// Numbers of the tensors.
    let members: [Int]
    private let shapes: [[Int]]
    private let offsets: [Int]
    private let count: Int
    private let dtype: DType
    private let device: Device

    /// Bytes after which a bucket is closed; a larger tensor has one of its own. It bounds what an
    /// exchange takes beside the model.
    static let byteLimit = 64 << 20
    /// Elements between places where a tensor may begin: 16 bytes, the widest load of libtorch's
    /// kernels, for every type.
    private static let alignment = 16

    /// Buckets for the tensors `members` of `tensors`, in order.
    ///
    /// - Parameter dtype: The type that a tensor has in its bucket.
    static func plan(
        _ members: [Int], of tensors: [Tensor], byteLimit: Int = byteLimit,
        dtype: (Tensor) -> DType = { $0.dtype }
    ) -> [TensorBucket] {
        var buckets: [TensorBucket] = []
        var open: [DType: [Int]] = [:]
        var sizes: [DType: Int] = [:]
        func close(_ dtype: DType) {
            guard let members = open.removeValue(forKey: dtype) else { return }
            buckets.append(TensorBucket(members, of: tensors, dtype))
            sizes[dtype] = 0
        }
        for member in members {
            let type = dtype(tensors[member])
            let size = tensors[member].count * type.byteCount
            if sizes[type, default: 0] + size > byteLimit { close(type) }
            open[type, default: []].append(member)
            sizes[type, default: 0] += size
        }
        for dtype in DType.allCases { close(dtype) }
        return buckets
    }

    private init(_ members: [Int], of tensors: [Tensor], _ dtype: DType) {
        self.members = members
        self.dtype = dtype
        shapes = members.map { tensors[$0].shape }
        var (offsets, end) = ([Int](), 0)
        for member in members {
            offsets.append(end)
            end += (tensors[member].count + Self.alignment - 1) / Self.alignment * Self.alignment
        }
        (self.offsets, count) = (offsets, end)
        device = members.first.map { tensors[$0].device } ?? .cpu
    }

    /// A buffer of zeros, and its parts in the shapes of the tensors.
    func allocate() throws(TensorError) -> (buffer: Tensor, views: [Tensor]) {
        let buffer = try Tensor.zeros([count], dtype: dtype, device: device)
        var views: [Tensor] = []
        for (shape, offset) in zip(shapes, offsets) {
            let range = offset..<offset + shape.reduce(1, *)
            views.append(try buffer.narrow(0, range).reshape(shape))
        }
        return (buffer, views)
    }
}
