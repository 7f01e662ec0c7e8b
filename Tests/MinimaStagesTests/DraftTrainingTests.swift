import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

private struct Stopped: Error {}

/// A step's loss and gradients.
private struct Outcome {
    var loss: Double
    var gradients: [Tensor]
}

private func outcome(_ objective: DraftObjective, step: Int = 0) throws -> Outcome {
    let sums = try objective.parameters.map { try Tensor.zeros($0.tensor.shape) }
    let loss = try objective.gradients(step: step) { gradients in
        for (sum, gradient) in zip(sums, gradients) {
            if let gradient { try sum.addInPlace(gradient.to(dtype: .float32)) }
        }
    }
    return Outcome(loss: try loss.item(), gradients: sums)
}

private func norm(_ tensors: [Tensor]) throws -> Double {
    try tensors.reduce(0) { try $0 + $1.square().sum(dtype: .float64).item() }.squareRoot()
}

@Suite("Training drafts")
struct DraftTrainingTests {
    private let model: DraftCase

    init() throws { model = try DraftCase.shared.get() }

    // MARK: Loss

    /// The loss as it is defined: one place after the other, all logits at once.
    private func definedLoss(
        _ draft: EagleDraft, _ windows: [[Int32]], mask: [[Double]], unroll: Int
    ) throws -> Double {
        let (length, target) = (windows[0].count, model.target)
        var sums = [Double](repeating: 0, count: unroll)
        var counts = [Double](repeating: 0, count: unroll)
        let known = try draft.targetIds.values(as: Int64.self)
        for (window, mask) in zip(windows, mask) {
            let ids = try Tensor(window.map(Int64.init), shape: [1, length])
            func context(_ tokens: Int, _ cache: KVCache?) throws -> ForwardContext {
                try ForwardContext(
                    batch: 1, tokens: tokens, cache: cache, padding: nil, rotary: draft.rotary,
                    device: .cpu, dtype: .float32)
            }
            let found = try target.features(
                of: ids, entering: draft.featureLayers,
                ForwardContext(
                    batch: 1, tokens: length, cache: nil, padding: nil, rotary: target.rotary,
                    device: .cpu, dtype: .float32))
            let says = try target.logits(found.hidden).squeeze(0)
            let fused = try draft.fuse(found.features)
            for place in 0..<length - 1 {
                let cache = KVCache(layers: 1)
                var hidden = try draft.layer(
                    embedding: draft.embed(ids.narrow(1, 1..<place + 2)),
                    hidden: fused.narrow(1, 0..<place + 1), context: context(place + 1, cache)
                ).narrow(1, place..<place + 1)
                cache.advance(by: place + 1)
                for step in 0..<unroll {
                    let spoken = place + 1 + step
                    guard spoken < length else { break }
                    if step > 0 {
                        hidden = try draft.layer(
                            embedding: draft.embed(ids.narrow(1, spoken..<spoken + 1)),
                            hidden: hidden, context: context(1, cache))
                        cache.advance(by: 1)
                    }
                    let logits: [Double] = try says.select(0, spoken).values()
                    let guess: [Double] = try draft.logits(hidden).reshape([-1]).logSoftmax()
                        .values()
                    counts[step] += mask[spoken]
                    let choice = logits.indices.max { logits[$0] < logits[$1] } ?? 0
                    guard known.contains(Int64(choice)), mask[spoken] > 0 else { continue }
                    let weights = known.map { exp(logits[Int($0)] - logits[choice]) }
                    let total = weights.reduce(0, +)
                    for (weight, guess) in zip(weights, guess) {
                        sums[step] -= weight / total * guess
                    }
                }
            }
        }
        var (loss, weight) = (0.0, 1.0)
        for step in 0..<unroll {
            loss += weight * sums[step] / counts[step]
            weight *= 0.8
        }
        return loss
    }

