import MinimaCore

/// Looks through a JSON schema for what the library would leave out without saying so, and for what
/// would cost too much.
///
/// An answer must be valid for its schema, so a keyword that is not followed is an error rather than a
/// promise broken. Annotations (such as title) and what belongs to another type mean nothing.
struct SchemaCheck {
    /// Schemas within one, values of an enum, and members of one object, at most.
    static let mostSchemas = 5000
    static let mostValues = 2000
    static let mostProperties = 500
    /// Schemas within each other, at most.
    static let mostNested = 64
    /// Members times the numbers that minProperties and maxProperties count, at most.
    static let mostCountedProperties = 2000

    private let root: JSON
    private var left = mostSchemas
    private var references: Set<String> = []
    /// Whether strings are limited in a way that the library does not combine with JSON's rules.
    private(set) var limitsStrings = false

    /// - Throws: `GrammarError.refused` naming the keyword and where it stands.
    @discardableResult
    static func check(_ schema: JSON) throws(GrammarError) -> SchemaCheck {
        var check = SchemaCheck(root: schema)
        try check.check(schema, "#", depth: 0)
        return check
    }

    private init(root: JSON) { self.root = root }

    // MARK: Keywords

    private static let annotations: Set<String> = [
        "title", "description", "default", "examples", "example", "deprecated", "readOnly",
        "writeOnly", "nullable", "$comment", "$schema", "$id", "$anchor", "contentMediaType",
        "contentEncoding", "contentSchema", "discriminator", "xml", "externalDocs", "$defs",
        "definitions",
    ]
    /// Of these one stands alone: beside it the library looks at nothing else.
    private static let wholes = ["$ref", "const", "enum", "anyOf", "oneOf", "allOf"]
    private static let ofType: [String: Set<String>] = [
        "string": ["minLength", "maxLength", "pattern", "format"],
        "integer": [
            "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        ],
        "number": ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
        "array": [
            "items", "prefixItems", "minItems", "maxItems", "unevaluatedItems", "uniqueItems",
        ],
        "object": [
            "properties", "required", "additionalProperties", "patternProperties",
            "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties",
        ],
        "boolean": [], "null": [],
    ]
    private static let known = ofType.values.reduce(into: annotations) { $0.formUnion($1) }
        .union(wholes).union(["type"])
    private static let formats: Set<String> = [
        "email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri",
        "uri-reference", "uri-template", "json-pointer", "relative-json-pointer",
    ]

    private static func refused(_ reason: String, _ place: String) -> GrammarError {
        let place = place.unicodeScalars.count > 120 ? place.prefix(120) + "…" : place[...]
        return .refused(reason: "the JSON schema \(reason), at \(place)")
    }

    // MARK: Walking

    private mutating func check(
        _ schema: JSON, _ place: String, depth: Int
    ) throws(GrammarError) {
        left -= 1
        guard left >= 0 else {
            throw .refused(
                reason:
                    "the JSON schema holds more than \(Self.mostSchemas) schemas; make it smaller")
        }
        guard depth <= Self.mostNested else {
            throw Self.refused("is nested more than \(Self.mostNested) deep", place)
        }
        if schema.bool != nil { return }
        guard let members = schema.object else {
            throw Self.refused("has \(schema.kind) where a schema is expected", place)
        }
        for name in members.keys.map(\.text) where !Self.known.contains(name) {
            guard name.hasPrefix("x-") else {
                throw Self.refused(
                    "has the keyword \"\(String(name.unicodeScalars.prefix(64)))\", which this "
                        + "server does not follow", place)
            }
        }
        if let whole = Self.wholes.first(where: { schema[$0] != nil }) {
            return try check(whole, of: schema, place, depth)
        }
        let types = try types(schema, place)
        if types.contains("string") { try checkString(schema, place) }
        if types.contains("integer") || types.contains("number") {
            try checkNumber(schema, place, types)
        }
        if types.contains("array") { try checkArray(schema, place, depth) }
        if types.contains("object") { try checkObject(schema, place, depth) }
    }

    private func types(_ schema: JSON, _ place: String) throws(GrammarError) -> [String] {
        if let type = schema["type"] {
            let types = type.array ?? [type]
            var names: [String] = []
            for type in types {
                guard let name = type.string, Self.ofType[name] != nil else {
                    throw Self.refused("has a type that is none of JSON's", place)
                }
                names.append(name)
            }
            return names
        }
        if ["properties", "additionalProperties", "unevaluatedProperties"]
            .contains(where: { schema[$0] != nil })
        {
            return ["object"]
        }
        if ["items", "prefixItems", "unevaluatedItems"].contains(where: { schema[$0] != nil }) {
            return ["array"]
        }
        let names = schema.object?.keys.map(\.text) ?? []
        if let name = names.first(where: { !Self.annotations.contains($0) && !$0.hasPrefix("x-") })
        {
            throw Self.refused("has \(name) without a type", place)
        }
        return []
    }

    private mutating func check(
        _ whole: String, of schema: JSON, _ place: String, _ depth: Int
    ) throws(GrammarError) {
        let others = (schema.object?.keys.map(\.text) ?? []).filter {
            $0 != whole && !Self.annotations.contains($0) && !$0.hasPrefix("x-")
        }
        for other in others where other != "type" {
            throw Self.refused(
                "has \(other) beside \(whole), of which this server follows only \(whole)", place)
        }
        let value = schema[whole] ?? .null
        let type = schema["type"]
        switch whole {
        case "const":
            try check([value], are: type, place)
        case "enum":
            guard let values = value.array, values.count <= Self.mostValues else {
                throw Self.refused(
                    "has an enum that is no array of at most \(Self.mostValues) values", place)
            }
            try check(values, are: type, place)
        case "$ref":
            guard let path = value.string else {
                throw Self.refused("has a $ref that is no string", place)
            }
            let target = try resolve(path, place)
            try check([target], declare: type, beside: whole, place)
            if references.insert(path).inserted { try check(target, path, depth: depth + 1) }
        default:
            guard let branches = value.array, !branches.isEmpty else {
                throw Self.refused("has an \(whole) that is no array of schemas", place)
            }
            guard whole != "allOf" || branches.count == 1 else {
                throw Self.refused(
                    "has allOf of several schemas, which this server does not follow; merge them",
                    place)
            }
            try check(branches, declare: type, beside: whole, place)
            for (index, branch) in branches.enumerated() {
                try check(branch, "\(place)/\(whole)/\(index)", depth: depth + 1)
            }
        }
    }

    /// Checks that a type beside values says nothing new.
    private func check(
        _ values: [JSON], are type: JSON?, _ place: String
    ) throws(GrammarError) {
        guard let type else { return }
        let names = (type.array ?? [type]).map(\.string)
        for value in values {
            let name: [String] =
                switch value {
                case .null: ["null"]
                case .bool: ["boolean"]
                case .integer: ["integer", "number"]
                case .number(let number):
                    number == number.rounded() ? ["integer", "number"] : ["number"]
                case .string: ["string"]
                case .array: ["array"]
                case .object: ["object"]
                }
            guard names.contains(where: { name.contains($0 ?? "") }) else {
                throw Self.refused("lists a value that is not of its type", place)
            }
        }
    }

    /// Checks that a type beside schemas says nothing new.
    private func check(
        _ branches: [JSON], declare type: JSON?, beside whole: String, _ place: String
    ) throws(GrammarError) {
        guard let type else { return }
        for branch in branches {
            var branch = branch
            if let path = branch["$ref"]?.string { branch = try resolve(path, place) }
            guard branch["type"] == type else {
                throw Self.refused(
                    "has type beside \(whole), of which this server follows only \(whole)", place)
            }
        }
    }

    /// The schema that a reference names.
    private func resolve(_ path: String, _ place: String) throws(GrammarError) -> JSON {
        guard path == "#" || path.hasPrefix("#/") else {
            throw Self.refused(
                "has a $ref that does not begin with #/; only places in the schema are followed",
                place)
        }
        var target = root
        for part in path.dropFirst(2).split(separator: "/") {
            guard let next = target[String(part)] else {
                throw Self.refused("has a $ref to nowhere", place)
            }
            target = next
        }
        return target
    }

    // MARK: Types

    private mutating func checkString(_ schema: JSON, _ place: String) throws(GrammarError) {
        let hasLength = schema["minLength"] != nil || schema["maxLength"] != nil
        for name in ["minLength", "maxLength"] {
            guard let value = schema[name] else { continue }
            guard let number = value.int, number >= 0 else {
                throw Self.refused("has a \(name) that is no number of characters", place)
            }
        }
        if let value = schema["format"] {
            guard let format = value.string, Self.formats.contains(format) else {
                throw Self.refused(
                    "has a format that this server does not know; known are "
                        + Self.formats.sorted().joined(separator: ", "), place)
            }
        }
        if let value = schema["pattern"] {
            guard let pattern = value.string else {
                throw Self.refused("has a pattern that is no string", place)
            }
            try check(pattern: pattern, place)
        }
        let used = [hasLength, schema["format"] != nil, schema["pattern"] != nil]
        guard used.count(where: { $0 }) <= 1 else {
            throw Self.refused(
                "limits a string by more than one of pattern, format and lengths, of which this "
                    + "server follows one", place)
        }
        if used.contains(true) { limitsStrings = true }
    }

    private mutating func check(pattern: String, _ place: String) throws(GrammarError) {
        limitsStrings = true
        try PatternCheck.check(pattern, title: "the pattern at \(place)", hasStrings: false)
        guard !pattern.contains("(?=") && !pattern.contains("(?!") else {
            throw Self.refused(
                "has a pattern that looks ahead, which this server does not follow", place)
        }
    }

    private func checkNumber(
        _ schema: JSON, _ place: String, _ types: [String]
    ) throws(GrammarError) {
        guard let step = schema["multipleOf"] else { return }
        let hasLow = schema["minimum"] != nil || schema["exclusiveMinimum"] != nil
        let hasHigh = schema["maximum"] != nil || schema["exclusiveMaximum"] != nil
        guard !types.contains("number"), let step = step.int, (1...1024).contains(step),
            hasLow == hasHigh
        else {
            throw Self.refused(
                "has a multipleOf that this server does not follow; possible are 1 to 1024 for "
                    + "integers with two bounds or none", place)
        }
        guard hasLow else { return }
        let low = schema["minimum"]?.int ?? schema["exclusiveMinimum"]?.int
        let high = schema["maximum"]?.int ?? schema["exclusiveMaximum"]?.int
        guard let low, let high, low.magnitude < 1 << 40, high.magnitude < 1 << 40,
            high - low <= 9000
        else {
            throw Self.refused(
                "has a multipleOf between bounds that are more than 9000 apart", place)
        }
    }

    private mutating func checkArray(
        _ schema: JSON, _ place: String, _ depth: Int
    ) throws(GrammarError) {
        if let unique = schema["uniqueItems"], unique != false {
            throw Self.refused("has uniqueItems, which this server does not follow", place)
        }
        for name in ["items", "unevaluatedItems"] {
            if let items = schema[name] { try check(items, "\(place)/\(name)", depth: depth + 1) }
        }
        for (index, item) in (schema["prefixItems"]?.array ?? []).enumerated() {
            try check(item, "\(place)/prefixItems/\(index)", depth: depth + 1)
        }
    }

    private mutating func checkObject(
        _ schema: JSON, _ place: String, _ depth: Int
    ) throws(GrammarError) {
        let properties = schema["properties"]?.object ?? [:]
        guard properties.count <= Self.mostProperties else {
            throw Self.refused(
                "has an object of \(properties.count) members, at most \(Self.mostProperties) are "
                    + "possible", place)
        }
        for name in schema["required"]?.array ?? [] {
            guard let name = name.string, properties[JSON.Name(name)] != nil else {
                throw Self.refused(
                    "requires a member that its properties do not describe", place)
            }
        }
        let counted = schema["maxProperties"]?.int ?? schema["minProperties"]?.int ?? 0
        guard counted >= 0, counted <= Self.mostCountedProperties / max(properties.count, 1) else {
            throw Self.refused(
                "counts the members of an object of \(properties.count) members, which is too many "
                    + "for that", place)
        }
        for (name, value) in properties {
            try check(value, "\(place)/properties/\(name.text)", depth: depth + 1)
        }
        for (pattern, value) in schema["patternProperties"]?.object ?? [:] {
            try check(pattern: pattern.text, "\(place)/patternProperties")
            try check(value, "\(place)/patternProperties/\(pattern.text)", depth: depth + 1)
        }
        if let names = schema["propertyNames"] {
            guard schema["patternProperties"] == nil else {
                throw Self.refused(
                    "has propertyNames beside patternProperties, of which this server follows one",
                    place)
            }
            limitsStrings = true
            var names = names
            // The type goes without saying there.
            if let members = names.object, names["type"] == nil,
                !Self.wholes.contains(where: { names[$0] != nil })
            {
                var typed = members
                typed["type"] = "string"
                names = .object(typed)
            }
            try check(names, "\(place)/propertyNames", depth: depth + 1)
        }
        for name in ["additionalProperties", "unevaluatedProperties"] {
            if let value = schema[name] { try check(value, "\(place)/\(name)", depth: depth + 1) }
        }
    }
}
