import MinimaCore

extension Analysis {
    /// Sizes above this are no model's; sums of as many as a file can hold stay far from overflow.
    private static let largest = 1 << 48

    /// Throws unless this account is of the present layout and its numbers could be a model's, so
    /// that a planner may add them up.
    func check() throws(StageError) {
        guard schema == Self.currentSchema else {
            throw .otherSchema(
                what: "the analysis", found: schema, expected: Self.currentSchema)
        }
        try Self.require([parameters, bytes, cacheBytesPerToken], of: "the model")
        for site in sites {
            try Self.require([site.outputs, site.inputs], of: site.name)
            try Self.require([Saturating.product([site.outputs, site.inputs])], of: site.name)
            try Self.require(site.members.map(\.outputs), of: site.name)
            for piece in site.cuts.flatMap(\.pieces) {
                try Self.require(
                    [
                        piece.row, piece.rows, piece.column, piece.columns,
                        Saturating.product([piece.rows, piece.columns]),
                    ], of: site.name)
                for option in piece.options {
                    try Self.require([option.parameters, option.bytes], of: site.name)
                    guard option.damage.isFinite, option.damage >= 0 else {
                        throw .damagedAnalysis(reason: "an option of \(site.name) has no damage")
                    }
                }
            }
        }
    }

    private static func require(_ sizes: [Int], of what: String) throws(StageError) {
        guard sizes.allSatisfy({ (0...largest).contains($0) }) else {
            throw .damagedAnalysis(reason: "\(what) has impossible sizes")
        }
    }
}
