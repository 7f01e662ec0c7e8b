import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import Testing

@testable import MinimaStages

@Suite struct PlannerTests {
    /// A model of `layers` layers with two sites each; damage falls with rank and with bits.
    func analysis(layers: Int = 3) throws -> Analysis {
        var sites: [SiteAnalysis] = []
        for layer in 0..<layers {
            for (role, outputs) in [("gate_up_proj", [64, 64]), ("down_proj", [48])] {
                let name = "model.layers.\(layer).mlp.\(role)"
                let members =
                    outputs.count == 1
                    ? [name]
                    : ["gate_proj", "up_proj"].map {
                        "model.layers.\(layer).mlp.\($0)"
                    }
                let total = outputs.reduce(0, +)
                let fragility = Double(layer + 1) * (role == "down_proj" ? 3 : 1)
                var start = 0
                let pieces = try outputs.map { rows in
                    defer { start += rows }
                    return try piece(start, rows, 48, fragility * 1.2)
                }
                let halves = try [0, total / 2].map {
                    try piece($0, total / 2, 48, fragility)
                }
                sites.append(
                    SiteAnalysis(
                        name: name, layer: layer, outputs: total, inputs: 48,
                        members: zip(members, outputs).map { .init(name: $0, outputs: $1) },
                        patches: [],
                        activations: .init(
                            rms: 1, largest: 1, outlierChannels: [], massiveTokens: 0),
                        cuts: [
                            .init(kind: "stacked", pieces: [try piece(0, total, 48, fragility)]),
                            .init(kind: "patches", pieces: halves),
                        ] + (outputs.count == 1 ? [] : [.init(kind: "members", pieces: pieces)])))
            }
        }
        let linear = sites.reduce(0) { $0 + $1.outputs * $1.inputs }
        return Analysis(
            version: "0", model: "m", fingerprints: ["a": "b"], family: "f", dtype: .bfloat16,
            parameters: linear + 1000, bytes: 2 * linear + 2000, cacheBytesPerToken: 8,
            calibration: .init(sources: [], context: 1, gradientWindows: 0, seed: 0, hash: ""),
            device: "cpu", seconds: [:], sites: sites, probes: [], predictor: nil)
    }

    private func piece(_ row: Int, _ rows: Int, _ columns: Int, _ fragility: Double) throws
        -> SiteAnalysis.Piece
    {
        func option(_ spec: FormatSpec, _ damage: Double) throws -> SiteAnalysis.Option {
            let format = try FormatRegistry.format(spec.format)
            return .init(
                spec: spec,
                parameters: try format.parameterCount(spec, outputs: rows, inputs: columns),
                bytes: try format.byteCount(
                    spec, outputs: rows, inputs: columns, dtype: .bfloat16),
                error: damage, damage: damage)
        }
        var options = [try option(FormatSpec(format: Dense.name), 0)]
        for rank in stride(from: 4, through: min(rows, columns) - 4, by: 4) {
            let share = Double(rank) / Double(columns)
            options.append(
                try option(
                    FormatSpec(format: Interpolative.name, ranks: [rank]),
                    fragility * (1 - share) * (1 - share) * Double(rows)))
            options.append(
                try option(
                    FormatSpec(format: LowRank.name, ranks: [rank]),
                    fragility * (1 - share) * (1 - share) * Double(rows)))
        }
        for bits in [2, 3, 4, 8] {
            options.append(
                try option(
                    FormatSpec(
                        format: Quantized.name, bits: bits, groupSize: 16,
                        parts: [FormatSpec(format: Dense.name)]),
                    fragility * 0.01 * Double(rows >> bits + 1)))
        }
        return .init(row: row, rows: rows, column: 0, columns: columns, options: options)
    }

    func request(_ target: PlanTarget, _ formats: [String] = [], cuts: [String] = [])
        throws -> Planner.Request
    {
        .init(
            target: target, formats: try FormatFilter(formats), cuts: cuts, version: "0")
    }

    /// Sizes of what the plan's modules store, from their specifications.
    private func count(_ plan: CompressionPlan, _ analysis: Analysis) throws -> (
        parameters: Int, bytes: Int
    ) {
        var parameters = analysis.linearParameters
        var bytes = 2 * parameters
        for module in plan.modules {
            let format = try FormatRegistry.format(module.spec.format)
            let (rows, columns) = (module.outputs, module.inputs)
            parameters +=
                try format.parameterCount(module.spec, outputs: rows, inputs: columns)
                - rows * columns
            bytes +=
                try format.byteCount(
                    module.spec, outputs: rows, inputs: columns, dtype: .bfloat16)
                - 2 * rows * columns
        }
        return (parameters, bytes)
    }

