import MinimaCore
import MinimaGrammar
import MinimaRuntime
import MinimaTokenizer
import Synchronization

/// Makes constraints for a model's answers; xgrammar is opened when the first is asked for.
final class AnswerConstraints: Sendable {
    private typealias Opened = Result<GrammarCompiler, GrammarError>

    private let model: ServedModel
    private let vocabulary: Int
    private let folders: [String]
    private let opening = Mutex<Task<Opened, Never>?>(nil)

    /// - Parameters:
    ///   - vocabulary: Logits of the model.
    ///   - folders: Where Python packages may lie.
    init(_ model: ServedModel, vocabulary: Int, folders: [String]) {
        self.model = model
        self.vocabulary = vocabulary
        self.folders = folders
    }

    /// A form, ready for any number of answers.
    ///
    /// - Throws: `APIError`: 400 where the form is to blame, 501 without xgrammar, 503 when too many
    ///   forms are being compiled.
    func compile(_ asked: AskedForm) async throws(APIError) -> CompiledGrammar {
        let task = opening.withLock { task in
            let started =
                task
                ?? Task.detached { [model, vocabulary, folders] in
                    Self.open(model, vocabulary, folders)
                }
            task = started
            return started
        }
        do throws(GrammarError) {
            return try await task.value.get().compile(asked.form)
        } catch {
            throw APIError(error, asked.parameter)
        }
    }

    private static func open(
        _ model: ServedModel, _ vocabulary: Int, _ folders: [String]
    ) -> Opened {
        do throws(GrammarError) {
            let library = try GrammarLibrary(folders: folders)
            return .success(try GrammarCompiler(library, model.grammarTokens(vocabulary)))
        } catch {
            return .failure(error)
        }
    }
}

extension ServedModel {
    /// Tokens as constraints see them: special ones are no part of an answer, but for the marks that
    /// tell thoughts and calls from it.
    func grammarTokens(_ count: Int) -> GrammarVocabulary {
        var marks: [String] = chat?.toolParser?.parser.marks ?? []
        if let reasoning = chat?.reasoningParser { marks += [reasoning.open, reasoning.close] }
        let kept = Set(marks.compactMap { tokenizer.id(for: $0) })
        let tokens = (0..<Int32(clamping: count)).map { id -> [UInt8] in
            tokenizer.isSpecial(id) && !kept.contains(id) ? [] : tokenizer.bytes(of: id)
        }
        return GrammarVocabulary(tokens: tokens, stop: stop)
    }

    /// A form of a chat's answer, behind the thoughts that the model may have first: these are no
    /// part of the content.
    ///
    /// - Parameter prompt: The conversation as the template wrote it.
    func behindThoughts(_ form: AnswerForm, after prompt: String) -> AnswerForm {
        guard let reasoning = chat?.reasoningParser else { return form }
        if reasoning.isOpen(after: prompt) {
            return .after(begin: "", end: reasoning.close, form)
        }
        // A template that writes empty thoughts has turned them off.
        var end = prompt.utf8[...]
        while let byte = end.last, byte.isSpace { end = end.dropLast() }
        if end.suffix(reasoning.close.utf8.count).elementsEqual(reasoning.close.utf8) {
            return form
        }
        return .after(begin: reasoning.open, end: reasoning.close, form)
    }
}

extension APIError {
    /// What a client is told of a form that cannot be had.
    init(_ error: GrammarError, _ parameter: String) {
        switch error {
        case .refused(let reason):
            self = .invalid(reason, parameter, code: "invalid_constraint")
        case .tooSlow:
            self = .invalid("\(parameter): \(error)", parameter, code: "invalid_constraint")
        case .badVocabulary:
            self = .invalid("\(error)", parameter, code: "unsupported_parameter")
        case .busy:
            self = .busyConstraints
        case .libraryNotFound, .wrongVersion:
            // The reason names folders, which are none of the client's business.
            self = .noConstraints(parameter)
        case .failed:
            self = .failed("the answer could not be constrained")
        }
    }
}
