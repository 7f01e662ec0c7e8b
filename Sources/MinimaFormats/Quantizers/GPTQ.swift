import MinimaCore
import MinimaTensor

private let addcmulInPlaceOperator = Operator("aten::addcmul_")

/// Rounds the columns of a matrix one after the other, each to the values that make up best for the
/// errors so far.
///
/// Frantar et al. 2023, algorithm 1, without activation order (which would have to be stored: 5%
/// less error at 3 bits on ref-qwen3-20m). Scales are searched when a group is reached, on what it
/// has become by then.
struct GPTQ {
    /// Columns between two updates of all later ones (Frantar et al. 2023, section 3.3).
    static let block = 128

    let codebook: Codebook
    let grid: ScaleGrid
    /// Columns of one scale.
    let groupSize: Int

    /// Quantised columns.
    struct Columns {
        /// Rounded values `[columns, rows]`, float32.
        var values: Tensor
        /// int64 codes of the scales `[groups, rows]`.
        var scales: Tensor
    }

    /// Rounds `targets` `[columns, rows]`, float32, so that the error under the factor's C is small.
    ///
    /// - Complexity: O(columns²·rows) flops, about ten operators per column.
    func quantize(_ targets: Tensor, _ factor: InputFactor) throws(TensorError) -> Columns {
        let values = try targets.clone()
        let (columns, rows) = (values.shape[0], values.shape[1])
        let weights = try (factor.pivots / factor.pivots.mean()).to(dtype: .float32).unsqueeze(1)
        var scales: [Tensor] = []
        var current = grid.base
        for block in blocks(columns) {
            let errors = try Tensor.empty([block.count, rows], device: values.device)
            for column in block {
                if column % groupSize == 0 {
                    let group = column..<min(column + groupSize, columns)
                    let codes = try grid.search(
                        values.narrow(0, group), weights: weights.narrow(0, group), codebook)
                    scales.append(codes)
                    current = try grid.values(codes)
                }
                let target = try values.select(0, column)
                let rounded = try codebook.rounded(target, scales: current)
                let error = try rounded - target
                try errors.select(0, column - block.lowerBound).copy(from: error)
                try target.copy(from: rounded)
                let rest = column + 1..<block.upperBound
                guard !rest.isEmpty else { continue }
                let shares = try factor.feedback.select(0, column).narrow(0, rest).unsqueeze(1)
                _ = try addcmulInPlaceOperator(
                    .tensor(values.narrow(0, rest)), .tensor(shares), .tensor(error))
            }
            let rest = block.upperBound..<columns
            guard !rest.isEmpty else { continue }
            let shares = try factor.feedback.narrow(0, block).narrow(1, rest)
            try values.narrow(0, rest).addInPlace(shares.transpose().matmul(errors))
        }
        return Columns(values: values, scales: try joined(scales))
    }

    /// Lowers the error of `columns` towards `targets` `[columns, rows]` under C by going through the
    /// columns again, each rounded to what is best for it while the others stay. Scales stay, too.
    ///
    /// - Parameter moment: C `[columns, columns]`, float32.
    func refine(_ columns: Columns, towards targets: Tensor, _ moment: Tensor)
        throws(TensorError) -> Columns
    {
        let values = try columns.values.clone()
        let count = values.shape[0]
        let floor = try moment.diagonal().max().item() * InputFactor.damping * 1e-3
        let diagonal = try moment.diagonal().clamp(min: max(floor, 1e-30)).reshape([-1, 1])
        for block in stride(from: 0, to: count, by: Self.block)
            .map({ $0..<min($0 + Self.block, count) })
        {
            // C·Δᵀ of the block's columns, over their own C.
            let pull =
                try moment.narrow(0, block).matmul(values - targets)
                / diagonal.narrow(0, block)
            for column in block {
                let scales = try grid.values(columns.scales.select(0, column / groupSize))
                let old = try values.select(0, column)
                let local = column - block.lowerBound
                let rounded = try codebook.rounded(old - pull.select(0, local), scales: scales)
                let step = try rounded - old
                try old.copy(from: rounded)
                let rest = local + 1..<block.count
                guard !rest.isEmpty else { continue }
                let later = column + 1..<block.upperBound
                let shares =
                    try moment.narrow(0, later).narrow(1, column..<column + 1)
                    / diagonal.narrow(0, later)
                _ = try addcmulInPlaceOperator(
                    .tensor(pull.narrow(0, rest)), .tensor(shares), .tensor(step))
            }
        }
        return Columns(values: values, scales: columns.scales)
    }

    /// Every value of `targets` `[columns, rows]` to its nearest, many groups at a time.
    ///
    /// - Parameters:
    ///   - weights: Of the columns' squared errors in the search for scales, `[columns, 1]`.
    ///   - scaleStride: Between the scales that are tried.
    func nearest(_ targets: Tensor, weights: Tensor, scaleStride: Int = 1) throws(TensorError)
        -> Columns
    {
        let (columns, rows) = (targets.shape[0], targets.shape[1])
        let whole = columns / groupSize * groupSize
        // 2²⁴ values and their int64 codes take 200 MB.
        let together = max((1 << 24) / max(groupSize * rows, 1), 1) * groupSize
        var ranges = stride(from: 0, to: whole, by: together)
            .map { $0..<min($0 + together, whole) }
        if whole < columns { ranges.append(whole..<columns) }
        var (values, scales): ([Tensor], [Tensor]) = ([], [])
        for range in ranges {
            let size = min(groupSize, range.count)
            let groups = try targets.narrow(0, range).reshape([-1, size, rows])
            let codes = try grid.search(
                groups, weights: weights.narrow(0, range).reshape([-1, size, 1]), codebook,
                stride: scaleStride)
            let rounded = try codebook.rounded(groups, scales: grid.values(codes).unsqueeze(1))
            values.append(try rounded.reshape([-1, rows]))
            scales.append(codes)
        }
        return Columns(values: try Tensor.cat(values), scales: try Tensor.cat(scales))
    }

    /// The codes `[columns, rows]` of quantised columns, int64.
    func codes(_ columns: Columns) throws(TensorError) -> Tensor {
        try codebook.codes(columns.values / spread(grid.values(columns.scales), columns))
    }

    /// Blocks of columns in which no group ends but at the end or wholly inside.
    private func blocks(_ columns: Int) -> [Range<Int>] {
        var blocks: [Range<Int>] = []
        let size = groupSize >= Self.block ? groupSize : Self.block / groupSize * groupSize
        for start in stride(from: 0, to: columns, by: size) {
            let end = min(start + size, columns)
            let piece = groupSize >= 2 * Self.block ? Self.block : size
            for first in stride(from: start, to: end, by: piece) {
                blocks.append(first..<min(first + piece, end))
            }
        }
        return blocks
    }

    /// Scales `[groups, rows]` for every column.
    private func spread(_ scales: Tensor, _ columns: Columns) throws(TensorError) -> Tensor {
        let (count, rows) = (columns.values.shape[0], columns.values.shape[1])
        return try scales.unsqueeze(1).expand([-1, groupSize, -1]).reshape([-1, rows])
            .narrow(0, 0..<count)
    }

    private func joined(_ scales: [Tensor]) throws(TensorError) -> Tensor {
        try Tensor.cat(scales.map { (codes) throws(TensorError) in try codes.unsqueeze(0) })
    }
}
