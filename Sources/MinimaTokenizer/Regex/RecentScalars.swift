/// Scalars that Unicode gained in versions 15.0 to 16.0.
///
/// Hugging Face's library matches by Unicode 16, the PCRE2 of current distributions (10.42) by
/// Unicode 14. A text with one of these scalars is matched by a second form of each pattern whose
/// properties list them; all other texts by the plain form, which is faster.
enum RecentScalars {
    /// Where the scalars are, by Unicode's block layout; the rest of the code space gained none.
    private static let areas: [ClosedRange<UInt32>] = [
        0x0800...0x08FF, 0x0C00...0x0CFF, 0x0E00...0x0EFF, 0x1B00...0x1CFF, 0x2400...0x24FF,
        0x2F00...0x2FFF, 0x3100...0x31FF, 0xA700...0xA7FF, 0x10000...0x1FFFF, 0x2A600...0x2A6FF,
        0x2B700...0x2B7FF, 0x2EB00...0x2EEFF, 0x31300...0x323FF,
    ]

    private static let all: [Unicode.Scalar] = areas.joined().compactMap { value in
        guard let scalar = Unicode.Scalar(value), let age = scalar.properties.age,
            age.major == 15 || age.major == 16
        else { return nil }
        return scalar
    }

    private static let members = Set(all.map(\.value))

    /// Whether valid UTF-8 holds one of the scalars.
    static func occur(in bytes: [UInt8]) -> Bool {
        bytes.withUnsafeBufferPointer { bytes in
            var index = 0
            while index < bytes.count {
                guard bytes[index] >= 0xE0 else {
                    index += 1
                    continue
                }
                let (value, length) = UTF8Text.scalar(in: bytes, at: index)
                if areas.contains(where: { $0.contains(value) }), members.contains(value) {
                    return true
                }
                index += length
            }
            return false
        }
    }

    /// What has to be added to a set of PCRE2's syntax so that its properties have the scalars.
    static func supplement(to set: String) -> String {
        var supplement = ""
        for property in properties(in: set) {
            let values = all.filter { has($0, property) }.map(\.value)
            var index = 0
            while index < values.count {
                let start = values[index]
                while index + 1 < values.count, values[index + 1] == values[index] + 1 {
                    index += 1
                }
                supplement += "\\x{\(hexadecimal(start))}-\\x{\(hexadecimal(values[index]))}"
                index += 1
            }
        }
        return supplement
    }

    private static func hexadecimal(_ value: UInt32) -> String {
        String(value, radix: 16, uppercase: true)
    }

    /// The names in every `\p{name}` of a set.
    private static func properties(in set: String) -> [String] {
        set.split(separator: "\\").compactMap { part in
            guard part.hasPrefix("p{"), let end = part.firstIndex(of: "}") else { return nil }
            return String(part[part.index(part.startIndex, offsetBy: 2)..<end])
        }
    }

    private static func has(_ scalar: Unicode.Scalar, _ property: String) -> Bool {
        let properties = scalar.properties
        switch property.lowercased() {
        case "alphabetic": return properties.isAlphabetic
        case "uppercase": return properties.isUppercase
        case "lowercase": return properties.isLowercase
        case "ideographic": return properties.isIdeographic
        // Of the ideographs that are new only those in the supplementary planes are Han.
        case "sc:han": return properties.isIdeographic && scalar.value >= 0x20000
        case "emoji": return properties.isEmoji
        case "emojipresentation": return properties.isEmojiPresentation
        case "l&":
            return ["Lu", "Ll", "Lt"].contains(properties.generalCategory.shortName)
        default:
            let name = properties.generalCategory.shortName
            return name == property || property.utf8.count == 1 && name.hasPrefix(property)
        }
    }
}

extension Unicode.GeneralCategory {
    /// The two letters of the Unicode Character Database.
    fileprivate var shortName: String {
        switch self {
        case .uppercaseLetter: "Lu"
        case .lowercaseLetter: "Ll"
        case .titlecaseLetter: "Lt"
        case .modifierLetter: "Lm"
        case .otherLetter: "Lo"
        case .nonspacingMark: "Mn"
        case .spacingMark: "Mc"
        case .enclosingMark: "Me"
        case .decimalNumber: "Nd"
        case .letterNumber: "Nl"
        case .otherNumber: "No"
        case .connectorPunctuation: "Pc"
        case .dashPunctuation: "Pd"
        case .openPunctuation: "Ps"
        case .closePunctuation: "Pe"
        case .initialPunctuation: "Pi"
        case .finalPunctuation: "Pf"
        case .otherPunctuation: "Po"
        case .mathSymbol: "Sm"
        case .currencySymbol: "Sc"
        case .modifierSymbol: "Sk"
        case .otherSymbol: "So"
        case .spaceSeparator: "Zs"
        case .lineSeparator: "Zl"
        case .paragraphSeparator: "Zp"
        case .control: "Cc"
        case .format: "Cf"
        case .surrogate: "Cs"
        case .privateUse: "Co"
        case .unassigned: "Cn"
        @unknown default: "Cn"
        }
    }
}
