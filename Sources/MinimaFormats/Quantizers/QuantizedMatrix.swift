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
    init(bits: Int, groupSize: Int, columns: Int, tensors: ArraySlice<Tensor>) {
        self.bits = bits
        self.groupSize = groupSize
        self.columns = columns
        codes = tensors[tensors.startIndex]
        scales = tensors[tensors.startIndex + 1]
        base = tensors[tensors.startIndex + 2]
    }

    /// Packs what `quantizer` has made.
    init(_ quantized: GPTQ.Columns, by quantizer: GPTQ, bits: Int) throws(TensorError) {
        self.bits = bits
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
        let (rows, groups) = (codes.shape[0], scales.shape[1])
        let codebook = try Codebook(bits: bits, device: codes.device)
        let plain = try BitPlanes.unpack(codes, bits: bits, columns: columns)
        let levels = try codebook.values(plain.to(dtype: .int64))
        let factors = try ScaleGrid(base: base).values(scales.to(dtype: .int64))
        guard columns % groupSize != 0 else {
            return try (levels.reshape([rows, groups, groupSize]) * factors.unsqueeze(2))
                .reshape([rows, columns]).to(dtype: dtype)
        }
        let spread = try factors.unsqueeze(2).expand([-1, -1, min(groupSize, columns)])
            .reshape([rows, -1]).narrow(1, 0..<columns)
        return try (levels * spread).to(dtype: dtype)
    }
}
