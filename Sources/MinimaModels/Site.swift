import MinimaCore

/// Linear layers that read one activation, without their weights: query, key and value of a decoder
/// layer; gate and up; or one layer alone.
///
/// Sites are what is calibrated, planned and compressed: all members share one input moment, and
/// their weights, stacked along the outputs, may share factors.
public struct Site: Sendable, Hashable {
    /// The group's name in the checkpoint, `model.layers.0.self_attn.qkv_proj`; a site of one member
    /// has its name.
    public let name: String
    /// The decoder layer that it belongs to.
    public let layer: Int
    /// Columns of every member's weight.
    public let inputs: Int
    /// The linear layers, in the order in which their outputs are stacked.
    public private(set) var members: [LinearShape]
    /// Whether the output is added to the residual stream as it is; the outputs are `hidden` then.
    public let addsToResidual: Bool
    /// The share of the tokens that reach it: 1, or for one of several experts the mean over them.
    ///
    /// Below 1, a pass may leave the site out, and its inputs are other tokens' when the weights
    /// before it change.
    public let tokenShare: Double

    /// Rows of the stacked weight.
    public var outputs: Int { members.reduce(0) { $0 + $1.outputs } }
    /// Numbers in the dense weights.
    public var parameters: Int { outputs * inputs }

    /// A site of several layers.
    init(_ name: String, layer: Int, inputs: Int, members: [LinearShape]) {
        self.name = name
        self.layer = layer
        self.inputs = inputs
        self.members = members
        addsToResidual = false
        tokenShare = 1
    }

    /// A site of one layer.
    init(_ member: LinearShape, layer: Int, addsToResidual: Bool = false) {
        name = member.name
        self.layer = layer
        inputs = member.inputs
        members = [member]
        self.addsToResidual = addsToResidual
        tokenShare = 1
    }

    private init(_ site: Site, tokenShare: Double) {
        name = site.name
        layer = site.layer
        inputs = site.inputs
        members = site.members
        addsToResidual = false
        self.tokenShare = tokenShare
    }

    /// This site with other patches.
    ///
    /// - Parameter grids: How weights are cut, by ``LinearShape/role``; the others stay.
    /// - Throws: `PatchError` for a count that does not divide the side that it cuts.
    public func cut(_ grids: [String: PatchGrid]) throws(PatchError) -> Site {
        var site = self
        for (index, member) in members.enumerated() {
            guard let grid = grids[member.role] else { continue }
            let size = grid.axis == .outputs ? member.outputs : member.inputs
            guard grid.count > 0, size % grid.count == 0 else {
                throw .indivisible(name: member.name, grid: grid, size: size)
            }
            site.members[index].patches = grid
        }
        return site
    }

    /// This site in an expert that `share` of the tokens reach on average; its output is weighted
    /// before it is added to anything.
    func routed(share: Double) -> Site { Site(self, tokenShare: share) }

    /// Where the outputs of each member lie in the stacked weight.
    public var rows: [Range<Int>] {
        var start = 0
        return members.map { member in
            defer { start += member.outputs }
            return start..<start + member.outputs
        }
    }
}

/// A linear layer of a family, without its weight.
public struct LinearShape: Sendable, Hashable {
    /// The module's name in the checkpoint.
    public let name: String
    /// Rows of W.
    public let outputs: Int
    /// Columns of W.
    public let inputs: Int
    /// How W is cut into patches.
    public internal(set) var patches: PatchGrid

    /// The name of every family's output projection.
    public static let headName = "lm_head"

    /// What the layer is within its decoder layer: `q_proj`, `down_proj`, ….
    public var role: String { name.split(separator: ".").last.map(String.init) ?? name }
}

/// How a weight is cut into patches: runs of rows or of columns that belong together.
public struct PatchGrid: Sendable, Hashable {
    /// Which side is cut.
    public enum Axis: String, Sendable, Hashable, Codable {
        case outputs, inputs
    }

    /// The side that is cut.
    public var axis: Axis
    /// Patches, of equal size.
    public var count: Int

    /// `count` equal patches along `axis`.
    public init(_ axis: Axis, count: Int) {
        self.axis = axis
        self.count = count
    }

    /// At most `limit` equal patches of a side of `size`, each of at least `smallest` values: the most
    /// that divide it.
    static func blocks(_ axis: Axis, of size: Int, limit: Int = 8, smallest: Int = 32) -> PatchGrid
    {
        let count = (1...limit).last { size % $0 == 0 && size / $0 >= smallest } ?? 1
        return PatchGrid(axis, count: count)
    }

    /// The rows and columns of each patch of a weight `[outputs, inputs]`.
    public func ranges(outputs: Int, inputs: Int) -> [(rows: Range<Int>, columns: Range<Int>)] {
        let size = (axis == .outputs ? outputs : inputs) / count
        return (0..<count).map { index in
            let range = index * size..<(index + 1) * size
            return axis == .outputs ? (range, 0..<inputs) : (0..<outputs, range)
        }
    }
}

/// Why a weight cannot be cut as asked.
public enum PatchError: Error, Hashable, CustomStringConvertible {
    /// The patches of a weight would not be of equal size.
    case indivisible(name: String, grid: PatchGrid, size: Int)
    /// No linear layer has this role.
    case unknownRole(String, known: [String])

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .indivisible(let name, let grid, let size):
            """
            \(name) has \(size) \(grid.axis.rawValue), which \(grid.count) patches do not divide; \
            choose a divisor of \(size)
            """
        case .unknownRole(let role, let known):
            "no linear layer is called \(role); this model has \(known.joined(separator: ", "))"
        }
    }
}

extension [Site] {
    /// These sites with other patches.
    ///
    /// - Parameter grids: How weights are cut, by ``LinearShape/role``; the others stay.
    /// - Throws: `PatchError` for a role that no site has and for a count that does not divide.
    public func cut(_ grids: [String: PatchGrid]) throws(PatchError) -> [Site] {
        let known = Set(flatMap(\.members).map(\.role)).sorted()
        if let role = grids.keys.sorted().first(where: { !known.contains($0) }) {
            throw .unknownRole(role, known: known)
        }
        var sites: [Site] = []
        for site in self { sites.append(try site.cut(grids)) }
        return sites
    }
}
