import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// What every format promises; run over all of `FormatRegistry.all` at `Samples.specs`.
struct FormatChecker<Format: LinearWeight> {
    let outputs = Samples.rows
    let inputs = Samples.columns

    /// Runs `body` for every sample specification.
    func forEachSpec(_ body: (FormatSpec) throws -> Void) throws {
        let specs = try Samples.specs(Format.self)
        #expect(!specs.isEmpty)
        for spec in specs { try body(spec) }
    }

    func weight(_ seed: UInt64, _ dtype: DType = .float64) throws -> Tensor {
        try Samples.normal([outputs, inputs], seed: seed).to(dtype: dtype)
    }

    /// `stored` with the tensors that have the model's own type in `dtype`.
    func converted(_ stored: Format, _ dtype: DType) throws -> Format {
        let layout = try Format.layout(stored.spec, outputs: outputs, inputs: inputs)
        let tensors = try zip(layout, stored.tensors).map {
            $0.dtype == nil ? try $1.tensor.to(dtype: dtype) : $1.tensor
        }
        return try Format(
            spec: stored.spec, outputs: outputs, inputs: inputs, tensors: tensors)
    }

    func layoutsAreKept() throws {
        for dtype in [DType.bfloat16, .float32] {
            let weight = try weight(3, dtype)
            try forEachSpec { spec in
                let layout = try Format.layout(spec, outputs: outputs, inputs: inputs)
                let stored = try Format.decompose(weight, spec: spec, metric: nil)
                #expect(stored.spec == spec)
                #expect([stored.outputs, stored.inputs] == weight.shape)
                #expect(Set(layout.map(\.name)).count == layout.count)
                #expect(stored.tensors.map(\.name) == layout.map(\.name))
                #expect(stored.tensors.map(\.tensor.shape) == layout.map(\.shape))
                #expect(stored.tensors.map(\.tensor.dtype) == layout.map { $0.dtype ?? dtype })
                let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
                #expect(stored.parameterCount == count)
                // Packed codes may stand for more numbers than there are bytes.
                if spec.nested.allSatisfy({ $0.bits == nil }) {
                    #expect(count == layout.reduce(0) { $0 + $1.shape.reduce(1, *) })
                }
                let bytes = layout.reduce(0) { $0 + $1.count * ($1.dtype ?? dtype).byteCount }
                #expect(
                    try Format.byteCount(spec, outputs: outputs, inputs: inputs, dtype: dtype)
                        == bytes)
                #expect(stored.byteCount == bytes)
                #expect(stored.multiplyAdds > 0)
                let matrix = try stored.reconstruct()
                #expect(matrix.shape == weight.shape)
                // Scales of a fixed type stay in it.
                let isFixed = layout.contains { $0.dtype?.isFloatingPoint == true }
                #expect(isFixed ? matrix.dtype.isFloatingPoint : matrix.dtype == dtype)
            }
        }
    }

    func forwardIsTheMatrix() throws {
        let weight = try weight(6)
        try forEachSpec { spec in
            let stored = try Format.decompose(weight, spec: spec, metric: nil)
            try forwardAgrees(stored)
            let wrong = try Samples.normal([2, inputs + 1], seed: 8)
            #expect(throws: TensorError.self) { try stored.forward(wrong) }
            #expect(throws: TensorError.self) {
                try stored.forward(Tensor.ones([], dtype: .float64))
            }
        }
    }

    /// Forward against the reconstructed matrix, for all kinds of leading dimensions.
    func forwardAgrees(_ stored: Format) throws {
        let matrix = try stored.reconstruct()
        for leading in [[], [3], [2, 3], [0], [2, 1, 2]] {
            let x = try Samples.normal(leading + [stored.inputs], seed: 7)
            let result = try stored.forward(x)
            #expect(result.shape == leading + [stored.outputs])
            // Norms × ε × terms, twice over the two ways.
            let terms = stored.tensors.reduce(stored.outputs + stored.inputs) {
                $0 + ($1.tensor.shape.max() ?? 1)
            }
            let epsilon = matrix.dtype.epsilon
            let bound = try 2 * Double(terms) * epsilon * stored.gain() * x.length()
            let error = try result.distance(to: x.linear(matrix.to(dtype: .float64)))
            #expect(error <= bound, "\(stored.spec) at \(leading)")
        }
    }

    func halfPrecisionWorks() throws {
        let x = try Samples.normal([5, inputs], seed: 10)
        for dtype in [DType.bfloat16, .float16, .float32] {
            let weight = try weight(9, dtype)
            try forEachSpec { spec in
                let stored = try Format.decompose(weight, spec: spec, metric: nil)
                let exact = try converted(stored, .float64)
                let result = try stored.forward(x.to(dtype: dtype))
                #expect(result.dtype == dtype)
                let rounded = try x.to(dtype: dtype).to(dtype: .float64)
                // Each contraction rounds its input and its result to `dtype`; sums are float32.
                let steps = Double(stored.tensors.count + 1)
                let error = try result.distance(to: exact.forward(rounded))
                let bound = try steps * dtype.epsilon * exact.gain() * rounded.length()
                #expect(error <= bound, "\(spec) in \(dtype)")
                #expect(error > 0)
            }
        }
    }

    func roundTrips() throws {
        let weight = try weight(11, .float32)
        try forEachSpec { spec in
            let stored = try Format.decompose(weight, spec: spec, metric: nil)
            let tensors = stored.tensors.map(\.tensor)
            let again = try Format(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
            #expect(try again.reconstruct().isIdentical(to: stored.reconstruct()))
            #expect(again.multiplyAdds == stored.multiplyAdds)
            #expect(again.tensors.map(\.name) == stored.tensors.map(\.name))
            func refused(_ tensors: [Tensor], _ outputs: Int, _ inputs: Int) {
                #expect(throws: FormatError.self, "\(spec)") {
                    try Format(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
                }
            }
            refused(tensors + tensors, outputs, inputs)
            refused([], outputs, inputs)
            // Sparse indices know nothing of sides.
            if (try? Format.layout(spec, outputs: inputs, inputs: outputs))
                != (try? Format.layout(spec, outputs: outputs, inputs: inputs))
            {
                refused(tensors, inputs, outputs)
            }
            for index in tensors.indices {
                var wrong = tensors
                wrong[index] = try wrong[index].unsqueeze(0)
                refused(wrong, outputs, inputs)
            }
        }
    }

    func twoRunsAreIdentical() throws {
        let weight = try weight(12, .float32)
        let metrics = [
            try Samples.metric(inputs, tokens: 100, seed: 13),
            try Samples.metric(inputs, tokens: 100, seed: 13, outputs: outputs),
        ]
        try forEachSpec { spec in
            for metric in metrics {
                let first = try Format.decompose(weight, spec: spec, metric: metric)
                let second = try Format.decompose(weight, spec: spec, metric: metric)
                for (left, right) in zip(first.tensors, second.tensors) {
                    #expect(try left.tensor.isIdentical(to: right.tensor))
                    #expect(left.tensor.strides == (try left.tensor.contiguous().strides))
                }
            }
        }
    }

    func metricLowersTheWeightedError() throws {
        guard Format.name != Dense.name else { return }
        try forEachSpec { spec in
            var distances = (plain: 0.0, weighted: 0.0)
            for seed in UInt64(30)..<34 {
                let weight = try weight(seed)
                let plain = try Format.decompose(weight, spec: spec, metric: nil).reconstruct()
                for tokens in [400, 20] {
                    let metric = try Samples.metric(inputs, tokens: tokens, seed: seed)
                    let weighted = try Format.decompose(weight, spec: spec, metric: metric)
                        .reconstruct()
                    let (before, after) = try (
                        metric.norm(plain - weight), metric.norm(weighted - weight)
                    )
                    #expect(after < before, "\(spec) at \(tokens) tokens")
                    distances.plain += try plain.distance(to: weight)
                    distances.weighted += try weighted.distance(to: weight)
                }
            }
            #expect(distances.plain < distances.weighted, "\(spec)")
        }
    }

    /// Told of H, a format does better under it than not knowing it; on average, as some search.
    func outputMetricLowersTheWeightedError() throws {
        guard Format.name != Dense.name else { return }
        try forEachSpec { spec in
            var errors = (without: 0.0, with: 0.0)
            for seed in UInt64(34)..<38 {
                let weight = try weight(seed)
                let metric = try Samples.metric(inputs, tokens: 400, seed: seed, outputs: outputs)
                for input in [Metric?.none, try Metric(input: metric.input)] {
                    let blind = try Format.decompose(weight, spec: spec, metric: input)
                    errors.without += try metric.norm(blind.reconstruct() - weight) / 2
                }
                let weighted = try Format.decompose(weight, spec: spec, metric: metric)
                errors.with += try metric.norm(weighted.reconstruct() - weight)
            }
            #expect(errors.with <= errors.without, "\(spec)")
        }
    }

    func nothingStaysNothing() throws {
        let zero = try Tensor.zeros([outputs, inputs], dtype: .float64)
        let metrics: [Metric?] = [
            nil, try Samples.metric(inputs, tokens: 3, seed: 26),
            try Samples.metric(inputs, tokens: 3, seed: 26, outputs: outputs),
            try Metric(input: Tensor.zeros([inputs, inputs])),
        ]
        try forEachSpec { spec in
            for metric in metrics {
                let stored = try Format.decompose(zero, spec: spec, metric: metric)
                #expect(try stored.reconstruct().length() == 0, "\(spec)")
            }
        }
    }
}

extension LinearWeight {
    /// A bound on what the stored tensors make of an input of norm 1 and of its rounding errors:
    /// the product of the norms of what is multiplied, summed over the parts of a composite.
    func gain() throws -> Double {
        if let sum = self as? Sum { return try sum.parts.reduce(0) { try $0 + $1.gain() } }
        if let blocks = self as? Blocks {
            return try blocks.blocks.reduce(0) { try $0 + $1.gain() }
        }
        let whole = try reconstruct().length()
        // Codes stand for a factor that is not seen here: one of r orthonormal columns is √r times
        // as long as its product, one with entries up to 2 at most 2·√r times.
        guard spec.bits == nil else { return 2 * whole * Double(max(outputs, inputs)).squareRoot() }
        // Beside indices a factor may act on one side only of what it is multiplied with.
        let share = tensors.allSatisfy { $0.tensor.dtype.isFloatingPoint } ? 0.0 : 1
        return try tensors.reduce(1) { product, item in
            try item.tensor.dtype.isFloatingPoint
                ? product * (item.tensor.length() + share) : product
        } + whole
    }
}

extension FormatSpec {
    /// This specification and those inside it.
    var nested: [FormatSpec] { [self] + parts.flatMap(\.nested) }
}
