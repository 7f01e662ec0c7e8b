import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct BenchTests {
    @Test func runsOfAsManyRequestsAreCompared() throws {
        let groups = BenchGroup.all(of: Sample.bench)
        #expect(groups.map(\.requests) == [1, 50])
        #expect(
            groups.map(\.heading) == [
                "8,192 tokens, 1 request, bf16 keys and values",
                "8,192 tokens, 50 requests, FP8 keys and values",
            ])
        let one = try #require(groups.first)
        #expect(
            one.rows.map(\.name) == [
                "compiled (transformers)", "dense bf16", "−35 % interpolative bf16",
            ])
        // The first run of Minima's own is what others are compared with.
        #expect(one.rows.map(\.isReference) == [false, true, false])
        #expect(abs((one.rows[0].ratio ?? 0) - 16.9 / 29.4) < 1e-12)
        #expect(one.rows[1].ratio == nil)
        #expect(abs((one.rows[2].ratio ?? 0) - 16.9 / 11) < 1e-12)
        #expect(
            one.verdict
                == "8,192 tokens, 1 request, bf16 keys and values: relative to dense bf16, "
                + "59.2 tokens/s, −35 % interpolative bf16 1.54×, compiled (transformers) 0.575×.")
    }

    @Test func aloneAPeerIsTheReference() {
        var alone = Sample.bench
        alone.runs = [alone.runs[0]]
        let groups = BenchGroup.all(of: alone)
        #expect(groups.first?.rows.first?.isReference == true)
        #expect(groups.first?.verdict == nil)
        alone.runs = []
        #expect(BenchGroup.all(of: alone).isEmpty)
        #expect(
            checkedPage(Report(title: "t", benches: [alone])).text.contains("Nothing was timed"))
    }

    @Test func cacheTypesAreNamedWhereTheyDiffer() {
        var mixed = Sample.bench
        mixed.runs[2].cacheType = .float8e4m3
        let group = BenchGroup.all(of: mixed)[0]
        #expect(group.heading == "8,192 tokens, 1 request")
        #expect(
            group.rows.map(\.name) == [
                "compiled, bf16 (transformers)", "dense bf16, bf16",
                "−35 % interpolative bf16, FP8",
            ])
    }

    @Test func theTableSaysWhatWasReached() {
        #expect(
            Sample.bench.table() == """
                qwen3-32b on NVIDIA H200, measured in the same run: read 4360 GB/s, copy 4278
                GB/s, bf16 matrix product 790.0 TFLOP/s

                Decoding, 8,192 tokens, 1 request, bf16 keys and values
                                          tokens/s       ×  ms/token  spread     reads  roofline
                compiled (transformers)      34.01  0.575×     29.40  ±1.0 %  66.12 GB    51.6 %
                dense bf16                   59.17             16.90  ±1.0 %  66.12 GB    89.7 %
                −35 % interpolative bf16     90.91   1.54×     11.00  ±1.0 %  42.19 GB    88.0 %

                Prompts and memory, 8,192 tokens, 1 request, bf16 keys and values
                            prompt  TFLOP/s  of card   first      peak  predicted
                dense bf16  1.10 s      529   66.9 %  1.13 s  63.3 GiB   63.5 GiB

                Decoding, 8,192 tokens, 50 requests, FP8 keys and values
                                 tokens/s  in total      ×  ms/token  spread     reads  roofline
                dense bf16          30.30      1515            33.00  ±1.0 %  117.7 GB    81.8 %
                −35 % interpolative bf16
                                    40.00      2000  1.32×     25.00  ±1.0 %  93.74 GB    86.0 %

                Kernels of a step, dense bf16, 8,192 tokens, 1 at once
                                   launches     bytes      µs  GB/s  of card  of step
                qkv                      64  6.711 GB    1700  3948   90.5 %   10.1 %
                gate_up                  64  33.55 GB    8100  4143   95.0 %   47.9 %
                attention                64  2.147 GB   750.0  2863   65.7 %    4.4 %
                o, down and head        129  23.70 GB    6400  3703   84.9 %   37.9 %
                all kernels                             16950                 100.3 %
                not in kernels                         −150.0                  −0.9 %
                outside the graph                       100.0                   0.6 %
                step                                    16900                 100.0 %

                """)
    }

    @Test func theFastestReaderIsNamed() {
        var bench = Sample.bench
        bench.card.readers = [
            "copy": bench.card.copyBandwidth, "streaming loads": bench.card.readBandwidth,
        ]
        #expect(bench.card.reader == "streaming loads")
        #expect(
            bench.table().hasPrefix(
                "qwen3-32b on NVIDIA H200, measured in the same run: read 4360 GB/s (streaming\nloads), copy"
            ))
        let page = checkedPage(Report(title: "t", benches: [bench]))
        for text in [
            "4360 GB/s (streaming loads)", "Read by streaming loads4360", "Read by copy4278",
        ] {
            #expect(page.text.contains(text), "\(text)")
        }
    }

    @Test func speculationStandsBesideTheRunWithout() throws {
        var bench = Sample.bench
        var run = Sample.run(
            "dense bf16, random bf16 draft", weights: 65_524_246_528, milliseconds: 8)
        run.speculation = .init(
            draft: "random bf16", draftTokens: 5, acceptanceLength: 2.79, simulatedLength: 2.8,
            addedBytes: 2 << 30, round: .init(seconds: 0.0022, bytes: 7_800_000_000),
            verification: .init(seconds: 0.0174, bytes: 66_000_000_000))
        bench.runs = [bench.runs[1], run]
        let name = "dense bf16, random bf16 draft, K = 5, 2.80 tokens per step simulated"
        #expect(BenchGroup.all(of: bench)[0].rows[1].name == name)
        let table = bench.table(kernels: false)
        #expect(
            table.contains(
                """
                Speculation, 8,192 tokens, 1 request, bf16 keys and values
                                  tokens      ×  round µs  of card  verify µs  of card     added
                dense bf16, random bf16 draft, K = 5, 2.80 tokens per step simulated
                                    2.79  2.11×      2200   81.3 %      17400   87.0 %  2.00 GiB
                """), "\(table)")
        let page = checkedPage(Report(title: "t", benches: [bench]))
        for text in [name, "simulated", "2200", "81.3 %", "17400", "2.00 GiB", "Added memory"] {
            #expect(page.text.contains(text), "\(text)")
        }
        run.speculation?.shares = [0: 0.035, 5: 0.96, 2: 0.005]
        bench.runs[1] = run
        #expect(
            bench.table(kernels: false).contains(
                """
                Steps by the number of proposals chosen
                                                                                0      2       5
                dense bf16, random bf16 draft, K = auto to 5, 2.80 tokens per step simulated
                                                                            3.5 %  0.5 %  96.0 %
                """), "\(bench.table(kernels: false))")
        #expect(
            checkedPage(Report(title: "t", benches: [bench])).text
                .contains("up to 50 in 3.5 %, 2 in 0.5 %, 5 in 96.0 %"))
        run.speculation?.shares = nil
        run.speculation?.simulatedLength = nil
        bench.runs[1] = run
        #expect(!checkedPage(Report(title: "t", benches: [bench])).text.contains("2.80"))
    }

    /// More numbers of proposals, or larger ones, than a line has room for.
    @Test func sharesAreGivenAsFarAsThereIsRoom() {
        var bench = Sample.bench
        var run = bench.runs[1]
        run.speculation = .init(
            draft: "n-gram", draftTokens: 15, shares: [:], acceptanceLength: 2, addedBytes: 0,
            round: .init(seconds: 0, bytes: 0), verification: .init(seconds: 0, bytes: 0))
        for (counts, shown) in [
            (Array(0...15), 8), ([0, 12_345, .max], 3), ([.min, .min + 1, 7, .max], 3),
        ] {
            run.speculation?.shares = Dictionary(uniqueKeysWithValues: counts.map { ($0, 1) })
            bench.runs = [run]
            let lines = bench.table(kernels: false).split(separator: "\n")
            let title = lines.firstIndex { $0.hasPrefix("Steps by the number") } ?? 0
            let header = lines[title + 1].split(separator: " ").map(String.init)
            #expect(header == counts.prefix(shown).map { Figure.count($0) })
            for line in lines { #expect(VisibleText.columns(String(line)) <= 80, "\(line)") }
        }
    }

    @Test func theTableNamesKernelsOnRequest() {
        let without = Sample.bench.table(kernels: false)
        #expect(!without.contains("gate_up") && without.contains("dense bf16"))
        #expect(Sample.bench.table().hasPrefix(without))
        // A table of all results has no kernels: the page has them.
        #expect(Report(title: "t", benches: [Sample.bench]).table() == without)
    }

    @Test func thePageShowsAllOfIt() {
        let page = checkedPage(Report(title: "t", benches: [Sample.bench]))
        #expect(
            page.attributes.filter { $0.name == "id" }.map(\.value) == ["speed", "provenance"])
        for text in [
            "qwen3-32b on NVIDIA H200",
            "measured in the same run: read 4360 GB/s, copy 4278 GB/s, bf16 matrix product "
                + "790.0 TFLOP/s",
            "relative to dense bf16, 59.2 tokens/s, −35 % interpolative bf16 1.54×",
            "tokens/s of all requests, outlined the roofline", "65.52 GB", "66.12 GB", "16.90",
            "±1.0 %", "59.17", "65.94", "89.7 %", "1515", "1.10 s", "528.8", "66.9 %", "1.13 s",
            "63.3 GiB", "63.5 GiB", "99.8 %",
            "Kernels of a step: dense bf16, 8,192 tokens, 1 at once",
            "gate_up", "33.55 GB", "8100", "4143", "95.0 %", "47.9 %", "16950 µs",
            "Not in kernels−150.0 µs",
            "100.0 µs", "minima bench --shape qwen3-32b --requests 1 50", "driver 580.82",
            "transformers, transformers 5.17.0: decode_transformers.py --compile",
            "−35 % interpolative bf16: plan-35.json", "dense bf16: bucket 1", "libtorch 2.11.0",
            "Repetitions5 of 64 steps", "2.147 GB16.90",
            "dense bf16: weights 65.52 GB, keys and values 2.147 GB, activations 450.0 MB, "
                + "workspace 33.55 MB, logits 607.7 KB", "132 multiprocessors, 140 GiB",
        ] {
            #expect(page.text.contains(text), "\(text)")
        }
    }

    @Test func barsEndAtTheirShareOfTheRoofline() throws {
        let page = checkedPage(Report(title: "t", benches: [Sample.bench]))
        let widths = page.attributes.filter { $0.name == "width" && $0.value != "100%" }.map {
            Double($0.value.dropLast()) ?? -1
        }
        // Per run an outline and a bar; three runs of one request, two of fifty.
        try #require(widths.count == 10)
        #expect(
            widths.map { $0 == 100 } == [
                false, false, false, false, true, false, false, false, true, false,
            ])
        // Grey is compared with; a label has one colour wherever it is.
        let colors = page.attributes.filter { $0.name == "class" && $0.value.count == 2 }
        #expect(colors.map(\.value) == ["s1", "s0", "s3", "s0", "s3"])
        let figures = Sample.bench.figures
        for (index, pair) in stride(from: 0, to: 10, by: 2).enumerated() {
            let share = figures[index].rooflineShare ?? 0
            #expect(abs(widths[pair + 1] / widths[pair] - share) < 1e-3)
        }
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity, 0, -1, .leastNonzeroMagnitude, 1e308])
    func anyNumberCanBeShown(value: Double) {
        var result = Sample.bench
        result.card.readBandwidth.median = value
        result.card.matrixRate.median = value
        result.runs[1].step.median = value
        result.runs[1].graph?.median = value
        result.runs[1].kernels[0].seconds = value
        result.runs[1].prefill?.seconds.median = value
        result.runs[2].traffic = .init(weights: .max, cache: .min, other: .max)
        result.runs[2].requests = .min
        _ = checkedPage(Report(title: "t", benches: [result]))
        for line in result.table().split(separator: "\n") {
            #expect(VisibleText.columns(String(line)) <= 80, "\(line)")
        }
    }
}
