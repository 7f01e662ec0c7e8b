import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct CostTableTests {
    /// Rows of one card: label, site, format, outputs, microseconds, megabytes.
    private static func costs(
        _ rows: [(String?, String?, String, Int, Double, Int)], tokens: Int = 1
    ) -> DecodeCosts {
        var costs = Sample.costs
        costs.rows = rows.map { label, site, format, outputs, time, bytes in
            .init(
                spec: FormatSpec(format: format), outputs: outputs, inputs: 5_120, tokens: tokens,
                nanoseconds: Sample.spread(1_000 * time), bytes: bytes * 1_000_000, label: label,
                site: site)
        }
        return costs
    }

    /// Labels tell ways apart whose formats are the same, sites layers of one size.
    @Test func waysAreTimedLayerByLayer() {
        var costs = Self.costs([
            ("dense bf16", "qkv", "dense", 5_120, 20, 80),
            ("dense bf16", "o", "dense", 5_120, 25, 85),
            ("dense bf16", "gate_up", "dense", 51_200, 115, 475),
            ("tucker −30.0% bf16", "qkv", "tucker", 5_120, 14, 56),
            ("tucker −30.0% bf16", "o", "tucker", 5_120, 16, 59),
            ("tucker −50.0% bf16", "qkv", "tucker", 5_120, 10, 40),
            ("tucker −50.0% bf16", "qkv", "tucker", 5_120, 11, 40),
        ])
        costs.rows += Self.costs([("dense bf16", "qkv", "dense", 5_120, 26, 80)], tokens: 8).rows
        costs.rows[1].nanoseconds.highest = 30_000
        #expect(
            costs.table() == """
                Linear layers on NVIDIA H200, which reads 4360 GB/s: all launches of each

                1 at once
                                              µs   spread     reads  GB/s
                dense bf16                 160.0   ±4.0 %  640.0 MB  4000
                  qkv, 5,120 × 5,120       20.00   ±1.0 %  80.00 MB  4000
                  o, 5,120 × 5,120         25.00  ±20.0 %  85.00 MB  3400
                  gate_up, 51,200 × 5,120  115.0   ±1.0 %  475.0 MB  4130
                tucker −30.0% bf16         30.00   ±1.0 %  115.0 MB  3833
                  qkv, 5,120 × 5,120       14.00   ±1.0 %  56.00 MB  4000
                  o, 5,120 × 5,120         16.00   ±1.0 %  59.00 MB  3688
                tucker −50.0% bf16         10.00   ±1.0 %  40.00 MB  4000
                  qkv, 5,120 × 5,120       10.00   ±1.0 %  40.00 MB  4000
                tucker −50.0% bf16         11.00   ±1.0 %  40.00 MB  3636
                  qkv, 5,120 × 5,120       11.00   ±1.0 %  40.00 MB  3636

                8 at once
                                         µs  spread     reads  GB/s
                dense bf16            26.00  ±1.0 %  80.00 MB  3077
                  qkv, 5,120 × 5,120  26.00  ±1.0 %  80.00 MB  3077

                """)
    }

    /// Accounts that were written before labels and sites were.
    @Test func withoutLabelsFormatsAndSizesTellWaysApart() {
        let costs = Self.costs([
            (nil, nil, "dense", 10_240, 25, 100), (nil, nil, "dense", 51_200, 125, 500),
            (nil, nil, "tucker", 10_240, 20, 70), (nil, nil, "dense", 51_200, 125, 500),
        ])
        #expect(
            costs.table() == """
                Linear layers on NVIDIA H200, which reads 4360 GB/s: all launches of each

                1 at once
                                     µs  spread     reads  GB/s
                dense             150.0  ±1.0 %  600.0 MB  4000
                  10,240 × 5,120  25.00  ±1.0 %  100.0 MB  4000
                  51,200 × 5,120  125.0  ±1.0 %  500.0 MB  4000
                tucker, dense     145.0  ±1.0 %  570.0 MB  3931
                  10,240 × 5,120  20.00  ±1.0 %  70.00 MB  3500
                  51,200 × 5,120  125.0  ±1.0 %  500.0 MB  4000

                """)
    }

    /// However many sites and digits a model has.
    @Test func noLineIsWiderThanATerminal() {
        let sites = (0..<40).map { site -> (String?, String?, String, Int, Double, Int) in
            ("interpolative −38.3% (mlp) int8, head int8", "site \(site)", "tt", 53_248, 1e5, 9)
        }
        let table = Self.costs(sites).table()
        #expect(table.split(separator: "\n").count == 2 + 1 + 1 + 40, "\(table)")
        #expect(table.contains("interpolative −38.3% (mlp) int8, head int8  "), "\(table)")
        for line in table.split(separator: "\n") {
            #expect(VisibleText.columns(String(line)) <= 80, "\(line)")
        }
    }
}
