/// What fixes how kernels are cut on a device, and so what they hold.
public struct DeviceLimits: Sendable, Hashable {
    /// Multiprocessors.
    public var multiprocessors: Int
    /// The most bytes of shared memory that one block can have.
    public var sharedPerBlock: Int

    /// Limits.
    public init(multiprocessors: Int, sharedPerBlock: Int) {
        self.multiprocessors = multiprocessors
        self.sharedPerBlock = sharedPerBlock
    }
}

extension CUDAContext {
    /// This device's.
    public var limits: DeviceLimits {
        DeviceLimits(multiprocessors: multiprocessors, sharedPerBlock: sharedPerBlock)
    }
}
