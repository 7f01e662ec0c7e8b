import Glibc
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// How good codes are: against plain rounding, against the closed form, on singular metrics.
@Suite struct QuantizerErrorTests {
    /// Inputs with a few strong directions, like a network's, and gradients likewise.
    static func metric(_ outputs: Int, _ inputs: Int, tokens: Int, seed: UInt64) throws -> Metric {
        func moment(_ size: Int, _ seed: UInt64) throws -> Tensor {
            let mix = try Samples.normal([size, size], seed: seed)
            let x = try Samples.normal([tokens, size], seed: seed + 1).matmul(
                mix + Tensor.identity(size, dtype: .float64) * Double(size).squareRoot())
            return try x.transpose().matmul(x) / Double(tokens)
        }
        return try Metric(
            input: moment(inputs, seed), output: OutputMetric(full: moment(outputs, seed + 2)))
    }

    static func spec(_ bits: Int?, _ groupSize: Int?, _ part: FormatSpec? = nil) -> FormatSpec {
        FormatSpec(
            format: "quantized", bits: bits, groupSize: groupSize,
            parts: [part ?? FormatSpec(format: "dense")])
    }

    private func error(_ weight: Tensor, _ spec: FormatSpec, _ search: Metric?, _ judge: Metric)
        throws -> Double
    {
        let stored = try Quantized.decompose(weight, spec: spec, metric: search)
        return try judge.squaredNorm(stored.reconstruct() - weight)
    }

    @Test(arguments: [2, 3, 4, 5, 6, 8]) func theMetricPays(bits: Int) throws {
        let weight = try Samples.normal([24, 48], seed: 1)
        let metric = try Self.metric(24, 48, tokens: 400, seed: 2)
        let inputOnly = try Metric(input: metric.input)
        let spec = Self.spec(bits, 16)
        let plain = try error(weight, spec, nil, metric)
        let oneSided = try error(weight, spec, inputOnly, metric)
        let both = try error(weight, spec, metric, metric)
        #expect(oneSided < plain)
        #expect(both < oneSided)
    }

    @Test func errorFallsWithBitsAndGroups() throws {
        let weight = try Samples.normal([24, 48], seed: 4)
        let metric = try Self.metric(24, 48, tokens: 400, seed: 5)
        let byBits = try [2, 3, 4, 5, 6, 8].map {
            try error(weight, Self.spec($0, 16), metric, metric)
        }
        #expect(zip(byBits, byBits.dropFirst()).allSatisfy(>))
        let total = try metric.squaredNorm(weight)
        // Rounding of normal numbers at 2 bits loses 11.8% (Max 1960); searched scales no more.
        #expect(byBits[0] < 0.118 * total)
        #expect(try error(weight, Self.spec(4, 8), metric, metric) < byBits[2])
        #expect(try error(weight, Self.spec(4, nil), metric, metric) > byBits[2])
    }

    /// An error in a code is at most half the widest gap of levels at the largest scale there is.
    @Test func everyValueIsNear() throws {
        let weight = try Samples.normal([16, 32], seed: 6)
        for bits in [2, 4, 8] {
            let stored = try Quantized.decompose(weight, spec: Self.spec(bits, 8), metric: nil)
            let values = Codebook.values(bits: bits)
            let gap = zip(values, values.dropFirst()).map { Double($1 - $0) }.max() ?? 0
            // Scales reach from 2^(-12/16) of a group's peak, which clips, to 2^(5/16) of it.
            let bound =
                max(1 - exp2(-0.75), gap / 2 * exp2(0.3125)) * (try weight.abs().max().item())
            #expect(try (stored.reconstruct() - weight).abs().max().item() <= bound)
        }
    }

    @Test func deficientMetricsAreSafe() throws {
        let weight = try Samples.normal([12, 40], seed: 7)
        var moments: [Tensor] = [try Tensor.zeros([40, 40], dtype: .float64)]
        for tokens in [1, 5] {
            let x = try Samples.normal([tokens, 40], seed: 8)
            try x.narrow(1, 7..<9).multiplyInPlace(Tensor.zeros([1], dtype: .float64))
            moments.append(try x.transpose().matmul(x))
        }
        let loud = try Samples.normal([80, 40], seed: 9)
        try loud.narrow(1, 3..<4).multiplyInPlace(Tensor([1e9]))
        moments.append(try loud.transpose().matmul(loud))
        moments.append(try moments[2] * 1e-30)
        moments.append(try moments[1] * 1e30)
        let flat = try OutputMetric(full: Tensor.zeros([12, 12], dtype: .float64))
        let single = try OutputMetric(full: Tensor.ones([12, 12], dtype: .float64))
        for (index, moment) in moments.enumerated() {
            let metric = try Metric(input: moment, output: [nil, flat, single][index % 3])
            for part in [FormatSpec(format: "dense"), FormatSpec(format: "lowrank", ranks: [4])] {
                let stored = try Quantized.decompose(
                    weight, spec: Self.spec(3, 16, part), metric: metric)
                let matrix = try stored.reconstruct()
                #expect(try matrix.isFinite().not().sum(dtype: .int64).item() == 0)
                #expect(try metric.squaredNorm(matrix - weight) <= metric.squaredNorm(weight))
            }
        }
    }

