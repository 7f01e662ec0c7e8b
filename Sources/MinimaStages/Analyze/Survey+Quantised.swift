import MinimaCore
import MinimaFormats
import MinimaTensor

extension Survey {
    /// Dense codes, quantised cores of low rank, and dense codes beside a low rank or exact outliers.
    func quantised(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        guard options.considers(Quantized.name),
            FormatRegistry.all.contains(where: { $0.name == Quantized.name })
        else { return [] }
        // Rounding is measured for each pair, so patches take the first group size only.
        let groups = options.groups.filter { $0 <= piece.inputs }
            .prefix(piece.share < 1 ? 1 : options.groups.count)
        let dense = try Quantized.candidates(
            piece.weight, metric: piece.metric, bits: options.bits,
            groupSizes: groups.isEmpty ? [piece.inputs] : Array(groups), levels: options.levels)
        var found = try dense.map {
            try option($0.spec, of: piece, error: 0.5 * $0.squaredError)
        }
        if piece.share == 1 {
            found += try cores(piece)
            found += try sums(piece)
        }
        return found
    }

    /// The factors of a low rank, quantised.
    ///
    /// The error is that of the rank, and what rounding each factor costs while the other is exact:
    /// B under C and AᵀHA, A under BCBᵀ and H, by the estimate for dense codes. Interpolative factors
    /// are not listed: their rounding cost 3 to 60 times the share of the energy that rounding the
    /// dense weight does (tiny-qwen3-4m, 4 to 8 bits), since rows that are interpolated are sums that
    /// cancel.
    private func cores(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        guard let svd = piece.svd, options.considers(LowRank.name) else { return [] }
        let (m, n) = (piece.outputs, piece.inputs)
        let side = min(m, n)
        let group = options.groups.first ?? n
        // Up to full rank: at 4 bits that is still half of the dense bytes or less.
        return try options.ranks(options.coreRanks, upTo: side, side: side).flatMap { rank in
            let (a, b) = try svd.factors(rank: rank)
            let output =
                try piece.metric.output.map { (output) throws(TensorError) in
                    try output.times(a)
                } ?? a
            let inner = try OutputMetric(full: a.transpose().matmul(output))
            let projected = try b.matmul(piece.metric.input).matmul(b.transpose())
            let first = try Quantized.candidates(
                b, metric: Metric(input: piece.metric.input, output: inner),
                bits: options.coreBits, groupSizes: [min(group, n)], levels: options.levels)
            let second = try Quantized.candidates(
                a, metric: Metric(input: projected, output: piece.metric.output),
                bits: options.coreBits, groupSizes: [min(group, rank)], levels: options.levels)
            return try zip(options.coreBits, zip(first, second)).map { bits, rounding in
                let spec = FormatSpec(
                    format: Quantized.name, bits: bits, groupSize: group,
                    levels: options.levels.fitting(bits: bits),
                    parts: [FormatSpec(format: LowRank.name, ranks: [rank])])
                let squared =
                    piece.spectrum.tail(rank) + rounding.0.squaredError + rounding.1.squaredError
                return try option(spec, of: piece, error: 0.5 * squared)
            }
        }
    }

    /// A low rank, or the entries that matter most, and dense codes for what they leave.
    private func sums(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        guard let svd = piece.svd, options.considers(Sum.name),
            !options.addedRanks.isEmpty || !options.outliers.isEmpty
        else { return [] }
        let exact = try piece.weight.to(dtype: .float64)
        var found: [SiteAnalysis.Option] = []
        func add(_ first: FormatSpec, _ approximation: Tensor) throws {
            let rest = try Quantized.candidates(
                exact - approximation, metric: piece.metric, bits: options.bits.filter { $0 <= 4 },
                groupSizes: [min(options.groups.max() ?? 64, piece.inputs)],
                levels: options.levels)
            for (spec, squaredError) in rest {
                found.append(
                    try option(
                        FormatSpec(format: Sum.name, parts: [first, spec]), of: piece,
                        error: 0.5 * squaredError))
            }
        }
        let side = min(piece.outputs, piece.inputs)
        for rank in options.addedRanks where 4 * rank <= side && options.considers(LowRank.name) {
            let (a, b) = try svd.factors(rank: rank)
            try add(FormatSpec(format: LowRank.name, ranks: [rank]), a.matmul(b))
        }
        for share in options.outliers where options.considers(Sparse.name) {
            let count = max(Int(share * Double(piece.outputs * piece.inputs)), 1)
            let spec = FormatSpec(format: Sparse.name, ranks: [count])
            let kept = try Sparse.decompose(exact, spec: spec, metric: piece.metric)
            try add(spec, kept.reconstruct())
        }
        return found
    }
}
