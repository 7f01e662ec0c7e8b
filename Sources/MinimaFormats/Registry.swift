import MinimaCore
import MinimaTensor

/// The formats that a linear weight can take.
public enum FormatRegistry {
    /// Every format, one line each.
    public static let all: [any LinearWeight.Type] = [
        Dense.self,
        LowRank.self,
        Interpolative.self,
        Tucker.self,
        TensorTrain.self,
        TensorRing.self,
        CP.self,
        BlockTerm.self,
        Quantized.self,
        Sparse.self,
        Sum.self,
        Blocks.self,
    ]

    /// The format called `name`.
    public static func format(_ name: String) throws(FormatError) -> any LinearWeight.Type {
        guard let format = all.first(where: { $0.name == name }) else {
            throw .unknownFormat(name, known: all.map { $0.name })
        }
        return format
    }
}
