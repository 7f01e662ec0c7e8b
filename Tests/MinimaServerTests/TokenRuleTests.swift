import MinimaCore
import MinimaRuntime
import MinimaTemplate
import Testing

@testable import MinimaServer

/// What requests say of single tokens, and of where prompts begin and answers end.
@Suite("Server: rules for tokens")
struct TokenRuleTests {
    /// Excludes all tokens but some, as a form does.
    private final class Only: TokenConstraint, @unchecked Sendable {
        let tokens: Set<Int32>
        init(_ tokens: Set<Int32>) { self.tokens = tokens }
        func allowed(_ mask: inout [UInt32]) -> Bool {
            for word in mask.indices { mask[word] = 0 }
            for token in tokens { mask[Int(token) / 32] |= 1 << (UInt32(token) % 32) }
            return true
        }
        func accept(_ token: Int32) -> Bool { tokens.contains(token) }
    }

    private func rules(_ body: JSON, vocabulary: Int = 8192) throws -> TokenRules {
        try TokenRules(RequestFields(body), model: exampleServed(), vocabulary: vocabulary)
    }

    /// What may come next, also of tokens behind a vocabulary that is no multiple of 32.
    private func next(_ constraint: any TokenConstraint, vocabulary: Int = 8192) -> Set<Int32>? {
        var mask = [UInt32](repeating: 0, count: (vocabulary + 31) / 32)
        guard constraint.allowed(&mask) else { return nil }
        return Set(
            (0..<Int32(32 * mask.count)).filter {
                mask[Int($0) / 32] >> (UInt32($0) % 32) & 1 == 1
            })
    }

    @Test func withoutRulesTheFormIsAlone() throws {
        let none = try rules(["min_tokens": 0, "bad_words": []])
        #expect(none.constraint(stop: [0], nil) == nil)
        let form = Only([1, 2])
        #expect(none.constraint(stop: [0], form) === form)
        // Nothing could end the answer.
        #expect(try rules(["min_tokens": 5]).constraint(stop: [], nil) == nil)
    }

    /// Where every token would end the answer any may come; end tokens that no vocabulary has are none.
    @Test func theVocabularyIsTheBound() throws {
        let rules = try rules(["min_tokens": 1], vocabulary: 45)
        let all = Set<Int32>(0..<45)
        let any = try #require(rules.constraint(stop: all, nil))
        #expect(next(any, vocabulary: 45) == all)
        let some = try #require(rules.constraint(stop: [-1, 44, 45, .max], nil))
        #expect(next(some, vocabulary: 45) == all.subtracting([44]))
    }

    /// As in vLLM a space before a word says nothing.
    @Test func wordsAreRefusedBehindSpacesToo() throws {
        let plain = try rules(["bad_words": ["dog"]])
        #expect(plain.refused.count == 2)
        #expect(try rules(["bad_words": [" dog", "dog"]]).refused == plain.refused)
        #expect(try rules(["bad_words": [" "]]).refused.count == 1)
    }

