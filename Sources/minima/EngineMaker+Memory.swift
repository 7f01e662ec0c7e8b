import MinimaCheckpoint
import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaRuntime
import MinimaStages
import MinimaTensor

// What fits beside a model: for generate, serve and the benchmarks, and for --explain-memory.
extension EngineMaker {
    /// Tokens of a page.
    static var pageTokens: Int { PagedKeyValues.pageTokens }

    /// Pages of a sequence of `length` tokens, and of what steps queued behind its end write.
    func pages(for length: Int) -> Int {
        let places = places(length)
        return places / Self.pageTokens + (places % Self.pageTokens > 0 ? 1 : 0)
    }

    /// Tokens of a prompt that are computed at once.
    static func chunk(_ decoder: Decoder?) -> Int { decoder == nil ? 512 : 2048 }

    /// Tokens of prompts that the engine computes at once.
    var chunk: Int { Self.chunk(decoder) }

    /// What fits beside the model, for `slots` requests at one time of at most `longest` tokens;
    /// weights and what lies between the layers are predicted.
    func budget(slots: Int, longest: Int) throws -> KeyValueBudget {
        try budget(decoder, slots: slots, longest: longest)
    }

    /// What the engine on a GPU is made for, with as many pages as all slots need.
    func layout(slots: Int, longest: Int) -> CUDALayout {
        CUDALayout(
            slots: slots, context: longest, format: options.kvDtype.format,
            chunk: Self.chunk(decoder), isDeterministic: deterministic, draftTokens: draftTokens)
    }

    /// Bytes of the device that an engine may take: what is free, or what --vram allows of that.
    private func availableBytes() throws -> Int {
        let free = try device.memory()?.available ?? HostMemory.available() ?? .max
        return min(free, options.limit ?? .max)
    }

    func budget(_ decoder: Decoder?, slots: Int, longest: Int) throws -> KeyValueBudget {
        guard let decoder else {
            return KeyValueBudget(
                deviceBytes: try availableBytes(),
                weightBytes: checkpoint.weightBytes(dtype) + (draft?.weightBytes(dtype) ?? 0),
                activationBytes: try activationBytes(slots: slots, longest: longest),
                bytesPerToken: try checkpoint.keyValueBytes(dtype)
                    + (draft?.keyValueBytes(dtype) ?? 0), pageTokens: Self.pageTokens)
        }
        var layout = layout(slots: slots, longest: longest)
        layout.pages = 0
        let memory = decoder.memory.prediction(layout)
        let page = decoder.memory.pageBytes(layout.format)
        return KeyValueBudget(
            deviceBytes: try availableBytes(), weightBytes: memory.weights,
            activationBytes: memory.activations + memory.workspace + memory.logits
                + decoder.memory.reserve(layout),
            bytesPerToken: (page + Self.pageTokens - 1) / Self.pageTokens,
            pageTokens: Self.pageTokens)
    }

    /// Bytes that lie beside the weights while they are loaded, as far as they are more than what an
    /// engine without pages takes later.
    func loadingBytes(_ decoder: Decoder?, slots: Int, longest: Int) -> Int {
        guard let decoder else { return 0 }
        var layout = layout(slots: slots, longest: longest)
        layout.pages = 0
        let memory = decoder.memory
        return max(memory.needed(layout) - memory.prediction(layout).weights, 0)
    }

    /// Bytes between the layers at most, through libtorch: a layer's inputs and outputs for a chunk,
    /// twice; scores of attention over the longest sequence and their softmax; logits of all
    /// requests in float32 or int64, of which choosing tokens holds about eight, and those of a slice
    /// of a prompt that is scored about four.
    func activationBytes(slots: Int, longest: Int) throws -> Int {
        let verified = slots * (mostDraftTokens + 1)
        let rows = max(min(Self.chunk(nil), longest), verified)
        let width = try checkpoint.sites().filter { $0.layer == 0 }
            .reduce(0) { $0 + $1.inputs + $1.outputs }
        let heads = try checkpoint.config.int("num_attention_heads")
        let vocabulary = try checkpoint.config.int("vocab_size")
        let values = 2 * Double(rows) * (Double(width) + Double(heads) * Double(longest))
        let logits =
            8 * Double(vocabulary) * Double(max(8 * verified, 4 * PromptScoring.rowsAtOnce))
        let bytes = values * Double(dtype.byteCount) + logits
        // The budget takes no more, and configurations can hold any number.
        return Int(min(bytes, 0x1p50))
    }

    /// How many requests of which length fit, for people.
    ///
    /// - Parameters:
    ///   - longest: Tokens of the longest request; `nil`: the model's context.
    ///   - option: The option that says how many requests are computed at one time.
    func memoryTable(longest: Int? = nil, option: String) throws -> String {
        let context = min(longest ?? context, context)
        let budget = try budget(slots: parallel, longest: context)
        var lengths = Array(sequence(first: 512) { $0 < context / 2 ? $0 * 2 : nil })
            .filter { $0 < context }
        lengths.append(context)
        func padded(_ cells: [String]) -> String {
            cells.map { String(repeating: " ", count: max(12 - $0.count, 0)) + $0 }.joined()
        }
        let rows = budget.table(lengths: lengths).map {
            padded([
                grouped($0.length), grouped($0.requests), grouped($0.pages), byteText($0.bytes),
            ])
        }
        return """
            \(device), \(options.vram == nil ? "free      " : "--vram    ")\(byteText(budget.deviceBytes))
            weights         \(byteText(budget.weightBytes)) in \(dtype)\(try draftText())
            activations     \(byteText(budget.activationBytes)) at most, with \(option) \(parallel)
            left for pages  \(budget)

            \(padded(["tokens", "requests", "pages each", "memory"]))
            \(rows.joined(separator: "\n"))
            of which \(parallel) run at one time (\(option))

            """
    }

    /// What the weights and the pages hold of a draft's.
    private func draftText() throws -> String {
        guard let draft else { return "" }
        let weights = draft.weightBytes(dtype)
        guard weights > 0 else { return "" }
        let pages =
            try decoder?.memory.draft.map {
                $0.pageBytes(options.kvDtype.format) / Self.pageTokens
            } ?? draft.keyValueBytes(dtype)
        return """
            , of which the draft \(byteText(weights)), and \(byteText(pages)) of each token in pages
            """
    }
}
