import MinimaCore
import MinimaFormats

/// Which formats a plan may use.
public struct FormatFilter: Sendable, Hashable {
    /// Names that stand for several formats, or for one use of a format.
    public static let aliases: [String: [String]] = [
        "tn": [Tucker.name, TensorTrain.name, TensorRing.name],
        "factored": FormatRegistry.all.compactMap { $0 is any BudgetedFormat.Type ? $0.name : nil }
            .filter { ![Dense.name, Sparse.name].contains($0) },
        "int": [quantizedDense],
        "cores": [quantizedCores],
        Quantized.name: [quantizedDense, quantizedCores],
    ]
    /// Uses of the quantised format: of a whole weight, and of another format's cores.
    private static let quantizedDense = "quantized dense"
    private static let quantizedCores = "quantized cores"

    /// Names as given, aliases among them; empty allows everything.
    public let names: [String]
    private let allowed: Set<String>?

    /// A filter from registered names and ``aliases``.
    ///
    /// - Throws: `StageError.unknownFormats` for a name that is neither.
    public init(_ names: [String] = []) throws(StageError) {
        self.names = names
        guard !names.isEmpty else {
            allowed = nil
            return
        }
        let known = FormatRegistry.all.map { $0.name }
        var allowed: Set<String> = [Dense.name]
        for name in names {
            if let formats = Self.aliases[name] {
                allowed.formUnion(formats)
            } else if known.contains(name) {
                allowed.insert(name)
            } else {
                throw .unknownFormats(name, known: Set(Self.aliases.keys + known).sorted())
            }
        }
        self.allowed = allowed
    }

    /// Whether every format in `spec` is allowed.
    public func allows(_ spec: FormatSpec) -> Bool {
        guard let allowed else { return true }
        switch spec.format {
        // Made of others: allowed when those are.
        case Blocks.name, Sum.name: return spec.parts.allSatisfy(allows)
        case Quantized.name:
            let isDense = spec.parts.allSatisfy { $0.format == Dense.name }
            return allowed.contains(isDense ? Self.quantizedDense : Self.quantizedCores)
                && spec.parts.allSatisfy(allows)
        default: return allowed.contains(spec.format)
        }
    }
}
