import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct AllocationTests {
    private let quantized = FormatSpec(
        format: "quantized", bits: 4, groupSize: 64, parts: [FormatSpec(format: "dense")])

    @Test func formatsAreNamedByWhatTheyAreMadeOf() {
        let train = FormatSpec(format: "tt", ranks: [8])
        let sparse = FormatSpec(format: "sparse")
        let cores = FormatSpec(format: "quantized", bits: 8, parts: [train])
        #expect(quantized.title == "int4")
        #expect(cores.title == "int8 tt")
        #expect(FormatSpec(format: "sum", parts: [cores, sparse]).title == "int8 tt + sparse")
        #expect(
            FormatSpec(format: "blocks", parts: [train, quantized, train]).title
                == "blocks of tt, int4")
        let whole = FormatSpec(
            format: "tt", outputModes: [4, 8, 1], inputModes: [1, 1, 16], ranks: [4, 9])
        #expect(whole.title == "tt as a low rank")
        #expect(FormatKind(labels: [whole.title]) == .rival)
        var cut = whole
        cut.ranks[0] = 3
        #expect(cut.title == "tt")
        cut.format = "tr"
        cut.ranks = [1, 4, 9]
        #expect(cut.isLowRank)
        cut.ranks[0] = 2
        #expect(!cut.isLowRank)
        let tucker = FormatSpec(
            format: "tucker", outputModes: [4, 8], inputModes: [16], ranks: [4, 8, 9])
        #expect(tucker.isLowRank)
        var nested = train
        for _ in 0..<5 { nested = FormatSpec(format: "sum", parts: [nested, sparse]) }
        #expect(nested.title.contains("…"))
    }

    @Test(arguments: [
        (["tt", "dense"], FormatKind.tensorNetwork), (["int8 tucker", "cp", "tr"], .tensorNetwork),
        (["int4", "lowrank", "interpolative + sparse"], .rival), (["dense"], .dense),
        (["tt", "int4"], .mixture), (["blocks of tt, int4"], .mixture),
        (["blocks of tt, tucker"], .tensorNetwork), (["tt + sparse"], .mixture),
        (["quantized"], .mixture), ([], .dense),
    ])
    func kindsOfFormats(labels: [String], kind: FormatKind) {
        #expect(FormatKind(labels: labels) == kind)
    }

    @Test func bytesAddUpToTheModel() {
        for analyses in [[], [Sample.analysis()]] {
            let result = Sample.planned()
            let report = Report(title: "t", compressions: [result], analyses: analyses)
            let allocation = Allocation.all(of: report)[0]
            let kept = allocation.cells.reduce(allocation.restBytes) { $0 + $1.bytes }
            let dense = allocation.cells.reduce(allocation.restBytes) { $0 + $1.denseBytes }
            #expect(kept == Double(result.totals.linearBytesAfter))
            #expect(dense == Double(result.totals.linearBytesBefore))
            #expect((allocation.restBytes == 0) == !analyses.isEmpty)
        }
    }

    @Test func aStackedSiteStandsForItsMembers() throws {
        let report = Report(
            title: "t", compressions: [Sample.planned()], analyses: [Sample.analysis()])
        let cells = Allocation.all(of: report)[0].cells
        let stacked = try #require(cells.first { $0.name.hasSuffix("qkv_proj") })
        #expect(
            stacked.members == ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])
        let dense = try #require(cells.first { $0.label == "dense" })
        #expect(dense.bytes == dense.denseBytes && dense.predicted == nil)
    }

    @Test func blocksAreDrawnByTheirArea() throws {
        var result = Sample.compression
        result.modules[0].spec = FormatSpec(
            format: "blocks", outputModes: [24, 72], inputModes: [64],
            parts: [FormatSpec(format: "tt"), quantized])
        let cell = Allocation.all(of: Report(title: "t", compressions: [result]))[0].cells[0]
        #expect(cell.pieces.map(\.label) == ["tt", "int4"])
        #expect(cell.pieces.map(\.share) == [0.25, 0.75])
        #expect(cell.label == "blocks of tt, int4")
        let shares = Allocation.shares([cell])
        #expect(shares.map(\.bytes) == [6_000, 2_000])
        #expect(shares.map(\.isEstimated) == [true, true])
    }

    @Test func expertsAreMerged() {
        let cells = Allocation.all(of: Report(title: "t", compressions: [Sample.compression]))[0]
            .cells
        let twice = (cells + cells).filter { $0.role == "mlp.up_proj" && $0.layer == 0 }
        let merged = Allocation.merged(twice)
        #expect(merged.count == 1)
        #expect(merged.first?.bytes == 16_000)
        #expect(merged.first?.label == "2 lowrank")
    }

    @Test func sixFormatsHaveColoursAndTheRestShareOne() {
        var result = Sample.compression
        result.modules = (0..<9).map { index in
            var module = Sample.module("layers.\(index).x", outputError: 0.1)
            module.spec.format = "f\(index)"
            module.bytes = 100 - index
            return module
        }
        let allocations = Allocation.all(of: Report(title: "t", compressions: [result]))
        let colors = FormatColors(allocations)
        #expect(colors.labels == (0..<6).map { "f\($0)" })
        #expect(colors.colorClass("f0") == "s1" && colors.colorClass("f8") == "s7")
        #expect(colors.colorClass("dense") == "s0" && colors.hasOthers)
    }
}
