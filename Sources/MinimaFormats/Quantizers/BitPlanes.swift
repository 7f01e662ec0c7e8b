import MinimaCore
import MinimaTensor

private let shiftRightOperator = Operator("aten::bitwise_right_shift", "Tensor")
private let shiftLeftOperator = Operator("aten::bitwise_left_shift", "Tensor")
private let andOperator = Operator("aten::bitwise_and", "Scalar")
private let padOperator = Operator("aten::constant_pad_nd")

/// Codes of `bits` bits in bytes, row by row and without gaps but the last byte of a plane.
///
/// A row is one plane per part of a code, lowest bits first: 2, 4 and 8 bits are one plane of that
/// width; 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2. A plane of width w holds the value of column k in the
/// bits k·w mod 8 and up of its byte k·w / 8. So unpacking is a shift and a mask per plane.
enum BitPlanes {
    /// Widths of the planes, lowest bits of the codes first.
    static func widths(bits: Int) -> [Int] {
        switch bits {
        case 3: [2, 1]
        case 5: [4, 1]
        case 6: [4, 2]
        default: [bits]
        }
    }

    /// Bytes of one row.
    static func rowBytes(bits: Int, columns: Int) -> Int {
        widths(bits: bits).reduce(0) { $0 + bytes(width: $1, columns: columns) }
    }

    private static func bytes(width: Int, columns: Int) -> Int {
        let perByte = 8 / width
        return columns / perByte + (columns % perByte == 0 ? 0 : 1)
    }

    /// `codes` `[rows, columns]`, uint8 below 2^bits, packed: uint8 `[rows, rowBytes]`.
    static func pack(_ codes: Tensor, bits: Int) throws(TensorError) -> Tensor {
        let (rows, columns) = (codes.shape[0], codes.shape[1])
        var planes: [Tensor] = []
        var lowest = 0
        for width in widths(bits: bits) {
            let bytes = bytes(width: width, columns: columns)
            let values = try andOperator(
                .tensor(shiftRightOperator(.tensor(codes), .tensor(shift(lowest, codes.device)))),
                .int((1 << width) - 1))
            let padded = try padOperator(
                .tensor(values), .ints([0, bytes * (8 / width) - columns]), .int(0))
            let places = try shiftLeftOperator(
                .tensor(padded.reshape([rows, bytes, 8 / width])),
                .tensor(offsets(width, codes.device)))
            planes.append(try places.sum([2], dtype: .uint8))
            lowest += width
        }
        return try Tensor.cat(planes, dim: 1)
    }

    /// What ``pack(_:bits:)`` packed: uint8 `[rows, columns]`.
    static func unpack(_ packed: Tensor, bits: Int, columns: Int) throws(TensorError) -> Tensor {
        let rows = packed.shape[0]
        var codes = try Tensor.zeros([rows, columns], dtype: .uint8, device: packed.device)
        var (start, lowest) = (0, 0)
        for width in widths(bits: bits) {
            let bytes = bytes(width: width, columns: columns)
            let plane = try packed.narrow(1, start..<start + bytes).unsqueeze(2)
            let shifted = try shiftRightOperator(
                .tensor(plane), .tensor(offsets(width, packed.device)))
            let values = try andOperator(.tensor(shifted), .int((1 << width) - 1))
                .reshape([rows, -1]).narrow(1, 0..<columns)
            codes =
                try codes
                + shiftLeftOperator(
                    .tensor(values), .tensor(shift(lowest, packed.device)))
            start += bytes
            lowest += width
        }
        return codes
    }

    private static func shift(_ count: Int, _ device: Device) throws(TensorError) -> Tensor {
        try Tensor([UInt8(count)]).to(device)
    }

    /// Where the values of one byte begin, in bits.
    private static func offsets(_ width: Int, _ device: Device) throws(TensorError) -> Tensor {
        let starts = (0..<8 / width).map { UInt8($0 * width) }
        return try Tensor(starts).to(device)
    }
}
