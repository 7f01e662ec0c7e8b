import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Slots, layouts and cuts of the decoding linear, which need no device.
@Suite("decoding linear: tables and cuts")
struct DecodeLinearShapeTests {
    private func problem(
        bits: Int, slots: Int, columns: Int, tokens: Int, normalised: Bool = false,
        lookedUp: Int = 4, tilesPerStage: Int? = nil, isUniform: Bool = false
    ) -> LinearProblem {
        LinearProblem(
            bits: bits, slots: slots, columns: columns, tokens: tokens, normalised: normalised,
            tilesPerStage: tilesPerStage ?? (bits == 16 ? 1 : 2), piece: 64,
            lookedUp: bits == 4 && !isUniform ? lookedUp : 0, isUniform: isUniform)
    }

    @Test func gatesStandAboveTheirUps() throws {
        let dense = LinearSlots.swiglu(half: 640, stored: false)
        #expect(dense == LinearSlots(rows: 1280))
        #expect(dense.outputWidth(gated: true) == 640 && dense.outputWidth(gated: false) == 1280)
        #expect(LinearSlots(outputs: [7, 40, 3]).outputWidth(gated: false) == 41)
        for (half, stored) in [(640, true), (333, false), (333, true)] {
            let slots = LinearSlots.swiglu(half: half, stored: stored)
            let rows = try #require(slots.rows), outputs = try #require(slots.outputs)
            #expect(slots.count == rows.count && rows.count == outputs.count)
            #expect(slots.count % 16 == 0 && slots.outputWidth(gated: true) == half)
            #expect(outputs.filter { $0 >= 0 } == (0..<Int32(half)).map { $0 })
            for slot in 0..<slots.count where outputs[slot] >= 0 {
                #expect(slot % 16 < 8)
                #expect(rows[slot] == outputs[slot])
                #expect(rows[slot + 8] == outputs[slot] + Int32(half))
            }
        }
    }

    /// Every element is made exactly once, from its own gate and up, wherever these come from.
    @Test(arguments: [0, 1, 57, 390, 780])
    func interpolatedGatesFindTheirUps(_ pivotCount: Int) throws {
        let half = 390
        var generator = SplitMix(7)
        let pivots = Array((0..<2 * half).shuffled(using: &generator).prefix(pivotCount))
        let isPivot = Set(pivots)
        let others = (0..<2 * half).filter { !isPivot.contains($0) }
        let slots = LinearSlots.interpolatedSwiglu(half: half, pivots: pivots)
        let gates = try #require(slots.gates), rows = try #require(slots.rows)
        let outputs = try #require(slots.outputs)
        #expect(gates.kinds.count * 16 == slots.count && gates.partners.count == slots.count)
        var found: [Int: (gate: Int, up: Int)] = [:]
        func add(_ output: Int32, _ gate: Int, _ up: Int) {
            #expect(found[Int(output)] == nil)
            found[Int(output)] = (gate, up)
        }
        for slot in 0..<slots.count where outputs[slot] >= 0 {
            let own = others[Int(rows[slot])]
            switch gates.kinds[slot / 16] {
            case 0: add(outputs[slot], own, others[Int(rows[slot + 8])])
            case 1: add(outputs[slot], own, pivots[Int(gates.partners[slot])])
            default: add(outputs[slot], pivots[Int(gates.partners[slot])], own)
            }
        }
        for pair in stride(from: 0, to: gates.pairs.count, by: 3) {
            add(
                gates.pairs[pair + 2], pivots[Int(gates.pairs[pair])],
                pivots[Int(gates.pairs[pair + 1])])
        }
        #expect(found.count == half)
        #expect(slots.outputWidth(gated: true) == half)
        for (output, value) in found {
            #expect(value.gate == output && value.up == half + output)
        }
    }

