import MinimaCore
import MinimaFormats

/// What measured decoding times ask of a plan.
public struct PlanSpeed: Sendable {
    /// The most that all linear layers may take for one step.
    public enum Limit: Sendable, Hashable {
        /// Nanoseconds.
        case nanoseconds(Int)
        /// The dense layers' time over this.
        case speedUp(Double)
    }

    /// What was measured.
    public var times: DecodeTimes
    /// Requests that are decoded at once.
    public var tokens: Int
    /// Whether formats that are slower than the dense module in their place are left out, and the
    /// linear layers may take no longer than dense ones.
    public var noSlower: Bool
    /// The most that the linear layers may take.
    public var limit: Limit?

    /// Demands on a plan; without `noSlower` and `limit` times are only reported.
    public init(
        times: DecodeTimes, tokens: Int = 1, noSlower: Bool = false, limit: Limit? = nil
    ) {
        self.times = times
        self.tokens = tokens
        self.noSlower = noSlower
        self.limit = limit
    }

    /// As the command line takes them, without dashes.
    var demands: [String] {
        let limit =
            switch limit {
            case .nanoseconds(let nanoseconds): ["linear-us \(rounded(Double(nanoseconds) / 1000))"]
            case .speedUp(let factor): ["speed-up \(factor)"]
            case nil: [] as [String]
            }
        return (noSlower ? ["no-slower"] : []) + limit
    }
}

/// Decoding times of what a plan may choose and of what it chose.
///
/// A site that is cut pays for each piece, one that stays dense for one module whatever the cut.
struct PlanTiming {
    /// Nanoseconds that the linear layers may take.
    let limit: Int?
    private let speed: PlanSpeed
    private var account: PlanExplanation.Decoding
    private var excluded: [String: PlanExplanation.Excluded] = [:]

    /// - Throws: `StageError.unmeasured` when the time of a dense site is not known.
    init(_ speed: PlanSpeed, _ analysis: Analysis) throws(StageError) {
        self.speed = speed
        var dense = 0
        for site in analysis.sites {
            guard let time = Self.dense(site.outputs, site.inputs, speed) else {
                throw .unmeasured(
                    what: "a dense layer [\(site.outputs), \(site.inputs)]", tokens: speed.tokens,
                    measured: speed.times.tokenCounts)
            }
            dense += time
        }
        let asked: Int? =
            switch speed.limit {
            case .nanoseconds(let nanoseconds): nanoseconds
            case .speedUp(let factor):
                Int(exactly: min(Double(dense) / factor, 1e18).rounded(.down)) ?? 0
            case nil: nil
            }
        limit = speed.noSlower ? min(asked ?? dense, dense) : asked
        account = PlanExplanation.Decoding(
            card: speed.times.card, tokens: speed.tokens, nanoseconds: 0, unmeasured: 0,
            denseNanoseconds: dense, limit: limit, excluded: [])
    }

    /// What the plan's choices take, and what was left out of them.
    var decoding: PlanExplanation.Decoding {
        var account = account
        account.excluded = excluded.values.sorted { $0.format < $1.format }
        return account
    }

    private static func dense(_ outputs: Int, _ inputs: Int, _ speed: PlanSpeed) -> Int? {
        speed.times.nanoseconds(
            FormatSpec(format: Dense.name), outputs: outputs, inputs: inputs, tokens: speed.tokens)
    }

    private func time(_ spec: FormatSpec, _ piece: SiteAnalysis.Piece) -> Int? {
        speed.times.nanoseconds(
            spec, outputs: piece.rows, inputs: piece.columns, tokens: speed.tokens)
    }

