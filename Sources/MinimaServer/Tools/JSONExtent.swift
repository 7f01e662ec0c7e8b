/// Finds where a JSON value ends that comes byte by byte, by its strings and brackets.
///
/// Looks at neither numbers nor words closely: what a model wrote as a call's arguments is passed on
/// as it is.
struct JSONExtent: Sendable {
    /// What a byte is to the value.
    enum Place: Sendable {
        case inside
        /// Its last byte.
        case last
        /// The value ended with the byte before.
        case after
        /// This is no JSON.
        case wrong
    }

    private enum State: Sendable {
        case start, container, string, escape, scalar
    }

    private var state = State.start
    /// Closing brackets that are due, innermost last.
    private var open: [UInt8] = []

    mutating func take(_ byte: UInt8) -> Place {
        switch state {
        case .start, .container: return structure(byte)
        case .escape:
            state = .string
            return .inside
        case .string:
            switch byte {
            case UInt8(ascii: "\\"): state = .escape
            case UInt8(ascii: "\""):
                if open.isEmpty { return .last }
                state = .container
            default: break
            }
            return .inside
        case .scalar:
            if byte.isNameByte || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "+") {
                return .inside
            }
            return .after
        }
    }

    private mutating func structure(_ byte: UInt8) -> Place {
        switch byte {
        case UInt8(ascii: "\""): state = .string
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            // Either closing bracket is two codes behind its opening one.
            open.append(byte + 2)
            state = .container
        case UInt8(ascii: "}"), UInt8(ascii: "]"):
            guard open.popLast() == byte else { return .wrong }
            if open.isEmpty { return .last }
        default:
            guard state == .start else { break }
            guard byte.isNameByte else { return .wrong }
            state = .scalar
        }
        return .inside
    }
}
