import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

/// Second moments against transformers and autograd; see
/// `Tests/Goldens/calibration/make_calibration.py`.
@Suite("Calibration against transformers")
struct CalibrationGoldenTests {
    private struct Golden {
        let sources: [CalibrationSource]
        let labels: [[Int32]: [Int64]]
        let deviation: (input: Double, output: Double)
        let file: SafetensorsFile

        init(_ name: String) throws {
            let folder = "\(packageFolder())/Tests/Goldens/calibration"
            let text = try #require(
                FileManager.default.contents(atPath: "\(folder)/calibration.json"))
            let json = try #require(try JSON(parsing: Array(text))[name])
            func rows(_ json: JSON?) -> [[Int]] {
                (json?.array ?? []).map { ($0.array ?? []).compactMap(\.int) }
            }
            var labels: [[Int32]: [Int64]] = [:]
            sources = try (json["sources"]?.array ?? []).map { source in
                let windows = rows(source["windows"]).map { $0.map { Int32($0) } }
                for (window, own) in zip(windows, rows(source["labels"])) {
                    labels[window] = own.map { Int64($0) }
                }
                return CalibrationSource(
                    name: name, windows: windows,
                    weight: try #require(source["weight"]?.double))
            }
            self.labels = labels
            let measured = json["deviation"]
            deviation = (
                try #require(measured?["input"]?.double),
                try #require(measured?["output"]?.double)
            )
            file = try SafetensorsFile(path: "\(folder)/calibration.safetensors")
        }

        func tensor(_ name: String) throws -> Tensor {
            let shape = try #require(file.info(name)).shape
            return try file.withUnsafeBytes(of: name) {
                try Tensor(bytes: $0, shape: shape, dtype: .float32)
            }
        }

        func calibrator(_ model: String, _ settings: CalibrationSettings) throws -> Calibrator {
            let batches = TokenBatch.batches(
                sources, tokensPerPass: settings.forwardTokens,
                gradientWindows: settings.gradientWindows,
                tokensPerGradientPass: settings.gradientTokens)
            return try Calibrator(
                goldenModel(model), sources: sources, settings: settings, fingerprints: [:]
            ) { logits, batch, rows in
                let all = batches[batch].windows.flatMap { labels[$0] ?? [] }
                #expect(logits.shape == [rows.count, 64])
                return try Tensor(Array(all[rows]))
            }
        }
    }

    static let models = [
        "qwen3-gqa4-tied-v5", "llama-gqa2-bias-v5", "qwen3-gqa3-untied-bf16-v4",
    ]

    /// Two float32 computations deviate from the exact one by about what transformers' own float32
    /// run was measured to; ours orders its sums differently, for which it gets as much again.
    /// Reading the golden adds float32's ε.
    @Test("C and H of every site", arguments: models)
    func moments(name: String) throws { try compare(name, on: .cpu) }

