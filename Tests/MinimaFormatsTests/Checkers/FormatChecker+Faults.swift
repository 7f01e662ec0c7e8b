import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

extension FormatChecker {
    /// The forward is affine in each tensor, so a difference over any step is the gradient's share.
    func gradientsFlow() throws {
        let weight = try weight(20)
        let x = try Samples.normal([2, 2, inputs], seed: 21)
        let probe = try Samples.normal([2, 2, outputs], seed: 22)
        try forEachSpec { spec in
            let stored = try Format.decompose(weight, spec: spec, metric: nil)
            let tensors = try stored.tensors.map { try $0.tensor.clone() }
            func format(_ tensors: [Tensor]) throws -> Format {
                try Format(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
            }
            func value(_ tensors: [Tensor]) throws -> Tensor {
                try (format(tensors).forward(x) * probe).sum()
            }
            let trained = tensors.indices.filter { tensors[$0].dtype.isFloatingPoint }
            #expect(!trained.isEmpty)
            for index in trained { try tensors[index].setRequiresGrad() }
            let gradients = try value(tensors).gradients(trained.map { tensors[$0] })
            let plain = try tensors.map { try $0.detach() }
            let scale = try x.length() * probe.length()
            for (index, gradient) in zip(trained, gradients) {
                let gradient = try #require(gradient)
                #expect(gradient.shape == tensors[index].shape)
                let direction = try Samples.normal(tensors[index].shape, seed: 23)
                    .to(dtype: tensors[index].dtype)
                var moved = plain
                moved[index] = try plain[index] + direction
                let difference = try value(moved).item() - value(plain).item()
                let slope = try (gradient * direction).sum().item()
                let bound =
                    try roundingBound(
                        size: outputs + inputs, steps: tensors.count, dtype: direction.dtype)
                    * scale * format(moved).gain()
                #expect(abs(difference - slope) <= bound, "\(spec)")
                // In float32 the bound is too wide to tell a slope from none.
                #expect(
                    direction.dtype == .float64
                        ? abs(slope) > bound : try gradient.length() > 0)
            }
        }
    }

    func brokenNumbersAreRefused() throws {
        guard Format.name != Dense.name else { return }
        let weight = try weight(24)
        let good = try Samples.metric(inputs, tokens: 50, seed: 25, outputs: outputs)
        let output = try #require(good.output)
        let spec = try #require(try Samples.specs(Format.self).first)
        func decompose(_ metric: Metric) throws {
            _ = try Format.decompose(weight, spec: spec, metric: metric)
        }
        for bad in [Double.nan, .infinity, -.infinity] {
            let broken = try weight.clone()
            try broken.narrow(0, 3..<4).narrow(1, 5..<6).copy(from: .full([1, 1], bad))
            let error = #expect(throws: TensorError.self) {
                try Format.decompose(broken, spec: spec, metric: nil)
            }
            #expect("\(error.map { "\($0)" } ?? "")".contains("given 1 values"))
            let moment = try Tensor.full([inputs, inputs], bad, dtype: .float64)
            #expect(throws: TensorError.self) { try decompose(Metric(input: moment)) }
            let diagonal = try OutputMetric(diagonal: Tensor.full([outputs], bad))
            #expect(throws: TensorError.self) {
                try decompose(Metric(input: good.input, output: diagonal))
            }
        }
        let narrow = try Samples.metric(inputs - 1, tokens: 20, seed: 25)
        #expect(throws: FormatError.self) { try decompose(narrow) }
        let short = try output.narrow(0..<outputs - 1)
        #expect(throws: FormatError.self) {
            try decompose(Metric(input: good.input, output: short))
        }
        for shape in [[outputs * inputs], [2, outputs / 2, inputs]] {
            #expect(throws: FormatError.self) {
                try Format.decompose(weight.reshape(shape), spec: spec, metric: nil)
            }
        }
    }

    /// Random specifications, most of them nonsense, are refused or have a layout that counts.
    func hostileSpecsAreRefused() throws {
        var pool = HostileNumbers()
        var accepted = 0
        let samples = try Samples.specs(Format.self)
        for round in 0..<8000 {
            let rows = round % 2 == 0 ? outputs : pool.size()
            let columns = round % 2 == 0 ? inputs : pool.size()
            let spec = pool.spec(
                Format.name, rows, columns, like: samples[round / 2 % samples.count])
            if try counts(spec, rows, columns) { accepted += 1 }
        }
        #expect(accepted > 0)
        let foreign = FormatSpec(format: "other", ranks: [1])
        #expect(throws: FormatError.wrongFormat(found: "other", needed: Format.name)) {
            try Format.layout(foreign, outputs: 2, inputs: 2)
        }
        for sample in samples {
            var (deep, bits, group, ranks) = (sample, sample, sample, sample)
            for _ in 0..<5000 { deep = FormatSpec(format: Format.name, parts: [deep]) }
            bits.bits = .max
            group.groupSize = .max
            ranks.ranks = Array(repeating: 1, count: 4000)
            // Where there are groups, one that is too long is the whole row.
            for spec in [deep, bits, ranks] + (sample.bits == nil ? [group] : []) {
                #expect(throws: FormatError.self) {
                    try Format.layout(spec, outputs: outputs, inputs: inputs)
                }
            }
        }
    }

    private func counts(_ spec: FormatSpec, _ outputs: Int, _ inputs: Int) throws -> Bool {
        do throws(FormatError) {
            let count = try Format.parameterCount(spec, outputs: outputs, inputs: inputs)
            #expect(count > 0)
            return true
        } catch {
            #expect(!error.description.isEmpty)
            return false
        }
    }
}

