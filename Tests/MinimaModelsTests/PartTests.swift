import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

@Suite("Models in parts")
struct PartTests {
    @Test("layer after layer gives the whole model's logits", arguments: GoldenModel.all)
    func streamed(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let row = try #require(golden.rows.first)
        let ends = try checkpoint.loadPart(.ends)
        let context = try ForwardContext(
            batch: 1, tokens: row.count, cache: nil, padding: nil, rotary: ends.rotary,
            device: .cpu, dtype: ends.dtype)
        var x = try ends.embed(tokens([row]))
        for index in 0..<ends.dimensions.layers {
            x = try checkpoint.loadPart(.layer(index)).layer(index, x, context)
        }
        let whole = try checkpoint.loadModel()
        #expect(try ends.normed(x).isIdentical(to: whole.run(tokens([row]))))
        let logits = try ends.logits(ends.normed(x))
        #expect(try logits.isIdentical(to: whole.logits(whole.run(tokens([row])))))
    }

    @Test("parts read each tensor once between them", arguments: GoldenModel.all)
    func reads(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let requests = try checkpoint.checkModel()
        let layers = try checkpoint.loadPart(.ends).dimensions.layers
        var calls = 0
        for part in (0..<layers).map(ModelPart.layer) + [.ends] {
            _ = try checkpoint.loadPart(part) { calls += 1 }
        }
        #expect(calls == requests.count)
    }

    @Test func stoppingReachesParts() throws {
        struct Stop: Error {}
        let checkpoint = try Checkpoint(path: "\(GoldenModel.folder)/qwen3-gqa4-tied-v5")
        #expect(throws: Stop.self) {
            _ = try checkpoint.loadPart(.layer(1)) { throw Stop() }
        }
    }
}

@Suite("Stacked groups")
struct StackedGroupTests {
    /// A copy of a golden checkpoint whose groups are stored as one dense weight each.
    private func stacked(_ source: Checkpoint, at path: String) throws -> Checkpoint {
        let groups = try source.sites().filter { $0.members.count > 1 }
        var tensors: [(name: String, tensor: Tensor)] = []
        var manifest = CompressionManifest()
        for site in groups {
            let parts = try site.members.map { try source.tensor("\($0.name).weight") }
            tensors.append(("\(site.name).weight", try .cat(parts)))
            manifest.modules[site.name] = FormatSpec(format: Dense.name)
        }
        let members = Set(groups.flatMap(\.members).map { "\($0.name).weight" })
        for tensor in source.tensors where !members.contains(tensor.name) {
            tensors.append((tensor.name, try source.tensor(tensor.name)))
        }
        var config = try #require(source.config.json.object)
        config["quantization_config"] = manifest.json
        try writeCheckpoint(tensors, config: .object(config), to: path)
        return try Checkpoint(path: path)
    }

    @Test("a weight under the site's name serves all members", arguments: GoldenModel.all)
    func group(golden: GoldenModel) throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/model"
        let checkpoint = try stacked(Checkpoint(path: golden.directory), at: path)
        let model = try checkpoint.loadModel()
        let sites = try checkpoint.sites()
        for (index, row) in golden.rows.enumerated() {
            var seen: [String] = []
            let hidden = try model.run(tokens([row])) { name, _, outputs in
                seen.append(name)
                let site = try #require(sites.first { $0.name == name })
                #expect(outputs.map { $0.shape[2] } == site.members.map(\.outputs))
            }
            let logits: [Float] = try model.logits(hidden).values()
            let difference = largestDifference(logits, try golden.logits(index))
            #expect(difference <= golden.tolerance, "row \(index)")
            let expected = sites.filter { $0.tokenShare == 1 || seen.contains($0.name) }
            #expect(seen == expected.map(\.name))
        }
    }

    @Test func membersAreNotReadBesideTheirGroup() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/model"
        let source = try Checkpoint(path: "\(GoldenModel.folder)/qwen3-gqa4-tied-v5")
        let names = try stacked(source, at: path).checkModel().map(\.name)
        #expect(names.contains("model.layers.1.mlp.gate_up_proj.weight"))
        #expect(!names.contains("model.layers.1.mlp.gate_proj.weight"))
    }
}
