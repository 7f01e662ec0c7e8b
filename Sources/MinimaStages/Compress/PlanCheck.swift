import MinimaCore
import MinimaModels

extension CompressionPlan {
    /// Throws unless every module of this plan is one of `source`'s and takes a format that suits it;
    /// reads no weight.
    ///
    /// - Throws: `StageError`, `CompressionError` or `CheckpointError`, as ``Compressor`` does.
    public func check(against source: any WeightSource) throws {
        guard schema == Self.currentSchema else {
            throw StageError.otherSchema(
                what: "the plan", found: schema, expected: Self.currentSchema)
        }
        _ = try PlannedModel(self, source)
    }
}
