import Glibc
import MinimaKernels
import MinimaTensor

private let expInPlaceOperator = Operator("aten::exp_")

/// What is kept of the logits behind some tokens of a prompt: a few numbers of each row.
struct PromptScores {
    /// float32 `[rows, 3]`: the logit of the token that follows, the row's largest, and the sum of
    /// e^(logit − largest).
    let numbers: Tensor
    /// The largest logits and their tokens, float32 and int64 `[rows, alternatives]`; `nil` for none.
    let likeliest: (values: Tensor, ids: Tensor)?

    /// Reduces logits, which it overwrites, so that it needs no second tensor of their size.
    ///
    /// - Parameters:
    ///   - logits: float32 `[rows, vocabulary]`.
    ///   - tokens: The token behind each row, int64 `[rows]`.
    init(overwriting logits: Tensor, tokens: Tensor, alternatives: Int) throws(TensorError) {
        let own = try logits.gather(1, tokens.unsqueeze(1))
        let count = min(alternatives, logits.shape[1])
        let found = count > 0 ? try logits.topK(count) : nil
        likeliest = found.map { ($0.values, $0.indices) }
        let largest = try logits.max([1], keepDims: true)
        try logits.addInPlace(largest, scale: -1)
        _ = try expInPlaceOperator(.tensor(logits))
        numbers = try .cat([own, largest, logits.sum([1], keepDims: true)], dim: 1)
    }

    /// Those of several slices, which have as many alternatives each, one after the other.
    init(joining parts: [PromptScores]) throws(TensorError) {
        numbers = try .cat(parts.map(\.numbers))
        let likeliest = parts.compactMap(\.likeliest)
        self.likeliest =
            if likeliest.isEmpty {
                nil
            } else {
                (try .cat(likeliest.map(\.values)), try .cat(likeliest.map(\.ids)))
            }
    }

    private init(numbers: Tensor, likeliest: (values: Tensor, ids: Tensor)?) {
        self.numbers = numbers
        self.likeliest = likeliest
    }

    /// Queues their way to the host; they are there once the stream has come here.
    func download() throws(TensorError) -> PromptScores {
        var host: (Tensor, Tensor)?
        if let likeliest {
            host = (
                try HostTransfer.download(likeliest.values),
                try HostTransfer.download(likeliest.ids)
            )
        }
        return PromptScores(numbers: try HostTransfer.download(numbers), likeliest: host)
    }

    /// The tokens behind the rows with their log-probabilities, once the numbers are on the host.
    func tokens(_ tokens: some Sequence<Int32>) throws(TensorError) -> [SampledToken] {
        let numbers: [Double] = try numbers.values()
        let values: [Double] = try likeliest?.values.values() ?? []
        let ids: [Int64] = try likeliest?.ids.values() ?? []
        let width = likeliest?.ids.shape[1] ?? 0
        return tokens.enumerated().map { row, id in
            let (own, largest, sum) = (
                numbers[3 * row], numbers[3 * row + 1], numbers[3 * row + 2]
            )
            let logSum = largest + log(sum)
            guard (own - logSum).isFinite else { return SampledToken(id: SampledToken.notFinite) }
            let alternatives = (row * width..<(row + 1) * width).map { place in
                SampledToken.Alternative(
                    id: Int32(truncatingIfNeeded: ids[place]),
                    logprob: Float(values[place] - logSum))
            }
            return SampledToken(
                id: id, logprob: Float(own - logSum), alternatives: alternatives)
        }
    }
}

/// Scores of a part of a prompt on their way to the host.
struct QueuedScores {
    let scores: PromptScores
    let tokens: ArraySlice<Int32>
    let done: CUDAEvent
}

extension PromptScoring {
    /// Rows of a chunk whose logits are computed at one time.
    struct Slice: Hashable {
        /// The rows; slices begin at multiples of their size, so that one moved to the chunk's
        /// beginning overlaps none that is still to come.
        var rows: Range<Int>
        /// Those of them that are scored, counted from the slice's first.
        var scored: Range<Int>
    }

    /// Slices of at most `count` rows with all of ``rows``.
    func slices(of count: Int) -> [Slice] {
        stride(from: rows.lowerBound / count * count, to: rows.upperBound, by: count).map { start in
            let end = Swift.min(start + count, rows.upperBound)
            return Slice(
                rows: start..<end, scored: Swift.max(rows.lowerBound - start, 0)..<end - start)
        }
    }
}

extension CUDADecoder {
    /// Rows whose logits are computed at one time for a prompt's scores: at most those of the largest
    /// step, whose buffer holds them.
    var scoredRows: Int { min(PromptScoring.rowsAtOnce, layout.largestRows) }

    /// The launches that make logits of the first ``scoredRows`` rows of the residual stream.
    func scoringHead() throws -> [StepKernel] {
        let rows = 0..<scoredRows
        return try layers.head(
            buffers.residual.narrow(0, rows), into: buffers.logits.narrow(0, rows))
    }

    /// Queues the scores of a chunk that was just read; of its residual stream the first
    /// ``scoredRows`` rows are written over, where it has more.
    ///
    /// - Parameter head: ``scoringHead()``.
    func score(_ scoring: PromptScoring, through head: [StepKernel]) throws -> PromptScores {
        let residual = buffers.residual
        try HostTransfer.upload(scoring.tokens.map(Int64.init), to: scoredTokens)
        var parts: [PromptScores] = []
        var done = 0
        for slice in scoring.slices(of: scoredRows) {
            if slice.rows.lowerBound > 0 {
                try residual.narrow(0, 0..<slice.rows.count)
                    .copy(from: residual.narrow(0, slice.rows))
            }
            for kernel in head { try kernel.queue(stream) }
            parts.append(
                try PromptScores(
                    overwriting: buffers.logits.narrow(0, slice.scored),
                    tokens: scoredTokens.narrow(0, done..<done + slice.scored.count),
                    alternatives: scoring.alternatives))
            done += slice.scored.count
        }
        return try PromptScores(joining: parts)
    }
}