    /// Skipped where there is no GPU.
    @Test(
        "C and H on a GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), arguments: models)
    func gpu(name: String) throws { try compare(name, on: .cuda(0)) }

    private func compare(_ name: String, on device: Device) throws {
        let golden = try Golden(name)
        let settings = CalibrationSettings(
            device: device, dtype: .float32, gradientWindows: 100)
        var visited: [Int] = []
        try golden.calibrator(name, settings).run { statistics, model in
            visited.append(statistics.layer)
            #expect(model.dimensions.layers > statistics.layer)
            for site in statistics.sites {
                #expect(site.input.dtype == .float64 && site.input.device == device)
                #expect(site.tokens == 44)
                let c = try site.input.to(.cpu)
                let metric = try #require(site.output)
                #expect(metric.runs.map(\.shape) == [[1, site.site.outputs, site.site.outputs]])
                let h = try metric.to(.cpu).dense()
                let whole = try golden.tensor("\(name)/\(site.site.name).output")
                let off = try relativeDistance(h, whole)
                #expect(off <= 4 * golden.deviation.output + 0x1p-23, "\(site.site.name)")
                for member in site.site.members {
                    let exact = try golden.tensor("\(name)/\(member.name).input")
                    let distance = try relativeDistance(c, exact)
                    #expect(distance <= 4 * golden.deviation.input + 0x1p-23, "\(member.name)")
                }
            }
        }
        #expect(visited == visited.indices.reversed() && !visited.isEmpty)
    }

    /// bfloat16 keeps 8 bits: each of the k roundings on the way to a number adds up to 2⁻⁹ of it,
    /// and a second moment doubles that. Forward, some 12 operations a layer lie in a row; backward,
    /// as many again.
    @Test("bfloat16 activations and gradients", arguments: models)
    func halfPrecision(name: String) throws {
        let golden = try Golden(name)
        var settings = CalibrationSettings(dtype: .bfloat16, gradientWindows: 100)
        settings.tokensPerPass = 1
        try golden.calibrator(name, settings).run { statistics, _ in
            for site in statistics.sites {
                let member = site.site.members[0]
                let c = try golden.tensor("\(name)/\(member.name).input")
                let depth = Double(12 * (statistics.layer + 1))
                #expect(try relativeDistance(site.input, c) <= 2 * depth * 0x1p-9)
                let h = try #require(site.output).dense()
                let own = try golden.tensor("\(name)/\(site.site.name).output")
                #expect(try relativeDistance(h, own) <= 2 * 36 * 0x1p-9, "\(site.site.name)")
            }
        }
    }

    @Test func blocksAreTheDiagonalOfTheWhole() throws {
        let name = "qwen3-gqa4-tied-v5"
        let golden = try Golden(name)
        var settings = CalibrationSettings(gradientWindows: 100)
        settings.fullMetricLimit = 1
        try golden.calibrator(name, settings).run { statistics, _ in
            for site in statistics.sites {
                let metric = try #require(site.output)
                let isAttention = site.site.name.hasSuffix("qkv_proj")
                // Heads of 8; else one block of up to 256.
                #expect(
                    metric.runs.allSatisfy { isAttention ? $0.shape[1] == 8 : $0.shape[0] == 1 })
                let h = try metric.dense()
                let own = try golden.tensor("\(name)/\(site.site.name).output")
                #expect(metric.runs.count == site.site.members.count)
                for (run, rows) in zip(metric.runs, site.site.rows) {
                    let size = run.shape[1]
                    for start in stride(from: rows.lowerBound, to: rows.upperBound, by: size) {
                        let block = start..<start + size
                        let ours = try h.narrow(0, block).narrow(1, block)
                        let theirs = try own.narrow(0, block).narrow(1, block)
                        #expect(
                            try (ours - theirs).norm().item()
                                <= (4 * golden.deviation.output + 0x1p-23) * own.norm().item())
                    }
                }
                // Outside of the blocks there is nothing.
                let total = try h.square().sum().item()
                let kept = try metric.runs.reduce(0) { try $0 + $1.square().sum().item() }
                #expect(abs(total - kept) <= 1e-12 * total)
            }
        }
    }
}

@Suite("Calibration")
struct CalibrationTests {
    @Test("streamed moments are those of the whole model", arguments: goldenModelNames)
    func whole(name: String) throws {
        let model = try goldenModel(name).loadModel()
        // An expert's mean is that of the tokens that reach it.
        var (sums, weights) = ([String: Tensor](), [String: Double]())
        for source in smallSources {
            for window in source.windows {
                let ids = try TokenWindows.tensor([window])
                _ = try model.run(ids) { site, input, _ in
                    let rows = try input.select(0, 0).to(dtype: .float64)
                    let product = try rows.transpose().matmul(rows) * source.weight
                    sums[site] = try sums[site].map { try $0 + product } ?? product
                    weights[site, default: 0] += source.weight * Double(rows.shape[0])
                }
            }
        }
        var sites = 0
        for gradientWindows in [0, 2] {
            try smallCalibrator(name, gradientWindows: gradientWindows).run { statistics, _ in
                for site in statistics.sites {
                    let name = site.site.name
                    let whole = try #require(sums[name]) / #require(weights[name])
                    // Products of float32 numbers summed in float32 over at most 18 tokens.
                    #expect(try relativeDistance(site.input, whole) <= 18 * 0x1p-23)
                    #expect((site.output == nil) == (gradientWindows == 0))
                    sites += 1
                }
            }
        }
        #expect(sites == 2 * sums.count && sites > 0)
    }

    @Test("labels are drawn from the model", arguments: [UInt64(1), 2])
    func labels(seed: UInt64) throws {
        let rows = 4000
        let logits = try Tensor([0, 1, 2] as [Float]).expand([rows, 3]).contiguous()
        let sampler = SampledLabels.sampler(seed: seed, device: .cpu)
        let first: [Int64] = try sampler(logits, 0, 0..<rows).values()
        let weights = [0, 1, 2].map { exp(Double($0)) }
        for label in 0..<3 {
            let p = weights[label] / weights.reduce(0, +)
            let share = Double(first.filter { $0 == Int64(label) }.count) / Double(rows)
            // Five standard deviations of a share.
            #expect(abs(share - p) <= 5 * (p * (1 - p) / Double(rows)).squareRoot())
        }
        // The same batch draws the same again, another one does not.
        #expect(try sampler(logits, 1, 0..<rows).values(as: Int64.self) != first)
        #expect(try sampler(logits, 0, 0..<rows).values(as: Int64.self) == first)
        let other = SampledLabels.sampler(seed: seed + 1, device: .cpu)
        #expect(try other(logits, 0, 0..<rows).values(as: Int64.self) != first)
    }

