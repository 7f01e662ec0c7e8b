/// Reads tokens as bytes spelled in `ByteLevelAlphabet`, and the bytes as UTF-8.
///
/// A token with a scalar outside the alphabet stands for its own bytes. Ill-formed UTF-8 becomes
/// U+FFFD, one for every maximal part (Unicode Standard, section 3.9).
struct ByteLevelDecoder: Decoder {
    static let typeName = "ByteLevel"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func makeStage() -> any DecoderStage { Stage() }

    func bytes(of token: [UInt8]) -> [UInt8] {
        token.withUnsafeBufferPointer { ByteLevelAlphabet.decoded($0) } ?? token
    }

    private struct Stage: DecoderStage {
        var assembly = TokenAssembly()
        var pending: [UInt8] = []

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            guard let token = assembly.token(adding: part) else { return }
            let raw = token.withUnsafeBufferPointer { ByteLevelAlphabet.decoded($0) }
            pending.append(contentsOf: raw ?? token)
            let complete = pending.count - Self.incompleteSuffix(pending)
            guard complete > 0 else { return }
            let text = UTF8Text.repaired(Array(pending[..<complete]))
            pending.removeFirst(complete)
            output.append(TokenPart(bytes: text, endsToken: false))
        }

        mutating func finish(into output: inout [TokenPart]) {
            output.append(TokenPart(bytes: UTF8Text.repaired(pending), endsToken: true))
            pending = []
        }

        /// How many bytes at the end may be the start of a scalar that later bytes complete.
        static func incompleteSuffix(_ bytes: [UInt8]) -> Int {
            for count in 1...3 where count <= bytes.count {
                let byte = bytes[bytes.count - count]
                let length =
                    switch byte {
                    case 0xC2...0xDF: 2
                    case 0xE0...0xEF: 3
                    case 0xF0...0xF4: 4
                    default: 1
                    }
                if byte & 0xC0 != 0x80 { return length > count ? count : 0 }
            }
            return 0
        }
    }
}
