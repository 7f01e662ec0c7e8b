import MinimaCore
import MinimaFormats
import MinimaModels

extension CompressionPlan {
    /// Every linear layer of `source` at one ratio and in one format: what the learned plans are
    /// compared with.
    ///
    /// - Parameters:
    ///   - ratio: Share of each layer's parameters to remove, between 0 and 1.
    ///   - format: A registered format that has a specification for every budget.
    ///   - version: Version of Minima, for the record.
    /// - Returns: A plan for any model of these shapes: without fingerprints and damage.
    /// - Throws: `StageError` for a ratio out of range or one that a layer cannot reach in this
    ///   format, `FormatError` and `CompressionError.notBudgeted` for the format.
    public static func uniform(
        _ source: any WeightSource, ratio: Double, format name: String, version: String
    ) throws -> CompressionPlan {
        guard ratio > 0, ratio < 1 else { throw StageError.badRatio(ratio) }
        guard let format = try FormatRegistry.format(name) as? any BudgetedFormat.Type else {
            throw CompressionError.notBudgeted(
                format: name,
                known: FormatRegistry.all.filter { $0 is any BudgetedFormat.Type }.map { $0.name })
        }
        let stored = try StoredModel(source)
        var plan = CompressionPlan(
            version: version, model: source.path, fingerprints: [:], target: "ratio \(ratio)",
            formats: [name], linearParametersBefore: 0, linearParametersAfter: 0,
            linearBytesBefore: 0, linearBytesAfter: 0, damage: nil, modules: [])
        for member in stored.sites.flatMap(\.members) {
            let (outputs, inputs) = (member.outputs, member.inputs)
            let dtype = stored.dtype(of: member)
            let module: Module
            do throws(FormatError) {
                let spec = try format.spec(
                    fitting: Int((1 - ratio) * Double(outputs * inputs)), outputs: outputs,
                    inputs: inputs)
                module = Module(
                    name: member.name, outputs: outputs, inputs: inputs, spec: spec,
                    parameters: try format.parameterCount(spec, outputs: outputs, inputs: inputs),
                    bytes: try format.byteCount(
                        spec, outputs: outputs, inputs: inputs, dtype: dtype), damage: nil)
            } catch {
                throw StageError.moduleTooSmall(name: member.name, reason: "\(error)")
            }
            plan.linearParametersBefore += outputs * inputs
            plan.linearParametersAfter += module.parameters
            plan.linearBytesBefore += outputs * inputs * dtype.byteCount
            plan.linearBytesAfter += module.bytes
            plan.modules.append(module)
        }
        return plan
    }
}
