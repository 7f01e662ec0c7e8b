/// The value of a constant that a kernel is specialised by, as a preprocessor definition.
public enum KernelConstant: Sendable, Hashable, ExpressibleByIntegerLiteral,
    ExpressibleByFloatLiteral, ExpressibleByBooleanLiteral, ExpressibleByStringLiteral,
    CustomStringConvertible
{
    /// An integer.
    case int(Int)
    /// A finite number; a literal of type `double` in the kernel.
    case double(Double)
    /// Any text without line breaks: the name of a type, an expression.
    case text(String)

    /// An integer.
    public init(integerLiteral value: Int) { self = .int(value) }
    /// A finite number.
    public init(floatLiteral value: Double) { self = .double(value) }
    /// 1 or 0.
    public init(booleanLiteral value: Bool) { self = .int(value ? 1 : 0) }
    /// Text.
    public init(stringLiteral value: String) { self = .text(value) }

    /// The C++ expression.
    public var description: String {
        switch self {
        // The shortest digits that read back as this value; always with a point or an exponent.
        case .double(let value): "\(value)"
        // Negative values stay one operand wherever the name is used.
        case .int(let value): value < 0 ? "(\(value))" : "\(value)"
        case .text(let value): value
        }
    }

    /// `-D` options in the order of the names.
    static func definitions(
        _ constants: [String: KernelConstant]
    ) throws(KernelError) -> [String] {
        var result: [String] = []
        for (name, value) in constants.sorted(by: { $0.key < $1.key }) {
            guard isIdentifier(name) else {
                throw .invalidConstant(
                    name: name, value: "\(value)", reason: "its name is no C++ identifier")
            }
            if case .double(let number) = value, !number.isFinite {
                throw .invalidConstant(name: name, value: "\(value)", reason: "it is not finite")
            }
            if case .text(let text) = value, text.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F })
            {
                throw .invalidConstant(
                    name: name, value: "\(value)", reason: "it holds a control character")
            }
            result.append("-D\(name)=\(value)")
        }
        return result
    }

    private static func isIdentifier(_ name: String) -> Bool {
        let letters = name.utf8.map { byte in
            (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                || byte == UInt8(ascii: "_")
        }
        let digits = name.utf8.map { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        return letters.first == true && zip(letters, digits).allSatisfy { $0 || $1 }
    }
}
