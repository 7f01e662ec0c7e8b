import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaGrammar

@Suite("Grammar: compiler", .enabled(if: Grammars.isInstalled))
struct CompilerTests {
    /// Many requests for few forms at one time: each gets its own answer, errors too.
    @Test func servesManyAtOneTime() async throws {
        let compiler = try TestVocabulary.compiler()
        await withTaskGroup(of: Bool.self) { group in
            for number in 0..<40 {
                group.addTask {
                    do throws(GrammarError) {
                        let wrong = number % 4 == 3
                        let form = AnswerForm.regex(wrong ? "(a" : "a{\(number % 4 + 1)}")
                        let constraint = try await compiler.compile(form).makeConstraint()
                        for _ in 0...number % 4 where !constraint.accept(97) { return false }
                        return !wrong && constraint.accept(TestVocabulary.stop)
                    } catch {
                        guard case .refused = error else { return false }
                        return number % 4 == 3
                    }
                }
            }
            for await isRight in group { #expect(isRight) }
        }
    }

    @Test func aFormThatIsNotReadyInTimeFails() async throws {
        let limits = GrammarLimits(seconds: 0, running: 0)
        let compiler = try TestVocabulary.compiler(limits)
        await #expect(throws: GrammarError.busy) { try await compiler.compile(.jsonObject) }
        let full = try TestVocabulary.compiler(GrammarLimits(running: 0, waiting: 0))
        await #expect(throws: GrammarError.busy) { try await full.compile(.jsonObject) }
    }

    @Test func keepsWhatThereIsRoomFor() throws {
        let compiler = try TestVocabulary.compiler()
        var cache = GrammarCache()
        let forms = (0..<5).map { AnswerForm.regex("x{\($0 + 3)}") }
        let compiled = try forms.map { try compiler.compiled($0) }
        let limit = compiled[0].bytes + compiled[1].bytes + compiled[2].bytes
        for (form, grammar) in zip(forms.prefix(3), compiled) {
            cache.add(form, grammar, limit: limit)
        }
        #expect(cache.count == 3 && cache.bytes <= limit && cache[forms[0]] != nil)
        cache.add(forms[3], compiled[3], limit: limit)
        #expect(cache[forms[0]] != nil && cache[forms[1]] == nil && cache.bytes <= limit)
        cache.add(forms[4], compiled[4], limit: 1)
        #expect(cache[forms[4]] == nil)
    }

    @Test func aVocabularyNeedsAnEnd() throws {
        let library = try Grammars.library.get()
        #expect(throws: GrammarError.self) {
            try GrammarCompiler(library, GrammarVocabulary(tokens: [[97]], stop: []))
        }
        #expect(throws: GrammarError.self) {
            try GrammarCompiler(library, GrammarVocabulary(tokens: [[97]], stop: [5]))
        }
    }
}
