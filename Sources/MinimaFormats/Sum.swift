import MinimaCore
import MinimaTensor

/// A sum of parts in any formats: quantised + low rank, + exact outliers.
///
/// Specification: no modes, no ranks; `parts`, two or more, each a specification for the whole
/// weight. Stored: `parts.<i>.<the part's name>`.
///
/// Decomposed by turns: each part is fitted to what the others leave, under the metric. The first
/// round goes from the part with the fewest numbers to the one with the most, so that outliers and
/// the low rank are taken out of the weight before the rest is quantised (as in SpQR and in the
/// initialisation of LoftQ-like schemes on salient directions); later rounds take them as listed.
/// No error has to fall in a format that is not solved exactly, so the best round is what is kept.
public struct Sum: LinearWeight {
    /// `sum`.
    public static let name = "sum"

    /// The parts' specifications.
    public let spec: FormatSpec
    /// The summands.
    public let parts: [any LinearWeight]

    /// Rows of each part.
    public var outputs: Int { parts[0].outputs }
    /// Columns of each part.
    public var inputs: Int { parts[0].inputs }
    /// The parts' tensors, part by part.
    public var tensors: [(name: String, tensor: Tensor)] {
        Parts.tensors(parts, prefix: Self.prefix)
    }
    /// Those of all parts.
    public var multiplyAdds: Int { parts.reduce(0) { $0 + $1.multiplyAdds } }
    /// Those of all parts.
    public var parameterCount: Int { parts.reduce(0) { $0 + $1.parameterCount } }

    /// Rounds at most, and the gain of a round, relative, below which no other follows.
    private static let rounds = 8
    private static let leastGain = 1e-3

    private static func shapes(_ spec: FormatSpec, _ outputs: Int, _ inputs: Int)
        -> [(outputs: Int, inputs: Int)]
    {
        spec.parts.map { _ in (outputs, inputs) }
    }

    private static func check(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError) {
        try Parts.check(spec, format: name, least: 2)
        try checkSize(outputs: outputs, inputs: inputs)
        guard spec.outputModes.isEmpty, spec.inputModes.isEmpty else {
            throw .unusedFields(format: name, fields: ["output_modes", "input_modes"])
        }
    }

    /// Each part's tensors.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        try check(spec, outputs: outputs, inputs: inputs)
        return try Parts.layout(
            spec.parts, shapes: shapes(spec, outputs, inputs), prefix: prefix)
    }

    /// Those of all parts.
    public static func parameterCount(_ spec: FormatSpec, outputs: Int, inputs: Int)
        throws(FormatError) -> Int
    {
        try check(spec, outputs: outputs, inputs: inputs)
        return try Parts.parameterCount(spec.parts, shapes: shapes(spec, outputs, inputs))
    }

    /// Fits the parts by turns.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws -> Sum
    {
        let (outputs, inputs) = try checkWeight(weight, spec)
        let exact = try exact(weight)
        let metric = try prepared(metric, for: weight)
        let shape = [(outputs: outputs, inputs: inputs)]
        let sizes = try spec.parts.map { try Parts.parameterCount([$0], shapes: shape) }
        let smallestFirst = spec.parts.indices.sorted { (sizes[$0], $0) < (sizes[$1], $1) }
        var fitted = [(any LinearWeight)?](repeating: nil, count: spec.parts.count)
        var shares = [Tensor?](repeating: nil, count: spec.parts.count)
        // W minus all shares.
        var rest = exact
        var best: (parts: [any LinearWeight], error: Double)?
        for round in 0..<rounds {
            for index in round == 0 ? smallestFirst : Array(spec.parts.indices) {
                let target = try shares[index].map { try rest + $0 } ?? rest
                let part = try Parts.fit(
                    target, spec.parts[index], metric: metric, dtype: weight.dtype)
                let share = try part.exactMatrix()
                (fitted[index], shares[index]) = (part, share)
                rest = try target - share
            }
            let error = try metric?.squaredNorm(rest) ?? rest.square().sum().item()
            let before = best?.error ?? .infinity
            if error < before { best = (fitted.compactMap(\.self), error) }
            if error == 0 || error > before * (1 - leastGain) { break }
        }
        return Sum(spec: spec, parts: best?.parts ?? [])
    }

    private init(spec: FormatSpec, parts: [any LinearWeight]) {
        self.spec = spec
        self.parts = parts
    }

    /// Takes the parts' tensors, part by part.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.init(
            spec: spec,
            parts: try Parts.make(
                spec.parts, shapes: Self.shapes(spec, outputs, inputs), tensors: tensors))
    }

    /// Each part keeps what it keeps.
    public func replacing(_ tensors: [Tensor]) throws(FormatError) -> Sum {
        try replacing(tensorsOfParts: tensors)
    }

    /// The sum of the parts' results.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        var sum = try parts[0].forward(x)
        for part in parts.dropFirst() { sum = try sum + part.forward(x) }
        return sum
    }

    /// The sum of the parts' matrices.
    public func reconstruct() throws(TensorError) -> Tensor {
        var sum = try parts[0].reconstruct()
        for part in parts.dropFirst() { sum = try sum + part.reconstruct() }
        return sum
    }
}

extension Sum: CompositeWeight {
    static let prefix = "parts"

    func replacing(parts: [any LinearWeight]) -> Sum { Sum(spec: spec, parts: parts) }

    func shares(of weight: Tensor) -> [Tensor]? { nil }

    /// `weight` and, last, `part`; those of a sum beside `part`.
    ///
    /// - Precondition: Both have the same sizes.
    static func adding(_ part: some LinearWeight, to weight: some LinearWeight) -> Sum {
        let parts = (weight as? Sum)?.parts ?? [weight]
        return Sum(
            spec: FormatSpec(format: name, parts: (parts + [part]).map(\.spec)),
            parts: parts + [part])
    }
}
