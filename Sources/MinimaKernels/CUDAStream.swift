import CMinimaCUDA
import MinimaTensor

/// A queue of work on one device, shared with libtorch.
public struct CUDAStream: Sendable {
    /// The device's context.
    public let context: CUDAContext
    /// The same queue, as libtorch's operators know it.
    public let stream: Stream

    nonisolated(unsafe) let handle: minima_cuda_stream?

    /// A queue that waits for no other.
    ///
    /// It comes from libtorch's pool, which goes around after 32: memory that operators allocate on
    /// it stays usable however long this value lives, and nothing has to be closed.
    public init(on context: CUDAContext) throws(KernelError) {
        try self.init(
            KernelError.wrapping { () throws(TensorError) in try Stream(on: context.device) },
            context)
    }

    /// The stream that libtorch's operators use on the calling thread now.
    ///
    /// - Note: Unless one was set that is the device's default stream, which cannot be captured.
    public static func current(on context: CUDAContext) throws(KernelError) -> CUDAStream {
        try CUDAStream(
            KernelError.wrapping { () throws(TensorError) in
                try Stream.current(context.device)
            }, context)
    }

    private init(_ stream: Stream, _ context: CUDAContext) throws(KernelError) {
        self.stream = stream
        self.context = context
        let address = try KernelError.wrapping { () throws(TensorError) in
            try stream.nativeHandle()
        }
        handle = minima_cuda_stream(bitPattern: address)
    }

    /// The driver's handle as a number.
    var key: UInt { UInt(bitPattern: handle) }

    /// Runs `body`, whose libtorch operators then queue on this stream.
    ///
    /// - Precondition: `body` stays on the calling thread.
    public func use<Result>(_ body: () throws -> Result) throws -> Result {
        let previous = try stream.makeCurrent()
        defer {
            // It was current a moment ago.
            _ = try? previous.makeCurrent()
        }
        return try body()
    }

    /// Waits until everything queued here is done.
    ///
    /// - Throws: `KernelError` also for a fault of a kernel that ran here.
    public func synchronize() throws(KernelError) {
        try context.primary.call("cuStreamSynchronize") { $0.stream_synchronize(handle) }
    }

    /// Queues writing `byte` to every byte of a contiguous tensor.
    public func fill(_ tensor: Tensor, byte: UInt8) throws(KernelError) {
        let address: UInt64
        do throws(KernelArgumentDefect) {
            address = try KernelArgument.tensor(tensor).bits(for: context.device)
        } catch {
            throw .invalidLaunch(kernel: "fill(byte: \(byte))", reason: error.reason)
        }
        let count = tensor.count * tensor.dtype.byteCount
        guard count > 0 else { return }
        try withExtendedLifetime(tensor) { () throws(KernelError) in
            try context.primary.call("cuMemsetD8Async of \(count) bytes") {
                $0.memset_bytes(address, byte, count, handle)
            }
        }
        context.primary.note(nil, [tensor], on: key)
    }
}
