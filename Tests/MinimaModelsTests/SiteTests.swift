import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

@testable import MinimaModels

@Suite("Sites")
struct SiteTests {
    @Test("the observer sees each site once, in order", arguments: GoldenModel.all)
    func observer(golden: GoldenModel) throws {
        let sites = try Checkpoint(path: golden.directory).sites()
        var seen: [String] = []
        _ = try golden.load().run(tokens([[1, 2, 3], [4, 5, 6]])) { name, input, outputs in
            let site = try #require(sites.first { $0.name == name })
            let size = site.tokenShare == 1 ? [2, 3] : [1, input.shape[1]]
            #expect(input.shape == size + [site.inputs] && 1...6 ~= input.shape[1])
            #expect(outputs.map(\.shape) == site.members.map { size + [$0.outputs] })
            seen.append(name)
        }
        // Experts may have no tokens.
        let expected = sites.filter { $0.tokenShare == 1 || seen.contains($0.name) }
        #expect(seen == expected.map(\.name))
    }

    @Test("the residual stream is seen where outputs are added to it", arguments: GoldenModel.all)
    func residual(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        // The first layer without experts, whose outputs are weighted before they are added.
        let sites = try #require(
            Dictionary(grouping: try checkpoint.sites(), by: \.layer).sorted { $0.key < $1.key }
                .first { $0.value.allSatisfy { $0.tokenShare == 1 } })
        let model = try checkpoint.loadModel()
        var streams: [(site: String, stream: Tensor)] = []
        var outputs: [Tensor] = []
        let context = try ForwardContext(
            batch: 2, tokens: 3, cache: nil, padding: nil, rotary: model.rotary, device: .cpu,
            dtype: model.dtype,
            observer: { name, _, parts in
                // The stream comes first; the output is added to it in place, later.
                guard name == streams.last?.site else { return }
                outputs += try parts.map { try $0.clone() }
            },
            residualObserver: { streams.append(($0, $1)) })
        let x = try model.embed(tokens([[1, 2, 3], [4, 5, 6]]))
        let y = try model.layer(sites.key, x, context)
        #expect(streams.map(\.site) == sites.value.filter(\.addsToResidual).map(\.name))
        #expect(outputs.count == streams.count && outputs.count == 2)
        #expect(try streams[0].stream.isIdentical(to: x))
        let middle = try outputs[0] + streams[0].stream
        #expect(try streams[1].stream.isIdentical(to: middle))
        #expect(try y.isIdentical(to: outputs[1] + middle))
    }

    @Test("sites cover the linear weights of all layers", arguments: GoldenModel.all)
    func coverage(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let members = try checkpoint.sites().flatMap(\.members)
        let matrices = checkpoint.tensors.filter {
            $0.shape.count == 2 && $0.name.hasPrefix("model.layers.")
                && !$0.name.hasSuffix(".mlp.gate.weight")
        }
        #expect(Set(members.map { "\($0.name).weight" }) == Set(matrices.map(\.name)))
        for member in members {
            let info = try #require(checkpoint.info("\(member.name).weight"))
            #expect(info.shape == [member.outputs, member.inputs])
        }
    }

    @Test("members follow each other in the stacked weight", arguments: GoldenModel.all)
    func rows(golden: GoldenModel) throws {
        for site in try Checkpoint(path: golden.directory).sites() {
            #expect(site.rows.map(\.count) == site.members.map(\.outputs))
            #expect(site.rows.first?.lowerBound == 0 && site.rows.last?.upperBound == site.outputs)
            #expect(
                zip(site.rows, site.rows.dropFirst()).allSatisfy { $0.upperBound == $1.lowerBound })
        }
    }

    @Test("patches tile every weight", arguments: GoldenModel.all)
    func patches(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        for site in try checkpoint.sites() {
            for member in site.members {
                var hits = Array(repeating: 0, count: member.outputs * member.inputs)
                for (rows, columns) in member.patches.ranges(
                    outputs: member.outputs, inputs: member.inputs)
                {
                    for row in rows {
                        for column in columns { hits[row * member.inputs + column] += 1 }
                    }
                }
                #expect(hits.allSatisfy { $0 == 1 }, "\(member.name)")
            }
        }
    }

    @Test func attentionPatchesAreGroupsOfHeads() throws {
        let sites = try Checkpoint(path: "\(GoldenModel.folder)/llama-gqa2-bias-v5").sites()
        let config = try ModelConfig(path: "\(GoldenModel.folder)/llama-gqa2-bias-v5/config.json")
        let kvHeads = try config.int("num_key_value_heads")
        let qkv = try #require(sites.first)
        #expect(qkv.members.map(\.role) == ["q_proj", "k_proj", "v_proj"])
        #expect(
            qkv.members.map(\.patches)
                == Array(repeating: PatchGrid(.outputs, count: kvHeads), count: 3))
        #expect(sites[1].members.map(\.patches) == [PatchGrid(.inputs, count: kvHeads)])
    }

    @Test func blocksDivideTheirSide() {
        #expect(PatchGrid.blocks(.outputs, of: 25_600) == PatchGrid(.outputs, count: 8))
        #expect(PatchGrid.blocks(.outputs, of: 96) == PatchGrid(.outputs, count: 3))
        // 7 · 32: eight do not divide it, seven do.
        #expect(PatchGrid.blocks(.inputs, of: 224) == PatchGrid(.inputs, count: 7))
        // Too small to be cut, and a prime.
        #expect(PatchGrid.blocks(.inputs, of: 28).count == 1)
        #expect(PatchGrid.blocks(.inputs, of: 1009).count == 1)
        let columns = PatchGrid(.inputs, count: 3).ranges(outputs: 4, inputs: 6)
        #expect(columns.map(\.rows) == [0..<4, 0..<4, 0..<4])
        #expect(columns.map(\.columns) == [0..<2, 2..<4, 4..<6])
    }
}

