import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

@Suite("Speculation on CUDA: layouts and results")
struct CUDASpeculationTests {
    /// Steps are those of all buckets and numbers of proposals whose rows are few enough.
    @Test func steps() {
        let plain = CUDALayout(slots: 40, context: 100)
        #expect(plain.steps.map(\.bucket) == plain.buckets)
        #expect(plain.steps.allSatisfy { $0.draftTokens == 0 && $0.rows == $0.bucket })
        #expect(plain.mostDraftTokens == 0 && plain.sequenceLength == 0)

        let layout = CUDALayout(slots: 64, context: 100, draftTokens: [7, 2, 3, 2])
        #expect(layout.draftTokens == [0, 2, 3, 7])
        #expect(layout.sequenceLength == 101)
        #expect(layout.mostDraftTokens == 7)
        #expect(layout.largestRows == 256)
        #expect(layout.mostDraftTokens(1) == 7 && layout.mostDraftTokens(32) == 7)
        #expect(layout.mostDraftTokens(48) == 3 && layout.mostDraftTokens(64) == 3)
        #expect(layout.mostDraftTokens(5) == 0)
        for bucket in layout.buckets {
            let own = layout.steps.filter { $0.bucket == bucket }
            #expect(own.first?.draftTokens == 0)
            #expect(own.allSatisfy { $0.rows == bucket * ($0.draftTokens + 1) && $0.rows <= 256 })
        }
        // A bucket of more rows than that is verified as far as its own size goes: not at all.
        let large = CUDALayout(slots: 300, context: 100, draftTokens: [1])
        #expect(large.largestRows == 300 && large.mostDraftTokens(300) == 0)
        #expect(large.mostDraftTokens(128) == 1)
    }

