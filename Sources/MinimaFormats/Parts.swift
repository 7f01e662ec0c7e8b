import MinimaCore
import MinimaTensor

/// A weight made of others, any of which can be replaced.
protocol CompositeWeight: LinearWeight {
    /// What its parts' tensors are called before their numbers.
    static var prefix: String { get }
    /// In order.
    var parts: [any LinearWeight] { get }
    /// This weight with as many other parts of the same sizes.
    func replacing(parts: [any LinearWeight]) -> Self
    /// What a dense weight `[outputs, inputs]` is to each part; `nil` where that depends on the
    /// others.
    func shares(of weight: Tensor) throws(TensorError) -> [Tensor]?
}

extension CompositeWeight {
    /// Each part keeps what it keeps.
    func replacing(tensorsOfParts tensors: [Tensor]) throws(FormatError) -> Self {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        var rest = tensors[...]
        var replaced: [any LinearWeight] = []
        for part in parts {
            let count = part.tensors.count
            replaced.append(try part.replacing(Array(rest.prefix(count))))
            rest = rest.dropFirst(count)
        }
        return replacing(parts: replaced)
    }
}

/// What formats made of other formats share.
enum Parts {
    /// Checks that `spec` has the name, the parts and nothing else, and that its nesting ends.
    static func check(_ spec: FormatSpec, format: String, least: Int) throws(FormatError) {
        guard spec.format == format else {
            throw .wrongFormat(found: spec.format, needed: format)
        }
        guard spec.ranks.isEmpty, spec.bits == nil, spec.groupSize == nil, spec.levels == .normal
        else {
            throw .unusedFields(format: format, fields: ["ranks", "bits", "group_size", "levels"])
        }
        guard spec.parts.count >= least else {
            throw .wrongPartCount(
                format: format, found: spec.parts.count, needed: "at least \(least)")
        }
        guard !isDeeper(spec, than: FormatSpec.deepest) else { throw .tooDeep(format: format) }
    }

    /// Whether `spec` holds more than `depth` formats inside each other, itself included.
    static func isDeeper(_ spec: FormatSpec, than depth: Int) -> Bool {
        depth == 0 || spec.parts.contains { isDeeper($0, than: depth - 1) }
    }

    /// The layouts of `parts` of the given shapes, each part's under `<prefix>.<index>.`.
    static func layout(
        _ parts: [FormatSpec], shapes: [(outputs: Int, inputs: Int)], prefix: String
    ) throws(FormatError) -> [TensorLayout] {
        var layout: [TensorLayout] = []
        for (index, (part, shape)) in zip(parts, shapes).enumerated() {
            let format = try FormatRegistry.format(part.format)
            for item in try format.layout(part, outputs: shape.outputs, inputs: shape.inputs) {
                layout.append(
                    TensorLayout(
                        name: "\(prefix).\(index).\(item.name)", shape: item.shape,
                        dtype: item.dtype))
            }
        }
        return layout
    }

    /// The numbers that `parts` of the given shapes consist of.
    static func parameterCount(_ parts: [FormatSpec], shapes: [(outputs: Int, inputs: Int)])
        throws(FormatError) -> Int
    {
        var counts: [Int] = []
        for (part, shape) in zip(parts, shapes) {
            let format = try FormatRegistry.format(part.format)
            counts.append(
                try format.parameterCount(part, outputs: shape.outputs, inputs: shape.inputs))
        }
        return Sizes.saturatingSum(counts)
    }

    /// Parts from the tensors of all of them in order, whose number is that of the layout.
    static func make(
        _ parts: [FormatSpec], shapes: [(outputs: Int, inputs: Int)], tensors: [Tensor]
    ) throws(FormatError) -> [any LinearWeight] {
        var made: [any LinearWeight] = []
        var rest = tensors[...]
        for (part, shape) in zip(parts, shapes) {
            let format = try FormatRegistry.format(part.format)
            let count = try format.layout(part, outputs: shape.outputs, inputs: shape.inputs).count
            made.append(
                try format.init(
                    spec: part, outputs: shape.outputs, inputs: shape.inputs,
                    tensors: Array(rest.prefix(count))))
            rest = rest.dropFirst(count)
        }
        return made
    }

    /// `target` in `spec`'s format, stored as `dtype`.
    static func fit(_ target: Tensor, _ spec: FormatSpec, metric: Metric?, dtype: DType) throws
        -> any LinearWeight
    {
        let rounded = try target.to(dtype: dtype).contiguous()
        return try FormatRegistry.format(spec.format).decompose(
            rounded, spec: spec, metric: metric)
    }

    /// The tensors of `parts`, each part's under `<prefix>.<index>.`.
    static func tensors(_ parts: [any LinearWeight], prefix: String)
        -> [(name: String, tensor: Tensor)]
    {
        parts.enumerated().flatMap { index, part in
            part.tensors.map { ("\(prefix).\(index).\($0.name)", $0.tensor) }
        }
    }
}
