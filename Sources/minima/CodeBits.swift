import ArgumentParser
import MinimaFormats

/// Bits of codes as the command line takes them: `int8`.
struct CodeBits: Hashable, ExpressibleByArgument {
    let bits: Int

    /// Reads `int2`, `int3`, `int4`, `int5`, `int6` and `int8`.
    init?(argument: String) {
        guard argument.hasPrefix("int"), let bits = Int(argument.dropFirst(3)),
            Quantized.bitChoices.contains(bits)
        else { return nil }
        self.bits = bits
    }

    static var allValueStrings: [String] { Quantized.bitChoices.map { "int\($0)" } }
}
