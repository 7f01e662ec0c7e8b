/// Why a text cannot be healed on.
public enum HealingTextError: Error, Hashable, CustomStringConvertible {
    case unreadable(path: String, reason: String)
    case compressed(path: String, kind: String, command: String)
    case empty(path: String)
    case notUTF8(path: String, line: Int)
    case notJSON(path: String, line: Int, column: Int, reason: String)
    case notDocument(path: String, line: Int, found: String)
    case notEncoded(path: String, line: Int, reason: String)
    case tooShort(path: String, tokens: Int, needed: Int)
    case nothingHeldOut(windows: Int)
    case badTaskShare(Double, taskWindows: Int, windows: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .unreadable(let path, let reason):
            "cannot read \(path): \(reason)"
        case .compressed(let path, let kind, let command):
            "\(path) is packed with \(kind); unpack it with `\(command)` and give the result"
        case .empty(let path):
            "\(path) holds no text; give a file with documents"
        case .notUTF8(let path, let line):
            "\(path), line \(line): bytes that are not UTF-8; convert the file with iconv"
        case .notJSON(let path, let line, let column, let reason):
            """
            \(path), line \(line), column \(column): \(reason); each line must be a JSON object \
            (a file of plain text must not end in .jsonl)
            """
        case .notDocument(let path, let line, let found):
            """
            \(path), line \(line): found \(found); needed is an object with the string "text", or \
            with the strings "prompt" and "completion", and nothing else
            """
        case .notEncoded(let path, let line, let reason):
            "\(path), the document at line \(line): \(reason)"
        case .tooShort(let path, let tokens, let needed):
            """
            \(path) has \(tokens) tokens, a window and the token after it have \(needed); give a \
            longer text or a shorter context
            """
        case .nothingHeldOut(let windows):
            """
            nothing is held out of \(windows) training windows; give more text, a shorter context \
            or a held-out text
            """
        case .badTaskShare(let share, let tasks, let windows):
            """
            a share of \(share) from prompts with completions cannot be had: \(tasks) of \
            \(windows) training windows are from such files; give a share from 0 to 1, and files \
            of both kinds
            """
        }
    }
}
