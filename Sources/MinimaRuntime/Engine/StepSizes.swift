import Glibc
import MinimaCore

/// Which buckets a decode step of any number of rows is split into.
struct BucketTable {
    /// Per number of rows, the buckets in the order in which they take rows.
    private let splits: [[Int]]

    /// The cheapest split for each of `0...rows`, by `seconds` where all are known; otherwise the
    /// fewest launches, and among those the smallest bucket for the rest.
    init(_ buckets: [Int], rows: Int, seconds: (Int) -> Double?) {
        let sizes = buckets.filter { $0 > 0 }.sorted()
        let known = sizes.map(seconds)
        // A launch costs more than any number of padded rows.
        let costs =
            known.contains(nil)
            ? sizes.map { Double(rows + $0) } : known.compactMap(\.self)
        var best: [(cost: Double, split: [Int])] = [(0, [])]
        for count in 1...max(rows, 1) {
            var cheapest = (cost: Double.infinity, split: [1])
            for (size, cost) in zip(sizes, costs) {
                let rest = best[max(count - size, 0)]
                if cost + rest.cost < cheapest.cost {
                    cheapest = (cost + rest.cost, [size] + rest.split)
                }
            }
            best.append(cheapest)
        }
        splits = best.map { $0.split.sorted(by: >) }
    }

    func split(_ rows: Int) -> [Int] { splits[min(rows, splits.count - 1)] }
}

/// How many tokens of a prompt are computed at once.
struct ChunkSizer {
    private let pageTokens: Int
    /// Most tokens computed at once.
    let chunk: Int
    private let stepTokens: Int
    private let stepSeconds: Double?
    private let isFixed: Bool

    init(_ capacity: DecodeCapacity, _ options: EngineOptions) {
        pageTokens = capacity.pageTokens
        chunk = max(min(options.prefillChunk ?? capacity.prefillChunk, capacity.prefillChunk), 1)
        stepTokens = options.stepTokens ?? capacity.prefillChunk
        stepSeconds = options.stepSeconds
        isFixed = options.deterministic
    }

    /// Tokens of prompts in a step that also decodes `decoding` rows: at least a page, so that
    /// decodes cannot starve prompts either.
    func budget(decoding: Int) -> Int { max(stepTokens - decoding, pageTokens) }

    /// Tokens to compute of the `left` ones after `position`; 0: none in this step.
    ///
    /// - Parameters:
    ///   - seconds: The step's time from that of the chunk, when requests wait for it to decode.
    ///   - estimate: The backend's time of a chunk.
    func size(
        left: Int, position: Int, budget: Int, seconds: ((Double) -> Double)?,
        estimate: (Int, Int) -> Double?
    ) -> Int {
        guard budget > 0 else { return 0 }
        // Chunks at fixed places: a prompt's numbers do not depend on what else the step computes.
        if isFixed { return min(left, chunk - position % chunk) }
        var size = min(left, chunk, budget)
        if let stepSeconds, let seconds {
            // The most pages that keep the time; it grows with the size.
            var (fewest, most) = (1, (size + pageTokens - 1) / pageTokens)
            while fewest < most {
                let middle = (fewest + most + 1) / 2
                let time = estimate(min(middle * pageTokens, size), position) ?? 0
                if seconds(time) > stepSeconds { most = middle - 1 } else { fewest = middle }
            }
            size = min(size, fewest * pageTokens)
        }
        // Whole pages keep later chunks aligned; the last one is as long as it is.
        if size < left && size > pageTokens { size -= (position + size) % pageTokens }
        return max(size, 1)
    }
}

/// Tokens per second, of which older ones count less.
struct TokenRate {
    /// Seconds in which the weight falls by e.
    private static let window = 5.0

    private(set) var value = 0.0
    private var weight = 0.0
    private var sum = 0.0
    private var total = 0
    private var last: ContinuousClock.Instant?

    /// Takes the number of tokens since the start.
    mutating func update(_ total: Int, _ now: ContinuousClock.Instant) {
        guard let last else {
            last = now
            return
        }
        let seconds = (now - last).totalSeconds
        let decay = exp(-seconds / Self.window)
        sum = sum * decay + Double(total - self.total)
        weight = weight * decay + seconds
        value = weight > 0 ? sum / weight : 0
        self.last = now
        self.total = total
    }
}