    @Test func codesTakeTheirBytes() throws {
        let four = try LinearLayout(codeBits: 4, groupSize: 64, columns: 5120)
        #expect(four.bits == 4)
        // Half a byte per code and one per scale.
        #expect(four.bytes(slots: 2240, columns: 5120) == 2240 * (5120 / 2 + 5120 / 64))
        for bits in [2, 3] {
            let three = try LinearLayout(codeBits: bits, groupSize: 64, columns: 5120)
            #expect(three.bits == 3 && three.lookedUp == 0 && !three.isUniform)
            #expect(three.bytes(slots: 2240, columns: 5120) == 2240 * (5120 / 8 * 3 + 5120 / 64))
        }
        let eight = try LinearLayout(
            codeBits: 8, groupSize: 96, columns: 5120, isUniform: true, tilesPerStage: 1)
        #expect(eight.piece == 32 && eight.isUniform && eight.lookedUp == 0)
        #expect(eight.bytes(slots: 16, columns: 64) == 16 * (64 + 2))
        #expect(eight.bytes(slots: 17, columns: 65) == 32 * (128 + 4))
        let float = try LinearLayout(codeBits: 8, groupSize: 64, columns: 5120)
        #expect(float.bits == 8 && !float.isUniform && float.lookedUp == 0)
        #expect(float.bytes(slots: 2240, columns: 5120) == 2240 * (5120 + 5120 / 64))
        let uniform = try LinearLayout(
            codeBits: 4, groupSize: 64, columns: 5120, isUniform: true)
        #expect(uniform.isUniform && uniform.lookedUp == 0 && !four.isUniform)
        #expect(
            uniform.bytes(slots: 2240, columns: 5120) == four.bytes(slots: 2240, columns: 5120))
        let whole = try LinearLayout(codeBits: 4, groupSize: 4096, columns: 1000)
        #expect(whole.piece == 64)
        #expect(throws: KernelError.self) {
            try LinearLayout(codeBits: 5, groupSize: 64, columns: 5120)
        }
        #expect(throws: KernelError.self) {
            try LinearLayout(codeBits: 4, groupSize: 48, columns: 5120)
        }
    }

    @Test func levelsLieNextToBFloat16() throws {
        let positive: [Float] = [
            0.046987, 0.142008, 0.240343, 0.344853, 0.459722, 0.592129, 0.757164, 1,
        ]
        let levels = try #require(LinearLevels(positive.reversed().map { -$0 } + positive, bits: 4))
        #expect((1..<2).contains(levels.multiplier))
        for (bits, level) in zip(levels.constants, positive) {
            let value = Double(Float(bitPattern: UInt32(bits) << 16)) / levels.multiplier
            #expect(abs(value / Double(level) - 1) <= 0x1p-9)
        }
        #expect(LinearLevels([-1, -0.3, 0.4, 1], bits: 4) == nil)
        #expect(LinearLevels([-1, 1], bits: 4) == nil)
    }

    /// Of 3 bits in memory: multiples of one number, up to 127 times.
    @Test func levelsLieNextToIntegers() throws {
        let positive: [Float] = [0.113894, 0.351312, 0.624509, 1]
        let all = positive.reversed().map { -$0 } + positive
        let levels = try #require(LinearLevels(all, bits: 3))
        #expect(levels.constants.count == 4 && levels.constants.allSatisfy((1...127).contains))
        for (integer, level) in zip(levels.constants, positive) {
            let value = Double(integer) / levels.multiplier
            #expect(abs(value / Double(level) - 1) <= 0x1p-8)
        }
        // Twice as large, the same integers.
        let doubled = try #require(LinearLevels(all.map { 2 * $0 }, bits: 3))
        #expect(doubled.constants == levels.constants)
        #expect(doubled.multiplier == levels.multiplier / 2)
        let two = try #require(LinearLevels([-1, -0.299771, 0.299771, 1], bits: 3))
        #expect(two.positive.count == 4 && two.constants.suffix(2).allSatisfy { $0 == 0 })
        // A level beside which no multiple lies.
        #expect(LinearLevels([-1, -0.001, 0.001, 1], bits: 3) == nil)
    }

    @Test func equallySpacedLevelsAreTold() throws {
        func isUniform(_ levels: [Float]) throws -> Bool {
            let codes = try Tensor([0] as [UInt8], shape: [1, 1])
            return try LinearCodes(
                bits: 2, groupSize: 64, columns: 4, codes: codes, scales: codes,
                base: Tensor([1] as [Float]), levels: levels
            ).isUniform
        }
        #expect(try isUniform([-1, -1 / 3, 1 / 3, 1]))
        #expect(try isUniform((0..<256).map { Float(2 * $0 - 255) / 255 }))
        #expect(try !isUniform([-1, -0.299771, 0.299771, 1]))
        #expect(try !isUniform([-2, -2 / 3, 2 / 3, 2]))
    }

    /// The bytes with which linear.cu was measured (NOTES-linear.md).
    @Test func sharedMemoryIsCountedAsInTheKernel() {
        func bytes(
            _ bits: Int, _ stage: Int, depth: Int, isUniform: Bool = false, tokens: Int = 1
        ) -> Int {
            problem(
                bits: bits, slots: 10_240, columns: 5120, tokens: tokens, normalised: true,
                isUniform: isUniform
            ).sharedBytes(
                LinearTuning(
                    stage: stage, grain: stage, chunk: 5120, readsAhead: false, blocks: 132),
                depth: depth)
        }
        #expect(bytes(16, 1024, depth: 3) == 111_744)
        #expect(bytes(4, 1024, depth: 3) == 98_176)
        #expect(bytes(8, 512, depth: 6, isUniform: true) == 113_280)
        #expect(bytes(8, 512, depth: 5) == 97_920)
        #expect(bytes(4, 1024, depth: 5, isUniform: true) == 97_792)
        #expect(bytes(4, 512, depth: 7, isUniform: true, tokens: 4) == 108_928)
        #expect(bytes(3, 1024, depth: 7, isUniform: true) == 103_040)
        #expect(bytes(3, 1024, depth: 7) == 103_040)
    }

    /// Where integers were faster (NOTES-linear.md).
    @Test func integersAreMultipliedWhereTheyPay() {
        func isInteger(
            _ bits: Int, _ slots: Int, _ columns: Int, tokens: Int = 1, normalised: Bool = false,
            isUniform: Bool = true
        ) -> Bool {
            problem(
                bits: bits, slots: slots, columns: columns, tokens: tokens,
                normalised: normalised, tilesPerStage: slots < 32 * 132 ? 1 : 2,
                isUniform: isUniform
            ).multipliesIntegers
        }
        #expect(isInteger(8, 5120, 25_600, tokens: 8))
        #expect(!isInteger(8, 5120, 25_600, isUniform: false))
        for (bits, isUniform) in [(4, true), (3, true), (3, false)] {
            #expect(isInteger(bits, 51_200, 5120, normalised: true, isUniform: isUniform))
            #expect(isInteger(bits, 2560, 5120, normalised: true, isUniform: isUniform))
            #expect(isInteger(bits, 5120, 8192, isUniform: isUniform))
            #expect(!isInteger(bits, 2432, 25_600, isUniform: isUniform))
            #expect(!isInteger(bits, 51_200, 5120, tokens: 2, isUniform: isUniform))
            let isShorter = bits == 3 && isUniform
            #expect(isInteger(bits, 5120, 25_600, isUniform: isUniform) != isShorter)
        }
        #expect(!isInteger(4, 51_200, 5120, normalised: true, isUniform: false))
    }

    /// Half of the shared memory of an H200, an A100's and a workstation's multiprocessor.
    @Test(arguments: [115_712, 166_912, 50_176])
    func everyCutFits(_ limit: Int) {
        for (bits, isUniform) in [
            (16, false), (8, true), (8, false), (4, false), (4, true), (3, false), (3, true),
        ] {
            for (slots, columns) in [
                (5120, 8192), (51_200, 5120), (2790, 25_600), (2330, 2790), (1, 1),
            ] {
                for tokens in [1, 3, 8, 16] {
                    let problem = problem(
                        bits: bits, slots: slots, columns: columns, tokens: tokens,
                        normalised: true, lookedUp: limit > 80_000 ? 4 : 0,
                        isUniform: isUniform)
                    let candidates = problem.candidates(multiprocessors: 132, limit: limit)
                    #expect(Set(candidates).count == candidates.count)
                    for tuning in candidates {
                        #expect(problem.allows(tuning), "\(problem) \(tuning)")
                        #expect(
                            problem.depth(tuning, limit: limit) != nil, "\(problem) \(tuning)")
                    }
                }
            }
        }
    }

    /// The usual cuts of Qwen3-32B's shapes: the fastest on an H200 or close to them (NOTES-linear.md).
    @Test func measuredCutsAreTheUsualOnes() {
        func cut(
            _ bits: Int, _ slots: Int, _ columns: Int, _ tokens: Int, isUniform: Bool = false,
            limit: Int? = nil
        ) -> LinearTuning {
            problem(
                bits: bits, slots: slots, columns: columns, tokens: tokens,
                tilesPerStage: bits < 16 && slots < 32 * 132 ? 1 : nil, isUniform: isUniform
            ).tuning(multiprocessors: 132, limit: limit ?? (tokens == 1 ? 115_712 : 232_448))
        }
        func expected(_ stage: Int, _ grain: Int, _ chunk: Int) -> LinearTuning {
            LinearTuning(stage: stage, grain: grain, chunk: chunk, readsAhead: false, blocks: 132)
        }
        #expect(cut(16, 10_240, 5120, 1) == expected(1024, 1024, 5120))
        #expect(cut(16, 51_200, 5120, 1) == expected(1024, 1024, 5120))
        #expect(cut(16, 5120, 8192, 1) == expected(1024, 1024, 4096))
        #expect(cut(16, 5120, 25_600, 1) == expected(1024, 1024, 5120))
        #expect(cut(16, 48_656, 2560, 1) == expected(1280, 1280, 2560))
        #expect(cut(16, 2176, 2944, 1) == expected(512, 512, 2944))
        #expect(cut(16, 2688, 2432, 1) == expected(832, 832, 2432))
        #expect(cut(16, 2816, 2304, 1) == expected(768, 768, 2304))
        #expect(cut(16, 8000, 2240, 1) == expected(768, 768, 2240))
        #expect(cut(16, 51_200, 5120, 4) == expected(1280, 1280, 5120))
        #expect(cut(16, 5120, 25_600, 4) == expected(1280, 640, 5120))
        #expect(cut(16, 5120, 8192, 4) == expected(1024, 512, 8192))
        #expect(cut(16, 51_200, 5120, 8) == expected(1280, 1280, 5120))
        for (slots, columns, stage) in [
            (10_240, 5120, 512), (5120, 8192, 1024), (51_200, 5120, 1024), (5120, 25_600, 512),
            (2560, 5120, 512), (48_656, 2560, 512), (7680, 2560, 512), (2432, 25_600, 1024),
            (2688, 2432, 1024),
        ] {
            #expect(cut(8, slots, columns, 1, isUniform: true) == expected(stage, stage, columns))
        }
        #expect(cut(8, 5120, 25_600, 8, isUniform: true) == expected(512, 512, 2560))
        #expect(cut(4, 10_240, 5120, 1) == expected(1024, 1024, 5120))
        #expect(cut(4, 5120, 25_600, 1) == expected(512, 512, 25_600))
        for (slots, columns, stage) in [
            (10_240, 5120, 512), (5120, 8192, 1024), (51_200, 5120, 1024), (5120, 25_600, 1024),
            (2560, 5120, 1024), (48_672, 2560, 2048), (48_160, 3072, 2048), (7680, 2560, 512),
            (2688, 2432, 1024),
        ] {
            #expect(cut(4, slots, columns, 1, isUniform: true) == expected(stage, stage, columns))
            #expect(cut(3, slots, columns, 1) == expected(stage, stage, columns))
        }
        #expect(cut(4, 2432, 25_600, 1, isUniform: true) == expected(2048, 1024, 25_600))
        // Where the best does not fit, the next that does.
        let small = cut(4, 48_672, 2560, 1, isUniform: true, limit: 49_152)
        #expect(small == expected(512, 512, 2560))
        #expect(cut(4, 51_200, 5120, 8, isUniform: true) == expected(512, 512, 5120))
        #expect(cut(4, 5120, 25_600, 4, isUniform: true) == expected(512, 512, 5120))
    }
}
