import MinimaCore
import MinimaTensor

/// Chooses the next token of every row of logits on the device, one launch for all of them; agrees bit
/// for bit with `Sampler` of MinimaRuntime. See `sampling.cu`.
public struct SamplingKernel: Sendable {
    /// Tokens of the model.
    public let vocabulary: Int
    /// Rows of one launch at most.
    public let rows: Int

    /// Biases of a slot at most.
    public static let mostBiases = 512
    /// 32-bit words of a slot's settings.
    static let settingWords = 16
    private static let block = 256
    /// Rows of a tree and of what it follows: a warp looks through them.
    static let mostTreeRows = 32
    /// Blocks that share a row at most, and the bytes of a row's workspace.
    private static let mostSplits = 64
    package static let workspaceBytes = 63_104

    private let sample: Kernel
    /// `nil` where no step verifies trees.
    private let sampleTree: Kernel?
    private let openHistory: Kernel
    private let workspace: Tensor
    /// Blocks that the device can hold at a time.
    private let residentBlocks: Int

    /// Compiles the kernels for a vocabulary of at most 262,144 tokens.
    ///
    /// - Parameters:
    ///   - vocabulary: Columns of the logits.
    ///   - rows: Rows of one launch at most.
    ///   - verifiesTrees: Whether proposals may be trees.
    public init(
        context: CUDAContext, vocabulary: Int, rows: Int, verifiesTrees: Bool = false
    ) throws(KernelError) {
        try self.init(
            context: context, vocabulary: vocabulary, rows: rows, acceptance: nil,
            verifiesTrees: verifiesTrees)
    }

    /// A kernel that takes proposals for right with given probabilities, whatever they are: to time
    /// steps at an acceptance that no draft at hand reaches. What it samples means nothing.
    ///
    /// - Parameters:
    ///   - acceptance: Per place of a step the probability that its proposal counts as right; of a tree's
    ///     proposals for a place the first does, as far as there is one.
    ///   - verifiesTrees: Whether proposals may be trees.
    package init(
        context: CUDAContext, vocabulary: Int, rows: Int, simulating acceptance: [Double],
        verifiesTrees: Bool = false
    ) throws(KernelError) {
        try self.init(
            context: context, vocabulary: vocabulary, rows: rows,
            acceptance: acceptance.map { UInt32(clamping: Int(($0 * 0x1p32).rounded())) },
            verifiesTrees: verifiesTrees)
    }

    private init(
        context: CUDAContext, vocabulary: Int, rows: Int, acceptance: [UInt32]?,
        verifiesTrees: Bool
    ) throws(KernelError) {
        guard (1...1 << 18).contains(vocabulary), rows > 0 else {
            throw .invalidLaunch(
                kernel: "sampling.cu",
                reason: """
                    logits [\(rows), \(vocabulary)] were asked for; rows are 1 or more, the vocabulary \
                    1 to 262,144
                    """)
        }
        let source = try KernelSource("sampling.cu")
        var constants: [String: KernelConstant] = [
            "VOCAB": .int(vocabulary), "BIASES": .int(Self.mostBiases), "BLOCK": .int(Self.block),
        ]
        if let acceptance, !acceptance.isEmpty {
            constants["ACCEPTANCE"] = .text(acceptance.map { "\($0)u" }.joined(separator: ","))
        }
        sample = try context.kernel(source, entry: "sample", constants: constants)
        openHistory = try context.kernel(source, entry: "open_history", constants: constants)
        constants["TREE"] = 1
        sampleTree =
            verifiesTrees
            ? try context.kernel(source, entry: "sample", constants: constants) : nil
        var resident = try sample.blocksPerMultiprocessor(block: Self.block)
        if let sampleTree {
            resident = min(resident, try sampleTree.blocksPerMultiprocessor(block: Self.block))
        }
        residentBlocks = resident * context.multiprocessors
        workspace = try KernelError.wrapping { () throws(TensorError) in
            let zeros = try Tensor.zeros(
                [rows, Self.workspaceBytes], dtype: .uint8, device: context.device)
            // Written on another stream than the ones that launches will use.
            try context.device.synchronize()
            return zeros
        }
        self.vocabulary = vocabulary
        self.rows = rows
    }

    /// Blocks that share each of `rows` rows. They wait for one another, so all must fit at once.
    private func splits(_ rows: Int) -> Int {
        let groups = (vocabulary + 3) / 4
        let useful = (groups + Self.block - 1) / Self.block
        return max(1, min(Self.mostSplits, residentBlocks / rows, useful))
    }

