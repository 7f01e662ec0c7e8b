/// Which of a model's numbers train, and how.
public struct TrainingOptions: Sendable, Hashable {
    /// Cores, dense and quantised weights, and norms.
    public static let usualRoles: Set<TrainedTensor.Role> = [.core, .dense, .quantised, .norm]

    /// What trains; everything else is frozen. Of no use with adapters.
    public var roles: Set<TrainedTensor.Role>
    /// The rank of the adapter beside each linear weight; with it nothing else trains.
    public var adapterRank: Int?
    /// Whether adapters end inside the weights beside which they trained, in their own formats, or
    /// stay as parts of sums.
    public var mergesAdapters: Bool
    /// Of the adapters' first numbers.
    public var seed: UInt64

    /// Options of training.
    public init(
        roles: Set<TrainedTensor.Role> = usualRoles, adapterRank: Int? = nil,
        mergesAdapters: Bool = true, seed: UInt64 = 0
    ) {
        self.roles = roles
        self.adapterRank = adapterRank
        self.mergesAdapters = mergesAdapters
        self.seed = seed
    }
}