    @Test("the loss is the one that is defined", arguments: [false, true])
    func loss(hasPrompts: Bool) throws {
        var text = model.text
        if hasPrompts {
            // Completions of 7 tokens after prompts of 5.
            let marks = model.tokenized.tokens.indices.map { UInt8($0 % 12 < 5 ? 0 : 1) }
            let marked = TokenizedText(
                name: "pairs", documents: 48, tokens: model.tokenized.tokens, isTarget: marks)
            text = try HealingText([marked], settings: model.text.settings)
        }
        let (objective, draft) = try model.objective(text: text) { $0.batch = 2 }
        let batch = try text.batch(text.windows(step: 0, batch: 2))
        let ids: [Int32] = try batch.inputs.to(dtype: .int32).values()
        let mask: [Double] =
            try batch.mask?.values() ?? [Double](repeating: 1, count: ids.count)
        let expected = try definedLoss(
            draft, [Array(ids[..<24]), Array(ids[24...])],
            mask: [Array(mask[..<24]), Array(mask[24...])], unroll: 3)
        let found = try outcome(objective).loss
        // Terms of float32 that went through seven layers of ten operators each.
        #expect(abs(found - expected) <= DType.float32.epsilon * 70 * 8 * expected)
    }

    @Test("small passes have the same gradient") func passes() throws {
        let whole = try outcome(model.objective().objective)
        #expect(whole.loss.isFinite && whole.loss > 0)
        for tokens in [24, 72] {
            let (objective, _) = try model.objective { $0.tokensPerPass = tokens }
            #expect(objective.memory.windowsPerPass == tokens / 24)
            let found = try outcome(objective)
            let rounding = DType.float32.epsilon * 70 * 8
            #expect(abs(found.loss - whole.loss) <= rounding * whole.loss)
            let differences = try zip(found.gradients, whole.gradients).map { try $0 - $1 }
            #expect(try norm(differences) <= rounding * norm(whole.gradients))
        }
    }

    @Test("the gradient is the loss's slope") func slope() throws {
        let (objective, _) = try model.objective()
        // Where attention and feed-forward network add something.
        let generator = try RandomGenerator(seed: 8)
        try withoutGradients {
            for leaf in objective.parameters where leaf.tensor.rank == 2 {
                let noise = try Tensor.randn(leaf.tensor.shape, generator: generator)
                try leaf.tensor.addInPlace(noise, scale: 0.05)
            }
        }
        let found = try outcome(objective)
        let length = try norm(found.gradients)
        #expect(try found.gradients.allSatisfy { try $0.abs().max().item() > 0 })
        func loss(_ step: Double) throws -> Double {
            func move(_ step: Double) throws {
                try withoutGradients {
                    for (leaf, gradient) in zip(objective.parameters, found.gradients) {
                        try leaf.tensor.addInPlace(gradient, scale: step / length)
                    }
                }
            }
            try move(step)
            defer { try? move(-step) }
            return try outcome(objective).loss
        }
        let width = 1e-3
        let slope = try (loss(width) - loss(-width)) / (2 * width)
        // The loss is rounded to float32 and has a third derivative.
        let error = DType.float32.epsilon * 100 * found.loss / width + 0.01 * length
        #expect(abs(slope - length) <= error)
    }

    @Test("acceptance is counted place by place") func acceptance() throws {
        let (objective, draft) = try model.objective()
        let found = try objective.measure()
        let (window, unroll) = (24, 3)
        let known = try draft.targetIds.values(as: Int64.self)
        var right = [Int](repeating: 0, count: unroll)
        var all = 0
        for text in model.text.heldOut {
            let ids = try Tensor(text.dropLast().map(Int64.init), shape: [1, window])
            let context = try ForwardContext(
                batch: 1, tokens: window, cache: nil, padding: nil, rotary: model.target.rotary,
                device: .cpu, dtype: .float32)
            let seen = try model.target.features(
                of: ids, entering: draft.featureLayers, context)
            let choices: [Int64] = try model.target.logits(seen.hidden).argmax(-1).values()
            let fused = try draft.fuse(seen.features)
            for place in 0..<window - unroll {
                all += 1
                let cache = KVCache(layers: 1)
                func step(_ tokens: Range<Int>, _ hidden: Tensor) throws -> Tensor {
                    let context = try ForwardContext(
                        batch: 1, tokens: tokens.count, cache: cache, padding: nil,
                        rotary: draft.rotary, device: .cpu, dtype: .float32)
                    defer { cache.advance(by: tokens.count) }
                    return try draft.layer(
                        embedding: draft.embed(ids.narrow(1, tokens)), hidden: hidden,
                        context: context
                    ).narrow(1, tokens.count - 1..<tokens.count)
                }
                var hidden = try step(1..<place + 2, fused.narrow(1, 0..<place + 1))
                for index in 0..<unroll {
                    let spoken = place + 1 + index
                    if index > 0 { hidden = try step(spoken..<spoken + 1, hidden) }
                    let guess = Int(try draft.logits(hidden).argmax(-1).item())
                    guard known[guess] == choices[spoken] else { break }
                    right[index] += 1
                }
            }
        }
        let shares = zip(right, [all] + right).map {
            $1 > 0 ? Double($0) / Double($1) : 0
        }
        #expect(found.acceptance == shares)
    }

