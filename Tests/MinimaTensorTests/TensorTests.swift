import Glibc
import MinimaCore
import Testing

@testable import MinimaTensor

@Suite("Tensors")
struct TensorTests {
    @Test("values round-trip through every element type", arguments: DType.allCases)
    func roundTrip(dtype: DType) throws {
        let values: [Double] = dtype == .bool ? [0, 1, 1] : [0, 1, 2]
        let tensor = try Tensor(values).to(dtype: dtype)
        #expect(tensor.dtype == dtype)
        #expect(try tensor.values(as: Double.self) == values)
        try tensor.withBytes { bytes in #expect(bytes.count == 3 * dtype.byteCount) }
        let copy = try tensor.withBytes { bytes in
            try Tensor(bytes: bytes, shape: [3], dtype: dtype)
        }
        #expect(try copy.values(as: Double.self) == values)
    }

    @Test func shapesAndViews() throws {
        let x = try Tensor.arange(0..<24, dtype: .float32).reshape([2, 3, 4])
        #expect(x.shape == [2, 3, 4])
        #expect(x.strides == [12, 4, 1])
        #expect(x.count == 24 && x.rank == 3)
        let turned = try x.permute([2, 0, 1])
        #expect(turned.shape == [4, 2, 3])
        #expect(turned.strides == [1, 12, 4])
        #expect(
            try turned.select(0, 1).values(as: Float.self) == [1, 5, 9, 13, 17, 21])
        // A view shares storage: writing through it changes the original.
        try x.narrow(2, 1..<2).copy(from: Tensor.zeros([2, 3, 1]))
        #expect(try x.select(2, 1).sum().item() == 0)
        #expect(try Tensor([] as [Float]).values(as: Float.self).isEmpty)
        #expect(try Tensor.full([], 3).item() == 3)
    }

