import MinimaCore

extension Lineage {
    /// Accounts of compressions with those that healed models carry, each once, and with the
    /// directory of the model that a healing started from where no other is known.
    static func compressions(
        _ compressions: [(result: CompressionResult, directory: String?)],
        _ healings: [(result: HealingResult, directory: String?)]
    ) -> [(result: CompressionResult, directory: String?)] {
        var all = compressions
        // What was healed twice was compressed before the first time.
        let written = Set(healings.compactMap { $0.directory.map(ModelPath.init) })
        let later = healings.filter { written.contains(ModelPath($0.result.model)) }
        let first = healings.filter { !written.contains(ModelPath($0.result.model)) }
        for (healing, _) in first + later {
            guard let result = healing.compression else { continue }
            if let index = all.firstIndex(where: { isSame($0.result, result) }) {
                if all[index].directory == nil { all[index].directory = healing.model }
            } else {
                all.append((result, healing.model))
            }
        }
        return all
    }

    /// Whether two accounts are one; numbers that are not finite count as equal to themselves.
    private static func isSame(_ left: CompressionResult, _ right: CompressionResult) -> Bool {
        if left == right { return true }
        guard left.parent == right.parent, left.modules.count == right.modules.count else {
            return false
        }
        guard let first = try? left.json(), let second = try? right.json() else { return false }
        return first == second
    }

    /// Adds healed models as children of those that they were made of.
    mutating func add(
        _ healings: [(result: HealingResult, directory: String?)],
        _ compressions: [CompressionResult]
    ) {
        for (result, directory) in healings {
            let source = source(of: result, compressions)
            add(source)
            if parents[source] == nil, ModelPath(result.teacher) != source {
                add(ModelPath(result.teacher))
                parents[source] = ModelPath(result.teacher)
            }
            let output = output(of: result, source, in: directory.map(ModelPath.init))
            healed.append((source, output))
            guard output != source else { continue }
            add(output)
            parents[output] = source
            if bitsPerWeight[output] == nil {
                let isAsLarge = sizes[source] == Size(result)
                bitsPerWeight[output] =
                    Self.bitsPerWeight(result) ?? (isAsLarge ? bitsPerWeight[source] : nil)
            }
            if sizes[output] == nil { sizes[output] = Size(result) }
        }
    }

    /// Bits stored per weight of the linear layers; what healing adds, adapters, is beside them.
    private static func bitsPerWeight(_ result: HealingResult) -> Double? {
        guard let totals = result.compression?.totals else { return nil }
        let added = Double(result.bytes) - Double(totals.bytesAfter)
        let quotient = Figure.quotient(
            Double(totals.linearBytesAfter) + added, Double(totals.linearParametersBefore))
        return quotient.flatMap { $0 >= 0 ? 8 * $0 : nil }
    }

    /// The model that was healed; its directory may have been named from elsewhere.
    private func source(of result: HealingResult, _ compressions: [CompressionResult]) -> ModelPath
    {
        let model = ModelPath(result.model)
        guard !models.contains(model), let compression = result.compression,
            let index = compressions.firstIndex(where: { Self.isSame($0, compression) }),
            outputs[index].suffix(1) == model.suffix(1)
        else { return model }
        return outputs[index]
    }

    /// The model that a healing wrote: the directory of its account, or the one model of its size
    /// that nothing else is known to have written, or one without a directory.
    private func output(of result: HealingResult, _ source: ModelPath, in directory: ModelPath?)
        -> ModelPath
    {
        if let directory, models.contains(directory) { return directory }
        let candidates = models.filter { model in
            model != source && sizes[model] == Size(result)
                && !outputs.contains(model) && !healed.contains { $0.output == model }
                && !parents.values.contains(model)
        }.filter { directory == nil || $0.suffix(1) == directory?.suffix(1) }
        if candidates.count == 1 { return candidates[0] }
        return directory ?? unused("\(source.suffix(1).text), healed")
    }
}

extension Lineage.Size {
    /// The size of a healed model.
    init(_ result: HealingResult) {
        self.init(parameters: result.parameters, bytes: result.bytes)
    }
}
