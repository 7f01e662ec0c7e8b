import FoundationEssentials
import MinimaCore
import MinimaKernels
import MinimaTensor

private let multiplyVectorOperator = Operator("aten::mv", "out")
private let multiplyMatrixOperator = Operator("aten::mm", "out")

extension BenchResult.Card {
    /// Measures what a card reaches: reading, copying, multiplying matrices, on random bfloat16.
    ///
    /// - Parameter bytes: Of the matrix that is read and copied; far more than the cache holds. Twice
    ///   as much is allocated meanwhile and given back.
    /// - Throws: `KernelError` and `TensorError`, also where so much memory is not free.
    public init(measuring context: CUDAContext, bytes: Int = 4 << 30, repeats: Int = 10) throws {
        let device = context.device
        let generator = try RandomGenerator(seed: 0, device: device)
        func spread(_ work: Double, _ body: (CUDAStream) throws -> Void) throws
            -> BenchResult.Spread
        {
            let stream = try CUDAStream(on: context)
            let (start, end) = (try CUDAEvent(on: context), try CUDAEvent(on: context))
            var rates: [Double] = []
            for run in 0..<repeats + 2 {
                try start.record(on: stream)
                try stream.use { try body(stream) }
                try end.record(on: stream)
                try end.synchronize()
                // The first runs load kernels and raise clocks.
                if run >= 2 { rates.append(work / (try end.elapsed(since: start) / 1000)) }
            }
            return BenchResult.Spread(rates)
                ?? BenchResult.Spread(median: 0, lowest: 0, highest: 0, repetitions: 0)
        }
        let columns = 16_384
        let rows = bytes / 2 / columns
        let (read, copy, product): (BenchResult.Spread, BenchResult.Spread, BenchResult.Spread)
        do {
            let matrix = try Tensor.randn(
                [rows, columns], dtype: .bfloat16, device: device, generator: generator)
            let vector = try Tensor.randn(
                [columns], dtype: .bfloat16, device: device, generator: generator)
            let result = try Tensor.empty([rows], dtype: .bfloat16, device: device)
            let other = try Tensor.empty([rows, columns], dtype: .bfloat16, device: device)
            try device.synchronize()
            read = try spread(Double(matrix.count * 2)) { _ in
                _ = try multiplyVectorOperator(
                    .tensor(matrix), .tensor(vector), .tensor(result))
            }
            copy = try spread(Double(matrix.count * 4)) { _ in try other.copy(from: matrix) }
            let size = 8192
            let left = try matrix.reshape([-1]).narrow(0, 0..<size * size).reshape([size, size])
            let right = try left.transpose()
            let square = try other.reshape([-1]).narrow(0, 0..<size * size).reshape([size, size])
            product = try spread(2 * Double(size * size) * Double(size)) { _ in
                _ = try multiplyMatrixOperator(.tensor(left), .tensor(right), .tensor(square))
            }
        }
        try device.emptyCache()
        try device.resetPeakMemory()
        self.init(
            name: context.name, architecture: context.architecture, driver: Self.driverVersion(),
            memoryBytes: try device.memory()?.total ?? 0,
            multiprocessors: context.multiprocessors, readBandwidth: read, copyBandwidth: copy,
            matrixRate: product)
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
