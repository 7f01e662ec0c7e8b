import Glibc
import MinimaCore
import MinimaTensor

private let roundOperator = Operator("aten::round")
private let clampOperator = Operator("aten::clamp", "Tensor")
private let clampNumbersOperator = Operator("aten::clamp")
private let addcmulOperator = Operator("aten::addcmul")

/// A quantised matrix while it trains: latent numbers behind the codes, logarithms behind the scales.
///
/// What it computes with is what would be stored, bit for bit: the levels nearest to the latents, in
/// units of the scales that training began with, times the scales of now. Gradients pass the rounding
/// of latents and that of the logarithms to the grid of scales unchanged (Bengio, Léonard & Courville
/// 2013).
///
/// The gradient at a scale is that of fixed codes, d(level·s)/ds = level. That of Esser et al. 2020
/// (equation 3), level − latent/s, belongs to latents whose codes change with the scale: beside
/// trained latents those changes undid what GPTQ had found. Towards a weight `[96, 128]` moved by 10 %
/// under correlated inputs (600 steps of AdamW at a rate of 2·10⁻⁵, groups of 64, error before
/// 1.84 % and 1.27 % at 3 and 4 bits): 1.32 % and 0.44 % with fixed codes, 1.91 % and 0.57 % with
/// theirs, 1.32 % and 0.43 % without scales. Stopping the gradient beyond the outermost level changed
/// nothing there.
struct StraightThrough: Sendable {
    /// Octaves of a scale per unit of ``exponents``: a step of Adam that changes weights of deviation
    /// 0.02 by some share changes scales by half of it, so that one learning rate serves both.
    static let octaves = 32.0

    /// Scales of the grid per unit of ``exponents``.
    private static let steps = octaves * ScaleGrid.perOctave
    /// d(scale) / d(exponent), relative to the scale.
    private static let growth = octaves * M_LN2

    /// What training began with; the base of its scales stays.
    let start: QuantizedMatrix
    /// Float32 `[rows, columns]`, a leaf; `nil` where codes stay.
    let latents: Tensor?
    /// log₂(scale / base) / ``octaves``, float32 `[rows, groups]`, a leaf; `nil` where scales stay.
    let exponents: Tensor?
    private let codebook: Codebook
    private let grid: ScaleGrid
    /// Scales that training began with, float32 `[rows, groups]`.
    private let units: Tensor

    /// Codes and scales of a matrix at one time.
    private struct Rounded {
        /// int64 in the matrix's grouped shape.
        var codes: Tensor
        /// int64 `[rows, groups]`.
        var scaleCodes: Tensor
        /// Float32 in the grouped shape.
        var values: Tensor
    }

    /// Leaves for `matrix`.
    ///
    /// - Parameters:
    ///   - original: What `matrix` was quantised from, `[rows, columns]`; latents start as near to it
    ///     as they can without another code, else at the levels.
    init(
        _ matrix: QuantizedMatrix, trainsValues: Bool, trainsScales: Bool, original: Tensor? = nil
    ) throws(TensorError) {
        start = matrix
        codebook = try Codebook(
            bits: matrix.bits, levels: matrix.levels, device: matrix.codes.device)
        grid = try ScaleGrid(base: matrix.base)
        let scaleCodes = try matrix.scales.to(dtype: .int64)
        units = try grid.values(scaleCodes)
        exponents =
            trainsScales ? try scaleCodes.to(dtype: .float32) / -Self.steps : nil
        try exponents?.setRequiresGrad()
        guard trainsValues else {
            latents = nil
            return
        }
        let latents = try matrix.dense(dtype: .float32)
        if let original {
            let scales = try matrix.spread(units)
            let cells = try codebook.cells(matrix.plainCodes().reshape(matrix.grouped))
            let inside = try clampOperator(
                .tensor(original.to(latents.device, dtype: .float32).reshape(matrix.grouped)),
                .tensor(cells.lower * scales), .tensor(cells.upper * scales))
            try latents.copy(from: inside.reshape(latents.shape))
        }
        try latents.setRequiresGrad()
        self.latents = latents
    }

    /// The matrix in `dtype`: the numbers of ``packed()``, with gradients to the leaves.
    func dense(dtype: DType) throws(TensorError) -> Tensor {
        let rounded = try withoutGradients { () throws(TensorError) in try self.rounded() }
        // Zeros that carry the gradients: the numbers themselves are those that will be stored.
        var values = rounded.values
        if let latents {
            values = try values + (latents - latents.detach()).reshape(start.grouped)
        }
        if let exponents {
            let zeros = try (exponents - exponents.detach()) * Self.growth
            values = try addcmulOperator(
                .tensor(values), .tensor(start.spread(zeros)), .tensor(rounded.values))
        }
        return try values.reshape([start.rows, start.columns]).to(dtype: dtype)
    }

    /// What is stored.
    func packed() throws(TensorError) -> QuantizedMatrix {
        try withoutGradients { () throws(TensorError) in
            let rounded = try rounded()
            let codes = try rounded.codes.reshape([start.rows, start.columns]).to(dtype: .uint8)
            return QuantizedMatrix(
                start, codes: try BitPlanes.pack(codes, bits: start.bits),
                scales: try rounded.scaleCodes.to(dtype: .uint8))
        }
    }

    private func rounded() throws(TensorError) -> Rounded {
        let scaleCodes = try self.scaleCodes()
        let codes =
            if let latents {
                try codebook.codes(latents.detach().reshape(start.grouped) / start.spread(units))
            } else {
                try start.plainCodes().reshape(start.grouped)
            }
        return Rounded(
            codes: codes, scaleCodes: scaleCodes,
            values: try codebook.values(codes) * start.spread(grid.values(scaleCodes)))
    }

    private func scaleCodes() throws(TensorError) -> Tensor {
        guard let exponents else { return try start.scales.to(dtype: .int64) }
        let codes = try roundOperator(.tensor(exponents.detach() * -Self.steps))
        return try clampNumbersOperator(.tensor(codes), .int(0), .int(ScaleGrid.zero))
            .to(dtype: .int64)
    }
}
