/// Times of linear layers while decoding, from what was measured: ``DecodeCosts`` ready to be asked.
public struct DecodeTimes: Sendable {
    /// A size may lie beyond the sizes that were measured by this share of the nearest one. A time is
    /// then off by no more: it rises at most in proportion to what is read.
    public static let margin = 0.05

    static let largestSize = 1 << 40
    /// Nanoseconds that no layer takes: with 100 s for each, those of any model add up to an `Int`.
    static let longest = 1e11

    /// Where the times come from: the card's name.
    public let card: String
    /// Tokens at once that something was measured with, ascending.
    public let tokenCounts: [Int]

    private let exact: [Place<FormatSpec>: Double]
    private let families: [Place<Family>: [Point]]

    /// A layer of a size, at a number of tokens.
    private struct Place<Format: Hashable & Sendable>: Hashable, Sendable {
        var format: Format
        var outputs: Int
        var inputs: Int
        var tokens: Int
    }

    /// Formats whose time depends on one rank.
    private struct Family: Hashable {
        /// The format without what the time does not depend on.
        var spec: FormatSpec
        /// Tensor formats that store a low rank are read as they are stored, others multiplied out.
        var isLowRank: Bool
    }

    /// The time at a size.
    private struct Point {
        /// Numbers of both factors.
        var size: Double
        var nanoseconds: Double
    }

    /// Of several measurements of one thing the slowest counts.
    ///
    /// - Throws: `DecodeCostsError` for another layout and for rows that cannot be measurements.
    public init(_ costs: DecodeCosts) throws(DecodeCostsError) {
        guard costs.schema == DecodeCosts.currentSchema else {
            throw .otherSchema(found: costs.schema, expected: DecodeCosts.currentSchema)
        }
        card = costs.card
        tokenCounts = Set(costs.rows.map(\.tokens)).sorted()
        var exact: [Place<FormatSpec>: Double] = [:]
        var points: [Place<Family>: [Double: Double]] = [:]
        for (index, row) in costs.rows.enumerated() {
            let time = row.nanoseconds.median
            guard
                [row.outputs, row.inputs, row.tokens].allSatisfy((1...Self.largestSize).contains),
                (1...Self.longest).contains(time)
            else { throw .badRow(index: index) }
            let place = Place(
                format: row.spec, outputs: row.outputs, inputs: row.inputs, tokens: row.tokens)
            exact[place] = max(exact[place] ?? 0, time)
            if let (family, size) = Self.family(place) {
                points[family, default: [:]][size] = max(points[family]?[size] ?? 0, time)
            }
        }
        self.exact = exact
        families = points.mapValues { times in
            times.map { Point(size: $0.key, nanoseconds: $0.value) }.sorted { $0.size < $1.size }
        }
    }

    /// Nanoseconds that a layer `[outputs, inputs]` takes for `tokens` tokens at once.
    ///
    /// What was measured; else, where the format has one rank that its time depends on, the line
    /// between the neighbouring ranks in the numbers that the factors have, other things being equal
    /// (format, shape, bits, group size, tokens). Up to ``margin`` below the smallest that was measured
    /// the time is the smallest's, up to ``margin`` above the largest it grows with the numbers. Blocks
    /// and sums take as long as their parts together.
    ///
    /// - Returns: `nil` where nothing comparable was measured.
    public func nanoseconds(_ spec: FormatSpec, outputs: Int, inputs: Int, tokens: Int) -> Int? {
        time(Place(format: spec, outputs: outputs, inputs: inputs, tokens: tokens), depth: 1)
            .map { Int($0.rounded()) }
    }

    private func time(_ place: Place<FormatSpec>, depth: Int) -> Double? {
        if let time = exact[place] { return time }
        let spec = place.format
        guard ["blocks", "sum"].contains(spec.format) else { return interpolated(place) }
        // A composite's sizes were never checked.
        let modes = spec.outputModes + spec.inputModes
        guard depth <= FormatSpec.deepest, !spec.parts.isEmpty,
            spec.format == "sum"
                ? modes.isEmpty
                : modes.count == spec.parts.count
                    && spec.outputModes.isEmpty != spec.inputModes.isEmpty
        else { return nil }
        var total = 0.0
        for (index, part) in spec.parts.enumerated() {
            var own = place
            own.format = part
            if !spec.outputModes.isEmpty { own.outputs = spec.outputModes[index] }
            if !spec.inputModes.isEmpty { own.inputs = spec.inputModes[index] }
            guard let time = time(own, depth: depth + 1) else { return nil }
            total += time
        }
        return total <= Self.longest ? total : nil
    }

    private func interpolated(_ place: Place<FormatSpec>) -> Double? {
        guard let (family, size) = Self.family(place), let points = families[family],
            let first = points.first, let last = points.last
        else { return nil }
        if size < first.size {
            return size >= first.size * (1 - Self.margin) ? first.nanoseconds : nil
        }
        guard let index = points.firstIndex(where: { $0.size >= size }) else {
            return size <= last.size * (1 + Self.margin)
                ? last.nanoseconds * size / last.size : nil
        }
        let above = points[index]
        guard index > 0, above.size > size else { return above.nanoseconds }
        let below = points[index - 1]
        let share = (size - below.size) / (above.size - below.size)
        return below.nanoseconds + share * (above.nanoseconds - below.nanoseconds)
    }

    /// The family of a format, and the numbers of its two factors; `nil` where its time does not
    /// depend on one rank.
    private static func family(_ place: Place<FormatSpec>) -> (Place<Family>, size: Double)? {
        let spec = place.format
        let leaf = spec.format == "quantized" && spec.parts.count == 1 ? spec.parts[0] : spec
        let (outputs, inputs) = (Double(place.outputs), Double(place.inputs))
        guard let bond = leaf.bond.map({ Double($0) }), bond > 0 else { return nil }
        let isLowRank = leaf.isLowRank
        let isProduct = leaf.format == "lowrank"
        let isInterpolated = leaf.format == "interpolative" || isLowRank
        guard bond <= min(outputs, inputs) || !(isProduct || isInterpolated) else { return nil }
        // Pivots are no product: r of the outputs are the inner factor's rows. What is multiplied out
        // is never more than W.
        let numbers = bond * (isInterpolated ? outputs - bond + inputs : outputs + inputs)
        let size = isProduct || isInterpolated ? numbers : min(numbers, outputs * inputs)
        var kept = FormatSpec(format: leaf.format)
        if leaf != spec {
            kept = spec
            kept.parts = [FormatSpec(format: leaf.format)]
        }
        return (
            Place<Family>(
                format: Family(spec: kept, isLowRank: isLowRank), outputs: place.outputs,
                inputs: place.inputs, tokens: place.tokens), size
        )
    }
}

extension FormatSpec {
    /// The rank of the factor that reads the input, where the input is in one piece: decoding reads
    /// W as the product of that factor and what the others multiply out to.
    fileprivate var bond: Int? {
        switch format {
        case "lowrank", "interpolative": ranks.count == 1 ? ranks[0] : nil
        case "tucker": ranks.count == 3 ? ranks[2] : nil
        case "tt": hasWholeInput ? ranks.last : nil
        case "tr":
            hasWholeInput && ranks.count > 1
                ? Int.saturatingProduct(ranks[0], ranks[ranks.count - 1]) : nil
        default: nil
        }
    }

    /// Whether the last mode is the input's alone.
    private var hasWholeInput: Bool {
        outputModes.last == 1 && inputModes.dropLast().allSatisfy { $0 == 1 }
    }
}
