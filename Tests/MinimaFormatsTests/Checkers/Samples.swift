import MinimaCore
import MinimaFormats
import MinimaTensor

/// Matrices to decompose and vectors to multiply.
enum Samples {
    /// Sizes with many divisors, without any, long, flat and single.
    static let shapes = [
        [24, 36], [36, 16], [7, 11], [13, 24], [12, 17], [1, 12], [12, 1], [1, 7], [1, 1], [60, 5],
    ]

    /// float64 standard normal numbers.
    static func normal(_ shape: [Int], seed: UInt64) throws -> Tensor {
        try Tensor.randn(shape, dtype: .float64, generator: RandomGenerator(seed: seed))
    }

    /// A second moment E[x·xᵀ] over `tokens` inputs of unequal loudness; of rank at most `tokens`.
    ///
    /// - Parameter outputs: If given, with the second moment of as many outputs' gradients: blocks of
    ///   4 outputs, then, on what 4 leaves and on the last 4, a diagonal.
    static func metric(_ inputs: Int, tokens: Int, seed: UInt64, outputs: Int? = nil) throws
        -> Metric
    {
        let input = try moment(inputs, tokens: tokens, seed: seed)
        guard let outputs else { return try Metric(input: input) }
        let blocks = Swift.max((outputs - 1) / 4, 0)
        var runs = [Tensor]()
        for block in 0..<blocks {
            let seed = seed &+ 1000 &+ UInt64(block)
            runs.append(try moment(4, tokens: tokens, seed: seed).unsqueeze(0))
        }
        let rest = outputs - 4 * blocks
        let diagonal = try normal([rest, 1, 1], seed: seed &+ 999).square() * 4
        return try Metric(
            input: input,
            output: OutputMetric(runs: (blocks > 0 ? [Tensor.cat(runs)] : []) + [diagonal]))
    }

    private static func moment(_ size: Int, tokens: Int, seed: UInt64) throws -> Tensor {
        let generator = try RandomGenerator(seed: seed)
        let loudness = try Tensor.randn([size], dtype: .float64, generator: generator).exp()
        let x = try Tensor.randn([tokens, size], dtype: .float64, generator: generator) * loudness
        return try x.transpose().matmul(x) / Double(tokens)
    }

    /// A matrix of the given rank.
    static func ofRank(_ rank: Int, _ rows: Int, _ columns: Int, seed: UInt64) throws -> Tensor {
        try normal([rows, rank], seed: seed).matmul(normal([rank, columns], seed: seed + 1))
    }
}

extension Tensor {
    /// Frobenius norm in float64.
    func length() throws -> Double { try to(dtype: .float64).norm().item() }

    /// Frobenius distance in float64.
    func distance(to other: Tensor) throws -> Double {
        try (to(dtype: .float64) - other.to(dtype: .float64)).norm().item()
    }

    /// Squared singular values past `rank`, summed.
    func tailEnergy(past rank: Int) throws -> Double {
        try svd().s.values(as: Double.self).dropFirst(rank).reduce(0) { $0 + $1 * $1 }
    }
}

/// The factor that LAPACK's own tests allow over n·ε (LAPACK Working Note 41, section 7).
let lapackThreshold = 30.0

/// What `steps` orthogonal transformations of matrices with `size` rows and columns together may
/// move a result by, relative to its norm.
func roundingBound(size: Int, steps: Int, dtype: DType = .float64) -> Double {
    lapackThreshold * Double(size) * Double(max(steps, 1)) * dtype.epsilon
}
