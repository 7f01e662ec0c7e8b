import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

@Suite("kernel arguments")
struct KernelArgumentTests {
    @Test func scalarsKeepTheirBits() throws {
        func bits(_ argument: KernelArgument) throws -> UInt64 { try argument.bits(for: .cpu) }
        #expect(try bits(.none) == 0)
        #expect(try bits(.int32(-2)) == 0xFFFF_FFFE)
        #expect(try bits(.int64(-2)) == UInt64.max - 1)
        #expect(try bits(.int64(.min)) == 1 << 63)
        #expect(try bits(.float(0.1)) == UInt64(Float(0.1).bitPattern))
        let sizes = [KernelArgument.none, .int32(0), .int64(0), .float(0)].map(\.size)
        #expect(sizes == [8, 4, 8, 4])
    }

    @Test(arguments: [1 << 31, -1 << 31 - 1, Int.max])
    func integersThatDoNotFitAreRefused(_ value: Int) {
        #expect(throws: KernelArgumentDefect.self) {
            try KernelArgument.int32(value).bits(for: .cpu)
        }
    }

    @Test func tensorsGiveTheAddressOfTheirFirstElement() throws {
        let base = try Tensor((0..<24).map { Float($0) }, shape: [4, 6])
        let row = try base.narrow(0, 2..<3)
        let start = try KernelArgument.tensor(base).bits(for: .cpu)
        #expect(try KernelArgument.tensor(row).bits(for: .cpu) == start + 48)
        #expect(try KernelArgument.tensorAt(base, byteOffset: 48).bits(for: .cpu) == start + 48)
        #expect(try KernelArgument.tensorAt(base, byteOffset: 96).bits(for: .cpu) == start + 96)
    }

    @Test func tensorsThatAKernelWouldMisreadAreRefused() throws {
        let base = try Tensor((0..<24).map { Float($0) }, shape: [4, 6])
        let cases: [(KernelArgument, Device, String)] = [
            (.tensor(base), .cuda(0), "not on cuda:0"),
            (.tensor(try base.transpose()), .cpu, "contiguous"),
            (.tensor(try base.narrow(1, 0..<3)), .cpu, "contiguous"),
            (.tensorAt(base, byteOffset: 97), .cpu, "96 bytes"),
            (.tensorAt(base, byteOffset: -1), .cpu, "96 bytes"),
        ]
        for (argument, device, words) in cases {
            let error = #expect(throws: KernelArgumentDefect.self) {
                try argument.bits(for: device)
            }
            #expect(try #require(error).reason.contains(words))
        }
    }

    @Test func quartilesAreThoseOfTheSortedTimes() {
        let times = DeviceTime([5, 1, 4, 2, 3])
        #expect(times.median == 3 && times.minimum == 1 && times.maximum == 5)
        #expect(times.quartiles == 2...4 && times.count == 5)
        #expect(times.description == "3.0 µs (2.0–4.0)")
        #expect(DeviceTime([1, 2]).median == 1.5)
        #expect(DeviceTime([7]).quartiles == 7...7)
    }
}
