import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaTestSupport
import MinimaTokenizer
import Testing

@testable import MinimaGrammar

/// The example model, held to a grammar by the engine.
@Suite(.enabled(if: Grammars.isInstalled))
struct ConstrainedAnswerTests {
    private static let schema: JSON = [
        "type": "object", "additionalProperties": false,
        "properties": [
            "name": ["type": "string", "maxLength": 10],
            "kind": ["enum": ["cat", "dog", "mouse"]],
            "age": ["type": "integer", "minimum": 0, "maximum": 99],
            "likes": [
                "type": "array", "items": ["type": "boolean"], "minItems": 1, "maxItems": 3,
            ],
        ],
        "required": ["name", "kind", "age", "likes"],
    ]

    private func follows(_ answer: JSON) -> Bool {
        guard let object = answer.object, object.count == 4,
            let name = answer["name"]?.string, let kind = answer["kind"]?.string,
            let age = answer["age"]?.int, let likes = answer["likes"]?.array
        else { return false }
        return name.unicodeScalars.count <= 10 && ["cat", "dog", "mouse"].contains(kind)
            && (0...99).contains(age) && (1...3).contains(likes.count)
            && likes.allSatisfy { $0.bool != nil }
    }

    /// Greedy and drawn answers are JSON that the schema describes, and end by themselves; with
    /// proposals too, among requests without a grammar and with too few pages for all.
    @Test(arguments: [Speculation.off, .fixed(3)])
    func answersFollowTheirSchema(_ speculation: Speculation) async throws {
        let path = "\(packageFolder())/Examples/tiny-qwen3-4m"
        let checkpoint = try Checkpoint(path: path)
        let tokenizer = try Tokenizer(directory: path)
        let engine = try Engine(EngineOptions(speculation: speculation)) {
            try TorchBackend(
                try checkpoint.loadModel(), slots: 5, pages: 40, pageTokens: 16, draft: .ngram())
        }
        let end: Int32 = 0
        // The first three are the marks of chats.
        let tokens = (0..<Int32(engine.capacity.vocabulary)).map { id in
            id < 3 ? [] : tokenizer.bytes(of: id)
        }
        let compiler = try GrammarCompiler(
            try Grammars.library.get(), GrammarVocabulary(tokens: tokens, stop: [end]))
        let grammar = try await compiler.compile(.jsonSchema(Self.schema))
        let prompt = try tokenizer.encode("Once upon a time there was a little cat named Lily. ")
        // JSON may go on with white space for ever, and a small model does; nor should it end early.
        var bias: [Int32: Double] = [end: -5]
        for (id, bytes) in tokens.enumerated()
        where !bytes.isEmpty && bytes.allSatisfy({ $0 == 0x20 || $0 == 0x0A }) {
            bias[Int32(id)] = -50
        }
        var requests: [GenerationRequest] = []
        for index in 0..<6 {
            let sampling = try SamplingParameters(
                temperature: index < 2 ? 0 : 1, topP: 0.95, logitBias: bias,
                logprobs: index % 3 == 0 ? 1 : nil, seed: UInt64(index))
            var request = GenerationRequest(
                prompt: prompt, maxTokens: 30, sampling: sampling, stop: [end])
            if index % 2 == 0 {
                request.maxTokens = 100
                request.constraint = try grammar.makeConstraint()
            }
            requests.append(request)
        }
        let handles = try requests.map { try engine.submit($0) }
        for (request, handle) in zip(requests, handles) where request.constraint != nil {
            let outcome = await handle.outcome
            let text = tokenizer.decode(outcome.ids)
            #expect(outcome.reason == .stop, "\(text)")
            let answer = try JSON(parsing: Array(text.utf8))
            #expect(follows(answer), "\(text)")
        }
        engine.shutDown(.drain)
        #expect(engine.metrics.failures == 0 && engine.metrics.freePages == 40)
        #expect(speculation == .off || engine.metrics.speculation.drafted > 0)
    }
}
