import MinimaCore
import MinimaFormats

/// Turns an analysis into a plan: the formats with the least predicted damage within a limit.
public struct Planner {
    /// What to plan.
    public struct Request: Sendable {
        /// How small.
        public var target: PlanTarget
        /// Which formats.
        public var formats: FormatFilter
        /// Modules that stay dense: names, or endings of names such as `down_proj`.
        public var protected: [String]
        /// Ways to cut sites that are considered; empty for all.
        public var cuts: [String]
        /// No piece gets less than this share of what it would get if all were treated alike.
        public var floor: Double
        /// No piece does more predicted damage than this, nats per token.
        public var damageCap: Double
        /// Ranks are multiples of this.
        public var alignment: Int
        /// What measured decoding times ask for; `nil` where they play no part.
        public var speed: PlanSpeed?
        /// Version of Minima, for the record.
        public var version: String

        /// A request.
        public init(
            target: PlanTarget, formats: FormatFilter, protected: [String] = [],
            cuts: [String] = [], floor: Double = 0, damageCap: Double = .infinity,
            alignment: Int = 1, speed: PlanSpeed? = nil, version: String
        ) {
            self.target = target
            self.formats = formats
            self.protected = protected
            self.cuts = cuts
            self.floor = floor
            self.damageCap = damageCap
            self.alignment = alignment
            self.speed = speed
            self.version = version
        }
    }

    private let analysis: Analysis
    private let head: PlannedHead?

    /// A planner for the model of `analysis`.
    ///
    /// - Parameter head: The output projection's entry, which counts where a target is the whole model's
    ///   or a card's; `nil`: it stays dense.
    public init(_ analysis: Analysis, head: PlannedHead? = nil) {
        self.head = head
        self.analysis = analysis
    }

    /// The plan, and why it is so.
    ///
    /// - Throws: `StageError.infeasible`, naming the smallest target that can be met, or the shortest
    ///   time that was found within it; `.unmeasured`, `.damagedAnalysis` and `.otherSchema`.
    public func plan(_ request: Request) throws(StageError) -> (
        plan: CompressionPlan, explanation: PlanExplanation
    ) {
        try analysis.check()
        var timing = try request.speed.map { speed throws(StageError) in
            try PlanTiming(speed, analysis)
        }
        let menu = try menu(request, &timing)
        let limit = request.target.limit(analysis, head)
        let knapsack = menu.knapsack
        guard let solution = knapsack.solve(limit: limit, timeLimit: timing?.limit) else {
            throw .infeasible(
                target: "\(request.target)",
                smallest: request.target.feasible(knapsack.smallestCost, analysis, head))
        }
        if let limit = timing?.limit, solution.time > limit {
            throw .infeasible(
                target: "\(request.target) in \(rounded(Double(limit) / 1000)) µs of decoding",
                smallest: "--linear-us \(rounded(Double(solution.time) / 1000 + 0.005))")
        }
        var modules: [CompressionPlan.Module] = []
        var (parameters, bytes) = (0, 0)
        for ((site, cuts), choice) in zip(zip(analysis.sites, menu.cuts), solution.choices) {
            let cut = cuts[choice.alternative]
            let chosen = zip(cut.pieces, choice.options).map { piece, option in
                ChosenPiece(piece: piece, option: piece.options[option])
            }
            parameters += chosen.reduce(0) { $0 + $1.option.parameters }
            bytes += chosen.reduce(0) { $0 + $1.option.bytes }
            modules += Self.modules(site, cut.kind, chosen)
            timing?.add(site, chosen.map { ($0.piece, $0.option.spec) })
        }
        let linear = analysis.linearParameters
        let target = [request.target.description] + (request.speed?.demands ?? [])
        var plan = CompressionPlan(
            version: request.version, model: analysis.model, fingerprints: analysis.fingerprints,
            target: target.joined(separator: ", "), formats: request.formats.names,
            linearParametersBefore: linear, linearParametersAfter: parameters,
            linearBytesBefore: linear * analysis.dtype.byteCount, linearBytesAfter: bytes,
            damage: solution.damage, modules: modules)
        let explanation = PlanExplanation(
            plan: plan, analysis: analysis, limit: limit, bound: solution.bound,
            price: solution.price, decoding: timing?.decoding)
        plan.modules += head.map { [$0.module] } ?? []
        return (plan, explanation)
    }

    /// The cuts and options that a request allows, by site.
    private struct Menu {
        var cuts: [[SiteAnalysis.Cut]]
        var knapsack: Knapsack
    }

