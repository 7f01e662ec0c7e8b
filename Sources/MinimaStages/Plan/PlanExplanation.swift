import MinimaCore
import MinimaFormats

/// Where a plan's budget went, and why.
public struct PlanExplanation: StageResult, Hashable {
    /// `plan-explanation`.
    public static let kind = "plan-explanation"

    /// Modules of one role (`down_proj`, `qkv_proj`) over all layers.
    public struct Role: Codable, Sendable, Hashable {
        /// The role's name.
        public var name: String
        /// Sites or layers that are compressed, of all.
        public var compressed: Int
        /// Sites of the role.
        public var count: Int
        /// Formats and how many modules have each.
        public var formats: [String: Int]
        /// Share of the dense bytes that is kept.
        public var kept: Double
        /// Predicted damage, nats per token.
        public var damage: Double
    }

    /// What the linear layers take while decoding, from measured times.
    public struct Decoding: Codable, Sendable, Hashable {
        /// The card that was measured.
        public var card: String
        /// Requests at once.
        public var tokens: Int
        /// Nanoseconds of all linear layers under the plan; `nil` where a piece was not measured.
        public var nanoseconds: Int?
        /// Pieces of the plan that were not measured.
        public var unmeasured: Int
        /// Nanoseconds of all linear layers when they are dense.
        public var denseNanoseconds: Int
        /// Nanoseconds that they may take; `nil` where times were only reported.
        public var limit: Int?
        /// What was no option because of its time.
        public var excluded: [Excluded]
    }

    /// Options of one format that a plan could not choose because of their time.
    public struct Excluded: Codable, Sendable, Hashable {
        /// The format's title.
        public var format: String
        /// Options slower than what is dense in their place.
        public var slower = 0
        /// The shortest of their times, relative to the dense one.
        public var least: Double?
        /// The longest.
        public var most: Double?
        /// Options of pieces with which a site would be slower than whole and dense, whatever its
        /// other pieces are.
        public var inSlowCuts = 0
        /// Options whose time is not known.
        public var unmeasured = 0
    }

    /// The plan's target.
    public var target: String
    /// Parameters or bytes that the linear layers may have.
    public var limit: Int
    /// Predicted damage of the plan, nats per token.
    public var damage: Double
    /// No choice of these options within the limits has less predicted damage than this.
    public var bound: Double
    /// Predicted damage that one more parameter or byte would save.
    public var price: Double
    /// Roles in forward order.
    public var roles: [Role]
    /// Modules that do the most damage, first the worst.
    public var worst: [CompressionPlan.Module]
    /// Decoding times; `nil` where none were given.
    public var decoding: Decoding?

    init(
        plan: CompressionPlan, analysis: Analysis, limit: Int, bound: Double, price: Double,
        decoding: Decoding?
    ) {
        target = plan.target
        self.decoding = decoding
        self.limit = limit
        damage = plan.damage ?? 0
        self.bound = bound
        self.price = price
        worst = Array(
            plan.modules.sorted { ($0.damage ?? 0) > ($1.damage ?? 0) }.prefix(8))
        var roles: [Role] = []
        var dense: [String: Int] = [:]
        var saved: [String: Int] = [:]
        let modules = Dictionary(plan.modules.map { ($0.name, $0) }) { first, _ in first }
        for site in analysis.sites {
            let name = site.name.split(separator: ".").last.map(String.init) ?? site.name
            if !roles.contains(where: { $0.name == name }) {
                roles.append(
                    Role(name: name, compressed: 0, count: 0, formats: [:], kept: 1, damage: 0))
            }
            guard let index = roles.firstIndex(where: { $0.name == name }) else { continue }
            roles[index].count += 1
            dense[name, default: 0] += site.outputs * site.inputs * analysis.dtype.byteCount
            var isCompressed = false
            // A site of one member has its name.
            let names = [site.name] + site.members.map(\.name).filter { $0 != site.name }
            for module in names.compactMap({ modules[$0] }) {
                isCompressed = true
                roles[index].formats[module.spec.title, default: 0] += 1
                roles[index].damage += module.damage ?? 0
                saved[name, default: 0] +=
                    module.outputs * module.inputs * analysis.dtype.byteCount - module.bytes
            }
            if isCompressed { roles[index].compressed += 1 }
        }
        for index in roles.indices {
            let all = Double(max(dense[roles[index].name] ?? 0, 1))
            roles[index].kept = 1 - Double(saved[roles[index].name] ?? 0) / all
        }
        self.roles = roles
    }
}
