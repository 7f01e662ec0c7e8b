import MinimaCore

/// The members of a request's object, each read as what it must be.
///
/// As in OpenAI's interface null stands for an absent member. A member that nobody asked for is an
/// error, so that a misspelt parameter does not go unnoticed.
struct RequestFields {
    private let json: JSON

    /// - Throws: ``APIError`` when `json` is no object.
    init(_ json: JSON) throws(APIError) {
        guard json.object != nil else {
            throw .invalid("the body is \(json.kind), expected an object")
        }
        self.json = json
    }

    /// A member's value; `nil` when it is absent or null.
    subscript(name: String) -> JSON? {
        guard let value = json[name], !value.isNull else { return nil }
        return value
    }

    /// Refuses what is not in `known`.
    func checkNames(known: Set<String>) throws(APIError) {
        for name in json.object?.keys ?? [] where !known.contains(name.text) {
            let text = String(name.text.unicodeScalars.prefix(64))
            throw .invalid(
                "the request has a parameter \"\(text)\", which this server does not know; "
                    + "leave it out", text, code: "unknown_parameter")
        }
    }

    private func wrong(_ name: String, _ value: JSON, expected: String) -> APIError {
        .invalid("\(name) is \(value.kind), expected \(expected)", name, code: "invalid_type")
    }

    func bool(_ name: String) throws(APIError) -> Bool? {
        guard let value = self[name] else { return nil }
        guard let flag = value.bool else { throw wrong(name, value, expected: "a boolean") }
        return flag
    }

    func string(_ name: String) throws(APIError) -> String? {
        guard let value = self[name] else { return nil }
        guard let text = value.string else { throw wrong(name, value, expected: "a string") }
        return text
    }

    func int(_ name: String, in range: ClosedRange<Int>) throws(APIError) -> Int? {
        guard let value = self[name] else { return nil }
        guard let number = value.int else { throw wrong(name, value, expected: "an integer") }
        guard range.contains(number) else {
            let expected =
                range.upperBound == .max
                ? "at least \(range.lowerBound)"
                : "between \(range.lowerBound) and \(range.upperBound)"
            throw .invalid("\(name) is \(number), expected \(expected)", name, code: "out_of_range")
        }
        return number
    }

    func double(_ name: String, in range: ClosedRange<Double>) throws(APIError) -> Double? {
        guard let value = self[name] else { return nil }
        guard let number = value.double else { throw wrong(name, value, expected: "a number") }
        guard range.contains(number) else {
            throw .invalid(
                "\(name) is \(number), expected between \(range.lowerBound) and "
                    + "\(range.upperBound)", name, code: "out_of_range")
        }
        return number
    }

    func array(_ name: String) throws(APIError) -> [JSON]? {
        guard let value = self[name] else { return nil }
        guard let items = value.array else { throw wrong(name, value, expected: "an array") }
        return items
    }

    func object(_ name: String) throws(APIError) -> JSON? {
        guard let value = self[name] else { return nil }
        guard value.object != nil else { throw wrong(name, value, expected: "an object") }
        return value
    }

    /// Token ids of a vocabulary of `vocabulary` tokens.
    static func tokens(_ items: [JSON], of name: String, vocabulary: Int) throws(APIError)
        -> [Int32]
    {
        var ids: [Int32] = []
        ids.reserveCapacity(items.count)
        for item in items {
            guard let id = item.int else {
                throw .invalid(
                    "\(name) holds \(item.kind) among token ids, expected integers", name,
                    code: "invalid_type")
            }
            guard (0..<vocabulary).contains(id) else {
                throw .invalid(
                    "\(name) holds the token id \(id); the model's ids are 0 to \(vocabulary - 1)",
                    name, code: "out_of_range")
            }
            ids.append(Int32(id))
        }
        return ids
    }
}
