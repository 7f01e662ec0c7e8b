import MinimaCore
import MinimaFormats

extension Samples {
    /// Rows and columns of the weights that ``specs(_:)`` are for.
    static let rows = 24
    /// Columns of them.
    static let columns = 36

    /// Specifications of `format` for a weight `[24, 36]`: of a budgeted format those of a third and
    /// of two thirds of its size, of a composite the ones below.
    static func specs(_ format: any LinearWeight.Type) throws -> [FormatSpec] {
        if let composites = composites[format.name] { return composites }
        guard let budgeted = format as? any BudgetedFormat.Type else {
            throw MissingSamples(format: format.name)
        }
        let fitting = [0.34, 0.67].compactMap { share in
            try? budgeted.spec(
                fitting: Int(share * Double(rows * columns)), outputs: rows, inputs: columns)
        }
        guard fitting.isEmpty else { return fitting }
        return [try budgeted.spec(fitting: .max, outputs: rows, inputs: columns)]
    }

    /// A format that neither has specifications by budget nor is listed in `composites`.
    struct MissingSamples: Error {
        let format: String
    }

    /// Specifications of formats that have none by budget; each must lose something.
    private static let composites: [String: [FormatSpec]] = [
        "blocks": [
            FormatSpec(
                format: "blocks", outputModes: [10, 6, 8],
                parts: [lowRank(3), lowRank(2, "interpolative"), FormatSpec(format: "dense")]),
            FormatSpec(
                format: "blocks", inputModes: [16, 20], parts: [lowRank(5), lowRank(4)]),
            FormatSpec(
                format: "blocks", inputModes: [12, 24],
                parts: [
                    lowRank(100, "sparse"),
                    FormatSpec(
                        format: "blocks", outputModes: [4, 20],
                        parts: [lowRank(1), lowRank(7, "interpolative")]),
                ]),
        ],
        "quantized": [
            quantized(4, 12, FormatSpec(format: "dense")), quantized(3, nil, lowRank(6)),
            uniform(4, 12, FormatSpec(format: "dense")), uniform(3, nil, lowRank(6)),
            quantized(8, 16, lowRank(5, "interpolative")),
            float8(12, FormatSpec(format: "dense")), float8(nil, lowRank(6, "interpolative")),
        ],
        "sum": [
            FormatSpec(
                format: "sum",
                parts: [
                    quantized(2, 18, FormatSpec(format: "dense")), lowRank(2),
                    lowRank(5, "sparse"),
                ]),
            FormatSpec(format: "sum", parts: [lowRank(4), lowRank(80, "sparse")]),
            FormatSpec(
                format: "sum",
                parts: [
                    lowRank(50, "sparse"),
                    FormatSpec(
                        format: "blocks", outputModes: [12, 12],
                        parts: [lowRank(2), lowRank(3, "interpolative")]),
                ]),
        ],
    ]

    private static func quantized(_ bits: Int, _ groupSize: Int?, _ part: FormatSpec) -> FormatSpec
    {
        FormatSpec(format: "quantized", bits: bits, groupSize: groupSize, parts: [part])
    }

    private static func uniform(_ bits: Int, _ groupSize: Int?, _ part: FormatSpec) -> FormatSpec {
        FormatSpec(
            format: "quantized", bits: bits, groupSize: groupSize, levels: .uniform, parts: [part])
    }

    private static func float8(_ groupSize: Int?, _ part: FormatSpec) -> FormatSpec {
        FormatSpec(
            format: "quantized", bits: 8, groupSize: groupSize, levels: .float8, parts: [part])
    }

    private static func lowRank(_ rank: Int, _ format: String = "lowrank") -> FormatSpec {
        FormatSpec(format: format, ranks: [rank])
    }
}