    /// Leaves out what the demands exclude: options whose time is not known, and with `noSlower` those
    /// that are slower than the dense piece or that make the site slower than dense whatever its other
    /// pieces take.
    ///
    /// - Returns: Nanoseconds of what is left, by cut, piece and option; `nil` where nothing is
    ///   demanded.
    mutating func restrict(_ cuts: inout [SiteAnalysis.Cut], of site: SiteAnalysis) -> [[[Int]]]? {
        guard limit != nil, let dense = Self.dense(site.outputs, site.inputs, speed) else {
            return nil
        }
        var kept: [SiteAnalysis.Cut] = []
        var times: [[[Int]]] = []
        for cut in cuts {
            guard let (cut, own) = restrict(cut, dense: dense) else { continue }
            kept.append(cut)
            times.append(own)
        }
        if !kept.contains(where: { $0.pieces.count == 1 }), let whole = Self.untouched(cuts) {
            kept.append(whole)
            // It is one module; its time stands at the first piece.
            times.append(whole.pieces.indices.map { [$0 == 0 ? dense : 0] })
        }
        cuts = kept
        return times
    }

    private mutating func restrict(_ cut: SiteAnalysis.Cut, dense: Int) -> (
        SiteAnalysis.Cut, [[Int]]
    )? {
        var options: [[(option: SiteAnalysis.Option, time: Int)]] = []
        for piece in cut.pieces {
            let reference = Self.dense(piece.rows, piece.columns, speed)
            var own: [(option: SiteAnalysis.Option, time: Int)] = []
            for option in piece.options {
                guard let time = time(option.spec, piece) else {
                    exclude(option) { $0.unmeasured += 1 }
                    continue
                }
                if speed.noSlower, let reference, time > reference {
                    let slowness = Double(time) / Double(reference)
                    exclude(option) { entry in
                        entry.slower += 1
                        entry.least = min(entry.least ?? slowness, slowness)
                        entry.most = max(entry.most ?? slowness, slowness)
                    }
                    continue
                }
                own.append((option, time))
            }
            options.append(own)
        }
        if speed.noSlower {
            let fastest = options.map { $0.map(\.time).min() ?? 0 }
            let all = fastest.reduce(0, +)
            for index in options.indices {
                let others = all - fastest[index]
                options[index].removeAll { option, time in
                    guard time + others > dense else { return false }
                    exclude(option) { $0.inSlowCuts += 1 }
                    return true
                }
            }
        }
        guard options.allSatisfy({ !$0.isEmpty }) else { return nil }
        var cut = cut
        for index in options.indices { cut.pieces[index].options = options[index].map(\.option) }
        return (cut, options.map { $0.map(\.time) })
    }

    /// A cut of which every piece stays dense: the site as it was.
    private static func untouched(_ cuts: [SiteAnalysis.Cut]) -> SiteAnalysis.Cut? {
        for cut in cuts {
            var cut = cut
            for index in cut.pieces.indices {
                cut.pieces[index].options.removeAll { $0.spec.format != Dense.name }
                cut.pieces[index].options = Array(cut.pieces[index].options.prefix(1))
            }
            if cut.pieces.allSatisfy({ !$0.options.isEmpty }) { return cut }
        }
        return nil
    }

    private mutating func exclude(
        _ option: SiteAnalysis.Option, _ count: (inout PlanExplanation.Excluded) -> Void
    ) {
        // That dense pieces are slower than the whole says nothing of a format.
        guard option.spec.format != Dense.name else { return }
        let title = option.spec.title
        count(&excluded[title, default: .init(format: title)])
    }

    /// Counts the pieces that were chosen for a site.
    mutating func add(
        _ site: SiteAnalysis, _ chosen: [(piece: SiteAnalysis.Piece, spec: FormatSpec)]
    ) {
        let times =
            chosen.allSatisfy { $0.spec.format == Dense.name }
            ? [Self.dense(site.outputs, site.inputs, speed)]
            : chosen.map { time($0.spec, $0.piece) }
        for time in times {
            guard let time else {
                account.unmeasured += 1
                account.nanoseconds = nil
                continue
            }
            if let sum = account.nanoseconds { account.nanoseconds = sum + time }
        }
    }
}
