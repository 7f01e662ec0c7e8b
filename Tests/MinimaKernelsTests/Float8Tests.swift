import CKernelFunctions
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// float8.cuh, compiled for the CPU, against libtorch's e4m3.
@Suite("Codes of float8")
struct Float8Tests {
    /// What each code stands for by libtorch; 448 of the same sign for NaN.
    static func numbers() throws -> [Float] {
        let numbers: [Float] = try Array(UInt8.min...UInt8.max).withUnsafeBytes { bytes in
            try Tensor(bytes: bytes, shape: [256], dtype: .float8e4m3).to(dtype: .float32).values()
        }
        return numbers.map { $0.isNaN ? Float(signOf: $0, magnitudeOf: 448) : $0 }
    }

    /// A half of a pair as float.
    private func bfloat16(_ pair: UInt32, _ half: Int) -> Float {
        Float(bitPattern: half == 0 ? pair << 16 : pair & 0xFFFF_0000)
    }

    /// All codes in all four places, among others, sign and subnormal numbers included.
    @Test func wordsAreTheirNumbers() throws {
        let numbers = try Self.numbers()
        #expect(numbers[0x7E] == 448 && numbers[1] == 0x1p-9 && numbers[0xFF] == -448)
        var generator = SplitMix(3)
        for code in UInt32(0)..<256 {
            for place in 0..<4 {
                var codes = (0..<4).map { _ in UInt32.random(in: 0..<256, using: &generator) }
                codes[place] = code
                let word = codes.enumerated().reduce(UInt32(0)) {
                    $0 | pack_float8($1.element, Int32($1.offset))
                }
                let pairs = [first_of_float8(word), second_of_float8(word)]
                for (place, code) in codes.enumerated() {
                    let found = bfloat16(pairs[place / 2], place % 2) * 0x1p120
                    #expect(found.bitPattern == numbers[Int(code)].bitPattern, "\(code) \(place)")
                }
            }
        }
    }

    /// Every bit of a word belongs to one place.
    @Test func placesDoNotOverlap() {
        let bits = (0..<4).map { place in
            [1, 2, 4, 8, 16, 32, 64, 128].reduce(UInt32(0)) { $0 | pack_float8($1, place) }
        }
        #expect(bits.allSatisfy { $0.nonzeroBitCount == 8 })
        #expect(bits.reduce(0, ^) == .max)
    }

    @Test func levelsAreTold() throws {
        let levels = try Self.numbers().map { $0 / 448 }
        let codes = try Tensor([0] as [UInt8], shape: [1, 1])
        func linear(_ levels: [Float]) throws -> LinearCodes {
            try LinearCodes(
                bits: 8, groupSize: 64, columns: 1, codes: codes, scales: codes,
                base: Tensor([1] as [Float]), levels: levels)
        }
        #expect(try linear(levels).isFloat8 && !linear(levels).isUniform)
        let even = try linear((0..<256).map { Float(2 * $0 - 255) / 255 })
        #expect(!even.isFloat8 && even.isUniform)
        for (place, value) in [(0x7F, Float.nan), (0x08, 0x1p-6), (0xFE, 1), (0, 0x1p-10)] {
            var other = levels
            other[place] = value
            #expect(try !linear(other).isFloat8, "\(place)")
        }
        #expect(try !linear(Array(levels.dropLast())).isFloat8)
    }
}