    /// The state of sampling holds what it was predicted to.
    @Test(arguments: [(1, 0, true), (4, 0, false), (8, 130, true)])
    func stateBytes(places: Int, length: Int, keepsHistory: Bool) throws {
        let state = try SamplingState(
            slots: 5, vocabulary: 101, places: places, sequenceLength: length,
            keepsHistory: keepsHistory, device: .cpu)
        #expect(
            state.heldBytes
                == SamplingState.bytes(
                    slots: 5, vocabulary: 101, places: places, sequenceLength: length,
                    keepsHistory: keepsHistory))
        #expect(state.drafts.shape == [5, max(places - 1, 1)])
        #expect(try state.drafts.values(as: Int32.self).allSatisfy { $0 == -1 })
        #expect(state.emitted.shape == [5, places] && state.logSums.shape == [5, places])
        #expect(state.sequence?.shape == (length > 0 ? [5, length] : nil))
    }

    /// A state that holds trees has their parents and the paths that were gone.
    @Test func treeState() throws {
        let state = try SamplingState(
            slots: 5, vocabulary: 101, places: 4, holdsTrees: true, device: .cpu)
        #expect(
            state.heldBytes
                == SamplingState.bytes(slots: 5, vocabulary: 101, places: 4, holdsTrees: true))
        #expect(state.parents?.shape == [5, 3] && state.path?.shape == [5, 4])
    }

    /// Trees take the places and pages that their levels need, and never more nodes at a time than they have.
    @Test(arguments: [
        (1, 8, 1, 0, 1, 0), (5, 3, 3, 12, 1, 1), (2, 8, 2, 2, 1, 1), (15, 8, 8, 112, 4, 2),
        (15, 1, 1, 14, 1, 1), (9, 8, 8, 64, 2, 1), (0, 3, 1, 0, 1, 0),
    ])
    func treeShapes(
        count: Int, width: Int, own: Int, places: Int, words: Int, pages: Int
    ) throws {
        let shape = TreeKernels.Shape(count: count, width: width)
        #expect(shape.width == own && shape.maskWords == words && shape.pages == pages)
        guard count > 0 else { return }
        #expect(shape.places == places)
        for vocabulary in [40, 32_000, 151_936] {
            let round = try TreeKernels.Round(
                shape, rows: 3, pages: 5, firstPage: 70, vocabulary: vocabulary, device: .cpu)
            let held = Mirror(reflecting: round).children.reduce(0) { sum, child in
                sum + ((child.value as? Tensor).map { $0.count * $0.dtype.byteCount } ?? 0)
            }
            #expect(
                held
                    == TreeKernels.Round.bytes(shape, rows: 3, pages: 5, vocabulary: vocabulary))
        }
    }

    /// Rows have pages of their own for the largest tree, and a head reads again what it has grown.
    @Test func treeLayouts() throws {
        let layout = CUDALayout(slots: 20, context: 100, draftTokens: [1, 3, 9])
        #expect(layout.treePages(1) == layout.largestBucket)
        #expect(layout.treePages(8) == layout.largestBucket)
        #expect(CUDALayout(slots: 3, context: 100, draftTokens: [15]).treePages(8) == 8)
        #expect(CUDALayout(slots: 3, context: 100).treePages(8) == 0)
        // Sixteen heads to each of the head's key-value heads: attention takes four places.
        let config = try EagleConfiguration(
            target: ModelConfig(
                json: .object([
                    "model_type": "qwen3", "hidden_size": 48, "intermediate_size": 80,
                    "num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 64,
                    "vocab_size": 101, "num_hidden_layers": 9, "rope_theta": 10_000,
                ]), path: "test"), draftVocabulary: 40)
        let shape = try AttentionShape(
            heads: 4, kvHeads: 2, headDim: 64, normalisesQueriesAndKeys: true)
        let limits = DeviceLimits(multiprocessors: 132, sharedPerBlock: 232_448)
        for (width, most) in [(1, 9), (2, 3)] {
            let draft = try CUDAMemory.Draft(
                head: config, weightBytes: 0, isQuantized: false, width: width)
            #expect(layout.limited(to: shape, draft: draft, by: limits).mostDraftTokens == most)
        }
    }

    /// Buffers hold the rows of the largest step, the logits among them.
    @Test func buffers() {
        let sizes = DecoderDimensions(
            layers: 3, hiddenSize: 48, heads: 6, keyValueHeads: 2, headDim: 64,
            intermediateSize: 80, vocabularySize: 101)
        let layout = CUDALayout(slots: 20, context: 130, chunk: 16, draftTokens: [3])
        let shapes = DecoderBuffers.Shapes(
            sizes, gathersGates: false, largestResults: 0, largestExpanded: 0, layout: layout)
        #expect(shapes.logits == [96, 101])
        #expect(shapes.residual == [96, 48] && shapes.attended == [96, 384])
    }

    /// A head's buffers hold what was predicted, and a round of the largest step, a chunk too.
    @Test func headBuffers() throws {
        let config = try EagleConfiguration(
            target: ModelConfig(
                json: .object([
                    "model_type": "qwen3", "hidden_size": 48, "intermediate_size": 80,
                    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64,
                    "vocab_size": 101, "num_hidden_layers": 9, "rope_theta": 10_000,
                ]), path: "test"), draftVocabulary: 40)
        let layout = CUDALayout(slots: 3, context: 130, chunk: 16, draftTokens: [3])
        let shapes = CUDAHeadDrafter.Buffers.Shapes(config, layout: layout, rows: 20)
        #expect(shapes.ring == [3 * DraftKernels.ring, 3 * 48] && shapes.features == [20, 144])
        #expect(shapes.inputs == [20, 96] && shapes.qkv == [20, 640])
        #expect(shapes.queries == [16, 6, 64] && shapes.logits == [4, 40])
        let buffers = try CUDAHeadDrafter.Buffers(shapes, device: .cpu)
        let held = Mirror(reflecting: buffers).children.reduce(0) { sum, child in
            sum + ((child.value as? Tensor).map { $0.count * $0.dtype.byteCount } ?? 0)
        }
        #expect(held == shapes.byteCount)
    }

    /// Rates give the lengths that they were chosen for.
    @Test(arguments: [(2.0, 1), (2.0, 5), (2.8, 3), (2.8, 7), (1.0, 4), (5.0, 4)])
    func simulatedRates(length: Double, count: Int) throws {
        let rate = try #require(SimulatedAcceptance.rate(length: length, count: count))
        var (mean, power) = (1.0, 1.0)
        for _ in 0..<count {
            power *= rate
            mean += power
        }
        #expect(abs(mean - length) < 1e-9)
        #expect((0...1).contains(rate))
    }

    @Test(arguments: [(0.9, 3), (4.1, 3), (2, 0), (.nan, 3)])
    func impossibleRates(length: Double, count: Int) {
        #expect(SimulatedAcceptance.rate(length: length, count: count) == nil)
    }

    /// Each length is measured with the numbers of proposals that can reach it.
    @Test func cases() {
        let both = DecodeBench.Speculation(
            draft: .ngram, label: "n-gram", draftTokens: [1, 3], lengths: [2, 2.8])
        #expect(both.cases(atMost: 7).map(\.count) == [1, 3, 3])
        #expect(both.cases(atMost: 7).map(\.length) == [2, 2, 2.8])
        // More proposals than steps verify become as many, once.
        #expect(both.cases(atMost: 2).map(\.count) == [1, 2, 2])
        #expect(both.cases(atMost: 1).map(\.count) == [1])
        let compared = DecodeBench.Speculation(
            draft: .ngram, label: "n-gram", draftTokens: [1, 3], lengths: [])
        #expect(compared.cases(atMost: 3).map(\.count) == [1, 3])
        #expect(compared.cases(atMost: 3).allSatisfy { $0.length == nil })
        // Chosen numbers come last, from as many as there are.
        let chosen = DecodeBench.Speculation(
            draft: .ngram, label: "n-gram", draftTokens: [1], automatic: 5, lengths: [1, 2.8])
        #expect(chosen.mostDraftTokens == 5)
        #expect(chosen.cases(atMost: 7).map(\.count) == [1, 5, 5])
        #expect(chosen.cases(atMost: 7).map(\.isAutomatic) == [false, true, true])
        #expect(chosen.cases(atMost: 1).map(\.length) == [1, 1])
        // An engine has no graphs of four.
        #expect(chosen.cases(atMost: 4).map(\.count) == [1, 3, 3])
    }

    /// A random head has the target's sizes and loads like another, with codes too.
    @Test(
        arguments: [(nil, .normal), (8, .normal), (8, .float8), (4, .uniform)]
            as [(Int?, FormatSpec.Levels)])
    func randomDraft(bits: Int?, levels: FormatSpec.Levels) throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let spec = bits.map {
            FormatSpec(
                format: Quantized.name, bits: $0, groupSize: 64, levels: levels,
                parts: [FormatSpec(format: Dense.name)])
        }
        let source = try RandomDraft(for: checkpoint, spec: spec, vocabulary: 500, seed: 1)
        let draft = try EagleDraft(
            source, target: checkpoint.loadPart(.ends, device: .cpu, dtype: .float32))
        #expect(draft.head.weight.outputs == 500 && draft.head.weight.inputs == 192)
        #expect(draft.fuseLayer.weight.inputs == 3 * 192 && draft.embedding == nil)
        #expect(draft.fuseLayer.weight.spec.format == (bits == nil ? "dense" : "quantized"))
        #expect(draft.qkv.layers.allSatisfy { $0.weight.spec.bits == bits })
        #expect(draft.qkv.layers.allSatisfy { $0.weight.spec.levels == spec?.levels ?? .normal })
        #expect(try draft.targetIds.values(as: Int64.self) == (0..<500).map { Int64($0) })
        let logits = try draft.logits(.ones([1, 192]))
        #expect(try logits.isFinite().sum(dtype: .int64).item() == 500)
    }

    /// A draft is left out for as long as a round reads again what it has missed.
    @Test func lag() {
        var lag = DraftLag(slots: 3)
        func step(_ slots: [Int], _ count: Int, places: Int) -> Bool {
            let leaves = count == 0 && lag.mayLeave(slots, places: places)
            lag.queued(slots, draftTokens: count, leavesDraft: leaves)
            return leaves
        }
        // Nothing to leave out, and a round that reads one place again.
        #expect((0..<3).allSatisfy { _ in !step([0, 1], 0, places: 0) })
        #expect((0..<3).allSatisfy { _ in !step([0, 1], 0, places: 1) })
        // One step of four has a round.
        #expect(
            (0..<8).map { _ in step([0, 1], 0, places: 4) }
                == [1, 1, 1, 0, 1, 1, 1, 0].map { $0 == 1 })
        // Behind a step that may have made four tokens comes a round; behind one of two, two steps do not.
        #expect(!step([0], 3, places: 4) && !step([0], 0, places: 4))
        #expect(!step([0], 1, places: 4))
        #expect((0..<3).map { _ in step([0], 0, places: 4) } == [true, true, false])
        // One row that needs it is enough, and then all have it.
        _ = step([2], 3, places: 4)
        #expect(!step([0, 1, 2], 0, places: 4) && step([2], 0, places: 4))
        // A new sequence is as far as its prompt.
        _ = step([1], 3, places: 4)
        lag.open(1)
        #expect(step([1], 0, places: 4))
    }

    /// A smaller model drafts where it has as many tokens.
    @Test func vocabularies() throws {
        let checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
        let other = try Checkpoint(
            path: "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5")
        try CUDADraft.checkVocabulary(of: checkpoint, for: checkpoint)
        let error = #expect(throws: DraftingError.self) {
            try CUDADraft.checkVocabulary(of: other, for: checkpoint)
        }
        #expect(error == .otherVocabulary(draft: 64, target: 8192))
    }

    /// Slot 2 of three made two tokens, slot 0 one, and only the first row asks for likelihoods.
    @Test func emittedTokens() {
        let emitted = EmittedTokens(
            counts: [1, 9, 2], tokens: [10, 11, 12, 20, 21, 22, 30, 31, 32],
            logSums: [1, 2, 3, 4, 5, 6, 7, 8, 9], chosen: [0, 0, 0, 0, 0, 0, 6, 5, 0],
            likeliest: (
                ids: [1, 2, 3, 4, 5, 6, 7, 8], values: [6, 5, 5, 4, 1, 0, 2, 1], width: 2
            ), places: 3, rowsOfLogits: 2)
        #expect(
            emitted.tokens(row: 0, slot: 2, wanted: 1) == [
                SampledToken(
                    id: 30, logprob: -1, alternatives: [.init(id: 1, logprob: -1)]),
                SampledToken(id: 31, logprob: -3, alternatives: [.init(id: 3, logprob: -3)]),
            ])
        #expect(emitted.tokens(row: 1, slot: 0, wanted: nil) == [SampledToken(id: 10)])
        // Of a tree, those of the row of logits that was gone to; no row but the step's.
        var tree = emitted
        tree.path = [0, 9, 9, 0, 0, 0, 0, 1, 0]
        #expect(
            tree.tokens(row: 0, slot: 2, wanted: 1) == emitted.tokens(row: 0, slot: 2, wanted: 1))
        tree.path = [0, 9, 9, 0, 0, 0, 1, 99, 0]
        #expect(
            tree.tokens(row: 0, slot: 2, wanted: 1).map { $0.alternatives.map(\.id) } == [[3], [3]])
        // More than the step had places for cannot be.
        #expect(emitted.tokens(row: 1, slot: 1, wanted: nil).map(\.id) == [20, 21])
        #expect(emitted.tokens(row: 1, slot: 0, wanted: 0) == [SampledToken(id: 10, logprob: -1)])
    }
}
