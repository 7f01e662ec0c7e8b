import MinimaCore

/// How small a plan has to make a model.
public enum PlanTarget: Sendable, Hashable {
    /// Share of the linear layers' parameters to remove.
    case ratio(Double)
    /// Share of the whole model's parameters to remove.
    case totalRatio(Double)
    /// Bytes of the whole model's weights.
    case bytes(Int)
    /// Bytes of the linear layers, in bits per dense weight.
    case bitsPerWeight(Double)
    /// Memory of the card that serves: weights, and keys and values of `requests` of `context`
    /// tokens, and a reserve for activations (``reserve``).
    case memory(bytes: Int, context: Int, requests: Int)

    /// Share of a card's memory that activations, workspaces and the driver are left.
    public static let reserve = 0.06

    /// What the limit is counted in.
    enum Unit {
        case parameters, bytes
    }

    var unit: Unit {
        switch self {
        case .ratio, .totalRatio: .parameters
        case .bytes, .bitsPerWeight, .memory: .bytes
        }
    }

    /// Parameters or bytes that the linear layers of `analysis`'s model may have beside `head`.
    func limit(_ analysis: Analysis, _ head: PlannedHead?) -> Int {
        let linear = Double(analysis.linearParameters)
        let otherBytes = Self.otherBytes(analysis, head)
        return switch self {
        case .ratio(let ratio): Int((1 - ratio) * linear)
        case .totalRatio(let ratio):
            Int(linear - ratio * Double(analysis.parameters)) - (head?.addedParameters ?? 0)
        case .bytes(let bytes): bytes - otherBytes
        case .bitsPerWeight(let bits): Int(bits * linear / 8)
        case .memory(let bytes, let context, let requests):
            Int(Double(bytes) * (1 - Self.reserve))
                - Saturating.sum([
                    otherBytes,
                    Saturating.product([analysis.cacheBytesPerToken, context, requests]),
                ])
        }
    }

    /// The target that `cost`, of the linear layers, would meet: what to ask for instead.
    func feasible(_ cost: Int, _ analysis: Analysis, _ head: PlannedHead?) -> String {
        let linear = Double(analysis.linearParameters)
        let otherBytes = Self.otherBytes(analysis, head)
        return switch self {
        case .ratio: "--ratio \(Self.thousandths(1 - Double(cost) / linear))"
        case .totalRatio: totalRatio(linear - Double(cost), analysis, head)
        case .bytes: "--bytes \(cost + otherBytes)"
        case .bitsPerWeight: "--bits-per-weight \(rounded(Double(cost) * 8 / linear + 0.005))"
        case .memory(_, let context, let requests):
            "--vram \(gibibytes(cost, otherBytes, analysis, context, requests))"
        }
    }

    private func totalRatio(
        _ removed: Double, _ analysis: Analysis, _ head: PlannedHead?
    ) -> String {
        let added = head?.addedParameters ?? 0
        let share = (removed - Double(added)) / Double(analysis.parameters)
        if share >= 0.001 { return "--total-ratio \(Self.thousandths(share))" }
        return added > 0
            ? "no smaller model; --head stores a tied output projection beside the embedding"
            : "no smaller model"
    }

    private static func thousandths(_ share: Double) -> String {
        "\((share * 1000).rounded(.down) / 1000)"
    }

    /// Bytes of all weights that are no linear layer's.
    private static func otherBytes(_ analysis: Analysis, _ head: PlannedHead?) -> Int {
        analysis.bytes - analysis.linearParameters * analysis.dtype.byteCount
            + (head?.addedBytes ?? 0)
    }

    private func gibibytes(
        _ cost: Int, _ otherBytes: Int, _ analysis: Analysis, _ context: Int, _ requests: Int
    ) -> String {
        let cache = Saturating.product([analysis.cacheBytesPerToken, context, requests])
        let bytes = Double(Saturating.sum([cost, otherBytes, cache])) / (1 - Self.reserve)
        return rounded(bytes / Double(1 << 30) + 0.005)
    }
}

extension PlanTarget: CustomStringConvertible {
    /// As the command line takes it, without dashes.
    public var description: String {
        switch self {
        case .ratio(let ratio): "ratio \(ratio)"
        case .totalRatio(let ratio): "total-ratio \(ratio)"
        case .bytes(let bytes): "bytes \(bytes)"
        case .bitsPerWeight(let bits): "bits-per-weight \(bits)"
        case .memory(let bytes, let context, let requests):
            "vram \(rounded(Double(bytes) / Double(1 << 30))) GiB, context \(context), "
                + "requests \(requests)"
        }
    }
}
