import MinimaCore
import MinimaTensor

/// How the sides of a weight are split into modes.
public struct TensorModes: Sendable, Hashable {
    /// Factors of the outputs, outermost first.
    public var outputModes: [Int]
    /// Factors of the inputs, outermost first.
    public var inputModes: [Int]

    /// A split.
    public init(outputModes: [Int], inputModes: [Int]) {
        self.outputModes = outputModes
        self.inputModes = inputModes
    }
}

/// A format that sees a weight as a tensor, so that modes have to be chosen.
public protocol TensorFormat: BudgetedFormat {
    /// The most accurate specification with given modes and at most `parameters` parameters, nothing
    /// known of the weight.
    static func spec(fitting parameters: Int, outputModes: [Int], inputModes: [Int])
        throws(FormatError) -> FormatSpec

    /// Splits worth trying for a weight `[outputs, inputs]`, the most promising first.
    ///
    /// - Parameter unit: Outputs that belong together: a head's, a patch's, a stacked member's.
    static func modeChoices(outputs: Int, inputs: Int, unit: Int) -> [TensorModes]

    /// The specification that keeps a balanced pair of output modes whole, which holds any matrix of
    /// `rank` in as many numbers as ``Interpolative`` and the pivots; `nil` where there is none.
    static func wholeModes(outputs: Int, inputs: Int, rank: Int) -> FormatSpec?

    /// A specification with at most `parameters` parameters whose modes are truly split, so that it is
    /// no product of two matrices at that price: the inputs in two, or, in formats that keep them whole
    /// and split the outputs only, these.
    ///
    /// - Throws: `FormatError.notSplit` where no modes split such a weight, `FormatError.budgetTooSmall`,
    ///   naming the smallest budget of those that do.
    static func splitSpec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec

    /// Per fraction of outputs·inputs and split the specification with the smallest bound on its
    /// error, and that bound; fractions that no rank fits are left out.
    ///
    /// - Parameter spectra: Of the weight under its metric, computed once for all formats.
    /// - Returns: `squaredError` tr(ΔᵀHΔC). Without H an upper bound of what decomposing leaves, where
    ///   the input is not split; with H, or split, an estimate.
    static func candidates(_ spectra: TensorSpectra, fractions: [Double], modes: [TensorModes])
        throws -> [(spec: FormatSpec, squaredError: Double)]
}

extension TensorFormat {
    /// Candidates for one weight; see ``candidates(_:fractions:modes:)``.
    public static func candidates(
        _ weight: Tensor, metric: Metric?, fractions: [Double], modes: [TensorModes]
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        try candidates(
            TensorSpectra(weight, metric: metric), fractions: fractions, modes: modes)
    }

    /// `spec` where its ranks are possible.
    fileprivate static func checked(_ spec: FormatSpec, outputs: Int, inputs: Int) -> FormatSpec? {
        (try? layout(spec, outputs: outputs, inputs: inputs)).map { _ in spec }
    }

    /// The first of ``modeChoices(outputs:inputs:unit:)`` that splits the inputs.
    public static func splitSpec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        let choices = modeChoices(outputs: outputs, inputs: inputs, unit: 0)
        guard let split = choices.first(where: { !$0.inputModes.contains(inputs) }) else {
            throw .notSplit(format: name, side: "input", outputs: outputs, inputs: inputs)
        }
        return try spec(
            fitting: parameters, outputModes: split.outputModes, inputModes: split.inputModes)
    }

    /// Pairs of output modes beside an input of its own, and what `complete` makes of them.
    ///
    /// The balanced pair (as ADA-Tucker reshapes; Zhong et al. 2019, section 3.2), units as they lie,
    /// and few large groups: two stacked members, groups of heads.
    static func pairChoices(outputs: Int, unit: Int) -> [[Int]] {
        let balanced = Sizes.divisor(of: outputs, nearest: Double(outputs).squareRoot())
        let firsts =
            [balanced] + (unit > 0 && outputs % unit == 0 ? [outputs / unit] : [])
            + [2, 4, 8].filter { outputs % $0 == 0 }
        var pairs: [[Int]] = []
        for first in firsts where first > 0 {
            let pair = [first, outputs / first]
            if !pairs.contains(pair), first < outputs, first > 1 || outputs == 1 {
                pairs.append(pair)
            }
        }
        return pairs.isEmpty ? [[1, outputs]] : pairs
    }
}

extension Tucker: TensorFormat {
    /// Ranks `[o₁, o₂, rank]`.
    public static func wholeModes(outputs: Int, inputs: Int, rank: Int) -> FormatSpec? {
        let modes = CoreChain.inputCore(outputs: outputs, inputs: inputs).outputs.prefix(2)
        return checked(
            FormatSpec(
                format: name, outputModes: Array(modes), inputModes: [inputs],
                ranks: modes + [rank]), outputs: outputs, inputs: inputs)
    }

