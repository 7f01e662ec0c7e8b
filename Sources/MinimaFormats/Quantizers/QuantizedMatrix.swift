import MinimaCore
import MinimaTensor

/// A matrix `[rows, columns]` of codes with one scale for every `groupSize` neighbours of a row; the
/// last group of a row may be shorter.
///
/// Its element at (i, j) is `level(codes[i, j]) · base · 2^(-scales[i, j / groupSize] / 16)`, 0
/// where the scale's code is 255; see ``Codebook`` and ``ScaleGrid``. Stored: `codes` uint8
/// `[rows, bytes]` (``BitPlanes``), `scales` uint8 `[rows, groups]`, `base` float32 `[1]`.
struct QuantizedMatrix: Sendable {
    let bits: Int
    /// How the levels are spaced.
    let levels: FormatSpec.Levels
    let groupSize: Int
    let columns: Int
    /// Packed codes, uint8 `[rows, bytes]`.
    let codes: Tensor
    /// Codes of the scales, uint8 `[rows, groups]`.
    let scales: Tensor
    /// The largest scale, float32 `[1]`.
    let base: Tensor

    /// What is stored for a matrix called `name`.
    ///
    /// - Precondition: rows and columns come from a checked layout, so that nothing overflows.
    static func layout(
        _ name: String, rows: Int, columns: Int, bits: Int, groupSize: Int
    ) -> [TensorLayout] {
        let groups = columns / groupSize + (columns % groupSize == 0 ? 0 : 1)
        let bytes = BitPlanes.rowBytes(bits: bits, columns: columns)
        return [
            TensorLayout(name: "\(name).codes", shape: [rows, bytes], dtype: .uint8),
            TensorLayout(name: "\(name).scales", shape: [rows, groups], dtype: .uint8),
            TensorLayout(name: "\(name).base", shape: [1], dtype: .float32),
        ]
    }

    /// What ``tensors`` listed.
    init(
        bits: Int, levels: FormatSpec.Levels, groupSize: Int, columns: Int,
        tensors: ArraySlice<Tensor>
    ) {
        self.bits = bits
        self.levels = levels
        self.groupSize = groupSize
        self.columns = columns
        codes = tensors[tensors.startIndex]
        scales = tensors[tensors.startIndex + 1]
        base = tensors[tensors.startIndex + 2]
    }

    /// `other` with other codes and scales.
    init(_ other: QuantizedMatrix, codes: Tensor, scales: Tensor) {
        (bits, levels) = (other.bits, other.levels)
        (groupSize, columns) = (other.groupSize, other.columns)
        (self.codes, self.scales, base) = (codes, scales, other.base)
    }

    /// Packs what `quantizer` has made.
    init(
        _ quantized: GPTQ.Columns, by quantizer: GPTQ, bits: Int, levels: FormatSpec.Levels
    ) throws(TensorError) {
        self.bits = bits
        self.levels = levels
        groupSize = quantizer.groupSize
        columns = quantized.values.shape[0]
        let plain = try quantizer.codes(quantized).to(dtype: .uint8).transpose().contiguous()
        codes = try BitPlanes.pack(plain, bits: bits)
        scales = try quantized.scales.to(dtype: .uint8).transpose().contiguous()
        base = quantizer.grid.base
    }

    /// In the layout's order.
    var tensors: [Tensor] { [codes, scales, base] }

    /// The matrix in `dtype`, computed in float32.
    func dense(dtype: DType) throws(TensorError) -> Tensor {
        let codebook = try Codebook(bits: bits, levels: levels, device: codes.device)
        let values = try codebook.values(plainCodes())
        let factors = try ScaleGrid(base: base).values(scales.to(dtype: .int64))
        return try (values.reshape(grouped) * spread(factors)).reshape([rows, columns])
            .to(dtype: dtype)
    }

    /// int64 codes `[rows, columns]`.
    func plainCodes() throws(TensorError) -> Tensor {
        try BitPlanes.unpack(codes, bits: bits, columns: columns).to(dtype: .int64)
    }

    /// Rows.
    var rows: Int { codes.shape[0] }

    /// A shape of the matrix that multiplies with what ``spread(_:)`` gives:
    /// `[rows, groups, groupSize]`, or `[rows, columns]` where the last group is shorter.
    var grouped: [Int] {
        columns % groupSize == 0 ? [rows, scales.shape[1], groupSize] : [rows, columns]
    }

    /// `factors` `[rows, groups]` for every column: a shape that broadcasts to ``grouped``.
    func spread(_ factors: Tensor) throws(TensorError) -> Tensor {
        guard columns % groupSize != 0 else { return try factors.unsqueeze(2) }
        return try factors.unsqueeze(2).expand([-1, -1, min(groupSize, columns)])
            .reshape([rows, -1]).narrow(1, 0..<columns)
    }
}
