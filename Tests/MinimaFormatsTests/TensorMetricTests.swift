import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Every tensor format fits what the metric sees.
@Suite struct TensorMetricTests {
    /// Specifications of 24 × 36 that truncate every mode, split inputs included.
    private static let specs = [
        FormatSpec(format: "tucker", outputModes: [4, 6], inputModes: [36], ranks: [3, 4, 9]),
        FormatSpec(format: "tt", outputModes: [4, 6, 1], inputModes: [1, 1, 36], ranks: [3, 10]),
        FormatSpec(format: "tt", outputModes: [4, 6], inputModes: [6, 6], ranks: [13]),
        FormatSpec(format: "tt", outputModes: [2, 3, 4], inputModes: [3, 3, 4], ranks: [5, 9]),
        FormatSpec(format: "tt", outputModes: [4, 6], inputModes: [36, 1], ranks: [4]),
        FormatSpec(
            format: "tr", outputModes: [4, 6, 1], inputModes: [1, 1, 36], ranks: [2, 4, 5]),
        FormatSpec(
            format: "tr", outputModes: [2, 3, 4], inputModes: [3, 3, 4], ranks: [2, 3, 5]),
        FormatSpec(format: "cp", outputModes: [4, 6], inputModes: [36], ranks: [11]),
        FormatSpec(format: "blockterm", outputModes: [4, 6], inputModes: [36], ranks: [3, 2, 2]),
    ]

    private func fit(_ weight: Tensor, _ spec: FormatSpec, _ metric: Metric?, sweeps: Int? = nil)
        throws -> Tensor
    {
        guard let sweeps else {
            return try FormatRegistry.format(spec.format)
                .decompose(weight, spec: spec, metric: metric).reconstruct()
        }
        switch spec.format {
        case "tucker":
            return try Tucker.decompose(weight, spec: spec, metric: metric, sweeps: sweeps)
                .reconstruct()
        case "tt":
            return try TensorTrain.decompose(weight, spec: spec, metric: metric, sweeps: sweeps)
                .reconstruct()
        case "tr":
            return try TensorRing.decompose(weight, spec: spec, metric: metric, sweeps: sweeps)
                .reconstruct()
        case "cp":
            return try CP.decompose(weight, spec: spec, metric: metric, sweeps: sweeps)
                .reconstruct()
        default:
            return try BlockTerm.decompose(weight, spec: spec, metric: metric, sweeps: sweeps)
                .reconstruct()
        }
    }

    /// Second moments of few and of many samples; H in blocks of 6 outputs, whole, and absent.
    private func metrics() throws -> [Metric] {
        try [400, 12].flatMap { tokens in
            let input = try Samples.metric(36, tokens: tokens, seed: 400).input
            let output = try Samples.metric(24, tokens: tokens, seed: 401).input
            let blocks = try (0..<4).map { index in
                try output.narrow(0, 6 * index..<6 * index + 6)
                    .narrow(1, 6 * index..<6 * index + 6).unsqueeze(0)
            }
            return [
                try Metric(input: input),
                try Metric(input: input, output: OutputMetric(runs: [.cat(blocks)])),
                try Metric(input: input, output: OutputMetric(full: output)),
            ]
        }
    }

