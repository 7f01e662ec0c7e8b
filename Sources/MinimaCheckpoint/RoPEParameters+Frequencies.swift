import Glibc

extension RoPEParameters {
    /// Dimensions of a head of `headDim` that are rotated.
    public func rotatedDimensions(headDim: Int) -> Int {
        Int(Double(headDim) * partialRotaryFactor)
    }

    /// The angle per position of each rotated pair, and what cosines and sines are multiplied by.
    ///
    /// Every step is rounded to float32, as transformers does and checkpoints were trained: at a
    /// base of 10⁶ the exact values differ from those by up to 10⁻⁶ of their size, which is an
    /// angle of 10⁻² at position 10,000.
    ///
    /// - Parameters:
    ///   - headDim: Dimensions of an attention head, at least 1.
    ///   - sequenceLength: The sequence's length in tokens; only dynamic scaling looks at it, and
    ///     only when it passes the configuration's own maximum.
    /// - Returns: `frequencies` `[⌈rotated/2⌉]`, descending, float32 values; `attentionScaling` ≥ 0.
    public func inverseFrequencies(
        headDim: Int, sequenceLength: Int = 0
    ) -> (frequencies: [Double], attentionScaling: Double) {
        let dimensions = rotatedDimensions(headDim: headDim)
        var attentionScaling = 1.0
        let frequencies: [Float]
        switch scaling {
        case .none:
            frequencies = Self.wavelengths(theta, dimensions).map { 1 / $0 }
        case .linear(let factor):
            frequencies = Self.wavelengths(theta, dimensions).map { 1 / $0 / Float(factor) }
        case .dynamic(let factor, let maxPositions):
            let stretch = Double(max(sequenceLength, maxPositions)) / Double(maxPositions)
            let growth = pow(
                factor * stretch - (factor - 1), Double(dimensions) / Double(dimensions - 2))
            frequencies = Self.wavelengths(theta * growth, dimensions).map { 1 / $0 }
        case .yarn(let yarn):
            attentionScaling = yarn.attentionScaling
            frequencies = yarn.frequencies(Self.wavelengths(theta, dimensions), theta, dimensions)
        case .llama3(let factor, let low, let high, let originalPositions):
            frequencies = Self.wavelengths(theta, dimensions).map {
                Self.llama3(
                    1 / $0, factor: Float(factor), low: low, high: high,
                    positions: Double(originalPositions))
            }
        }
        return (frequencies.map(Double.init), attentionScaling)
    }

    /// θ^(2i/d) for each pair i: the wavelengths over 2π.
    private static func wavelengths(_ theta: Double, _ dimensions: Int) -> [Float] {
        stride(from: 0, to: dimensions, by: 2).map {
            powf(Float(theta), Float($0) / Float(dimensions))
        }
    }

    /// Keeps short wavelengths, divides the frequency of long ones, and blends in between.
    private static func llama3(
        _ frequency: Float, factor: Float, low: Double, high: Double, positions: Double
    ) -> Float {
        let wavelength = Float(2 * Double.pi) / frequency
        if wavelength > Float(positions / low) { return frequency / factor }
        if wavelength < Float(positions / high) { return frequency }
        let smooth = (Float(positions) / wavelength - Float(low)) / Float(high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency
    }
}

extension RoPEParameters.YaRN {
    /// What cosines and sines are multiplied by (Peng et al. 2023, equation 22, and DeepSeek's
    /// two-sided variant of it).
    var attentionScaling: Double {
        if let attentionFactor { return attentionFactor }
        func magnitude(_ weight: Double) -> Double {
            factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1
        }
        guard let mscale, let mscaleAllDim else { return magnitude(1) }
        return magnitude(mscale) / magnitude(mscaleAllDim)
    }

    /// Blends extrapolated and interpolated frequencies along a ramp between two dimensions.
    func frequencies(_ wavelengths: [Float], _ theta: Double, _ dimensions: Int) -> [Float] {
        /// The dimension whose pair turns `rotations` times over the original context.
        func dimension(rotations: Double) -> Double {
            Double(dimensions) * log(Double(originalPositions) / (rotations * 2 * .pi))
                / (2 * log(theta))
        }
        var low = dimension(rotations: betaFast)
        var high = dimension(rotations: betaSlow)
        if truncate {
            low = low.rounded(.down)
            high = high.rounded(.up)
        }
        low = max(low, 0)
        high = min(high, Double(dimensions - 1))
        // A ramp without length would divide by zero.
        if low == high { high += 0.001 }
        return wavelengths.enumerated().map { index, wavelength in
            let ramp = min(max((Float(index) - Float(low)) / Float(high - low), 0), 1)
            let kept = 1 - ramp
            return 1 / (Float(factor) * wavelength) * (1 - kept) + 1 / wavelength * kept
        }
    }
}