    /// Queues the choice of a token per row. Each row's slot gets its token, one more in its position
    /// and in `lengths`, and the token in its history, so that a captured launch can be replayed.
    ///
    /// A step that verifies proposals has a launch for each place, in order. Those after the first
    /// choose only for rows whose token of the place before is the one that was proposed, and for none
    /// whose slot has a mask.
    ///
    /// - Parameters:
    ///   - logits: float32 `[count · rowsOfLogits, vocabulary]`; those of row r's place p are in row
    ///     r · `rowsOfLogits` + p.
    ///   - slots: int32 `[count]`, the slot of each row, none twice; a negative one skips the row.
    ///     `nil`: row r is slot r.
    ///   - lengths: int32 `[slots]`, counted on like the positions.
    ///   - place: Which token of the step is chosen.
    ///   - rowsOfLogits: Places of the step, at most the state's.
    ///   - inTree: Whether the proposals are a tree, as the state's parents say: the row of logits is that
    ///     of the proposal that was gone to.
    ///   - overlapping: Whether the kernel may start before the one ahead of it ends.
    public func launch(
        _ logits: Tensor, slots: Tensor? = nil, state: SamplingState, lengths: Tensor? = nil,
        place: Int = 0, of rowsOfLogits: Int = 1, inTree: Bool = false, on stream: CUDAStream,
        overlapping: Bool = true
    ) throws(KernelError) {
        let all = logits.rank == 2 ? logits.shape[0] : 0
        let count = all / max(rowsOfLogits, 1)
        guard (1...state.places).contains(rowsOfLogits), (0..<rowsOfLogits).contains(place),
            count > 0, count <= rows, all == count * rowsOfLogits, logits.shape[1] == vocabulary,
            logits.dtype == .float32, state.vocabulary == vocabulary
        else {
            throw .invalidLaunch(
                kernel: sample.name,
                reason: """
                    logits are \(logits.summary) for place \(place) of \(rowsOfLogits) and a state of \
                    \(state.places), the kernel takes float32 [1...\(rows) times the places, \
                    \(vocabulary)]
                    """)
        }
        let fits =
            if let slots { slots.shape == [count] && slots.dtype == .int32 } else {
                count <= state.slots
            }
        guard fits, lengths.map({ $0.shape == [state.slots] && $0.dtype == .int32 }) ?? true else {
            throw .invalidLaunch(
                kernel: sample.name,
                reason: """
                    \(count) rows of \(state.slots) slots need slots int32 [\(count)] and lengths int32 \
                    [\(state.slots)]; found \(slots?.summary ?? "none"), \(lengths?.summary ?? "none")
                    """)
        }
        var kernel = sample
        var tree: [KernelArgument] = []
        if inTree {
            guard let sampleTree, let parents = state.parents, let path = state.path,
                rowsOfLogits <= Self.mostTreeRows
            else {
                throw .invalidLaunch(
                    kernel: sample.name,
                    reason: """
                        a tree of \(rowsOfLogits - 1) proposals was asked for; the kernel takes up to \
                        \(Self.mostTreeRows - 1), where it was made for trees, and so was the state
                        """)
            }
            (kernel, tree) = (sampleTree, [.tensor(parents), .tensor(path)])
        }
        try kernel.launch(
            grid: (splits(count), count, 1), block: Self.block, on: stream,
            overlapping: overlapping,
            [
                .tensor(logits), .optional(slots), .tensor(state.settings),
                .tensor(state.biasTokens), .tensor(state.biasValues), .tensor(state.masks),
                .optional(state.history), .tensor(state.positions), .optional(lengths),
                .tensor(state.tokens),
                .tensor(state.logSums), .tensor(state.chosenLogits), .tensor(workspace),
                .tensor(state.emitted), .tensor(state.counts), .tensor(state.drafts),
                .optional(state.sequence), .int32(place), .int32(state.places),
                .int32(rowsOfLogits), .int32(state.sequence?.shape[1] ?? 0),
            ] + tree)
    }

    /// Queues what a slot has to know before its first choice, but for ``SamplingState/masks``.
    ///
    /// - Parameters:
    ///   - slot: A slot that no launch under way uses.
    ///   - tokens: The sequence so far, the prompt and what was generated; at least one token.
    ///   - promptCount: How many of `tokens` are the prompt.
    public func open(
        slot: Int, _ settings: SamplingSettings, tokens: [Int32], promptCount: Int,
        state: SamplingState, on stream: CUDAStream
    ) throws {
        try check(slot, settings, tokens, promptCount, state)
        let place = slot..<slot + 1
        try stream.use {
            func write<Element: TensorElement>(_ values: [Element], _ target: Tensor) throws {
                let row = try target.narrow(0, place).flatten().narrow(0, 0..<values.count)
                try row.copy(from: Tensor(values))
            }
            try write(settings.words(vocabulary: vocabulary), state.settings)
            try write([Int32(clamping: tokens.count - 1)], state.positions)
            let biases = settings.logitBias.sorted { $0.key < $1.key }
            if !biases.isEmpty {
                try write(biases.map(\.key), state.biasTokens)
                try write(biases.map { Float($0.value) }, state.biasValues)
            }
            if let sequence = state.sequence { try write(tokens, sequence) }
            guard settings.usesHistory, let history = state.history else { return }
            let known = try Tensor(tokens).to(state.tokens.device)
            try openHistory.launch(
                grid: (1, 1, 1), block: Self.block, on: stream,
                [
                    .tensor(history), .tensor(known), .int32(tokens.count), .int32(promptCount),
                    .int32(slot),
                ])
        }
    }

    private func check(
        _ slot: Int, _ settings: SamplingSettings, _ tokens: [Int32], _ promptCount: Int,
        _ state: SamplingState
    ) throws(KernelError) {
        let reason: String? =
            if !(0..<state.slots).contains(slot) {
                "slot \(slot) is not in 0..<\(state.slots)"
            } else if tokens.isEmpty || !(0...tokens.count).contains(promptCount) {
                "a sequence of \(tokens.count) tokens cannot have \(promptCount) of a prompt"
            } else if let sequence = state.sequence, tokens.count > sequence.shape[1] {
                "a sequence of \(tokens.count) tokens is longer than \(sequence.shape[1])"
            } else if settings.logitBias.count > Self.mostBiases {
                "\(settings.logitBias.count) biases are more than \(Self.mostBiases)"
            } else if let token = settings.logitBias.keys.first(where: {
                $0 < 0 || Int($0) >= vocabulary
            }) {
                "a bias names token \(token), which is not in 0..<\(vocabulary)"
            } else if settings.usesHistory, state.history == nil {
                "penalties need a state that keeps a history"
            } else {
                nil
            }
        if let reason { throw .invalidLaunch(kernel: sample.name, reason: reason) }
    }
}

extension KernelArgument {
    /// A tensor's address, or a null pointer.
    static func optional(_ tensor: Tensor?) -> KernelArgument {
        tensor.map { .tensor($0) } ?? .none
    }
}
