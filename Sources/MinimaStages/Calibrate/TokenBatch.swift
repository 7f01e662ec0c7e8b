import MinimaCore
import MinimaTensor

/// A text that a model is calibrated on.
public struct CalibrationSource: Sendable, Hashable {
    /// What it is called in records.
    public var name: String
    /// Windows of token ids; each is run from its own beginning.
    public var windows: [[Int32]]
    /// Weight of each of its tokens in the statistics, above zero.
    public var weight: Double

    /// A source.
    public init(name: String, windows: [[Int32]], weight: Double = 1) {
        self.name = name
        self.windows = windows
        self.weight = weight
    }
}

/// Windows that run through a model together: of one length, so that nothing is padded, and of one
/// weight.
public struct TokenBatch: Sendable, Hashable {
    /// Token ids.
    public let windows: [[Int32]]
    /// Weight of each token in the statistics.
    public let weight: Double
    /// Whether gradients are taken of these windows, too.
    public let hasGradients: Bool

    /// Tokens in it.
    public var tokens: Int { windows.count * length }
    /// Tokens per window.
    public var length: Int { windows.first?.count ?? 0 }

    /// int64 `[window, token]`.
    func ids() throws(TensorError) -> Tensor { try TokenWindows.tensor(windows) }

    /// Cuts sources into batches, the same for the same arguments.
    ///
    /// Empty windows are left out; windows longer than a pass are batches of their own.
    ///
    /// - Parameters:
    ///   - tokensPerPass: Tokens of a batch, at most.
    ///   - gradientWindows: Windows with gradients, spread evenly over all; these come first.
    ///   - tokensPerGradientPass: Tokens of a batch with gradients, at most.
    public static func batches(
        _ sources: [CalibrationSource], tokensPerPass: Int, gradientWindows: Int = 0,
        tokensPerGradientPass: Int = 0
    ) -> [TokenBatch] {
        let all = sources.flatMap { source in
            source.windows.filter { !$0.isEmpty }.map { (window: $0, weight: source.weight) }
        }
        let chosen = min(max(gradientWindows, 0), all.count)
        let withGradients = Set((0..<chosen).map { $0 * all.count / chosen })
        var batches: [TokenBatch] = []
        for hasGradients in [true, false] {
            let limit = hasGradients ? tokensPerGradientPass : tokensPerPass
            let part = all.indices.filter { withGradients.contains($0) == hasGradients }
            var run: [Int] = []
            func close() {
                guard let first = run.first else { return }
                batches.append(
                    TokenBatch(
                        windows: run.map { all[$0].window }, weight: all[first].weight,
                        hasGradients: hasGradients))
                run = []
            }
            for index in part {
                let (window, weight) = all[index]
                if let first = run.first {
                    let fits = run.count < limit / window.count
                    let alike = all[first].window.count == window.count
                    if !fits || !alike || all[first].weight != weight { close() }
                }
                run.append(index)
            }
            close()
        }
        return batches
    }

    /// SHA-256 of the windows' lengths and token ids, in order.
    static func hash(_ sources: [CalibrationSource]) -> String {
        var hash = SHA256()
        for window in sources.flatMap(\.windows) where !window.isEmpty {
            let ids = [Int32(clamping: window.count).littleEndian] + window.map(\.littleEndian)
            ids.withUnsafeBytes { hash.update($0) }
        }
        return hash.hexadecimalDigest()
    }
}