@Suite("Substitutes")
struct SubstituteTests {
    /// The stacked dense weight of a site.
    private func stacked(_ site: Site, _ checkpoint: Checkpoint) throws -> Tensor {
        try Tensor.cat(
            site.members.map { try checkpoint.tensor("\($0.name).weight").to(dtype: .float32) })
    }

    @Test("a site's own weight stands in for it without a trace", arguments: GoldenModel.all)
    func own(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let model = try checkpoint.loadModel()
        let row = try #require(golden.rows.first)
        for site in try checkpoint.sites() {
            let dense = Dense(try stacked(site, checkpoint))
            let hidden = try model.run(tokens([row]), substitutes: [site.name: dense])
            let logits: [Float] = try model.logits(hidden).values()
            // One product of stacked weights may order its sums differently than several.
            #expect(
                largestDifference(logits, try golden.logits(0)) <= golden.tolerance, "\(site.name)")
        }
    }

    @Test func anotherWeightMatters() throws {
        let golden = try #require(GoldenModel.all.first { $0.name == "qwen3-mha-bias-v5" })
        let checkpoint = try Checkpoint(path: golden.directory)
        let model = try checkpoint.loadModel()
        let row = try #require(golden.rows.first)
        let before: [Float] = try model.logits(model.run(tokens([row]))).values()
        for site in try checkpoint.sites() {
            let zero = Dense(try .zeros([site.outputs, site.inputs]))
            var outputs: [Tensor] = []
            let hidden = try model.run(tokens([row]), substitutes: [site.name: zero]) {
                // The residual is added to an output in place, later.
                if $0 == site.name { outputs = try $2.map { try $0.clone() } }
            }
            let after: [Float] = try model.logits(hidden).values()
            #expect(largestDifference(before, after) > golden.tolerance, "\(site.name)")
            // What is left of the site's outputs are its biases, member by member.
            for (member, output) in zip(site.members, outputs) {
                let row = try output.select(0, 0).select(0, 0)
                let bias = "\(member.name).bias"
                let left =
                    try checkpoint.holds(bias)
                    ? checkpoint.tensor(bias) : .zeros([member.outputs])
                #expect(try row.isIdentical(to: left.to(dtype: .float32)), "\(member.name)")
            }
        }
    }
}
