import MinimaKernels

/// One launch of a decode step.
struct StepKernel {
    /// What it does: `qkv`, `qkv R`, `attention`. Launches of a name do the same in other layers.
    let name: String
    /// The site whose product it is a part of, by what its launches are called: `qkv`.
    var site: String?
    /// Bytes of weights that it must read; what several launches of a step read counts with the first.
    var weightBytes = 0
    /// Bytes of everything else that it must read and write: activations, logits, tables. Most are in
    /// the second-level cache. Keys and values, which depend on what is in the cache, do not count.
    var otherBytes = 0
    /// Queues it.
    let queue: (CUDAStream) throws -> Void

    /// Bytes that it must move.
    var bytes: Int { weightBytes + otherBytes }
}
