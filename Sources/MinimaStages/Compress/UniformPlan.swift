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
            plan.append(module, dtype: dtype)
        }
        return plan
    }
}

extension CompressionPlan {
    /// Sites of `source` at one ratio and in one format, their members sharing what is kept of their
    /// input: the shapes that decoding is measured with.
    ///
    /// - Parameters:
    ///   - ratio: Share of all sites' parameters to remove; 0 keeps the sites dense.
    ///   - part: A component of the names of those sites that parameters are removed from, such as
    ///     `mlp`; the others stay dense. `nil`: all sites.
    ///   - format: A registered format that has a specification for every budget.
    ///   - splitsModes: Whether the format's modes are split truly, see
    ///     ``TensorFormat/splitSpec(fitting:outputs:inputs:)``, and not such that it is a product of two
    ///     matrices.
    ///   - alignment: The rank of the bond next to the input is a multiple of this: the nearest, or
    ///     the next below where that is too large for the site or removes nothing. Not with truly split
    ///     modes.
    ///   - quantization: Bits, neighbours that share a scale, and spacing of levels of what is
    ///     stored; `nil` keeps the model's type.
    /// - Throws: As ``uniform(_:ratio:format:version:)``; `StageError.noAlignedRank` for a site that
    ///   has no such rank, `StageError.badPart` for a `part` that has not as much to remove,
    ///   `StageError.notSplit` for a site or a format with no modes to split.
    public static func sharing(
        _ source: any WeightSource, ratio: Double, from part: String? = nil, format name: String,
        splitsModes: Bool = false, alignment: Int,
        quantization: (bits: Int, groupSize: Int, levels: FormatSpec.Levels)?, version: String
    ) throws -> CompressionPlan {
        guard ratio >= 0, ratio < 1 else { throw StageError.badRatio(ratio) }
        guard let format = try FormatRegistry.format(name) as? any BudgetedFormat.Type else {
            throw CompressionError.notBudgeted(
                format: name,
                known: FormatRegistry.all.filter { $0 is any BudgetedFormat.Type }.map { $0.name })
        }
        let stored = try StoredModel(source)
        func isTaken(_ site: Site) -> Bool {
            part.map { site.name.split(separator: ".").contains(Substring($0)) } ?? true
        }
        let taken = stored.sites.filter(isTaken).reduce(0) { $0 + $1.parameters }
        let share = ratio * Double(stored.sites.reduce(0) { $0 + $1.parameters }) / Double(taken)
        guard share < 1 else {
            throw StageError.badPart(part ?? "", ratio: ratio, known: Self.parts(of: stored.sites))
        }
        var plan = CompressionPlan(
            version: version, model: source.path, fingerprints: [:],
            target: "ratio \(ratio)\(part.map { " from \($0)" } ?? "")",
            formats: [ratio > 0 ? name : Dense.name], linearParametersBefore: 0,
            linearParametersAfter: 0, linearBytesBefore: 0, linearBytesAfter: 0, damage: nil,
            modules: [])
        for site in stored.sites {
            let (outputs, inputs) = (site.outputs, site.inputs)
            let dtype = site.members.first.map { stored.dtype(of: $0) } ?? .bfloat16
            var spec = FormatSpec(format: Dense.name)
            do throws(FormatError) {
                if share > 0, isTaken(site) {
                    let budget = Int((1 - share) * Double(outputs * inputs))
                    if splitsModes {
                        guard let format = format as? any TensorFormat.Type else {
                            throw FormatError.notSplit(
                                format: name, side: "input", outputs: outputs, inputs: inputs)
                        }
                        spec = try format.splitSpec(
                            fitting: budget, outputs: outputs, inputs: inputs)
                    } else {
                        spec = try format.spec(
                            fitting: budget, outputs: outputs, inputs: inputs)
                    }
                }
            } catch {
                // A smaller ratio would not help.
                if case .notSplit = error {
                    throw StageError.notSplit(name: site.name, reason: "\(error)")
                }
                throw StageError.moduleTooSmall(name: site.name, reason: "\(error)")
            }
            // What is split truly is multiplied out, and no bond of it is read.
            if !spec.ranks.isEmpty, !splitsModes {
                guard
                    let aligned = aligned(spec, outputs: outputs, inputs: inputs, to: alignment)
                else {
                    throw StageError.noAlignedRank(
                        name: site.name, ranks: spec.ranks, alignment: alignment)
                }
                spec = aligned
            }
            if let quantization {
                spec = FormatSpec(
                    format: Quantized.name, bits: quantization.bits,
                    groupSize: quantization.groupSize, levels: quantization.levels, parts: [spec])
            }
            let whole = try FormatRegistry.format(spec.format)
            plan.append(
                Module(
                    name: site.name, outputs: outputs, inputs: inputs, spec: spec,
                    parameters: try whole.parameterCount(
                        spec, outputs: outputs, inputs: inputs),
                    bytes: try whole.byteCount(
                        spec, outputs: outputs, inputs: inputs, dtype: dtype), damage: nil),
                dtype: dtype)
        }
        return plan
    }

    /// Components of sites' names, without numbers and what all have.
    private static func parts(of sites: [Site]) -> [String] {
        let names = sites.map { Set($0.name.split(separator: ".").map(String.init)) }
        let shared = names.dropFirst().reduce(names.first ?? []) { $0.intersection($1) }
        return Set(names.joined()).subtracting(shared).filter { Int($0) == nil }.sorted()
    }

    /// `spec` with a bond next to the input that is a multiple of `alignment`; `nil` where none is
    /// possible with fewer numbers than the dense weight's.
    private static func aligned(
        _ spec: FormatSpec, outputs: Int, inputs: Int, to alignment: Int
    ) -> FormatSpec? {
        guard alignment > 0, let format = try? FormatRegistry.format(spec.format) else {
            return nil
        }
        // The terms of a sum of blocks come first; the bond is their number times the blocks' ranks.
        let isSum = spec.format == BlockTerm.name
        let place = isSum ? 0 : spec.ranks.count - 1
        var (step, rest) = (alignment, isSum ? spec.ranks.dropFirst().reduce(1, *) : 1)
        while rest != 0 { (step, rest) = (rest, step % rest) }
        step = alignment / step
        var aligned = spec
        var rank = max((spec.ranks[place] + step / 2) / step, 1) * step
        while rank > 0 {
            aligned.ranks[place] = rank
            let count = try? format.parameterCount(aligned, outputs: outputs, inputs: inputs)
            if let count, count < outputs * inputs { return aligned }
            rank -= step
        }
        return nil
    }

    private mutating func append(_ module: Module, dtype: DType) {
        let dense = module.outputs * module.inputs
        linearParametersBefore += dense
        linearParametersAfter += module.parameters
        linearBytesBefore += dense * dtype.byteCount
        linearBytesAfter += module.bytes
        modules.append(module)
    }
}