    /// An output projection in 8 bits, of a model of ``analysis(layers:)``'s width.
    private func head(isTied: Bool, vocabulary: Int64 = 100) throws -> PlannedHead {
        let config = try ModelConfig(
            json: .object([
                "model_type": .string("qwen3"), "vocab_size": .integer(vocabulary),
                "hidden_size": .integer(48), "num_hidden_layers": .integer(3),
                "tie_word_embeddings": .bool(isTied),
            ]), path: "config.json")
        return try PlannedHead(bits: 8, of: config, dtype: .bfloat16)
    }

    /// The output projection counts for the whole model's targets and the card's, not for the linear
    /// layers'.
    @Test(arguments: [false, true]) func aHeadCountsWhereTheWholeModelDoes(isTied: Bool) throws {
        let head = try head(isTied: isTied)
        // 48 codes and a scale per row, and the largest scale.
        #expect(head.module.bytes == 100 * 49 + 4)
        #expect(head.addedBytes == head.module.bytes - (isTied ? 0 : 2 * 100 * 48))
        let analysis = try analysis()
        let bytes = analysis.linearParameters + 2000
        let plain = Planner(analysis)
        let planner = Planner(analysis, head: head)
        #expect(head.addedParameters == (isTied ? 100 * 48 : 0))
        for target in [PlanTarget.ratio(0.35), .bitsPerWeight(4.5)] {
            let (plan, _) = try planner.plan(request(target))
            #expect(plan.modules.last == head.module)
            var without = plan
            without.modules.removeLast()
            #expect(try without == plain.plan(request(target)).plan)
        }
        for target in [
            PlanTarget.bytes(bytes), .memory(bytes: bytes * 2, context: 10, requests: 5),
        ] {
            let (plan, explanation) = try planner.plan(request(target))
            let limit = target.limit(analysis, nil) - head.addedBytes
            #expect(explanation.limit == limit && plan.linearBytesAfter <= limit)
            #expect(plan.modules.last == head.module)
        }
        let (plan, _) = try planner.plan(request(.totalRatio(0.2)))
        let others = analysis.parameters - analysis.linearParameters
        let after = plan.linearParametersAfter + others + (isTied ? 100 * 48 : 0)
        let limit = 0.8 * Double(analysis.parameters)
        #expect(Double(after) <= limit + 1 && Double(after) > 0.75 * limit)
        #expect(plan.modules.last == head.module)
    }