    @Test(arguments: specs) func theMetricIsWhatIsFitted(spec: FormatSpec) throws {
        let weight = try Samples.normal([24, 36], seed: 402)
        let plain = try fit(weight, spec, nil)
        for metric in try metrics() {
            let weighted = try fit(weight, spec, metric)
            #expect(
                try metric.norm(weighted - weight) < metric.norm(plain - weight), "\(spec)")
        }
    }

    /// More sweeps never cost accuracy, but for the coordinates they work in: their roots raise
    /// eigenvalues to 10⁻⁸ of their mean, which moves a norm by the root of that.
    @Test(arguments: specs) func sweepsNeverLose(spec: FormatSpec) throws {
        let weight = try Samples.normal([24, 36], seed: 403)
        for metric in [nil] + (try metrics()) {
            func error(_ sweeps: Int) throws -> Double {
                let difference = try fit(weight, spec, metric, sweeps: sweeps) - weight
                return try metric?.norm(difference) ?? difference.length()
            }
            var last = Double.infinity
            // CP and block terms improve under a Kronecker product near H.
            guard metric?.output == nil || !["cp", "blockterm"].contains(spec.format) else {
                continue
            }
            // Without H, HOOI's objective is the error itself; before H's sweeps it is not.
            let first = spec.format == "tucker" && metric?.output != nil ? 1 : 0
            for sweeps in [first, 2, 4] {
                let now = try error(sweeps)
                #expect(now <= last * (1 + 1e-4), "\(spec) after \(sweeps)")
                last = min(last, now)
            }
        }
    }

    /// Nothing is lost of the low-rank optimum where the output modes are whole.
    @Test func wholeModesReachTheWhitenedSVD() throws {
        let weight = try Samples.normal([24, 36], seed: 404)
        for metric in try metrics() {
            let optimum = try WhitenedSVD(weight, metric: metric)
            for spec in [
                FormatSpec(
                    format: "tucker", outputModes: [4, 6], inputModes: [36], ranks: [4, 6, 9]),
                FormatSpec(
                    format: "tt", outputModes: [4, 6, 1], inputModes: [1, 1, 36], ranks: [4, 9]),
                FormatSpec(
                    format: "tr", outputModes: [4, 6, 1], inputModes: [1, 1, 36], ranks: [1, 4, 9]),
            ] {
                let stored = try FormatRegistry.format(spec.format)
                    .decompose(weight, spec: spec, metric: metric)
                let error = try metric.squaredNorm(stored.reconstruct() - weight)
                let whole = optimum.squaredError(rank: 0)
                let slack = 1e-6 * whole  // H's eigenvalues raised to 10⁻⁶ of their mean
                #expect(error <= optimum.squaredError(rank: 9) + slack)
                // The pivots are 9 numbers more.
                #expect(stored.parameterCount == 9 * (24 + 36 - 9) + 9)
            }
        }
    }

    /// Rounding to bfloat16 costs no more than its precision, because the last core makes up for it.
    @Test(arguments: specs) func roundingIsMadeUpFor(spec: FormatSpec) throws {
        let weight = try Samples.normal([24, 36], seed: 405).to(dtype: .bfloat16)
        let metric = try metrics()[1]
        let exact = try fit(weight.to(dtype: .float64), spec, metric)
        let rounded = try fit(weight, spec, metric)
        let wide = try weight.to(dtype: .float64)
        let scale = try metric.norm(wide)
        let loss =
            try metric.norm(rounded.to(dtype: .float64) - wide)
            - metric.norm(exact - wide)
        // Each of up to four factors is rounded once, |X| ≤ 2.
        #expect(loss <= 4 * 2 * DType.bfloat16.epsilon * scale, "\(spec)")
    }

    /// Moments that know one direction, none, or one output only.
    @Test(arguments: specs) func degenerateMetricsAreHandled(spec: FormatSpec) throws {
        let weight = try Samples.normal([24, 36], seed: 406)
        let one = try Samples.normal([36, 1], seed: 407)
        let zero = try Tensor.zeros([36, 36], dtype: .float64)
        var single = [Double](repeating: 0, count: 24)
        single[5] = 1e12
        for metric in [
            try Metric(input: one.matmul(one.transpose()) * 1e-14),
            try Metric(input: zero),
            try Metric(
                input: .identity(36, dtype: .float64),
                output: OutputMetric(diagonal: Tensor(single, shape: [24]))),
        ] {
            let found = try fit(weight, spec, metric)
            #expect(try found.isFinite().sum(dtype: .int64).item() == 24 * 36)
            #expect(
                try metric.norm(found - weight) <= metric.norm(weight) * (1 + 1e-6), "\(spec)")
        }
    }

    /// What the candidates promise is kept, within the budget.
    @Test func candidatesKeepTheirPromise() throws {
        let weight = try Samples.normal([24, 36], seed: 408)
        let metric = try Metric(input: Samples.metric(36, tokens: 200, seed: 409).input)
        let spectra = try TensorSpectra(weight, metric: metric)
        let fractions = [0.3, 0.5, 0.65, 0.8]
        let formats: [any TensorFormat.Type] = [
            Tucker.self, TensorTrain.self, TensorRing.self, CP.self, BlockTerm.self,
        ]
        for format in formats {
            let modes = format.modeChoices(outputs: 24, inputs: 36, unit: 6)
            #expect(Set(modes).count == modes.count && !modes.isEmpty)
            let found = try format.candidates(spectra, fractions: fractions, modes: modes)
            #expect(found.count >= fractions.count)
            for (spec, squaredError) in found {
                let count = try format.parameterCount(spec, outputs: 24, inputs: 36)
                #expect(count <= Int(0.8 * 24 * 36))
                let error = try metric.squaredNorm(fit(weight, spec, metric) - weight)
                let isSplit = spec.inputModes.first ?? 1 > 1 && spec.inputModes.count > 1
                // One sweep's share at one budget stands for all sweeps at others.
                let slack = isSplit ? 1.5 : 1 + 1e-6
                #expect(error <= squaredError * slack, "\(spec)")
            }
        }
    }

    @Test func modeChoicesMultiply() {
        for (outputs, inputs, unit) in [
            (51_200, 5120, 25_600), (640, 384, 64), (127, 36, 1), (1, 5, 1), (24, 36, 7),
        ] {
            for choice in TensorTrain.modeChoices(outputs: outputs, inputs: inputs, unit: unit) {
                #expect(choice.outputModes.reduce(1, *) == outputs)
                #expect(choice.inputModes.reduce(1, *) == inputs)
            }
        }
        let stacked = Tucker.modeChoices(outputs: 51_200, inputs: 5120, unit: 25_600)
        #expect(stacked.contains { $0.outputModes == [2, 25_600] })
    }
}
