import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTemplate
import MinimaTokenizer

/// A text to continue.
struct Prompt {
    /// After the chat template, if one was applied.
    let text: String
    let tokens: [Int32]
}

/// Turns texts into prompts for one model.
struct PromptEncoder {
    private let tokenizer: Tokenizer
    private let config: ModelConfig
    /// `nil`: texts are taken as they are.
    private let chat: (template: ChatTemplate, variables: [String: JSON])?

    /// - Parameter usesTemplate: Whether texts are what a user says to a chat model.
    init(_ checkpoint: Checkpoint, _ tokenizer: Tokenizer, usesTemplate: Bool) throws {
        self.tokenizer = tokenizer
        config = checkpoint.config
        guard usesTemplate else {
            chat = nil
            return
        }
        guard let templates = try CheckpointTemplates.find(in: checkpoint.path) else {
            throw GenerateError.noTemplate(path: checkpoint.path)
        }
        chat = (try templates.template(), templates.specialTokens)
    }

    func encode(_ text: String) throws -> Prompt {
        let text =
            try chat?.template.render(
                messages: [ChatMessage(role: "user", content: text)], addGenerationPrompt: true,
                variables: chat?.variables ?? [:], now: TemplateDate(unixSeconds: time(nil)))
            ?? text
        let tokens = try tokenizer.encode(text, addSpecialTokens: chat == nil)
        // A model needs something to start from: an empty prompt begins a document.
        return Prompt(text: text, tokens: tokens.isEmpty ? [try config.documentStart()] : tokens)
    }
}

/// The prompts of a file: one per line, and in a `.jsonl` file each line a JSON string, which can
/// hold line breaks. Lines without anything are left out.
func readPrompts(_ path: String) throws -> [String] {
    let isJSON = path.hasSuffix(".jsonl")
    var prompts: [String] = []
    let lines = try readText(path).unicodeScalars.split(
        separator: "\n", omittingEmptySubsequences: false)
    for (index, line) in lines.enumerated() {
        let text = String(line.last == "\r" ? line.dropLast() : line)
        guard text.contains(where: { !$0.isWhitespace }) else { continue }
        guard isJSON else {
            prompts.append(text)
            continue
        }
        let value: JSON
        do {
            value = try JSON(parsing: text)
        } catch {
            throw GenerateError.badPrompt(path: path, line: index + 1, found: error.reason)
        }
        guard let prompt = value.string else {
            throw GenerateError.badPrompt(path: path, line: index + 1, found: value.kind)
        }
        prompts.append(prompt)
    }
    guard !prompts.isEmpty else { throw GenerateError.noPrompts(path: path) }
    return prompts
}