    @Test func everyTargetIsMetAndCounted() throws {
        let analysis = try analysis()
        let linear = analysis.linearParameters
        let targets: [(PlanTarget, parameters: Int?, bytes: Int?)] = [
            (.ratio(0.35), Int(0.65 * Double(linear)), nil),
            (.totalRatio(0.2), linear - Int(0.2 * Double(linear + 1000)), nil),
            (.bytes(linear + 2000), nil, linear),
            (.bitsPerWeight(4.5), nil, Int(4.5 * Double(linear) / 8)),
            (.memory(bytes: 30_000, context: 10, requests: 5), nil, 28_200 - 2000 - 400),
        ]
        for (target, parameters, bytes) in targets {
            let (plan, explanation) = try Planner(analysis).plan(request(target))
            let counted = try count(plan, analysis)
            #expect(counted.parameters == plan.linearParametersAfter)
            #expect(counted.bytes == plan.linearBytesAfter)
            if let parameters { #expect(plan.linearParametersAfter <= parameters + 1) }
            if let bytes { #expect(plan.linearBytesAfter <= bytes) }
            // The menu is fine enough for three quarters of the limit to be used.
            let limit = try #require(parameters ?? bytes)
            let used = parameters == nil ? plan.linearBytesAfter : plan.linearParametersAfter
            #expect(used * 4 > limit * 3, "\(target)")
            #expect(explanation.bound <= explanation.damage + 1e-12)
            #expect(try CompressionPlan(edited: plan.json()) == plan)
        }
    }

    @Test func fragileLayersGetMore() throws {
        let analysis = try analysis()
        let (plan, _) = try Planner(analysis).plan(
            request(.ratio(0.35), ["factored"], cuts: ["stacked"]))
        func kept(_ name: String) -> Double {
            plan.modules.first { $0.name == name }.map {
                Double($0.parameters) / Double($0.outputs * $0.inputs)
            } ?? 1
        }
        #expect(
            kept("model.layers.2.mlp.gate_up_proj") > kept("model.layers.0.mlp.gate_up_proj"))
    }

    @Test func onlyAllowedFormatsAndModules() throws {
        let analysis = try analysis()
        var request = try request(.ratio(0.2), [LowRank.name])
        request.protected = ["down_proj"]
        let (plan, _) = try Planner(analysis).plan(request)
        #expect(!plan.modules.isEmpty)
        for module in plan.modules {
            #expect(!module.name.hasSuffix("down_proj"))
            let leaves = module.spec.parts.isEmpty ? [module.spec] : module.spec.parts
            #expect(leaves.allSatisfy { [LowRank.name, Dense.name].contains($0.format) })
        }
        request.alignment = 8
        for module in try Planner(analysis).plan(request).plan.modules {
            let leaves = module.spec.parts.isEmpty ? [module.spec] : module.spec.parts
            #expect(leaves.allSatisfy { $0.ranks.allSatisfy { $0.isMultiple(of: 8) } })
        }
    }

    @Test func cutsBecomeModules() throws {
        let analysis = try analysis()
        for (kind, names) in [
            ("stacked", ["gate_up_proj", "down_proj"]),
            ("members", ["gate_proj", "up_proj", "down_proj"]),
            ("patches", ["gate_proj", "up_proj", "down_proj"]),
        ] {
            let (plan, _) = try Planner(analysis).plan(
                request(.ratio(0.6), ["factored"], cuts: [kind]))
            let roles = Set(plan.modules.compactMap { $0.name.split(separator: ".").last })
            #expect(roles.isSubset(of: Set(names.map { $0[...] })))
            if kind == "patches" {
                #expect(plan.modules.contains { $0.spec.format == Blocks.name })
            }
        }
    }

    @Test(arguments: [nil, false, true])
    func infeasibleTargetsSayWhatIsFeasible(isTied: Bool?) throws {
        let analysis = try analysis()
        let planner = try Planner(analysis, head: isTied.map { try head(isTied: $0) })
        let targets: [PlanTarget] = [
            .ratio(0.999), .totalRatio(0.99), .bytes(2100), .bitsPerWeight(0.01),
            .memory(bytes: 2500, context: 1, requests: 1),
        ]
        for target in targets {
            let error = #expect(throws: StageError.self) {
                try planner.plan(request(target, [LowRank.name]))
            }
            let text = "\(try #require(error))"
            let option = try #require(text.split(separator: " ").first { $0.hasPrefix("--") })
            let value = try #require(text.split(separator: " ").last.flatMap { Double($0) })
            let feasible: PlanTarget =
                switch option {
                case "--ratio": .ratio(value)
                case "--total-ratio": .totalRatio(value)
                case "--bytes": .bytes(Int(value))
                case "--bits-per-weight": .bitsPerWeight(value)
                default:
                    .memory(bytes: Int(value * Double(1 << 30)), context: 1, requests: 1)
                }
            #expect(throws: Never.self, "\(text)") {
                try planner.plan(request(feasible, [LowRank.name]))
            }
        }
    }

    @Test func aHeadCanOutweighWhatIsRemoved() throws {
        let planner = Planner(try analysis(), head: try head(isTied: true, vocabulary: 1000))
        let error = #expect(throws: StageError.self) {
            try planner.plan(request(.totalRatio(0.2), [LowRank.name]))
        }
        #expect("\(try #require(error))".contains("no smaller model"))
    }

    @Test func damagedAnalysesAreRefused() throws {
        let good = try analysis()
        var broken: [Analysis] = []
        for change: (inout Analysis) -> Void in [
            { $0.schema = 99 }, { $0.bytes = .min }, { $0.sites[0].outputs = .max },
            { $0.sites[1].cuts[0].pieces[0].rows = -1 },
            { $0.sites[1].cuts[0].pieces[0].options[1].bytes = .max },
            { $0.sites[1].cuts[0].pieces[0].options[1].damage = .nan },
        ] {
            broken.append(good)
            change(&broken[broken.count - 1])
        }
        for analysis in broken {
            #expect(throws: StageError.self) { try Planner(analysis).plan(request(.ratio(0.3))) }
        }
    }

    @Test func unknownNamesAreRefused() throws {
        #expect(throws: StageError.self) { try FormatFilter(["lowrnak"]) }
        let plan = try Planner(analysis()).plan(request(.ratio(0.3))).plan
        let text = try plan.json().replacing("\"ranks\"", with: "\"rank\"", maxReplacements: 1)
        let error = #expect(throws: ResultError.self) { try CompressionPlan(edited: text) }
        #expect("\(try #require(error))".contains("rank"))
    }
}
