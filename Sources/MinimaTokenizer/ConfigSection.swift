import MinimaCore

/// One object of tokenizer.json together with where it stands, so that errors can say so.
struct ConfigSection {
    /// The object itself.
    let json: JSON
    /// The file's name, for messages.
    let file: String
    /// The way from the document's root, such as `pre_tokenizer.pretokenizers[0]`.
    let path: String

    /// The error for this section not being what the format says.
    func malformed(_ reason: String) -> TokenizerError {
        .malformed(file: file, section: path, reason: reason)
    }

    /// The section's member, or `nil` when it is absent or null.
    func optionalSection(_ name: String) -> ConfigSection? {
        guard let value = json[name], !value.isNull else { return nil }
        return ConfigSection(json: value, file: file, path: path.isEmpty ? name : "\(path).\(name)")
    }

    /// The section's member, which has to be there.
    func section(_ name: String) throws(TokenizerError) -> ConfigSection {
        guard let section = optionalSection(name) else {
            throw malformed("\"\(name)\" is missing")
        }
        return section
    }

    /// The elements of this array.
    func elements() throws(TokenizerError) -> [ConfigSection] {
        guard let array = json.array else {
            throw malformed("expected an array, found \(json.kind)")
        }
        return array.enumerated().map { index, element in
            ConfigSection(json: element, file: file, path: "\(path)[\(index)]")
        }
    }

    /// The `type` that tags a component.
    func typeName() throws(TokenizerError) -> String {
        guard json.object != nil else { throw malformed("expected an object, found \(json.kind)") }
        return try string("type")
    }

    /// A member that is a string.
    func string(_ name: String) throws(TokenizerError) -> String {
        let member = try section(name)
        guard let text = member.json.string else {
            throw member.malformed("expected a string, found \(member.json.kind)")
        }
        return text
    }

    /// A member that is a string, or `nil` when it is absent or null.
    func optionalString(_ name: String) throws(TokenizerError) -> String? {
        guard optionalSection(name) != nil else { return nil }
        return try string(name)
    }

    /// A member that is a boolean; `fallback` when it is absent or null, an error without one.
    func bool(_ name: String, default fallback: Bool? = nil) throws(TokenizerError) -> Bool {
        guard let member = optionalSection(name) else {
            guard let fallback else { throw malformed("\"\(name)\" is missing") }
            return fallback
        }
        guard let flag = member.json.bool else {
            throw member.malformed("expected a boolean, found \(member.json.kind)")
        }
        return flag
    }

    /// A member that is a whole number within `range`.
    func int(_ name: String, in range: ClosedRange<Int>) throws(TokenizerError) -> Int {
        let member = try section(name)
        guard let value = member.json.int, range.contains(value) else {
            throw member.malformed(
                "expected a whole number from \(range.lowerBound) to \(range.upperBound), found "
                    + member.json.text(indent: nil))
        }
        return value
    }

    /// A member that is a string of exactly one Unicode scalar.
    func scalar(_ name: String) throws(TokenizerError) -> Unicode.Scalar {
        let text = try string(name)
        guard let scalar = text.unicodeScalars.first, text.unicodeScalars.count == 1 else {
            throw malformed("\"\(name)\" must be one character, found \"\(text)\"")
        }
        return scalar
    }
}