    // MARK: Training

    @Test("training lowers the loss and raises acceptance") func trains() throws {
        let scratch = try Scratch()
        let out = "\(scratch.path)/draft"
        let request = model.request { $0.tokens = 24 * 8 * 40 }
        var notes: [String] = []
        let result = try DraftTraining(model.source, request).run(output: out) {
            notes.append($0.note)
        }
        #expect(result.after.loss < 0.9 * result.before.loss)
        #expect(result.after.acceptance[0] > result.before.acceptance[0] + 0.05)
        #expect(result.after.length > result.before.length)
        #expect(result.after.acceptance.count == 3 && result.phase.steps == 40)
        #expect(notes.contains { $0.contains("acceptance") && $0.contains("τ") })
        #expect(notes.contains { $0.contains("MiB beside the weights") })
        #expect(scratch.entries == ["draft"])
        // What was written is what was measured, and says so.
        let stored = try Checkpoint(path: out)
        let record = try DraftResult(
            json: String(decoding: readFile("\(out)/minima.json", limit: 1 << 24), as: UTF8.self))
        #expect(record == result)
        #expect(stored.byteCount == result.bytes)
        #expect(stored.info("lm_head.weight")?.dtype == .bfloat16)
        let draft = try EagleDraft(stored, target: model.target)
        #expect(try draft.targetIds.values(as: Int32.self) == model.vocabulary)
        #expect(draft.featureLayers == [1, 3, 5])
    }

    @Test("a run that was stopped goes on to the same bytes") func resumes() throws {
        let scratch = try Scratch()
        let request = model.request { $0.checkpointInterval = 0 }
        func bytes(_ name: String) throws -> [UInt8] {
            try readFile("\(scratch.path)/\(name)/model.safetensors", limit: 1 << 30)
        }
        _ = try DraftTraining(model.source, request).run(output: "\(scratch.path)/whole")
        var stops = 0
        for limit in [4, 4, 4, .max] {
            var reports = 0
            do {
                _ = try DraftTraining(model.source, request).run(
                    output: "\(scratch.path)/parts"
                ) { progress in
                    if progress.stage == "draft" { reports += 1 }
                    if reports > limit { throw Stopped() }
                }
                break
            } catch is Stopped {
                stops += 1
                #expect(scratch.entries == ["parts.minima-work", "whole"])
            }
        }
        #expect(stops >= 1)
        #expect(try bytes("parts") == bytes("whole"))
        #expect(scratch.entries == ["parts", "whole"])
        // Another request does not go on from here.
        var other = model.request { $0.checkpointInterval = 0 }
        _ = try? DraftTraining(model.source, request).run(output: "\(scratch.path)/again") {
            if $0.stage == "draft", $0.done > 2 { throw Stopped() }
        }
        other.settings.unroll = 2
        #expect(throws: WorkDirectoryError.self) {
            try DraftTraining(model.source, other).run(output: "\(scratch.path)/again")
        }
    }

    @Test("what cannot be trained is said") func failures() throws {
        for unroll in [0, 8] {
            #expect(throws: DraftTrainingError.badUnroll(unroll)) {
                try DraftTraining(model.source, model.request { $0.unroll = unroll })
            }
        }
        var settings = HealingText.Settings(context: 5)
        settings.heldOutShare = 0.1
        var short = model.request()
        short.text = try HealingText([model.tokenized], settings: settings)
        #expect(throws: DraftTrainingError.windowTooShort(tokens: 5, unroll: 3)) {
            try DraftTraining(model.source, short)
        }
        let foreign = TokenizedText(
            name: "foreign", documents: 1, tokens: [Int32](repeating: 9000, count: 200))
        let text = try HealingText([foreign], settings: HealingText.Settings(context: 24))
        #expect(throws: ModelError.tokenOutOfRange(id: 9000, vocabulary: 8192)) {
            try model.objective(text: text)
        }
    }
}

