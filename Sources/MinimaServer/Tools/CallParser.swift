import MinimaCore
import MinimaTemplate

/// Finds the calls of functions in what a model writes, byte by byte, so that it makes no difference
/// in what pieces the text comes.
///
/// A call is one once the name of a given function and the beginning of its arguments have come. From
/// there on the arguments are passed on as they are written, whatever they are: they may break off or
/// be no JSON, as in OpenAI's interface. What does not get so far is content, marks included.
protocol CallParser: Sendable, SendableMetatype {
    /// What the command line calls it.
    static var name: String { get }
    /// Texts that mark calls; a tokenizer may have special tokens for them.
    static var marks: [String] { get }
    /// Whether a chat template teaches this form, by what it contains.
    static func isTaught(by template: String) -> Bool
    /// A new call's identifier.
    static func identifier() -> String
    /// What calls of some functions look like: xgrammar's structural tag (the part `format`), whose
    /// schemas are those of the functions' arguments.
    ///
    /// - Parameters:
    ///   - isForced: Whether the answer is calls and nothing else; otherwise it is free text in which
    ///     calls are as they should be.
    ///   - isParallel: Whether there may be more than one.
    /// - Returns: `nil` where calls in a free text cannot be told in time.
    static func form(of tools: [Tool], isForced: Bool, isParallel: Bool) -> JSON?

    /// - Parameter schemas: The schema of each function's arguments, by its name.
    init(_ schemas: [String: JSON])
    /// Takes a byte of the answer.
    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter)
    /// The answer is over, perhaps in the middle of a call.
    mutating func finish(_ writer: inout MessageWriter)
}

extension CallParser {
    static func identifier() -> String { "call_" + letters(24) }

    /// Some calls, one after the other.
    static func calls(_ tags: [JSON], separator: String, isParallel: Bool) -> JSON {
        [
            "type": "tags_with_separator", "tags": .array(tags), "separator": .string(separator),
            "at_least_one": true, "stop_after_first": .bool(!isParallel),
        ]
    }

    /// Free text in which calls follow a mark.
    static func text(_ tags: [JSON], after mark: String, isParallel: Bool) -> JSON {
        [
            "type": "triggered_tags", "triggers": [.string(mark)], "tags": .array(tags),
            "at_least_one": false, "stop_after_first": .bool(!isParallel),
        ]
    }

    /// A call between two texts.
    static func tag(_ begin: String, _ content: JSON, _ end: String) -> JSON {
        ["type": "tag", "begin": .string(begin), "content": content, "end": .string(end)]
    }

    /// Random letters and digits.
    static func letters(_ count: Int) -> String {
        let alphabet = Array("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
        return String((0..<count).compactMap { _ in alphabet.randomElement() })
    }
}

/// A form in which models write calls of functions.
public struct ToolParser: Sendable {
    let parser: any CallParser.Type

    /// What the command line calls it.
    public var name: String { parser.name }

    /// All forms; where several are taught by one template, the first one counts.
    public static let all: [ToolParser] = [
        ToolParser(parser: QwenCoderCalls.self), ToolParser(parser: HermesCalls.self),
        ToolParser(parser: MistralCalls.self), ToolParser(parser: LlamaCalls.self),
    ]

    /// The form that a chat template teaches; `nil`: none that is known.
    public static func detect(in template: ChatTemplate) -> ToolParser? {
        guard template.reads("tools") else { return nil }
        return all.first { $0.parser.isTaught(by: template.source) }
    }
}