/// Sizes and specifications that a damaged or malicious file might state.
struct HostileNumbers {
    private var numbers = SplitMix(0xF0)
    private let choices = [
        0, -1, 1, 1, 2, 3, 4, 6, 8, 12, 24, 36, 1 << 20, 1 << 31, 1 << 44, 1 << 62, Int.max,
        Int.min,
    ]

    mutating func size() -> Int { choices[Int.random(in: 0..<choices.count, using: &numbers)] }

    private mutating func sizes() -> [Int] {
        var sizes: [Int] = []
        let tame = Bool.random(using: &numbers)
        for _ in 0..<Int.random(in: 0...4, using: &numbers) {
            sizes.append(tame ? Int.random(in: 1...4, using: &numbers) : size())
        }
        return sizes
    }

    /// A specification out of thin air, or `sample` with a field or two replaced.
    mutating func spec(
        _ name: String, _ outputs: Int, _ inputs: Int, like sample: FormatSpec
    ) -> FormatSpec {
        guard Bool.random(using: &numbers) else {
            return FormatSpec(
                format: name, outputModes: modes(of: outputs), inputModes: modes(of: inputs),
                ranks: sizes())
        }
        var spec = sample
        for _ in 0..<Int.random(in: 0...2, using: &numbers) {
            switch Int.random(in: 0..<7, using: &numbers) {
            case 0: spec.outputModes = modes(of: outputs)
            case 1: spec.inputModes = modes(of: inputs)
            case 2: spec.ranks = sizes()
            case 3: spec.bits = size()
            case 4: spec.groupSize = size()
            case 5: spec.parts = spec.parts.shuffled(using: &numbers) + [FormatSpec(format: "no")]
            default:
                guard let index = spec.parts.indices.randomElement(using: &numbers) else { break }
                spec.parts[index] = self.spec(
                    spec.parts[index].format, outputs, inputs, like: spec.parts[index])
            }
        }
        return spec
    }

    /// Mostly modes that multiply to `size`, sometimes none or any.
    private mutating func modes(of size: Int) -> [Int] {
        guard (1...64).contains(size), Int.random(in: 0..<8, using: &numbers) > 0 else {
            return sizes()
        }
        var (rest, modes) = (size, [Int]())
        for _ in 0..<Int.random(in: 0...3, using: &numbers) {
            let divisors = (1...rest).filter { rest % $0 == 0 }
            let divisor = divisors[Int.random(in: 0..<divisors.count, using: &numbers)]
            modes.append(divisor)
            rest /= divisor
        }
        if !modes.isEmpty { modes[modes.count - 1] *= rest }
        return modes
    }
}
