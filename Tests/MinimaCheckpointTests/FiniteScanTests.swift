import MinimaCore
import Testing

@testable import MinimaCheckpoint

@Suite struct FiniteScanTests {
    @Test func findsTheFirstBadValueOfEachType() throws {
        let directory = try TemporaryDirectory()
        let cases: [(DType, [UInt8], Double)] = [
            (.float8e4m3, [0xFF], .nan), (.float8e5m2, [0x7C], .infinity),
            (.float8e5m2, [0xFD], .nan), (.float16, [0x00, 0xFC], -.infinity),
            (.float16, [0x01, 0x7C], .nan), (.bfloat16, [0x80, 0x7F], .infinity),
            (.bfloat16, [0xC0, 0xFF], .nan), (.float32, [0, 0, 0x80, 0x7F], .infinity),
            (.float32, [1, 0, 0x80, 0x7F], .nan),
            (.float64, [0, 0, 0, 0, 0, 0, 0xF0, 0xFF], -.infinity),
        ]
        // One place inside a block, one in a later block, one at the very end.
        for (dtype, bad, value) in cases {
            for index in [0, 1023, 1500, 2999] {
                var bytes = [UInt8](repeating: 0x35, count: 3000 * dtype.byteCount)
                bytes.replaceSubrange(
                    index * dtype.byteCount..<(index + 1) * dtype.byteCount, with: bad)
                let path = directory.path + "/scan.safetensors"
                let writer = try SafetensorsWriter(
                    file: path,
                    tensors: [
                        TensorDescription(name: "good", dtype: dtype, shape: [4]),
                        TensorDescription(name: "weight", dtype: dtype, shape: [30, 100]),
                    ])
                try writer.write(
                    [UInt8](repeating: 0x35, count: 4 * dtype.byteCount), to: "good")
                try writer.write(bytes, to: "weight")
                try writer.finish()
                let file = try SafetensorsFile(path: path)
                #expect(try file.firstNonFinite(in: "good") == nil)
                let found = try #require(try file.firstNonFinite(in: "weight"))
                #expect(found.index == index)
                let chunked = try file.firstNonFinite(in: "weight", chunkBytes: 512)
                #expect(chunked?.index == index)
                #expect(found.value == value || found.value.isNaN && value.isNaN)
                let said = message { try file.checkFinite() }
                #expect(said.contains("\(path): tensor \"weight\" holds"))
                #expect(said.contains("at element \(index); the weights are damaged"))
            }
        }
    }

    @Test func everyFiniteBitPatternPasses() throws {
        let directory = try TemporaryDirectory()
        let halves = (0...UInt16.max).flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
        for dtype in [DType.float16, .bfloat16, .int16] {
            let path = directory.path + "/all.safetensors"
            let writer = try SafetensorsWriter(
                file: path, tensors: [.init(name: "w", dtype: dtype, shape: [1 << 16])])
            try writer.write(halves, to: "w")
            try writer.finish()
            let found = try SafetensorsFile(path: path).firstNonFinite(in: "w")
            // The first pattern with all exponent bits set is plus infinity.
            switch dtype {
            case .float16: #expect(found?.index == 0x7C00)
            case .bfloat16: #expect(found?.index == 0x7F80)
            default: #expect(found == nil)
            }
        }
    }
}
