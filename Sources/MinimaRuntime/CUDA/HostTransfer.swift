import MinimaKernels
import MinimaTensor

private let pinOperator = Operator("aten::_pin_memory")
private let emptyOperator = Operator("aten::empty", "memory_format")
private let copyOperator = Operator("aten::copy_")

/// Copies between host and device that are queued like kernels: the host does not wait, and the
/// staging memory is not used again before its copy is done.
enum HostTransfer {
    /// Queues writing `values` to the first elements of `tensor`, on libtorch's current stream.
    static func upload<Element: TensorElement>(_ values: [Element], to tensor: Tensor)
        throws(TensorError)
    {
        let staging = try pinOperator(.tensor(Tensor(values)))
        let target = try tensor.reshape([tensor.count]).narrow(0, 0..<values.count)
        _ = try copyOperator(.tensor(target), .tensor(staging), .bool(true))
    }

    /// Queues copying `tensor` to the host, on libtorch's current stream.
    ///
    /// - Returns: Memory of the host that holds the values once the stream has come here.
    static func download(_ tensor: Tensor) throws(TensorError) -> Tensor {
        let staging = try emptyOperator(
            .ints(tensor.shape), .dtype(tensor.dtype), .none, .device(.cpu), .bool(true))
        _ = try copyOperator(.tensor(staging), .tensor(tensor), .bool(true))
        return staging
    }
}
