import CMinimaCUDA

/// A point in a stream's queue and the time at which the device came there.
public final class CUDAEvent: Sendable {
    private let context: PrimaryContext
    private nonisolated(unsafe) let handle: minima_cuda_event

    /// An event that was not recorded yet.
    public init(on context: CUDAContext) throws(KernelError) {
        let context = context.primary
        var handle: minima_cuda_event?
        try context.call("cuEventCreate") { $0.event_create(&handle, 0) }
        self.handle = try context.driver.take(handle, "cuEventCreate", 0)
        self.context = context
    }

    deinit {
        try? context.call("cuEventDestroy") { $0.event_destroy(handle) }
    }

    /// Queues this event behind what the stream has got so far.
    public func record(on stream: CUDAStream) throws(KernelError) {
        try context.call("cuEventRecord") { $0.event_record(handle, stream.handle) }
    }

    /// Waits until the device came here.
    public func synchronize() throws(KernelError) {
        try context.call("cuEventSynchronize") { $0.event_synchronize(handle) }
    }

    /// Milliseconds from `start` to here; waits for neither, so both must be done.
    public func elapsed(since start: CUDAEvent) throws(KernelError) -> Double {
        var milliseconds: Float = 0
        try context.call("cuEventElapsedTime") {
            $0.event_elapsed(&milliseconds, start.handle, handle)
        }
        return Double(milliseconds)
    }
}
