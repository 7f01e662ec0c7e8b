import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// What PyTorch computed; see `Tests/Goldens/tensor/make_tensor.py`, or that of another area.
struct TensorGoldens {
    private let file: SafetensorsFile

    init(_ area: String = "tensor", source: String = #filePath) throws {
        let folder = source.split(separator: "/").dropLast(2).joined(separator: "/")
        file = try SafetensorsFile(path: "/\(folder)/Goldens/\(area)/\(area).safetensors")
    }

    func callAsFunction(_ name: String) throws -> Tensor {
        guard let info = file.info(name) else {
            throw CheckpointError.noSuchTensor(
                path: file.path, name: name, count: file.tensors.count)
        }
        return try file.withUnsafeBytes(of: name) {
            try Tensor(bytes: $0, shape: info.shape, dtype: info.dtype)
        }
    }
}

/// The largest absolute difference of two tensors of one shape; infinite for other shapes.
func distance(_ left: Tensor, _ right: Tensor) throws -> Double {
    guard left.shape == right.shape else { return .infinity }
    return try (left.to(dtype: .float64) - right.to(dtype: .float64)).abs().max().item()
}

/// A reproducible matrix with entries of about 1.
func random(_ shape: [Int], seed: UInt64, dtype: DType = .float64) throws -> Tensor {
    try Tensor.randn(shape, dtype: dtype, generator: RandomGenerator(seed: seed))
}
