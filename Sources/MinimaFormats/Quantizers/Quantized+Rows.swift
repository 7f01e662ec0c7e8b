import MinimaCore
import MinimaTensor

extension Quantized {
    /// Quantises a dense weight some rows at a time, for one that is large beside the device's memory:
    /// without an output metric rows have nothing to do with each other, and all share one base.
    ///
    /// - Parameters:
    ///   - weight: `[outputs, inputs]`, any floating-point type.
    ///   - spec: With a dense part.
    ///   - moment: C `[inputs, inputs]` of the inputs; `nil`: each number is rounded by itself.
    ///   - rowsPerSlice: Rows that are in memory in float32 and more at a time.
    ///   - onSlice: Called with each slice's rows and what has become of them; throws to stop.
    /// - Returns: All rows.
    /// - Throws: `FormatError` for a specification of another kind, as
    ///   ``decompose(_:spec:metric:)`` otherwise.
    /// - Complexity: O(inputs²·outputs) flops.
    public static func decompose(
        _ weight: Tensor, spec: FormatSpec, moment: Tensor?, rowsPerSlice: Int,
        onSlice: (_ rows: Range<Int>, _ part: Quantized) throws -> Void
    ) throws -> Quantized {
        let (outputs, inputs) = try checkWeight(weight, spec)
        let (bits, _) = try parts(spec, outputs: outputs, inputs: inputs)
        guard spec.parts[0].format == Dense.name else {
            throw FormatError.wrongParts(
                format: name, found: spec.parts.map(\.format), needed: "\(Dense.name) alone")
        }
        let metric = try prepared(moment.map { try Metric(input: $0) }, for: weight)
        let grid = try ScaleGrid(covering: weight)
        let step = max(rowsPerSlice, 1)
        var slices: [QuantizedMatrix] = []
        for start in stride(from: 0, to: outputs, by: step) {
            let rows = start..<min(start + step, outputs)
            let slice = try MatrixQuantizer(columns: inputs).quantize(
                exact(weight.narrow(0, rows)), bits: bits, levels: spec.levels,
                groupSize: spec.groupSize ?? inputs, metric: metric, grid: grid)
            slices.append(slice)
            try onSlice(
                rows,
                Quantized(
                    spec: spec, outputs: rows.count, inputs: inputs, tensors: slice.tensors))
        }
        return try Quantized(
            spec: spec, outputs: outputs, inputs: inputs,
            tensors: [.cat(slices.map(\.codes)), .cat(slices.map(\.scales)), grid.base])
    }
}
