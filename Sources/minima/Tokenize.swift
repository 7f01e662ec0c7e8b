import ArgumentParser
import MinimaCore
import MinimaTokenizer

struct Tokenize: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows the token ids of a text, or times the tokenizer on files.")

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Option(help: "Text to tokenize.")
    var prompt: String?

    @Option(
        parsing: .upToNextOption, help: "Text files (UTF-8) to count and time.",
        completion: .file())
    var text: [String] = []

    @Option(help: "Timed runs over the files, after one that is not timed.")
    var repeats = 1

    @Flag(help: "Tokenize line by line instead of file by file.")
    var lines = false

    @Flag(help: "Put the tokenizer's own special tokens around the prompt.")
    var special = false

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        guard (prompt == nil) != text.isEmpty else {
            throw ValidationError("give either --prompt or --text")
        }
        guard (1...1000).contains(repeats) else {
            throw ValidationError("--repeats must be between 1 and 1000")
        }
    }

    func run() throws {
        let tokenizer = try Tokenizer(directory: model)
        if let prompt {
            let ids = try tokenizer.encode(prompt, addSpecialTokens: special)
            let pieces = ids.map { tokenizer.token(for: $0) ?? "" }
            if json {
                let document: JSON = [
                    "ids": .array(ids.map { .integer(Int64($0)) }),
                    "tokens": .array(pieces.map { .string($0) }),
                ]
                return try Terminal.output(document.text())
            }
            return try Terminal.output(
                zip(ids, pieces).map { "\($0) \($1)" }.joined(separator: "\n"))
        }
        try timeFiles(tokenizer)
    }

    private func timeFiles(_ tokenizer: Tokenizer) throws {
        let texts = try text.map(readText)
        let parts =
            lines
            ? texts.flatMap {
                $0.utf8.split(separator: UInt8(ascii: "\n")).map { String($0) ?? "" }
            }
            : texts
        let clock = ContinuousClock()
        var seconds: [Double] = []
        var count = 0
        for _ in 0...repeats {
            let started = clock.now
            count = 0
            for part in parts {
                count += try tokenizer.encode(part, addSpecialTokens: false).count
            }
            seconds.append((clock.now - started).totalSeconds)
        }
        seconds = seconds.dropFirst().sorted()
        let bytes = texts.reduce(0) { $0 + $1.utf8.count }
        if json {
            let document: JSON = [
                "bytes": .integer(Int64(bytes)), "tokens": .integer(Int64(count)),
                "seconds": .array(seconds.map { .number($0) }),
            ]
            return try Terminal.output(document.text())
        }
        let median = seconds[seconds.count / 2]
        try Terminal.output(
            """
            \(grouped(count)) tokens in \(byteText(bytes)), \
            \(short(Double(bytes) / max(median, 1e-9) / 1e6)) MB/s (median of \(seconds.count))
            """)
    }
}
