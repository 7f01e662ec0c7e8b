import MinimaCore
import MinimaTensor

/// Tensors of a launch against what its kernel takes.
struct KernelShapes {
    private let kernel: String
    private var wrong: [String] = []

    init(_ kernel: String) {
        self.kernel = kernel
    }

    func expect(_ name: String, _ tensor: Tensor?, _ dtype: DType, _ shape: [Int]) -> Self {
        var result = self
        if let tensor, tensor.dtype != dtype || tensor.shape != shape {
            result.wrong.append("\(name) is \(tensor.summary), not \(dtype) \(shape)")
        }
        return result
    }

    func norms(_ query: Tensor?, _ key: Tensor?, _ shape: AttentionShape) -> Self {
        var result = expect("queryNorm", query, .bfloat16, [shape.headDim])
            .expect("keyNorm", key, .bfloat16, [shape.headDim])
        if shape.normalisesQueriesAndKeys, query == nil || key == nil {
            result.wrong.append("the norms of queries and keys are missing")
        }
        return result
    }

    func check() throws(KernelError) {
        guard wrong.isEmpty else {
            throw .invalidLaunch(kernel: kernel, reason: wrong.joined(separator: "; "))
        }
    }
}
