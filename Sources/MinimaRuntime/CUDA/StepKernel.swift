import MinimaKernels

/// One launch of a decode step.
struct StepKernel {
    /// What it does: `qkv`, `qkv R`, `attention`. Launches of a name do the same in other layers.
    let name: String
    /// Bytes that it must move through device memory; weights that several launches of a step read
    /// count with the first.
    let bytes: Int
    /// Queues it.
    let queue: (CUDAStream) throws -> Void
}
