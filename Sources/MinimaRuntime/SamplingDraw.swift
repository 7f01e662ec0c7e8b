import MinimaCore
import MinimaTensor

private enum Ops {
    static let maximum = Operator("aten::maximum")
    static let select = Operator("aten::where", "self")
    static let minimum = Operator("aten::minimum")
    static let shift = Operator("aten::bitwise_right_shift", "Tensor")
}

/// The reference of sampling, on libtorch's operators: a batch of rows of logits, each with its own
/// sequence's parameters, none of which sees another row.
///
/// With a = logits after mask, bias and penalties, M their largest and T the temperature, a token's weight is
/// w = e^((a − M)/T) in float32, and the filters keep
/// - min-p: w ≥ min-p;
/// - top-k: the tokens of which fewer than k have a larger weight;
/// - top-p: the tokens for which the larger weights, in units of 2⁻⁴⁴ and added as integers, have not
///   reached top-p (rounded to 2⁻³¹) of the sum over what is left.
///
/// Tokens of equal weight are kept or dropped together. Of the kept ones the largest
/// (a − M)/T − ln E wins, the lowest id among equals, where E are draws of the exponential
/// distribution: the Gumbel-max trick, so that token i is chosen with probability w_i/Σw.
struct SamplingDraw {
    let sequences: [SamplingSequence]
    let device: Device

    init(_ sequences: [SamplingSequence], device: Device) {
        self.sequences = sequences
        self.device = device
    }

    private func column(
        _ value: (SamplingParameters) -> Double
    ) throws(TensorError) -> Tensor {
        try Tensor(sequences.map { Float(value($0.parameters)) }, shape: [sequences.count, 1])
            .to(device)
    }

    private func column(_ values: [Int64]) throws(TensorError) -> Tensor {
        try Tensor(values, shape: [values.count, 1]).to(device)
    }

    /// Logits `[rows, vocabulary]`, float32, with −∞ for tokens that a mask excludes.
    private func masked(_ logits: Tensor) throws(TensorError) -> Tensor {
        guard sequences.contains(where: { $0.mask != nil }) else { return logits }
        let (rows, vocabulary) = (logits.shape[0], logits.shape[1])
        let count = (vocabulary + 31) / 32
        let all = sequences.flatMap { $0.mask ?? Array(repeating: .max, count: count) }
        let words = try Tensor(all.map { Int32(bitPattern: $0) }, shape: [rows, count, 1])
        let places = try Tensor((0..<32).map { Int32($0) }).to(device)
        let bits = try Ops.shift(.tensor(words.to(device)), .tensor(places)).and(1)
            .reshape([rows, count * 32]).narrow(1, 0..<vocabulary)
        return try logits.maskedFill(bits.equals(0), -.infinity)
    }

    /// Logits `[rows, vocabulary]`, float32, after mask, bias and penalties.
    func adjusted(_ logits: Tensor) throws(TensorError) -> Tensor {
        // Nothing that is added to −∞ or multiplies it brings a token back.
        let logits = try masked(logits)
        guard sequences.contains(where: { $0.isAdjusted }) else { return logits }
        let vocabulary = logits.shape[1]
        var (rows, bias, seen, counts): ([Int64], [Float], [Float], [Float]) = ([], [], [], [])
        for (row, sequence) in sequences.enumerated() {
            let biases = sequence.parameters.logitBias
            var tokens = Set(biases.keys)
            if sequence.parameters.usesHistory {
                tokens.formUnion(sequence.prompt)
                tokens.formUnion(sequence.counts.keys)
            }
            for token in tokens where token >= 0 && Int(token) < vocabulary {
                let count = sequence.counts[token] ?? 0
                rows.append(Int64(row * vocabulary) + Int64(token))
                bias.append(Float(biases[token] ?? 0))
                seen.append(count > 0 || sequence.prompt.contains(token) ? 1 : 0)
                counts.append(Float(min(count, Int(Int16.max))))
            }
        }
        guard !rows.isEmpty else { return logits }
        let places = try Tensor(rows).to(device)
        let owners = try Tensor(rows.map { $0 / Int64(vocabulary) }).to(device)
        func spread(_ value: (SamplingParameters) -> Double) throws(TensorError) -> Tensor {
            try column(value).flatten().selecting(0, owners)
        }
        let flat = try logits.reshape([-1])
        var values = try flat.gather(0, places) + Tensor(bias).to(device)
        let penalty = try spread(\.repetitionPenalty)
        let repeated = try Ops.select(
            .tensor(values.isAtMost(Tensor.zeros([1], device: device))),
            .tensor(values * penalty), .tensor(values / penalty))
        let isSeen = try Tensor(seen).to(device).equals(1)
        values = try Ops.select(.tensor(isSeen), .tensor(repeated), .tensor(values))
        let count = try Tensor(counts).to(device)
        values = try values - spread(\.frequencyPenalty) * count
        let presence = try spread(\.presencePenalty).maskedFill(count.equals(0), 0)
        return try flat.scatter(0, places, values - presence).reshape(logits.shape)
    }

