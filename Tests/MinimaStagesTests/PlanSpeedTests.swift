import MinimaCore
import MinimaFormats
import Testing

@testable import MinimaStages

@Suite struct PlanSpeedTests {
    private let dense = FormatSpec(format: Dense.name)

    /// The planner tests' model, where each low rank is one of a tensor format that does little damage.
    private func analysis() throws -> Analysis {
        var analysis = try PlannerTests().analysis()
        for site in analysis.sites.indices {
            for cut in analysis.sites[site].cuts.indices {
                for index in analysis.sites[site].cuts[cut].pieces.indices {
                    try useTucker(&analysis.sites[site].cuts[cut].pieces[index])
                }
            }
        }
        return analysis
    }

    private func useTucker(_ piece: inout SiteAnalysis.Piece) throws {
        let (rows, columns) = (piece.rows, piece.columns)
        for index in piece.options.indices where piece.options[index].spec.format == LowRank.name {
            let spec = FormatSpec(
                format: Tucker.name, outputModes: [rows / 8, 8], inputModes: [columns],
                ranks: [rows / 8, 8] + piece.options[index].spec.ranks)
            piece.options[index].spec = spec
            piece.options[index].parameters = try Tucker.parameterCount(
                spec, outputs: rows, inputs: columns)
            piece.options[index].bytes = try Tucker.byteCount(
                spec, outputs: rows, inputs: columns, dtype: .bfloat16)
            piece.options[index].damage *= 0.5
        }
    }

    /// A time for everything that `analysis` lists: for each layer `overhead` nanoseconds and one per
    /// byte, times `factor`; whatever has none is left out.
    private func times(
        _ analysis: Analysis, overhead: Int = 20, factor: (FormatSpec) -> Double? = { _ in 1 }
    ) throws -> DecodeTimes {
        var rows: [DecodeCosts.Row] = []
        for piece in analysis.sites.flatMap(\.cuts).flatMap(\.pieces) {
            for option in piece.options {
                guard let factor = factor(option.spec) else { continue }
                let time = (Double(overhead + option.bytes) * factor).rounded()
                rows.append(
                    .init(
                        spec: option.spec, outputs: piece.rows, inputs: piece.columns, tokens: 1,
                        nanoseconds: .init(
                            median: time, lowest: time, highest: time, repetitions: 1),
                        bytes: option.bytes))
            }
        }
        return try DecodeTimes(
            DecodeCosts(
                version: "0", card: "card",
                readBandwidth: .init(median: 1e9, lowest: 1e9, highest: 1e9, repetitions: 1),
                command: "bench", rows: rows))
    }

    private func request(_ target: PlanTarget, _ speed: PlanSpeed?, cuts: [String] = []) throws
        -> Planner.Request
    {
        var request = try PlannerTests().request(target, cuts: cuts)
        request.speed = speed
        return request
    }

    /// What the linear layers take, from the plan's modules alone.
    private func time(_ plan: CompressionPlan, _ analysis: Analysis, _ times: DecodeTimes) -> Int? {
        let modules = Dictionary(uniqueKeysWithValues: plan.modules.map { ($0.name, $0.spec) })
        var total = 0
        for site in analysis.sites {
            var layers = [(modules[site.name] ?? dense, site.outputs)]
            if modules[site.name] == nil, site.members.contains(where: { modules[$0.name] != nil })
            {
                layers = site.members.map { (modules[$0.name] ?? dense, $0.outputs) }
            }
            for (spec, outputs) in layers {
                let time = times.nanoseconds(
                    spec, outputs: outputs, inputs: site.inputs, tokens: 1)
                guard let time else { return nil }
                total += time
            }
        }
        return total
    }

    private func formats(_ plan: CompressionPlan) -> Set<String> {
        func leaves(_ spec: FormatSpec) -> [String] {
            spec.parts.isEmpty ? [spec.format] : spec.parts.flatMap(leaves)
        }
        return Set(plan.modules.flatMap { leaves($0.spec) })
    }