    /// The balanced pair of output modes, of which the second has a rank of three quarters of its size,
    /// and the largest rank of the inputs that fits.
    public static func splitSpec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        let first = Sizes.divisor(of: outputs, nearest: Double(outputs).squareRoot())
        let second = outputs / first
        let kept = max(3 * second / 4, 1)
        // None of the ranks may exceed the product of the others.
        let smallest = (max(first, kept) - 1) / min(first, kept) + 1
        let largest = min(inputs, Sizes.saturatingProduct([first, kept]))
        guard first > 1, kept < second, smallest <= largest else {
            throw .notSplit(format: name, side: "output", outputs: outputs, inputs: inputs)
        }
        func count(_ rank: Int) -> Int {
            Self.count([first, kept, rank], modes: [first, second, inputs])
        }
        guard count(smallest) <= parameters else {
            throw .budgetTooSmall(
                format: name, parameters: parameters, smallest: count(smallest))
        }
        // The core of the largest rank may take less than that of the one before: it has no pivots.
        var (low, high) = (count(largest) <= parameters ? largest : smallest, largest)
        while low < high {
            let middle = high - (high - low) / 2
            if count(middle) <= parameters { low = middle } else { high = middle - 1 }
        }
        return FormatSpec(
            format: name, outputModes: [first, second], inputModes: [inputs],
            ranks: [first, kept, low])
    }

    /// Output pairs beside the whole input.
    public static func modeChoices(outputs: Int, inputs: Int, unit: Int) -> [TensorModes] {
        pairChoices(outputs: outputs, unit: unit).map {
            TensorModes(outputModes: $0, inputModes: [inputs])
        }
    }
}

extension CP: TensorFormat {
    /// A sum of outer products holds no matrix of a given rank at its price.
    public static func wholeModes(outputs: Int, inputs: Int, rank: Int) -> FormatSpec? { nil }

    /// Output pairs beside the whole input.
    public static func modeChoices(outputs: Int, inputs: Int, unit: Int) -> [TensorModes] {
        Tucker.modeChoices(outputs: outputs, inputs: inputs, unit: unit)
    }
}

extension BlockTerm: TensorFormat {
    /// A sum of blocks holds no matrix of a given rank at its price.
    public static func wholeModes(outputs: Int, inputs: Int, rank: Int) -> FormatSpec? { nil }

    /// Output pairs beside the whole input.
    public static func modeChoices(outputs: Int, inputs: Int, unit: Int) -> [TensorModes] {
        Tucker.modeChoices(outputs: outputs, inputs: inputs, unit: unit)
    }
}

extension TensorTrain: TensorFormat {
    /// Bonds `[o₁, rank]`, the input as the last core.
    public static func wholeModes(outputs: Int, inputs: Int, rank: Int) -> FormatSpec? {
        let modes = CoreChain.inputCore(outputs: outputs, inputs: inputs)
        return checked(
            FormatSpec(
                format: name, outputModes: modes.outputs, inputModes: modes.inputs,
                ranks: [modes.outputs[0], rank]), outputs: outputs, inputs: inputs)
    }

    /// Output pairs with the whole input as the last core; two balanced pairs; output pairs with the
    /// whole input in the first core, whose second core is then what stacked members or heads share
    /// at their outputs.
    public static func modeChoices(outputs: Int, inputs: Int, unit: Int) -> [TensorModes] {
        let split = CoreChain.twoPairs(outputs: outputs, inputs: inputs)
        let pairs = pairChoices(outputs: outputs, unit: unit)
        return pairs.map { TensorModes(outputModes: $0 + [1], inputModes: [1, 1, inputs]) }
            + [TensorModes(outputModes: split.outputs, inputModes: split.inputs)]
            + pairs.map { TensorModes(outputModes: $0, inputModes: [inputs, 1]) }
    }
}

extension TensorRing: TensorFormat {
    /// A train's, with a closing bond of 1.
    public static func wholeModes(outputs: Int, inputs: Int, rank: Int) -> FormatSpec? {
        let modes = CoreChain.inputCore(outputs: outputs, inputs: inputs)
        return checked(
            FormatSpec(
                format: name, outputModes: modes.outputs, inputModes: modes.inputs,
                ranks: [1, modes.outputs[0], rank]), outputs: outputs, inputs: inputs)
    }

    /// Those of a train.
    public static func modeChoices(outputs: Int, inputs: Int, unit: Int) -> [TensorModes] {
        TensorTrain.modeChoices(outputs: outputs, inputs: inputs, unit: unit)
    }
}
