import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Noise of sampling on the CPU, number by number")
struct SamplingHostNoiseTests {
    /// Bit for bit what libtorch's operators give, for vocabularies that do and do not fill the last
    /// counter.
    @Test(arguments: [(0, 0), (1 << 63 + 12_345, 7), (.max, 1 << 20), (42, 1 << 40)])
    func drawsAreTheOperators(seed: UInt64, position: Int) throws {
        for vocabulary in [1, 3, 8192, 8190] {
            let expected: [Float] = try Philox.tokenWords(
                seeds: [seed], positions: [position], vocabulary: vocabulary, device: .cpu
            ).exponentialDraw().reproducibleLog().values()
            let found = HostNoise.logDraws(
                seed: seed, position: position, vocabulary: vocabulary)
            #expect(found.map(\.bitPattern) == expected.map(\.bitPattern))
        }
    }

    /// Words at which a draw, its rounding or its logarithm could differ.
    @Test func extremeWords() throws {
        var words: [UInt32] = [0, 1, 2, .max, .max - 1, 0x8000_0000, 0x7FFF_FFFF]
        for bit in 0..<32 as Range<UInt32> {
            words += [1 << bit, (1 << bit) &- 1, (1 << bit) | 1, ~(1 << bit)]
        }
        let draws = try Tensor(words.map(Int64.init)).exponentialDraw()
        let logs: [Float] = try draws.reproducibleLog().values()
        let expected: [Float] = try draws.values()
        #expect(
            words.map { HostNoise.exponentialDraw($0).bitPattern } == expected.map(\.bitPattern))
        #expect(expected.map { HostNoise.log($0).bitPattern } == logs.map(\.bitPattern))
    }
}