    @Test func withoutDemandsTimesAreOnlyReported() throws {
        let analysis = try analysis()
        let times = try times(analysis)
        for target in [PlanTarget.ratio(0.35), .bitsPerWeight(5)] {
            let without = try Planner(analysis).plan(request(target, nil))
            let with = try Planner(analysis).plan(request(target, PlanSpeed(times: times)))
            #expect(without.plan == with.plan)
            #expect(without.explanation.decoding == nil)
            let decoding = try #require(with.explanation.decoding)
            #expect(decoding.nanoseconds == time(with.plan, analysis, times))
            #expect(decoding.nanoseconds != nil && decoding.limit == nil)
            #expect(decoding.excluded.isEmpty && decoding.unmeasured == 0)
            #expect(
                decoding.denseNanoseconds
                    == 6 * 20 + analysis.linearParameters * 2)
            #expect(try PlanExplanation(json: with.explanation.json()) == with.explanation)
        }
    }

    @Test func aFormatSlowerThanDenseIsDrivenOut() throws {
        let analysis = try analysis()
        // A rank of 4 takes longer than the dense layer does, too.
        let times = try times(analysis) { $0.format == Tucker.name ? 12 : 1 }
        let free = try Planner(analysis).plan(request(.ratio(0.35), PlanSpeed(times: times)))
        #expect(formats(free.plan).contains(Tucker.name))
        let own = try #require(free.explanation.decoding)
        #expect(try #require(own.nanoseconds) > own.denseNanoseconds)

        let (plan, explanation) = try Planner(analysis).plan(
            request(.ratio(0.35), PlanSpeed(times: times, noSlower: true)))
        #expect(formats(plan).contains(Interpolative.name))
        #expect(!formats(plan).contains(Tucker.name))
        #expect(plan.target == "ratio 0.35, no-slower")
        let decoding = try #require(explanation.decoding)
        #expect(try #require(decoding.nanoseconds) <= decoding.denseNanoseconds)
        #expect(decoding.nanoseconds == time(plan, analysis, times))
        let entry = try #require(decoding.excluded.first { $0.format == "tucker as a low rank" })
        let listed = analysis.sites.flatMap(\.cuts).flatMap(\.pieces).flatMap(\.options)
            .count { $0.spec.format == Tucker.name }
        #expect(entry.slower == listed && entry.unmeasured == 0 && entry.inSlowCuts == 0)
        let (least, most) = try (#require(entry.least), #require(entry.most))
        #expect(1 < least && least < most)
        #expect(explanation.damage > free.explanation.damage)
    }

    @Test func onlyTheSlowRanksOfAFormatAreDrivenOut() throws {
        let analysis = try analysis()
        let times = try times(analysis) { $0.format == Tucker.name ? 1.5 : 1 }
        let (plan, explanation) = try Planner(analysis).plan(
            request(.ratio(0.5), PlanSpeed(times: times, noSlower: true), cuts: ["stacked"]))
        let entry = try #require(
            explanation.decoding?.excluded.first { $0.format == "tucker as a low rank" })
        #expect(entry.slower > 0)
        #expect(formats(plan).contains(Tucker.name))
        for module in plan.modules {
            func time(_ spec: FormatSpec) throws -> Int {
                try #require(
                    times.nanoseconds(
                        spec, outputs: module.outputs, inputs: module.inputs, tokens: 1))
            }
            #expect(try time(module.spec) <= time(dense))
        }
    }

    @Test func aLimitIsKept() throws {
        let analysis = try analysis()
        // What does little damage is slow: both limits bind.
        let times = try times(analysis) {
            [Tucker.name: 2, Interpolative.name: 1, Quantized.name: 1.6][$0.format] ?? 1
        }
        var (damage, bound) = (0.0, 0.0)
        for factor in [1, 1.2, 1.5, 2, 2.5] {
            let (plan, explanation) = try Planner(analysis).plan(
                request(.ratio(0.35), PlanSpeed(times: times, limit: .speedUp(factor))))
            let decoding = try #require(explanation.decoding)
            let limit = try #require(decoding.limit)
            #expect(limit == Int(Double(decoding.denseNanoseconds) / factor))
            let own = try #require(decoding.nanoseconds)
            #expect(own <= limit && own == time(plan, analysis, times))
            #expect(own * 10 > limit * 9, "nearly all of the time is used")
            #expect(plan.linearParametersAfter <= explanation.limit)
            #expect(explanation.bound <= explanation.damage)
            #expect(explanation.damage >= damage - 1e-9 && explanation.bound >= bound - 1e-9)
            (damage, bound) = (explanation.damage, explanation.bound)
            // The same limit in nanoseconds gives the same plan.
            let again = try Planner(analysis).plan(
                request(.ratio(0.35), PlanSpeed(times: times, limit: .nanoseconds(limit))))
            #expect(again.plan.modules == plan.modules)
        }
    }

    @Test func aLimitThatCannotBeKeptSaysWhatCan() throws {
        let analysis = try analysis()
        let times = try times(analysis)
        let error = #expect(throws: StageError.self) {
            try Planner(analysis).plan(
                request(.bitsPerWeight(6), PlanSpeed(times: times, limit: .nanoseconds(100))))
        }
        let text = "\(try #require(error))"
        #expect(text.contains("--linear-us"), "\(text)")
        let microseconds = try #require(text.split(separator: " ").last.flatMap { Double($0) })
        let limit = PlanSpeed.Limit.nanoseconds(Int((microseconds * 1000).rounded()))
        #expect(throws: Never.self) {
            try Planner(analysis).plan(
                request(.bitsPerWeight(6), PlanSpeed(times: times, limit: limit)))
        }
        for factor in [Double.infinity, 1e300, .nan] {
            #expect(throws: StageError.self) {
                try Planner(analysis).plan(
                    request(.ratio(0.3), PlanSpeed(times: times, limit: .speedUp(factor))))
            }
        }
    }

    @Test func sitesInPiecesPayForEachPiece() throws {
        var analysis = try analysis()
        // A cut is worth it as long as it costs nothing: its pieces do less damage.
        for site in analysis.sites.indices {
            for cut in analysis.sites[site].cuts.indices
            where analysis.sites[site].cuts[cut].kind != "stacked" {
                for piece in analysis.sites[site].cuts[cut].pieces.indices {
                    for option in analysis.sites[site].cuts[cut].pieces[piece].options.indices {
                        analysis.sites[site].cuts[cut].pieces[piece].options[option].damage *= 0.1
                    }
                }
            }
        }
        func isCut(_ plan: CompressionPlan) -> Bool {
            plan.modules.contains { !$0.name.hasSuffix("gate_up_proj") && $0.outputs == 64 }
                || formats(plan).contains(Blocks.name)
        }
        let target = PlanTarget.bitsPerWeight(8)
        for (overhead, cuts) in [(0, true), (1_000_000, false)] {
            let times = try times(analysis, overhead: overhead)
            let (plan, explanation) = try Planner(analysis).plan(
                request(target, PlanSpeed(times: times, noSlower: true)))
            #expect(isCut(plan) == cuts)
            let slow = explanation.decoding?.excluded.reduce(0) { $0 + $1.inSlowCuts } ?? 0
            #expect((slow == 0) == cuts)
            #expect(explanation.decoding?.nanoseconds == time(plan, analysis, times))
        }
        // Where only cuts are allowed and none is as fast as the whole, sites stay as they are.
        let times = try times(analysis, overhead: 1_000_000)
        let (plan, explanation) = try Planner(analysis).plan(
            request(
                .bitsPerWeight(16), PlanSpeed(times: times, noSlower: true), cuts: ["patches"]))
        #expect(plan.modules.isEmpty)
        #expect(explanation.decoding?.nanoseconds == explanation.decoding?.denseNanoseconds)
    }

    @Test func whatWasNotMeasuredIsNoOption() throws {
        let analysis = try analysis()
        let times = try times(analysis) { $0.format == Tucker.name ? nil : 1 }
        let free = try Planner(analysis).plan(request(.ratio(0.35), PlanSpeed(times: times)))
        #expect(formats(free.plan).contains(Tucker.name))
        #expect(free.explanation.decoding?.nanoseconds == nil)
        #expect((free.explanation.decoding?.unmeasured ?? 0) > 0)
        let (plan, explanation) = try Planner(analysis).plan(
            request(.ratio(0.35), PlanSpeed(times: times, limit: .speedUp(1.1))))
        #expect(!formats(plan).contains(Tucker.name))
        let entry = try #require(explanation.decoding?.excluded.first)
        #expect(entry.format == "tucker as a low rank" && entry.slower == 0)
        #expect(entry.unmeasured > 0)
    }

    @Test func denseLayersMustBeMeasured() throws {
        let analysis = try analysis()
        let none = try times(analysis) { $0.format == Dense.name ? nil : 1 }
        let all = try times(analysis)
        for speed in [PlanSpeed(times: none), PlanSpeed(times: all, tokens: 2)] {
            let error = #expect(throws: StageError.self) {
                try Planner(analysis).plan(request(.ratio(0.35), speed))
            }
            #expect("\(try #require(error))".contains("[128, 48]"))
        }
    }
}