@Suite("Draft training, its parts")
struct DraftPartTests {
    @Test func mostFrequentTokens() {
        let plain = TokenizedText(
            name: "a", documents: 1, tokens: [5, 5, 5, 2, 2, 9, 7, 7, 100, 100, 100, 100])
        let pair = TokenizedText(
            name: "b", documents: 1, tokens: [3, 3, 3, 3, 9, 9], isTarget: [0, 0, 0, 0, 1, 1])
        func frequent(_ count: Int) -> [Int32] {
            DraftVocabulary.mostFrequent(of: [plain, pair], count: count, vocabulary: 12)
        }
        // Three times each; then twice each; ids that the model lacks do not count.
        #expect(frequent(2) == [5, 9])
        #expect(frequent(3) == [2, 5, 9])
        #expect(frequent(4) == [2, 5, 7, 9])
        #expect(frequent(6) == [0, 1, 2, 5, 7, 9])
        #expect(frequent(100) == Array(0..<12))
        #expect(
            DraftVocabulary.coverage(of: [plain, pair], by: [5, 9]) == 6.0 / 18)
    }

    @Test func acceptanceLength() {
        #expect(AcceptanceLength.of([]) == 1)
        #expect(AcceptanceLength.of([0.5, 0.5]) == 1.75)
        #expect(AcceptanceLength.of([1, 1, 0, 1]) == 3)
    }

    @Test("fewer windows run at once where memory is short") func memory() throws {
        let model = try DraftCase.shared.get()
        let weights = try DraftWeights(
            for: model.target, model.source, vocabulary: model.vocabulary)
        let sizes = DraftMemory.Sizes(
            targetSites: try model.source.sites(), targetHidden: 192,
            draftSites: try EagleDraft.sites(weights), config: try .init(weights.config),
            window: 512, unroll: 5, dtype: .float32, device: .cpu, trained: 1_000_000, windows: 8,
            tokensPerPass: 4096)
        let most = try DraftMemory(sizes, available: nil)
        #expect(most.windowsPerPass == 8)
        let half = try DraftMemory(sizes, available: most.deviceBytes - 1)
        #expect(half.windowsPerPass == 4 && half.activationBytes == most.activationBytes / 2)
        #expect(throws: StageError.self) { try DraftMemory(sizes, available: 1 << 20) }
        var huge = sizes
        (huge.window, huge.trained) = (1 << 40, 1 << 60)
        #expect(throws: StageError.self) { try DraftMemory(huge, available: .max - 1) }
    }

    @Test("every layer in another format") func compression() throws {
        let model = try DraftCase.shared.get()
        let dense = try DraftWeights(
            for: model.target, model.source, vocabulary: model.vocabulary)
        let scratch = try Scratch()
        func bytes(_ draft: DraftWeights, _ name: String) throws -> Int {
            let directory = try AtomicDirectory(destination: "\(scratch.path)/\(name)")
            try draft.write(to: directory)
            try directory.commit()
            let stored = try Checkpoint(path: "\(scratch.path)/\(name)")
            _ = try EagleDraft(stored, target: model.target)
            return stored.byteCount
        }
        let before = try bytes(dense, "dense")
        var last = before
        for bits in [8, 4] {
            let found = try DraftCompression(dense)(
                { _, _, _ in
                    FormatSpec(
                        format: Quantized.name, bits: bits, groupSize: 32,
                        parts: [FormatSpec(format: Dense.name)])
                })
            #expect(found.errors.count == 9)
            // Half a step of 2^bits levels over a group's range, which is a few deviations.
            // The features' identity has one number in a group.
            let largest = found.errors.filter { $0.key != "fc" }.values.max() ?? 1
            #expect(largest < 4 / Double(1 << bits), "\(found.errors)")
            let size = try bytes(found.draft, "\(bits) bits")
            #expect(size < Int(0.65 * Double(last)))
            last = size
            #expect(throws: StageError.self) {
                try DraftCompression(found.draft)({ _, _, _ in FormatSpec(format: Dense.name) })
            }
        }
    }
}
