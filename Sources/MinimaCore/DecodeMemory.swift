/// Device memory that the decode engine holds at its peak, by what it is for.
///
/// Everything is allocated before the first token and kept, so that the peak does not depend on what
/// is asked; what the driver and loaded kernels take is not in it.
public struct DecodeMemory: Codable, Sendable, Hashable {
    /// Stored weights, the embedding and a draft's among them, and the tables that kernels read beside
    /// them.
    public var weights: Int
    /// Pages of keys and values, a draft's among them.
    public var cache: Int
    /// Buffers between kernels, of a prompt's chunk or a decode step, a draft's too; the state of
    /// sampling.
    public var activations: Int
    /// What thread blocks of kernels hand each other, and the workspace of the library's matrix
    /// products.
    public var workspace: Int
    /// Logits, float32.
    public var logits: Int

    /// Bytes by what they are for.
    public init(weights: Int, cache: Int, activations: Int, workspace: Int, logits: Int) {
        self.weights = weights
        self.cache = cache
        self.activations = activations
        self.workspace = workspace
        self.logits = logits
    }

    /// All of them; the largest `Int` where they overflow.
    public var total: Int { .saturatingSum(weights, cache, activations, workspace, logits) }
}
