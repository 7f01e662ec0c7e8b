import CMinimaGrammar
import MinimaRuntime

/// Follows one answer through one or more grammars at a time.
///
/// The engine calls it from its thread only, as the contract of constraints says.
final class GrammarConstraint: TokenConstraint, @unchecked Sendable {
    private let library: GrammarLibrary
    private let matchers: [ForeignInterface.Value]
    private let stop: Set<Int32>
    private let words: Int
    /// The bits of the last word that are tokens; the library sets the others.
    private let lastBits: UInt32
    private var hasEnded = false
    private var other: [UInt32] = []
    private var masks = 0
    private var spent = Duration.zero

    /// Grammars that can be read in very many ways make masks slow, and all requests wait for them:
    /// an answer whose masks take this long on average, and in all, has no next token.
    private static let slowest = Duration.milliseconds(100)
    private static let patience = Duration.seconds(4)

    init(
        library: GrammarLibrary, matchers: [ForeignInterface.Value], stop: Set<Int32>, tokens: Int
    ) {
        self.library = library
        self.matchers = matchers
        self.stop = stop
        words = (tokens + 31) / 32
        lastBits = .max >> UInt32((32 - tokens % 32) % 32)
    }

    func allowed(_ mask: inout [UInt32]) -> Bool {
        let isTooSlow = spent > Self.patience && spent / masks > Self.slowest
        guard mask.count == words, !hasEnded, !isTooSlow else { return Self.forbidAll(&mask) }
        let start = ContinuousClock.now
        defer {
            masks += 1
            spent += .now - start
        }
        var applies = false
        for (index, matcher) in matchers.enumerated() {
            if index == 0 {
                guard let excludes = fill(&mask, matcher) else { return Self.forbidAll(&mask) }
                applies = excludes
                continue
            }
            if other.isEmpty { other = Array(repeating: 0, count: words) }
            guard let excludes = fill(&other, matcher) else { return Self.forbidAll(&mask) }
            guard excludes else { continue }
            for word in 0..<words { mask[word] = applies ? mask[word] & other[word] : other[word] }
            applies = true
        }
        if applies { mask[words - 1] &= lastBits }
        return applies
    }

    private static func forbidAll(_ mask: inout [UInt32]) -> Bool {
        for index in mask.indices { mask[index] = 0 }
        return true
    }

    /// Whether the mask excludes anything; `nil` when the library fails.
    private func fill(_ mask: inout [UInt32], _ matcher: ForeignInterface.Value) -> Bool? {
        var shape = Int64(words)
        return mask.withUnsafeMutableBytes { buffer -> Bool? in
            guard let data = buffer.baseAddress else { return nil }
            return withUnsafePointer(to: &shape) { shape in
                var tensor = minima_ffi_tensor(
                    data: data, device_type: Int32(MINIMA_FFI_CPU), device: 0,
                    dimensions: 1, type_code: UInt8(MINIMA_FFI_SIGNED), type_bits: 32,
                    type_lanes: 1, shape: shape, strides: nil, byte_offset: 0)
                return withUnsafePointer(to: &tensor) { tensor in
                    try? library.interface.call(
                        library.fillMask,
                        [.value(matcher), .tensor(tensor), .integer(0), .bool(false)]
                    ).bool
                }
            }
        }
    }

    func accept(_ token: Int32) -> Bool {
        guard !hasEnded else { return false }
        for matcher in matchers {
            let result = try? library.interface.call(
                library.acceptToken, [.value(matcher), .integer(Int(token)), .bool(false)])
            guard result?.bool == true else { return false }
        }
        hasEnded = stop.contains(token)
        return true
    }
}