    /// (a − M)/T of every token, float32 `[rows, vocabulary]`, and the bits of the smallest weight
    /// kept, int32 `[rows, 1]`; `nil` where no row has a filter.
    ///
    /// A temperature below 10⁻⁶ counts as 10⁻⁶: every difference that float32 can hold decides alone.
    func filtered(_ adjusted: Tensor) throws(TensorError) -> (
        relative: Tensor, weights: Tensor?, least: Tensor?
    ) {
        let inverse = try column { 1 / max($0.temperature, 1e-6) }
        let relative = try (adjusted - adjusted.max([1], keepDims: true)) * inverse
        let all = sequences.map(\.parameters)
        let vocabulary = adjusted.shape[1]
        let limits = all.map { $0.topK > 0 && $0.topK < vocabulary ? $0.topK : nil }
        guard
            limits.contains(where: { $0 != nil })
                || all.contains(where: { $0.topP < 1 || $0.minP > 0 })
        else { return (relative, nil, nil) }
        let weights = try relative.reproducibleExp()
        // A filter drops tokens whose weight is 0 in float32.
        var least = try column(
            zip(all, limits).map { parameters, limit in
                let isFiltered = limit != nil || parameters.topP < 1 || parameters.minP > 0
                return isFiltered ? Int64(max(Float(parameters.minP).bitPattern, 1)) : 0
            }
        ).to(dtype: .int32)
        let ranked = try weights.sorted(1, descending: true).values
        // Positive floats are ordered as their bits.
        let rankedBits = try ranked.reinterpreted(as: .int32)
        if limits.contains(where: { $0 != nil }) {
            // What ties with the token of rank k stays; a row without limit keeps its last one.
            let last = try column(limits.map { Int64(($0 ?? vocabulary) - 1) })
            least = try Ops.maximum(.tensor(least), .tensor(rankedBits.gather(1, last)))
        }
        if all.contains(where: { $0.topP < 1 }) {
            let masses = try (ranked * 0x1p44).to(dtype: .int64)
                .maskedFill(least.isAtMost(rankedBits).not(), 0)
            let total = try masses.sum([1], keepDims: true)
            // top-p of the total in two 31-bit halves, as their product would pass 64 bits.
            let share = try column(all.map { Int64(($0.topP * 0x1p31).rounded()) })
            let target =
                try total.shiftedRight(31) * share
                + (total.and(0x7FFF_FFFF) * share).shiftedRight(31)
            let one = try Tensor.ones([1, 1], dtype: .int64, device: device)
            let goal = try Ops.maximum(.tensor(target), .tensor(one))
            // The first rank at which the sum reaches the goal.
            let missing = try goal.isAtMost(masses.cumulativeSum(1)).not()
                .sum([1], keepDims: true, dtype: .int64)
            let place = try Ops.minimum(
                .tensor(missing), .tensor(column(all.map { _ in Int64(vocabulary - 1) })))
            let threshold = try rankedBits.gather(1, place)
            let isFree = try column(all.map { $0.topP < 1 ? 0 : 1 }).equals(1)
            least = try Ops.select(
                .tensor(isFree), .tensor(least),
                .tensor(Ops.maximum(.tensor(least), .tensor(threshold))))
        }
        return (relative, weights, least)
    }

    /// ln E of each row's draws, float32 `[rows, vocabulary]`.
    private func logDraws(vocabulary: Int) throws(TensorError) -> Tensor {
        if device == .cpu {
            let values = sequences.flatMap {
                HostNoise.logDraws(
                    seed: $0.parameters.seed, position: $0.position, vocabulary: vocabulary)
            }
            return try Tensor(values, shape: [sequences.count, vocabulary])
        }
        return try Philox.tokenWords(
            seeds: sequences.map(\.parameters.seed), positions: sequences.map(\.position),
            vocabulary: vocabulary, device: device
        ).exponentialDraw().reproducibleLog()
    }

    /// What each row's token has the most of, float32 `[rows, vocabulary]`: the adjusted logits where
    /// the temperature is 0, else (a − M)/T − ln E, -∞ where a filter drops.
    func scores(_ adjusted: Tensor) throws(TensorError) -> Tensor {
        let isGreedy = sequences.map { $0.parameters.temperature == 0 }
        if isGreedy.allSatisfy({ $0 }) { return adjusted }
        let (relative, weights, least) = try filtered(adjusted)
        var scores = try relative - logDraws(vocabulary: adjusted.shape[1])
        if let weights, let least {
            let kept = try least.isAtMost(weights.reinterpreted(as: .int32))
            scores = try scores.maskedFill(kept.not(), -.infinity)
        }
        if !isGreedy.contains(true) { return scores }
        let greedy = try column(isGreedy.map { $0 ? 1 : 0 }).equals(1)
        return try Ops.select(.tensor(greedy), .tensor(adjusted), .tensor(scores))
    }

    /// One token per row, int64 `[rows]`.
    func tokens(_ adjusted: Tensor) throws(TensorError) -> Tensor {
        try scores(adjusted).argmax(-1)
    }
}

extension SamplingSequence {
    /// Whether the model's logits are changed.
    fileprivate var isAdjusted: Bool {
        parameters.usesHistory || !parameters.logitBias.isEmpty
    }
}
