import Glibc
import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

extension FormatChecker {
    /// The products that decoding kernels compute are the weight, and take what it takes.
    func decodePiecesAreTheMatrix() throws {
        try forEachSpec { spec in
            let stored = try Format.decompose(weight(11), spec: spec, metric: nil)
            let pieces = try stored.decodePieces()
            let sum = try Tensor.zeros([outputs, inputs], dtype: .float64)
            for piece in pieces {
                let part = try piece.matrix()
                #expect(part.shape == [piece.outputs.count, piece.inputs.count])
                try sum.narrow(0, piece.outputs).narrow(1, piece.inputs).addInPlace(part)
            }
            let matrix = try stored.reconstruct().to(dtype: .float64)
            // Codes are multiplied out in float32.
            let isRounded = spec.nested.contains { $0.bits != nil }
            let bound = roundingBound(
                size: outputs + inputs, steps: stored.tensors.count + pieces.count,
                dtype: isRounded ? .float32 : .float64)
            #expect(try sum.distance(to: matrix) <= bound * matrix.length(), "\(spec)")
            let numbers = pieces.reduce(0) { $0 + $1.numbers }
            let isStored = pieces.contains { piece in
                if case .matrix = piece.form { false } else { true }
            }
            if isStored { #expect(numbers <= outputs * inputs + stored.parameterCount) }
        }
    }
}

extension DecodePiece {
    /// The block of W, float64.
    fileprivate func matrix() throws -> Tensor {
        switch form {
        case .matrix(let matrix): return try matrix.values()
        case .product(let inner, let outer): return try outer.values().matmul(inner.values())
        case .interpolated(let rows, let coefficients, let pivots):
            #expect(zip(pivots, pivots.dropFirst()).allSatisfy(<))
            let basis = try rows.values()
            let others = outputs.indices.map { $0 - outputs.lowerBound }
                .filter { !pivots.contains($0) }
            var parts = [basis]
            if let coefficients { parts.append(try coefficients.values().matmul(basis)) }
            var places = [Int64](repeating: 0, count: outputs.count)
            for (place, row) in (pivots + others).enumerated() { places[row] = Int64(place) }
            return try Tensor.cat(parts).selecting(0, Tensor(places))
        }
    }

    fileprivate var numbers: Int {
        switch form {
        case .matrix(let matrix): matrix.rows * matrix.columns
        case .product(let inner, let outer):
            inner.rows * inner.columns + outer.rows * outer.columns
        case .interpolated(let rows, let coefficients, _):
            rows.rows * rows.columns
                + (coefficients.map { $0.rows * $0.columns } ?? 0)
        }
    }
}

extension DecodeMatrix {
    /// The matrix in float64, its codes read bit by bit.
    fileprivate func values() throws -> Tensor {
        guard case .codes(let codes) = storage else {
            guard case .values(let values) = storage else { return try .zeros([rows, columns]) }
            return try values.to(dtype: .float64)
        }
        let planes: [UInt8] = try codes.planes.values()
        let scales: [UInt8] = try codes.scales.values()
        let base = try codes.base.item()
        let widths = [3: [2, 1], 5: [4, 1], 6: [4, 2]][codes.bits] ?? [codes.bits]
        let rowBytes = widths.map { (columns * $0 + 7) / 8 }
        let groups = (columns + codes.groupSize - 1) / codes.groupSize
        #expect(codes.planes.shape == [rows, rowBytes.reduce(0, +)])
        #expect(codes.scales.shape == [rows, groups])
        var values: [Double] = []
        for row in 0..<rows {
            for column in 0..<columns {
                var (code, lowest, start) = (0, 0, row * rowBytes.reduce(0, +))
                for (width, bytes) in zip(widths, rowBytes) {
                    let byte = Int(planes[start + column * width / 8])
                    code |= (byte >> (column * width % 8) & ((1 << width) - 1)) << lowest
                    lowest += width
                    start += bytes
                }
                let scale = scales[row * groups + column / codes.groupSize]
                let factor = scale == 255 ? 0 : base * exp2(-Double(scale) / 16)
                values.append(Double(codes.levels[code]) * factor)
            }
        }
        return try Tensor(values, shape: [rows, columns])
    }
}
