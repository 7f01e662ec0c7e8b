import FoundationEssentials
import MinimaCore
import MinimaKernels
import MinimaTensor

private let multiplyVectorOperator = Operator("aten::mv", "out")
private let multiplyMatrixOperator = Operator("aten::mm", "out")
private let negateOperator = Operator("aten::neg", "out")

extension BenchResult.Card {
    /// Measures what a card reaches: reading, copying, multiplying matrices, on random bfloat16.
    ///
    /// Memory is read by a matrix-vector product, by a copy that negates, whose bytes count both
    /// ways, and by kernels that do nothing else; the fastest gives ``readBandwidth``, as any kernel
    /// may be as fast.
    ///
    /// - Parameter bytes: Of the matrix that is read and copied, a multiple of 32 KiB; far more than the
    ///   cache holds. Twice as much is allocated meanwhile and given back.
    /// - Throws: `KernelError` and `TensorError`, also where so much memory is not free.
    public init(measuring context: CUDAContext, bytes: Int = 4 << 30, repeats: Int = 10) throws {
        let device = context.device
        let generator = try RandomGenerator(seed: 0, device: device)
        func spread(_ work: Int, _ body: (CUDAStream) throws -> Void) throws -> BenchResult.Spread {
            let time = try context.time(repeats: repeats) { stream, _ in try body(stream) }
            func rate(_ microseconds: Double) -> Double {
                Double(work) / max(microseconds, .leastNormalMagnitude) * 1e6
            }
            return BenchResult.Spread(
                median: rate(time.median), lowest: rate(time.maximum), highest: rate(time.minimum),
                repetitions: time.count)
        }
        let columns = 16_384
        let rows = bytes / 2 / columns
        var readers: [String: BenchResult.Spread] = [:]
        let (copy, product): (BenchResult.Spread, BenchResult.Spread)
        do {
            let matrix = try Tensor.randn(
                [rows, columns], dtype: .bfloat16, device: device, generator: generator)
            let vector = try Tensor.randn(
                [columns], dtype: .bfloat16, device: device, generator: generator)
            let result = try Tensor.empty([rows], dtype: .bfloat16, device: device)
            let other = try Tensor.empty([rows, columns], dtype: .bfloat16, device: device)
            let read = 2 * matrix.count
            let sums = try Tensor.empty(
                [MemoryReader.sums(bytes: read)], dtype: .int32, device: device)
            let reader = try MemoryReader(context: context)
            try device.synchronize()
            readers["matrix-vector product"] = try spread(read) { _ in
                _ = try multiplyVectorOperator(
                    .tensor(matrix), .tensor(vector), .tensor(result))
            }
            for way in MemoryReader.Way.allCases {
                readers[way.title] = try spread(read) { stream in
                    try reader.read(matrix, way, sums: sums, on: stream)
                }
            }
            // By a kernel: a graph's own copies go through the copy engines, more slowly.
            copy = try spread(2 * read) { _ in
                _ = try negateOperator(.tensor(matrix), .tensor(other))
            }
            readers["copy"] = copy
            let size = 8192
            let left = try matrix.reshape([-1]).narrow(0, 0..<size * size).reshape([size, size])
            let right = try left.transpose()
            let square = try other.reshape([-1]).narrow(0, 0..<size * size).reshape([size, size])
            product = try spread(2 * size * size * size) { _ in
                _ = try multiplyMatrixOperator(.tensor(left), .tensor(right), .tensor(square))
            }
        }
        try device.emptyCache()
        try device.resetPeakMemory()
        self.init(
            name: context.name, architecture: context.architecture, driver: Self.driverVersion(),
            memoryBytes: try device.memory()?.total ?? 0,
            multiprocessors: context.multiprocessors,
            readBandwidth: readers.values.max { $0.median < $1.median } ?? copy,
            readers: readers, copyBandwidth: copy, matrixRate: product)
    }

    /// As the kernel module states it; empty where it does not.
    private static func driverVersion() -> String {
        guard let data = FileManager.default.contents(atPath: "/proc/driver/nvidia/version"),
            let line = String(decoding: data, as: UTF8.self).split(separator: "\n").first
        else { return "" }
        let words = line.split(separator: " ").map(String.init)
        return words.first { $0.split(separator: ".").count == 3 && Int($0.prefix(3)) != nil } ?? ""
    }
}

extension MemoryReader.Way {
    /// What results call it.
    fileprivate var title: String {
        switch self {
        case .loads: "streaming loads"
        case .residentLoads: "streaming loads of resident blocks"
        case .copies: "streaming copies to shared memory"
        }
    }
}