    /// Over random texts of a few tokens: a token may come if no rule excludes it, and each rule is
    /// looked at in the text as a whole.
    @Test func rulesAreThoseOfTheWholeText() throws {
        var random = SystemRandomNumberGenerator()
        let few = (0..<5).map { Int32($0 * 31) }
        let vocabulary = 150
        let all = Set(0..<Int32(vocabulary))
        let none = try rules([:], vocabulary: vocabulary)
        for _ in 0..<300 {
            var rules = none
            rules.least = Int.random(in: 0...4, using: &random)
            rules.refused = (0..<Int.random(in: 0...3, using: &random)).map { _ in
                (0..<Int.random(in: 1...3, using: &random)).map { _ in
                    few.randomElement(using: &random) ?? 0
                }
            }
            if Bool.random(using: &random) { rules.allowed = Set(few.shuffled().prefix(4)) }
            let stop = Set(few.prefix(1))
            guard let constraint = rules.constraint(stop: stop, nil) else { continue }
            var text: [Int32] = []
            for place in 0..<8 {
                let expected = all.subtracting(
                    rules.refused.filter {
                        text.suffix($0.count - 1).elementsEqual($0.dropLast())
                            && text.count >= $0.count - 1
                    }.compactMap(\.last)
                ).subtracting(place < rules.least ? stop : []).intersection(rules.allowed ?? all)
                let isRuled =
                    rules.allowed != nil || !rules.refused.isEmpty || place < rules.least
                let found = next(constraint, vocabulary: vocabulary)
                #expect((found != nil) == isRuled)
                if let found, !expected.isEmpty { #expect(found == expected) }
                if let found { #expect(!found.isEmpty) }
                let token = few.randomElement(using: &random) ?? 0
                #expect(constraint.accept(token))
                text.append(token)
            }
        }
    }

    /// Where a form and a rule exclude each other, the form holds, and what it refuses stays refused.
    @Test func formsComeFirst() throws {
        var rules = try rules(["min_tokens": 3, "allowed_token_ids": [7, 9]])
        rules.refused = [[9]]
        let both = try #require(rules.constraint(stop: [5], Only([5, 9, 11])))
        #expect(next(both) == [9])
        #expect(!both.accept(7))
        #expect(both.accept(9))
        let end = try #require(rules.constraint(stop: [5], Only([5])))
        #expect(next(end) == [5])
    }

    /// Over HTTP, by the example model.
    @Test func answersFollow() async throws {
        try await TestServer.with(exampleEngine()) { server in
            func answer(_ more: JSON, prompt: JSON = "Once upon a time") async throws -> JSON {
                var members = more.object ?? [:]
                members["prompt"] = prompt
                members["temperature"] = 0
                members["max_tokens"] = members["max_tokens"] ?? 12
                return try await server.post("/v1/completions", .object(members)).json()
            }
            func text(_ answer: JSON) -> String {
                answer["choices"]?.array?[0]["text"]?.string ?? ""
            }
            let plain = text(try await answer([:]))
            let words = plain.split(separator: " ")
            let third = try #require(words.count > 3 ? String(words[2]) : nil)
            #expect(try await !text(answer(["bad_words": [.string(third)]])).contains(third))

            let ids = try await server.post(
                "/tokenize", ["prompt": .string(plain), "add_special_tokens": false]
            ).json()["tokens"]?.array
            let second = try #require(ids?[1])
            let early = try await answer(["stop_token_ids": [second]])
            #expect(early["usage"]?["completion_tokens"]?.int ?? 99 <= 2)
            let late = try await answer(["stop_token_ids": [second], "min_tokens": 8])
            #expect(late["usage"]?["completion_tokens"]?.int ?? 0 >= 8)
            #expect(
                try await text(answer(["allowed_token_ids": [second], "max_tokens": 4]))
                    == server.post(
                        "/detokenize", ["tokens": .array(Array(repeating: second, count: 4))]
                    ).json()["prompt"]?.string)

            let stopped = try await answer(["stop": [.string(third)]])
            #expect(!text(stopped).contains(third))
            let included = try await answer([
                "stop": [.string(third)], "include_stop_str_in_output": true,
            ])
            #expect(text(included) == text(stopped) + third)

            let prompt = try await server.post(
                "/tokenize", ["prompt": "There was a girl who had a big red ball"]
            ).json()["tokens"]?.array
            let tokens = try #require(prompt)
            let cut = try await answer(["truncate_prompt_tokens": 5], prompt: .array(tokens))
            #expect(cut["usage"]?["prompt_tokens"] == 5)
            #expect(
                try await text(cut) == text(answer([:], prompt: .array(Array(tokens.suffix(5))))))
            for most in [-1, Int64.max] {
                let whole = try await answer(
                    ["truncate_prompt_tokens": .integer(most)], prompt: .array(tokens))
                #expect(whole["usage"]?["prompt_tokens"]?.int == tokens.count)
            }
            #expect(await server.becomesIdle())
        }
    }

    /// A prompt longer than the context is cut to what leaves room for the answer.
    @Test func promptsAreCutToTheContext() async throws {
        let engine = try ScriptedBackend.engine("one two three four")
        try await TestServer.with(engine) { server in
            let long = JSON.array(Array(repeating: 5, count: 5000))
            for (most, room) in [(JSON.integer(24), 24), (.null, CompletionRequest.standardTokens)]
            {
                let answer = try await server.post(
                    "/v1/completions",
                    ["prompt": long, "max_tokens": most, "truncate_prompt_tokens": -1]
                ).json()
                #expect(answer["usage"]?["prompt_tokens"]?.int == engine.context - room)
            }
        }
    }

    /// Templates are told how much a model shall think.
    @Test func templatesHearOfTheEffort() throws {
        var model = try exampleServed()
        model.chat = ServedModel.Chat(
            template: try ChatTemplate(source: "{{ reasoning_effort }} {{ verbosity }}"),
            variables: [:])
        let request = try ChatRequest(
            [
                "messages": [["role": "user", "content": "x"]], "reasoning_effort": "high",
                "verbosity": "low",
            ], model: model, vocabulary: 8192, options: ServerOptions(), seed: 0)
        #expect(request.prompt == "high low")
    }
}
