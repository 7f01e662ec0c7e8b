extension CoreChain {
    /// Modes of two cores whose pairs m·n are as near each other in size as divisors allow, so that
    /// the bond between them can be as large as any.
    ///
    /// The output modes are balanced among themselves; the input modes make up for what is left, so
    /// a prime side is taken whole by one core and the other side split against it.
    static func twoPairs(outputs: Int, inputs: Int) -> (outputs: [Int], inputs: [Int]) {
        let output = Sizes.divisor(of: outputs, nearest: Double(outputs).squareRoot())
        let half = (Double(outputs) * Double(inputs)).squareRoot()
        let input = Sizes.divisor(of: inputs, nearest: half / Double(output))
        return ([output, outputs / output], [input, inputs / input])
    }

    /// Three pairs: two balanced output modes, and the input as a mode of its own.
    static func inputCore(outputs: Int, inputs: Int) -> (outputs: [Int], inputs: [Int]) {
        let output = Sizes.divisor(of: outputs, nearest: Double(outputs).squareRoot())
        return ([output, outputs / output, 1], [1, 1, inputs])
    }

    /// Sizes of the pairs of given modes, checked.
    static func pairs(_ outputModes: [Int], _ inputModes: [Int], format: String)
        throws(FormatError) -> [Int]
    {
        guard outputModes.count == inputModes.count, (2...longest).contains(outputModes.count)
        else {
            throw .wrongModeCount(
                format: format, outputs: outputModes.count, inputs: inputModes.count,
                needed: "as many output as input modes, 2 to \(longest)")
        }
        guard Sizes.product(outputModes + inputModes) != nil else {
            throw .tooLarge(format: format)
        }
        return zip(outputModes, inputModes).map(*)
    }
}
