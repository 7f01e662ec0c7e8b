import MinimaCore
import MinimaTensor

/// One product of a weight as decoding kernels read it: a block of W's rows and columns that is a
/// matrix, or two of them with a bond between.
///
/// The pieces of a weight cover it; where the outputs of two of them overlap, their results are added.
public struct DecodePiece: Sendable {
    /// Rows of W that the piece gives.
    public var outputs: Range<Int>
    /// Columns of W that it reads.
    public var inputs: Range<Int>
    /// What it multiplies by.
    public var form: Form

    /// How a piece is stored.
    public enum Form: Sendable {
        /// The block itself, `[outputs, inputs]`.
        case matrix(DecodeMatrix)
        /// P·[I; X]·R: the pivots' outputs are R·x, the others', in ascending order, X·(R·x).
        ///
        /// R `[rank, inputs]`, X `[outputs − rank, rank]`, absent when every row is a pivot, pivots
        /// ascending and relative to the piece.
        case interpolated(rows: DecodeMatrix, coefficients: DecodeMatrix?, pivots: [Int])
        /// A·B: B `[rank, inputs]`, then A `[outputs, rank]`.
        case product(inner: DecodeMatrix, outer: DecodeMatrix)
    }

    /// Moves the piece into a larger weight.
    func moved(outputs rows: Int, inputs columns: Int) -> DecodePiece {
        DecodePiece(
            outputs: outputs.lowerBound + rows..<outputs.upperBound + rows,
            inputs: inputs.lowerBound + columns..<inputs.upperBound + columns, form: form)
    }
}

/// A matrix of a ``DecodePiece``: values, or codes with scales.
public struct DecodeMatrix: Sendable {
    /// Rows.
    public var rows: Int
    /// Columns.
    public var columns: Int
    /// What is stored.
    public var storage: Storage

    /// What a matrix is stored as.
    public enum Storage: Sendable {
        /// Values `[rows, columns]` in a floating-point type.
        case values(Tensor)
        /// Packed codes.
        case codes(DecodeCodes)
    }

    /// A matrix of floating-point values, the last dimensions of `tensor` being its columns.
    init(_ tensor: Tensor, rows: Int) throws(TensorError) {
        self.rows = rows
        columns = tensor.count / max(rows, 1)
        storage = .values(try tensor.reshape([rows, columns]))
    }

    /// Matrices of floating-point values with the same columns, one below the other.
    public init(stacking matrices: [Tensor]) throws(TensorError) {
        let values = try Tensor.cat(matrices)
        (rows, columns, storage) = (values.shape[0], values.shape[1], .values(values))
    }

    /// A quantised matrix.
    init(_ matrix: QuantizedMatrix) {
        rows = matrix.rows
        columns = matrix.columns
        storage = .codes(
            DecodeCodes(
                bits: matrix.bits, groupSize: matrix.groupSize, planes: matrix.codes,
                scales: matrix.scales, base: matrix.base,
                levels: Codebook.values(bits: matrix.bits, levels: matrix.levels), matrix: matrix))
    }

    /// The values `[rows, columns]` in `dtype`, multiplied out where codes are stored.
    public func values(_ dtype: DType) throws(TensorError) -> Tensor {
        switch storage {
        case .values(let tensor): try tensor.to(dtype: dtype)
        case .codes(let codes): try codes.matrix.dense(dtype: dtype)
        }
    }

    /// Bytes as stored.
    public var byteCount: Int {
        switch storage {
        case .values(let tensor): tensor.count * tensor.dtype.byteCount
        case .codes(let codes):
            codes.planes.count + codes.scales.count + codes.base.dtype.byteCount
        }
    }
}

/// The codes of a quantised matrix, as checkpoints store them.
///
/// An element is `levels[code] · base · 2^(−scale / 16)`, 0 where the scale's code is 255.
public struct DecodeCodes: Sendable {
    /// Bits of a code.
    public var bits: Int
    /// Neighbours of a row that share a scale.
    public var groupSize: Int
    /// Planes of bits row by row, lowest bits first (2, 4 and 8 bits: one plane; 3 = 2 + 1,
    /// 5 = 4 + 1, 6 = 4 + 2), uint8 `[rows, bytes]`; a plane's row begins at a whole byte.
    public var planes: Tensor
    /// Codes of the scales, uint8 `[rows, groups]`.
    public var scales: Tensor
    /// The largest scale, float32 `[1]`.
    public var base: Tensor
    /// What the codes stand for, by code: ascending, symmetric about 0; of float8 in the order of its
    /// bits.
    public var levels: [Float]

    let matrix: QuantizedMatrix
}