    @Test func seedsDecideGradientsOnly() throws {
        let one = try smallCalibrator().collect()
        #expect(try smallCalibrator().collect() == one)
        let two = try smallCalibrator { $0.seed = 8 }.collect()
        for (left, right) in zip(one, two) {
            for (name, values) in left.values {
                #expect((right.values[name] == values) == name.hasSuffix(" C"), "\(name)")
            }
        }
    }

    @Test func weightsCountTokensSeveralTimes() throws {
        let (a, b) = (
            someTokens(9, vocabulary: 64, seed: 1), someTokens(9, vocabulary: 64, seed: 2)
        )
        let weighted = try smallCalibrator(
            gradientWindows: 0,
            sources: [
                CalibrationSource(name: "a", windows: [a], weight: 1),
                CalibrationSource(name: "b", windows: [b], weight: 3),
            ]
        ).collect()
        let repeated = try smallCalibrator(
            gradientWindows: 0, sources: [CalibrationSource(name: "all", windows: [a, b, b, b])]
        ).collect()
        for (left, right) in zip(weighted, repeated) {
            #expect(left.tokens.allSatisfy { $0 == 18 } && right.tokens.allSatisfy { $0 == 36 })
            for (name, values) in left.values {
                let x = try Tensor(values)
                let y = try Tensor(try #require(right.values[name]))
                // Sums of up to 18 float32 products in another order.
                #expect(try relativeDistance(x, y) <= 18 * 0x1p-23)
            }
        }
        for weight in [0, -1, .nan, .infinity] as [Double] {
            #expect(throws: CalibrationError.self) {
                try smallCalibrator(
                    sources: [CalibrationSource(name: "a", windows: [a], weight: weight)])
            }
        }
    }