    @Test func quantisedCoresAreNearTheirFormat() throws {
        let metric = try Self.metric(24, 36, tokens: 300, seed: 10)
        let weight = try Samples.normal([24, 36], seed: 11)
        let total = try metric.squaredNorm(weight)
        for part in [
            FormatSpec(format: "lowrank", ranks: [9]),
            FormatSpec(format: "interpolative", ranks: [9]),
            FormatSpec(
                format: "tucker", outputModes: [6, 4], inputModes: [36], ranks: [5, 4, 12]),
            FormatSpec(format: "tt", outputModes: [6, 4], inputModes: [6, 6], ranks: [20]),
            FormatSpec(format: "tr", outputModes: [6, 4], inputModes: [6, 6], ranks: [2, 9]),
        ] {
            let exact = try FormatRegistry.format(part.format).decompose(
                weight, spec: part, metric: metric)
            let floor = try metric.squaredNorm(exact.reconstruct() - weight)
            var last = Double.infinity
            for bits in [2, 4, 8] {
                let stored = try Quantized.decompose(
                    weight, spec: Self.spec(bits, 16, part), metric: metric)
                let found = try metric.squaredNorm(stored.reconstruct() - weight)
                #expect(found < last, "\(part.format) at \(bits) bits")
                last = found
                #expect(stored.parameterCount == exact.parameterCount)
                #expect(stored.multiplyAdds == exact.multiplyAdds)
            }
            // At 8 bits a value is off by 1/255 of its scale at most, relative to what is kept.
            #expect(last < floor + 0.01 * total, "\(part.format)")
        }
    }

    @Test func theClosedFormPredicts() throws {
        var ratios: [Double] = []
        for seed in [20, 30, 40] as [UInt64] {
            let weight = try Samples.normal([32, 64], seed: seed)
            let metric = try Self.metric(32, 64, tokens: 500, seed: seed + 1)
            let found = try Quantized.candidates(
                weight, metric: metric, bits: [2, 3, 4, 6], groupSizes: [16, 64])
            #expect(found.map(\.spec.bits) == [2, 2, 3, 3, 4, 4, 6, 6])
            for (spec, expected) in found {
                ratios.append(try expected / error(weight, spec, metric, metric))
            }
        }
        // The saving by feedback between rows depends on the matrix: within a factor of two.
        #expect(ratios.allSatisfy { (0.5...2).contains($0) }, "\(ratios)")
        let weight = try Samples.normal([32, 64], seed: 50)
        let plain = try Quantized.candidates(weight, metric: nil, bits: [3], groupSizes: [16])
        let stored = try Quantized.decompose(weight, spec: plain[0].spec, metric: nil)
        let exact = try stored.reconstruct().distance(to: weight)
        // A third of the scales are tried: 2^(3/32) off the best at most, less than a twentieth more.
        #expect((1 - 1e-5...1.05).contains(plain[0].squaredError / (exact * exact)))
        let uniform = try Quantized.candidates(
            weight, metric: nil, bits: [3], groupSizes: [16], levels: .uniform)
        #expect(uniform[0].spec.levels == .uniform && plain[0].spec.levels == .normal)
        #expect(uniform[0].squaredError > plain[0].squaredError)
        // Levels that codes of 4 bits cannot have are normal for these.
        let float8 = try Quantized.candidates(
            weight, metric: nil, bits: [4, 8], groupSizes: [16], levels: .float8)
        #expect(float8.map(\.spec.levels) == [.normal, .float8])
        #expect(float8[1].squaredError < float8[0].squaredError)
        #expect(throws: FormatError.self) {
            try Quantized.candidates(weight, metric: nil, bits: [7], groupSizes: [16])
        }
    }
}