    private func menu(_ request: Request, _ timing: inout PlanTiming?) throws(StageError) -> Menu {
        var cuts: [[SiteAnalysis.Cut]] = []
        var items: [[Knapsack.Alternative]] = []
        let limit = request.target.limit(analysis, head)
        let unit = request.target.unit
        let dense = analysis.sites.reduce(0) { sum, site in
            sum + site.outputs * site.inputs * (unit == .bytes ? analysis.dtype.byteCount : 1)
        }
        let uniform = max(Double(limit) / Double(max(dense, 1)), 0)
        for site in analysis.sites {
            let isProtected =
                site.members.contains { Self.matches($0.name, request.protected) }
                || Self.matches(site.name, request.protected)
            var allowed: [SiteAnalysis.Cut] = []
            for cut in site.cuts where request.allows(cut, of: site) {
                var cut = cut
                for index in cut.pieces.indices {
                    let piece = cut.pieces[index]
                    let floor =
                        request.floor * uniform * Double(Self.denseCost(piece, analysis, unit))
                    cut.pieces[index].options = piece.options.filter { option in
                        if option.spec.format == Dense.name { return true }
                        return !isProtected && request.formats.allows(option.spec)
                            && option.damage <= request.damageCap
                            && Double(unit.cost(option)) >= floor
                            && option.spec.isAligned(request.alignment)
                    }
                }
                if cut.pieces.allSatisfy({ !$0.options.isEmpty }) { allowed.append(cut) }
            }
            let times = timing?.restrict(&allowed, of: site)
            guard !allowed.isEmpty else { throw .noOptions(site: site.name) }
            cuts.append(allowed)
            items.append(
                allowed.enumerated().map { index, cut in
                    cut.pieces.enumerated().map { slot, piece in
                        piece.options.enumerated().map { place, option in
                            .init(
                                cost: unit.cost(option), damage: option.damage,
                                time: times?[index][slot][place] ?? 0)
                        }
                    }
                })
        }
        return Menu(cuts: cuts, knapsack: Knapsack(items: items))
    }

    private static func denseCost(
        _ piece: SiteAnalysis.Piece, _ analysis: Analysis, _ unit: PlanTarget.Unit
    ) -> Int {
        piece.rows * piece.columns * (unit == .bytes ? analysis.dtype.byteCount : 1)
    }

    private static func matches(_ name: String, _ endings: [String]) -> Bool {
        endings.contains { name == $0 || name.hasSuffix(".\($0)") }
    }
}

extension Planner.Request {
    /// Whether a way to cut is asked for; a site of one member is its member.
    fileprivate func allows(_ cut: SiteAnalysis.Cut, of site: SiteAnalysis) -> Bool {
        cuts.isEmpty || cuts.contains(cut.kind)
            || site.members.count == 1 && cut.kind == "stacked" && cuts.contains("members")
    }
}

extension PlanTarget.Unit {
    func cost(_ option: SiteAnalysis.Option) -> Int {
        self == .parameters ? option.parameters : option.bytes
    }
}

extension FormatSpec {
    /// Whether the ranks of every factored part are multiples of `alignment`.
    fileprivate func isAligned(_ alignment: Int) -> Bool {
        [LowRank.name, Interpolative.name].contains(format)
            ? ranks.allSatisfy { $0.isMultiple(of: alignment) }
            : parts.allSatisfy { $0.isAligned(alignment) }
    }
}

// MARK: - Modules from pieces

/// A piece and what was chosen for it.
private struct ChosenPiece {
    var piece: SiteAnalysis.Piece
    var option: SiteAnalysis.Option
    var isDense: Bool { option.spec.format == Dense.name }
}

extension Planner {
    /// The modules that a site's chosen pieces make; what stays dense is left out.
    private static func modules(_ site: SiteAnalysis, _ kind: String, _ chosen: [ChosenPiece])
        -> [CompressionPlan.Module]
    {
        guard !chosen.allSatisfy(\.isDense) else { return [] }
        if chosen.count == 1 {
            return [module(site.name, rows: site.outputs, columns: site.inputs, chosen)]
        }
        var start = 0
        return site.members.compactMap { member in
            let rows = start..<start + member.outputs
            start = rows.upperBound
            let own = chosen.filter {
                rows.contains($0.piece.row) && $0.piece.row + $0.piece.rows <= rows.upperBound
            }
            guard !own.allSatisfy(\.isDense) else { return nil }
            return module(member.name, rows: member.outputs, columns: site.inputs, own)
        }
    }

    private static func module(
        _ name: String, rows: Int, columns: Int, _ pieces: [ChosenPiece]
    ) -> CompressionPlan.Module {
        CompressionPlan.Module(
            name: name, outputs: rows, inputs: columns,
            spec: spec(pieces, columns: columns),
            parameters: pieces.reduce(0) { $0 + $1.option.parameters },
            bytes: pieces.reduce(0) { $0 + $1.option.bytes },
            damage: pieces.reduce(0) { $0 + $1.option.damage })
    }

    private static func spec(_ pieces: [ChosenPiece], columns: Int) -> FormatSpec {
        if pieces.count == 1 { return pieces[0].option.spec }
        let cutsColumns = pieces.contains { $0.piece.columns < columns }
        return FormatSpec(
            format: Blocks.name,
            outputModes: cutsColumns ? [] : pieces.map(\.piece.rows),
            inputModes: cutsColumns ? pieces.map(\.piece.columns) : [],
            parts: pieces.map(\.option.spec))
    }
}