    @Test func emptyWindowsAreLeftOut() throws {
        let plain = [CalibrationSource(name: "a", windows: [[1, 2], [3]])]
        let holes = [CalibrationSource(name: "a", windows: [[], [1, 2], [], [3]])]
        #expect(
            try smallCalibrator(sources: plain).collect()
                == smallCalibrator(sources: holes).collect())
        #expect(TokenBatch.hash(plain) == TokenBatch.hash(holes))
        for windows in [[], [[]], [[], []]] as [[[Int32]]] {
            #expect(throws: StageError.self) {
                try smallCalibrator(sources: [CalibrationSource(name: "a", windows: windows)])
            }
        }
        let foreign = try smallCalibrator(
            sources: [CalibrationSource(name: "a", windows: [[1, 64]])])
        #expect(throws: ModelError.self) { try foreign.collect() }
        let long = try smallCalibrator(
            sources: [CalibrationSource(name: "a", windows: [Array(repeating: 1, count: 513)])])
        #expect(throws: ModelError.self) { try long.collect() }
    }

    @Test func batchesKeepLengthsAndWeightsApart() throws {
        let batches = TokenBatch.batches(
            smallSources, tokensPerPass: 18, gradientWindows: 2, tokensPerGradientPass: 9)
        #expect(batches.map(\.hasGradients) == [true, true, false, false, false])
        #expect(batches.map(\.tokens) == [9, 9, 9, 9, 5])
        #expect(batches.map(\.weight) == [1, 1, 1, 2.5, 2.5])
        let all = smallSources.flatMap(\.windows)
        #expect(Set(batches.flatMap(\.windows)) == Set(all))
        // Evenly spread: windows 0 and 2 of 5.
        #expect(batches[0].windows + batches[1].windows == [all[0], all[2]])
        let few = TokenBatch.batches(smallSources, tokensPerPass: 1)
        #expect(few.count == 5 && few.allSatisfy { $0.windows.count == 1 })
        let many = TokenBatch.batches(smallSources, tokensPerPass: 27)
        #expect(many.map(\.windows.count) == [3, 1, 1])
    }

    @Test func unusualActivationsAreCounted() throws {
        var values = [Float](repeating: 0.5, count: 8 * 16)
        // Token 3: a massive value. Token 5: above 100, yet not among values of its size.
        values[3 * 16 + 2] = 700
        for channel in 0..<16 { values[5 * 16 + channel] = 150 }
        let x = try Tensor(values, shape: [2, 4, 16])
        var sum = ActivationSum()
        try sum.add(x, site: "s")
        var moment = MomentSum()
        try moment.add(x)
        let summary = try sum.summary(moment: try #require(try moment.mean()))
        #expect(summary.largest == 700 && summary.massiveTokens == 1)
        let squares = values.map { Double($0) * Double($0) }.reduce(0, +) / Double(values.count)
        // Sums of eight float32 products.
        #expect(abs(summary.rms / squares.squareRoot() - 1) <= 8 * 0x1p-23)
        // √((150² + 700²)/8) is 4.8 times the other channels' 150/√8: no outlier yet.
        #expect(summary.outlierChannels.isEmpty)
        values[3 * 16 + 2] = 1400
        var wide = MomentSum()
        try wide.add(Tensor(values, shape: [8, 16]))
        #expect(
            try sum.summary(moment: #require(try wide.mean())).outlierChannels == [2])
        values[0] = .nan
        let broken = try Tensor(values, shape: [8, 16])
        do {
            try sum.add(broken, site: "model.layers.0.s")
            Issue.record("NaN is taken")
        } catch StageError.notFinite(let what) {
            #expect(what.contains("model.layers.0.s"))
        }
    }

    @Test func momentsOfTwoInputs() throws {
        let generator = try RandomGenerator(seed: 1)
        let x = try Tensor.randn([2, 6, 4], generator: generator)
        let y = try Tensor.randn([2, 6, 3], generator: generator)
        var sum = MomentSum()
        #expect(try sum.mean() == nil)
        try sum.add(x.narrow(0, 0..<1), y.narrow(0, 0..<1), weight: 2)
        try sum.add(x.narrow(0, 1..<2), y.narrow(0, 1..<2), weight: 0.5)
        #expect(sum.weight == 15 && sum.tokens == 12)
        let exact = try [(0, 2.0), (1, 0.5)].map { index, weight in
            try x.select(0, index).to(dtype: .float64).transpose()
                .matmul(y.select(0, index).to(dtype: .float64)) * weight
        }
        let mean = try (exact[0] + exact[1]) / 15
        #expect(try relativeDistance(#require(try sum.mean()), mean) <= 6 * 0x1p-23)
    }

    /// Half-precision products are exact in float32; 512 of them are summed in it.
    @Test(
        "half-precision moments on a GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0),
        arguments: [DType.bfloat16, .float16])
    func mixedProducts(dtype: DType) throws {
        let x = try Tensor.randn([512, 96], generator: RandomGenerator(seed: 3)).to(dtype: dtype)
        var sum = MomentSum()
        try sum.add(x.to(.cuda(0)), weight: 2)
        let exact = try x.to(dtype: .float64)
        let expected = try exact.transpose().matmul(exact) / 512
        let mean = try #require(try sum.mean()).to(.cpu)
        #expect(try relativeDistance(mean, expected) <= 512 * 0x1p-24)
    }

    @Test func memoryIsRead() throws {
        let scratch = try Scratch()
        func write(_ text: String, _ path: String) throws {
            let url = URL(filePath: "\(scratch.path)/\(path)")
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: url)
        }
        #expect(HostMemory.available(root: scratch.path) == nil)
        try write("MemTotal:  900 kB\nMemAvailable:     800 kB\n", "proc/meminfo")
        #expect(HostMemory.available(root: scratch.path) == 800 << 10)
        try write("0::/a/b\n", "proc/self/cgroup")
        #expect(HostMemory.available(root: scratch.path) == 800 << 10)
        try write("max\n", "sys/fs/cgroup/a/b/memory.max")
        try write("5000\n", "sys/fs/cgroup/a/b/memory.current")
        #expect(HostMemory.available(root: scratch.path) == 800 << 10)
        // The limit of the group around it holds as well.
        try write("9000\n", "sys/fs/cgroup/a/memory.max")
        try write("6000\n", "sys/fs/cgroup/a/memory.current")
        #expect(HostMemory.available(root: scratch.path) == 3000)
        try write("anon 1\ninactive_file 500\n", "sys/fs/cgroup/a/memory.stat")
        #expect(HostMemory.available(root: scratch.path) == 3500)
        try write("6500\n", "sys/fs/cgroup/a/b/memory.max")
        #expect(HostMemory.available(root: scratch.path) == 1500)
        // More taken than allowed leaves nothing.
        try write("4000\n", "sys/fs/cgroup/a/b/memory.max")
        #expect(HostMemory.available(root: scratch.path) == 0)
        #expect((HostMemory.available() ?? .max) > 1 << 20)
    }
}
