import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

/// A tiny random checkpoint with what transformers computed from it; see
/// `Tests/Goldens/models/make_models.py`.
struct GoldenModel: CustomTestStringConvertible {
    let name: String
    let directory: String
    let golden: JSON

    var testDescription: String { name }

    static let folder = goldensFolder() + "/models"

    static let all: [GoldenModel] = {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return names.sorted().compactMap { name in
            let directory = "\(folder)/\(name)"
            guard let data = FileManager.default.contents(atPath: "\(directory)/golden.json"),
                let golden = try? JSON(parsing: Array(data))
            else { return nil }
            return GoldenModel(name: name, directory: directory, golden: golden)
        }
    }()

    var rows: [[Int64]] {
        (golden["rows"]?.array ?? []).map { ($0.array ?? []).compactMap { $0.int.map(Int64.init) } }
    }

    func load() throws -> any LanguageModel {
        try Checkpoint(path: directory).loadModel()
    }

    /// transformers' logits of row `index`: `[tokens][vocabulary]`, flattened.
    func logits(_ index: Int) throws -> [Float] {
        let file = try SafetensorsFile(path: "\(directory)/golden.safetensors")
        return try file.withUnsafeBytes(of: "logits.\(index)") {
            Array($0.bindMemory(to: Float.self))
        }
    }

    /// Two float32 computations of one number each deviate from the exact one by about
    /// `float64_deviation`, the deviation measured for transformers' own; ours may order sums
    /// differently, for which it gets as much again.
    var tolerance: Float { 4 * Float(golden["float64_deviation"]?.double ?? 0) }
}

/// The folder of goldens.
func goldensFolder() -> String { packageFolder() + "/Tests/Goldens" }

func largestDifference(_ left: [Float], _ right: [Float]) -> Float {
    guard left.count == right.count else { return .infinity }
    return zip(left, right).map { abs($0 - $1) }.max() ?? 0
}

func tokens(_ rows: [[Int64]]) throws -> Tensor {
    try Tensor(rows.flatMap(\.self), shape: [rows.count, rows.first?.count ?? 0])
}

@Suite("Families against transformers")
struct GoldenTests {
    @Test func goldensAreThere() {
        #expect(GoldenModel.all.count >= 16)
        let families = Set(GoldenModel.all.map { $0.name.prefix { $0 != "-" } })
        #expect(families.count == FamilyRegistry.all.count)
    }

    @Test("float32 logits", arguments: GoldenModel.all)
    func logits(golden: GoldenModel) throws {
        let model = try golden.load()
        #expect(golden.tolerance > 0)
        for (index, row) in golden.rows.enumerated() {
            let ours: [Float] = try model.logits(model.run(tokens([row]))).values()
            let difference = largestDifference(ours, try golden.logits(index))
            #expect(difference <= golden.tolerance, "row \(index)")
        }
    }

    @Test("200 greedy tokens", arguments: GoldenModel.all)
    func greedy(golden: GoldenModel) throws {
        let model = try golden.load()
        let expected = (golden.golden["greedy"]?.array ?? []).compactMap(\.int)
        #expect(expected.count == 200)
        let cache = KVCache(layers: model.dimensions.layers, capacity: 8)
        var next = try #require(golden.rows.first)
        var found: [Int] = []
        for _ in expected {
            let hidden = try model.run(tokens([next]), cache: cache)
            let last = try model.logits(hidden.narrow(1, next.count - 1..<next.count))
            let id: Int64 = try last.argmax(-1).values()[0]
            found.append(Int(id))
            next = [id]
        }
        #expect(found == expected)
    }

    @Test("cached and uncached passes agree", arguments: GoldenModel.all)
    func cache(golden: GoldenModel) throws {
        guard golden.golden["greedy_cached_only"]?.bool == false else { return }
        let model = try golden.load()
        let row = try #require(golden.rows.first)
        let whole: [Float] = try model.logits(model.run(tokens([row]))).values()
        for cut in [1, row.count / 2, row.count - 1] {
            let cache = KVCache(layers: model.dimensions.layers, capacity: 2)
            var parts: [Float] = []
            for piece in [row[..<cut], row[cut...]] {
                let hidden = try model.run(tokens([Array(piece)]), cache: cache)
                parts += try model.logits(hidden).values(as: Float.self)
            }
            #expect(largestDifference(parts, whole) <= golden.tolerance, "cut at \(cut)")
            // Going back and running the same tokens again changes nothing.
            cache.truncate(to: cut)
            let again = try model.run(tokens([Array(row[cut...])]), cache: cache)
            let tail: [Float] = try model.logits(again).values()
            #expect(largestDifference(tail, Array(whole.suffix(tail.count))) <= golden.tolerance)
        }
    }

    @Test("left-padded batches agree with single runs", arguments: GoldenModel.all)
    func padding(golden: GoldenModel) throws {
        guard golden.golden["batch"]?.bool == true else { return }
        let model = try golden.load()
        let longest = try #require(golden.rows.map(\.count).max())
        let padding = golden.rows.map { longest - $0.count }
        let padded = golden.rows.map { Array(repeating: 0, count: longest - $0.count) + $0 }
        // Two passes over a cache, so that padding is behind the second one.
        let cache = KVCache(layers: model.dimensions.layers)
        let cut = longest - 2
        var pieces: [Tensor] = []
        for piece in [padded.map { Array($0[..<cut]) }, padded.map { Array($0[cut...]) }] {
            let hidden = try model.run(tokens(piece), cache: cache, padding: padding)
            pieces.append(try model.logits(hidden))
        }
        let batch = try Tensor.cat(pieces, dim: 1)
        for (index, row) in golden.rows.enumerated() {
            let own: [Float] = try batch.select(0, index).narrow(
                0, longest - row.count..<longest
            ).values()
            let difference = largestDifference(own, try golden.logits(index))
            #expect(difference <= golden.tolerance, "row \(index)")
        }
    }
}