    @Test func wrongSizesAreErrors() throws {
        #expect(throws: TensorError.self) { try Tensor([1, 2, 3] as [Float], shape: [2, 2]) }
        #expect(throws: TensorError.self) { try Tensor([1] as [Float], shape: [-1]) }
        #expect(throws: TensorError.self) { try Tensor.zeros([2]).item() }
        let bytes: [UInt8] = [1, 2, 3]
        #expect(throws: TensorError.self) {
            try bytes.withUnsafeBytes { try Tensor(bytes: $0, shape: [1], dtype: .float32) }
        }
        // Products past Int.max, one of which would wrap to 0.
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        for shape in [[1 << 32, 1 << 32], [1 << 62, 3], [.max, .max]] {
            #expect(throws: TensorError.self) { try Tensor([] as [Float], shape: shape) }
            #expect(throws: TensorError.self) {
                try Tensor(bytes: nothing, shape: shape, dtype: .float32)
            }
        }
        #expect(throws: TensorError.self) {
            try Tensor(bytes: nothing, shape: [1 << 62], dtype: .float32)
        }
        // More than any machine has: libtorch's own refusal arrives as an error.
        #expect(throws: TensorError.self) { try Tensor.zeros([1 << 40, 1 << 20]) }
    }

    @Test func failuresNameOperatorAndShapes() throws {
        let (x, y) = (try Tensor.zeros([2, 3]), try Tensor.zeros([4, 5], dtype: .float64))
        do {
            _ = try x.matmul(y)
            Issue.record("a product of unfit matrices succeeded")
        } catch {
            let text = "\(error)"
            #expect(text.contains("aten::matmul"))
            #expect(text.contains("float32 cpu [2, 3]"))
            #expect(text.contains("float64 cpu [4, 5]"))
        }
    }

    @Test func badCallsAreErrors() throws {
        let x = try Tensor.zeros([2])
        #expect(throws: TensorError.self) { try Operator("aten::no_such_operator")(.tensor(x)) }
        #expect(throws: TensorError.self) { try Operator("no namespace")(.tensor(x)) }
        // Too many arguments, too few, of the wrong kind.
        let relu = Operator("aten::relu")
        #expect(throws: TensorError.self) { try relu(.tensor(x), .int(1)) }
        #expect(throws: TensorError.self) { try relu() }
        #expect(throws: TensorError.self) { try relu(.text("x")) }
        // More than one result where one is read.
        #expect(throws: TensorError.self) { try Operator("aten::sort")(.tensor(x)) }
        #expect(try relu(.tensor(x)).shape == [2])
    }

    @Test func everyKindOfArgumentArrives() throws {
        let x = try Tensor([1, 2, 3, 4] as [Float], shape: [2, 2])
        let index = try Tensor([1] as [Int64])
        // Optional tensors: only the second dimension is indexed.
        let column = try Operator("aten::index", "Tensor")(
            .tensor(x), .optionalTensors([nil, index]))
        #expect(try column.values(as: Float.self) == [2, 4])
        // Doubles: the borders of bins.
        let histogram = try Operator("aten::histogram", "bin_ct").tensors(
            .tensor(x.flatten()), .int(2), .doubles([0, 4]))
        #expect(try histogram[0].values(as: Float.self) == [1, 3])
        // Text, a list of tensors as result, and a number as result.
        #expect(try Tensor.einsum("ij->j", x).values(as: Float.self) == [4, 6])
        #expect(try x.split([1, 1], dim: 0).count == 2)
        let item = Operator("aten::item")
        guard case .int(7) = try item.call([.tensor(Tensor([7] as [Int64]))]).first,
            case .double(0.5) = try item.call([.tensor(Tensor([0.5]))]).first
        else {
            Issue.record("item returned another kind of number")
            return
        }
    }

    /// Temporaries end as soon as the optimiser can prove it; under AddressSanitizer a handle
    /// freed during a call would be caught here.
    @Test func temporariesOutliveTheirCalls() throws {
        for _ in 0..<200 {
            let chained = try Tensor.ones([8, 8]).matmul(Tensor.ones([8, 8]).transpose())
                .matmul(Tensor.identity(8)).reshape([64]).narrow(0, 0..<1)
            #expect(try chained.item() == 8)
            let joined = try Tensor.cat([Tensor.ones([4]), Tensor.zeros([4])])
            #expect(try joined.sum().item() == 4)
        }
    }

    @Test func handlesMayCrossThreads() async throws {
        let shared = try random([32, 32], seed: 1)
        let expected = try shared.matmul(shared).sum().item()
        try await withThrowingTaskGroup(of: Double.self) { group in
            for _ in 0..<16 {
                group.addTask {
                    var last = 0.0
                    for _ in 0..<20 { last = try shared.clone().matmul(shared).sum().item() }
                    return last
                }
            }
            for try await value in group { #expect(value == expected) }
        }
    }

    @Test func seedsDecideRandomNumbers() throws {
        let first = try random([100], seed: 5)
        #expect(try first.isIdentical(to: random([100], seed: 5)))
        #expect(try !first.isIdentical(to: random([100], seed: 6)))
    }

    @Test func devices() throws {
        #expect(Device("cpu") == .cpu)
        #expect(Device("cuda") == .cuda(0))
        #expect(Device("cuda:3") == .cuda(3))
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cuda:999"] {
            #expect(Device(text) == nil, "\(text)")
        }
        #expect(try Device.cpu.memory() == nil)
        let beyond = Device.cuda(try Device.cudaCount())
        do {
            try beyond.open()
            Issue.record("a device that does not exist was opened")
        } catch {
            guard case .noSuchDevice = error else {
                Issue.record("\(error)")
                return
            }
        }
        #expect(throws: TensorError.self) { try Tensor.zeros([1], device: beyond) }
        #expect(throws: TensorError.self) { try RandomGenerator(seed: 0, device: beyond) }
    }

    @Test func threads() throws {
        #expect(try Torch.threads() >= 1)
        #expect(throws: TensorError.self) { try Torch.setThreads(0) }
    }

    /// Scripts/check-dist.sh has another version answer; here it is the right one and none.
    @Test func theVersionIsAsked() throws {
        try Torch.open()
        let libraries = try open("libMinimaTorch.so")
        try Torch.checkVersion(of: libraries)
        let libc = try open("libc.so.6")
        let error = #expect(throws: TensorError.self) { try Torch.checkVersion(of: libc) }
        #expect(error?.description.contains("aoti_torch_abi_version") == true)
        _ = (dlclose(libraries), dlclose(libc))
    }

    /// A library that this process has open already.
    private func open(_ name: String) throws -> UnsafeMutableRawPointer {
        let handle = dlopen(name, RTLD_NOW | RTLD_NOLOAD)
        return try #require(handle, "\(name) is not open")
    }
}
