import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Noise of sampling")
struct SamplingNoiseTests {
    /// Known answers of the authors' Random123 1.14 (tests/kat_vectors, philox4x32 10).
    @Test(arguments: [
        (
            [0, 0, 0, 0], [0, 0], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        ),
        (
            [0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff], [0xffff_ffff, 0xffff_ffff],
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        ),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        ),
    ])
    func philoxIsThePublishedOne(_ counter: [Int], _ key: [Int], _ words: [Int]) throws {
        func tensor(_ value: Int) throws -> Tensor { try Tensor([Int64(value)]) }
        let found = try Philox.words(
            counter: counter.map(tensor), key: (tensor(key[0]), tensor(key[1])))
        #expect(try found.map { Int(try $0.item()) } == words)
    }

    @Test func wordsDependOnSeedPositionAndTokenAlone() throws {
        func words(_ seeds: [UInt64], _ positions: [Int], _ vocabulary: Int) throws -> [[Int64]] {
            let values: [Int64] = try Philox.tokenWords(
                seeds: seeds, positions: positions, vocabulary: vocabulary, device: .cpu
            ).values()
            return seeds.indices.map {
                Array(values[$0 * vocabulary..<($0 + 1) * vocabulary])
            }
        }
        let seeds: [UInt64] = [1, 1 << 63 | 5, .max]
        let positions = [0, 7, 1 << 30]
        let together = try words(seeds, positions, 11)
        for row in seeds.indices {
            // A larger vocabulary leaves the words of the smaller one.
            let alone = try words([seeds[row]], [positions[row]], 30)[0]
            #expect(together[row] == Array(alone.prefix(11)))
        }
        #expect(Set(together.flatMap { $0 }).count == 33)
        #expect(try words([1], [1], 11) != words([1], [0], 11))
        #expect(try words([1 << 32 | 1], [0], 11) != words([1], [0], 11))
    }

    /// The stated bound, against float64 of libtorch.
    @Test func exponentialsAreAccurate() throws {
        var generator = SamplingGenerator(state: 1)
        let x = (0..<20_000).map { _ in Float.random(in: -87...0, using: &generator) }
        let tensor = try Tensor(x + [0, -0.0, -87])
        let found: [Float] = try tensor.reproducibleExp().values()
        let exact: [Double] = try tensor.to(dtype: .float64).exp().values()
        for (found, exact) in zip(found, exact) {
            #expect(abs(Double(found) - exact) <= 0x1p-23 * exact)
        }
        #expect(found[20_000] == 1 && found[20_001] == 1)
        let tails: [Float] = [-87.00001, -1e30, -.infinity]
        #expect(try Tensor(tails).reproducibleExp().values(as: Float.self) == [0, 0, 0])
    }

    @Test func logarithmsAreAccurate() throws {
        var generator = SamplingGenerator(state: 2)
        let exponents = (0..<20_000).map { _ in Double.random(in: -23...4, using: &generator) }
        let x = try Tensor(exponents).exp().to(dtype: .float32)
        let found: [Float] = try x.reproducibleLog().values()
        // x is a rounded e^exponent: the rounding is half a unit of 2⁻²³.
        for (found, exponent) in zip(found, exponents) {
            #expect(abs(Double(found) - exponent) <= 0x1p-23 * (1 + abs(exponent)) + 0x1p-24)
        }
    }

    /// −ln(j·2⁻³²) where the draw wins (j near 2³²) and where it loses.
    @Test func exponentialDrawsAreAccurate() throws {
        var generator = SamplingGenerator(state: 3)
        let gaps = (0..<5000).map { _ in
            Double.random(in: 0...32, using: &generator)
        }
        let powers: [Double] = try (Tensor(gaps) * 0.693_147_180_559_945_3).exp().values()
        let words = powers.map { Int64(min($0, 0x1p32 - 1)) }
        let mirrored = words.map { (1 << 32) - $0 }.filter { $0 < 1 << 32 }
        let all = words + mirrored + [0, 1, (1 << 32) - 1]
        let found: [Float] = try Tensor(all).exponentialDraw().values()
        for (word, found) in zip(all, found) {
            let y = (0x1p32 - Double(max(word, 1))) / 0x1p32
            #expect(abs(Double(found) - negatedLog1p(-y)) <= 0x1p-22 * negatedLog1p(-y))
        }
        #expect(found.last == 0x1p-32)
    }

    /// −ln(1 + x) for −1 < x ≤ 0 by the series of the inverse hyperbolic tangent.
    private func negatedLog1p(_ x: Double) -> Double {
        var (x, halvings) = (x, 0.0)
        // 1 + x = 2·(1 + x)/2: bring 1 + x up to [½, 1].
        while x < -0.5 {
            x = 2 * x + 1
            halvings += 1
        }
        let ratio = -x / (2 + x)
        var (power, sum) = (ratio, 0.0)
        for k in 0..<40 {
            sum += power / Double(2 * k + 1)
            power *= ratio * ratio
        }
        return 2 * sum + halvings * 0.693_147_180_559_945_3
    }
}
