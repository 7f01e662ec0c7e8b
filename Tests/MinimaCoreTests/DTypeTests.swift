import MinimaCore
import Testing

@Suite struct DTypeTests {
    /// Names as in safetensors' header; sizes as each name says.
    @Test func sizesFollowFromNames() {
        for dtype in DType.allCases {
            let name = dtype.rawValue
            let bits =
                name == "BOOL"
                ? 8 : Int(name.filter(\.isNumber).prefix(name.hasPrefix("F8") ? 1 : 2))
            #expect(dtype.byteCount * 8 == bits, "\(name)")
            #expect(dtype.isFloatingPoint == (name.hasPrefix("F") || name.hasPrefix("BF")))
        }
        #expect(DType(rawValue: "F4") == nil)
    }

    @Test func epsilonsAreThoseOfTheFormats() {
        #expect(DType.float64.epsilon == Double.ulpOfOne)
        #expect(DType.float32.epsilon == Double(Float.ulpOfOne))
        #expect(DType.int64.epsilon == 0)
        for dtype in DType.allCases {
            #expect((dtype.epsilon > 0) == dtype.isFloatingPoint)
        }
    }
}
