import MinimaCore
import MinimaTensor
import Synchronization

/// y = x · Wᵀ for few tokens at the speed of reading W, with the norm before and the step behind in
/// the same kernel; see `linear.cu`.
///
/// Compiled for one shape, number of tokens and row lengths; the same kernel serves all layers that
/// have these in common. Results depend on neither timing nor other launches. Beside codes of 8 bits,
/// and for one token often beside codes of 4 bits whose levels are equally spaced, x is rounded, per
/// token and 64 columns (or 32), to multiples of its largest magnitude / 32512, which is finer than
/// bfloat16's rounding of that value; sums over so many columns are exact then.
public struct DecodeLinear: Sendable {
    /// What becomes of the sums, and what `y` is.
    public enum Epilogue: Int, Sendable, Hashable {
        /// bfloat16, overwritten.
        case store = 0
        /// float32, overwritten.
        case storeFloat
        /// bfloat16, added to: the residual stream.
        case add
        /// silu(gate) · up, bfloat16; slots from ``LinearSlots/swiglu(half:stored:)``.
        case swiglu
        /// The same where the pivots' products are the input; slots from
        /// ``LinearSlots/interpolatedSwiglu(half:pivots:)``.
        case interpolatedSwiglu
    }

    /// The matrix.
    public let matrix: LinearMatrix
    /// Rows of x and y, 1 to 16.
    public let tokens: Int
    /// How the work is cut.
    public let tuning: LinearTuning
    /// The compiled kernel.
    public let kernel: Kernel

    private let epilogue: Epilogue
    private let normalised: Bool
    private let biased: Bool
    private let inputStride: Int
    private let outputStride: Int
    private let compactStride: Int?
    private let room: Workspace.Room

    /// Compiles the kernel, and reserves what it needs in `workspace`.
    ///
    /// - Parameters:
    ///   - tokens: 1 to 16.
    ///   - normalised: Whether x goes through an RMSNorm first; the columns are a multiple of 8 then.
    ///   - biased: Whether a bias is added, by output element.
    ///   - inputStride: Elements from row to row of x, a multiple of 8, at least the columns.
    ///   - outputStride: Elements from row to row of y, beyond every element that a slot names.
    ///   - compactStride: Elements from row to row of a second result, which has the slots side by
    ///     side, bfloat16, without bias and addition: what the other half of a factored linear reads;
    ///     `nil` for none. With ``Epilogue/store`` and ``Epilogue/add``.
    ///   - tuning: How to cut the work; `nil` for the usual way.
    ///   - workspace: One per stream.
    /// - Throws: `KernelError` where the kernel does not take the sizes, or the device cannot hold it.
    public init(
        _ matrix: LinearMatrix, tokens: Int, epilogue: Epilogue, normalised: Bool = false,
        biased: Bool = false, inputStride: Int, outputStride: Int, compactStride: Int? = nil,
        tuning: LinearTuning? = nil, workspace: Workspace, context: CUDAContext
    ) throws(KernelError) {
        let problem = matrix.problem(tokens: tokens, normalised: normalised)
        let stores = epilogue == .store || epilogue == .add
        guard (1...16).contains(tokens), inputStride % 8 == 0, inputStride >= matrix.columns,
            outputStride >= matrix.slots.outputWidth(gated: epilogue == .swiglu),
            compactStride.map({ stores && $0 >= matrix.slots.count }) ?? true,
            !normalised || matrix.columns % 8 == 0,
            (epilogue == .interpolatedSwiglu) == (matrix.slots.gates != nil),
            epilogue != .swiglu || matrix.slots.count % 16 == 0,
            !biased || stores || epilogue == .storeFloat
        else {
            throw .invalidLaunch(
                kernel: "linear.cu",
                reason: """
                    \(tokens) tokens, \(matrix.slots.count) slots, \(matrix.columns) columns, rows of \
                    \(inputStride), \(outputStride) and \(compactStride ?? 0) with the epilogue \
                    \(epilogue) were asked for; it takes 1 to 16 tokens, inputs in rows of a multiple of \
                    8, outputs in rows that hold every slot's element, a second result beside store and \
                    add, a bias beside those and storeFloat, and the slots made for the epilogue
                    """)
        }
        let limit = Self.sharedLimit(context, tokens: tokens)
        let tuning =
            tuning ?? problem.tuning(multiprocessors: context.multiprocessors, limit: limit)
        // A cut that was asked for may take a whole multiprocessor.
        let fitting =
            problem.depth(tuning, limit: limit)
            ?? problem.depth(tuning, limit: context.sharedPerBlock)
        guard problem.allows(tuning), let depth = fitting else {
            throw .exceedsDevice(
                kernel: "linear.cu",
                reason: """
                    \(matrix.columns) columns for \(tokens) tokens in stages of \(tuning.stage), grains \
                    of \(tuning.grain) and chunks of \(tuning.chunk) do not fit into \
                    \(context.sharedPerBlock) bytes of shared memory or are no multiples of each other \
                    and 64
                    """)
        }
        var constants = matrix.constants
        constants.merge(tuning.constants(depth: depth, columns: matrix.columns)) { $1 }
        constants["TOKENS"] = .int(tokens)
        constants["INTEGERS"] = .int(problem.multipliesIntegers ? 1 : 0)
        constants["PROLOGUE"] = .int(normalised ? 1 : 0)
        constants["EPILOGUE"] = .int(epilogue.rawValue)
        constants["COMPACT"] = .int(compactStride == nil ? 0 : 1)
        constants["BIAS"] = .int(biased ? 1 : 0)
        constants["X_STRIDE"] = .int(inputStride)
        constants["Y_STRIDE"] = .int(outputStride)
        constants["P_STRIDE"] = .int(compactStride ?? 0)
        kernel = try context.kernel(
            KernelSource("linear.cu"), entry: "linear", constants: constants,
            sharedBytes: problem.sharedBytes(tuning, depth: depth))
        room = try workspace.reserve(problem.workspace(blocks: tuning.blocks))
        self.matrix = matrix
        self.tokens = tokens
        self.tuning = tuning
        self.epilogue = epilogue
        self.normalised = normalised
        self.biased = biased
        self.inputStride = inputStride
        self.outputStride = outputStride
        self.compactStride = compactStride
    }

    /// Half of a multiprocessor's shared memory where kernels overlap, so that the next one's ring
    /// fills meanwhile. With more tokens than one all of it: what they take would be missing in the
    /// ring, and attention of several queries leaves no registers for a neighbour.
    static func sharedLimit(_ context: CUDAContext, tokens: Int) -> Int {
        let overlaps = tokens == 1 && !context.architecture.hasPrefix("sm_8")
        // Each block takes 1 KiB more than it asks for.
        return overlaps
            ? min(context.sharedPerBlock, context.sharedPerMultiprocessor / 2 - 1024)
            : context.sharedPerBlock
    }

    /// Queues the product.
    ///
    /// - Parameters:
    ///   - x: bfloat16 `[tokens, inputStride]`; what is beyond the columns does not matter.
    ///   - norm: bfloat16 `[columns]`, where the kernel normalises; `epsilon` likewise.
    ///   - bias: bfloat16, one value per output element, where the kernel adds one.
    ///   - y: `[tokens, outputStride]`, float32 with ``Epilogue/storeFloat``, else bfloat16. Elements
    ///     that no slot names stay.
    ///   - compact: bfloat16 `[tokens, compactStride]`, where the kernel has a second result.
    ///   - overlapping: Lets the kernel start ahead of the one before, and load weights meanwhile. The
    ///     weights, norm, bias and slots must stand already.
    public func launch(
        _ x: Tensor, norm: Tensor? = nil, epsilon: Double = 0, bias: Tensor? = nil, into y: Tensor,
        compact: Tensor? = nil, on stream: CUDAStream, overlapping: Bool = true
    ) throws(KernelError) {
        guard (norm != nil) == normalised, (bias != nil) == biased,
            (compact != nil) == (compactStride != nil), bias.map({ $0.dtype == .bfloat16 }) ?? true
        else {
            throw .invalidLaunch(
                kernel: kernel.name,
                reason: """
                    it was compiled \(normalised ? "with" : "without") norm, \
                    \(biased ? "with" : "without") bias (bfloat16) and \
                    \(compactStride == nil ? "without" : "with") a second result; pass these and no \
                    others
                    """)
        }
        var shapes = KernelShapes(kernel.name)
            .expect("x", x, .bfloat16, [tokens, inputStride])
            .expect(
                "y", y, epilogue == .storeFloat ? .float32 : .bfloat16, [tokens, outputStride])
        if let norm { shapes = shapes.expect("norm", norm, .bfloat16, [matrix.columns]) }
        if let compact, let compactStride {
            shapes = shapes.expect("compact", compact, .bfloat16, [tokens, compactStride])
        }
        try shapes.check()
        let tables = matrix.tables
        try kernel.launch(
            grid: (tuning.blocks, 1, 1), block: LinearProblem.threads, on: stream,
            overlapping: overlapping,
            [
                .tensor(matrix.streamed), .optional(matrix.base), .tensor(x), .optional(norm),
                .float(epsilon), .optional(bias), .tensor(y), .optional(compact),
                .optional(matrix.rowTable), .optional(tables.outputs), .optional(tables.partners),
                .optional(tables.kinds), .optional(tables.pairs),
                .int32((matrix.slots.gates?.pairs.count ?? 0) / 3), .tensor(room.parts),
                .tensor(room.places), .tensor(room.counters),
            ])
    }

    /// Where blocks of one launch meet: parts of tiles that several share. Launches of one stream share
    /// a workspace; it grows as kernels are made, before anything runs.
    public final class Workspace: Sendable {
        private let device: Device
        private let latest = Mutex<Room?>(nil)

        /// Tensors of some size; kernels keep those that they were made with.
        struct Room: Sendable {
            /// float32, of any content.
            let parts: Tensor
            /// int64, all -1 between launches.
            let places: Tensor
            /// int32, all 0 between launches.
            let counters: Tensor
        }

        /// Empty.
        public init(device: Device) {
            self.device = device
        }

        /// Bytes on the device that new kernels use.
        public var bytes: Int {
            latest.withLock {
                $0.map { $0.parts.count * 4 + $0.places.count * 8 + $0.counters.count * 4 } ?? 0
            }
        }

        /// Bytes for matrices of up to `slots` outputs and `tokens` tokens at most, however they are
        /// stored and cut.
        public static func mostBytes(slots: Int, tokens: Int, multiprocessors: Int) -> Int {
            // A stage has one tile or two.
            let needs = [1, 2].map { tiles in
                LinearProblem(
                    bits: 4, slots: slots, columns: 64, tokens: min(max(tokens, 1), 16),
                    normalised: false, tilesPerStage: tiles, piece: 64, lookedUp: 0,
                    isUniform: false
                ).workspace(blocks: multiprocessors)
            }
            let (parts, places, counters) = (
                needs.map { $0.parts }, needs.map { $0.places }, needs.map { $0.counters }
            )
            return 4 * (parts.max() ?? 0) + 8 * (places.max() ?? 0) + 4 * (counters.max() ?? 0)
        }

        /// Allocates what products of up to `tokens` tokens with each of `matrices` need, so that it does
        /// not grow as their kernels are made.
        public func reserve(
            for matrices: [LinearMatrix], tokens: Int, multiprocessors: Int
        ) throws(KernelError) {
            var most = (parts: 0, places: 0, counters: 0)
            for matrix in matrices {
                let own = matrix.problem(tokens: min(tokens, 16), normalised: false)
                    .workspace(blocks: multiprocessors)
                most.parts = max(most.parts, own.parts)
                most.places = max(most.places, own.places)
                most.counters = max(most.counters, own.counters)
            }
            _ = try reserve(most)
        }

        func reserve(
            _ needed: (parts: Int, places: Int, counters: Int)
        ) throws(KernelError) -> Room {
            let result = latest.withLock { latest -> Result<Room, KernelError> in
                let (parts, places, counters) = (
                    max(needed.parts, latest?.parts.count ?? 0),
                    max(needed.places, latest?.places.count ?? 0),
                    max(needed.counters, latest?.counters.count ?? 0)
                )
                if let room = latest, room.parts.count == parts, room.places.count == places,
                    room.counters.count == counters
                {
                    return .success(room)
                }
                do throws(TensorError) {
                    let room = try Room(
                        parts: .empty([parts], device: device),
                        places: .full([places], -1, dtype: .int64, device: device),
                        counters: .zeros([counters], dtype: .int32, device: device))
                    // Other streams may use it from now on.
                    try device.synchronize()
                    latest = room
                    return .success(room)
                } catch {
                    return .failure(.tensor(error))
                }
            }
            return try result.get()
        }
    }
}

extension LinearTuning {
    /// What linear.cu is specialised by, of the cut.
    fileprivate func constants(depth: Int, columns: Int) -> [String: KernelConstant] {
        [
            "STAGE": .int(stage), "GRAIN": .int(grain), "CHUNK": .int(min(chunk, columns)),
            "AHEAD": .int(readsAhead ? 1 : 0), "DEPTH": .int(depth), "CTAS": .int(blocks),
            "WARPS": .int(LinearProblem.warps),
        ]
    }
}

extension LinearMatrix {
    func problem(tokens: Int, normalised: Bool) -> LinearProblem {
        let layout: LinearLayout? =
            if case .codes(let packed) = storage { packed.layout } else { nil }
        return LinearProblem(
            bits: layout?.bits ?? 16, slots: slots.count, columns: columns, tokens: tokens,
            normalised: normalised, tilesPerStage: layout?.tilesPerStage ?? 1,
            piece: layout?.piece ?? 64, lookedUp: layout?.lookedUp ?? 0,
            isUniform: layout?.isUniform ?? false)
    }

    /// What the kernel streams.
    fileprivate var streamed: Tensor {
        switch storage {
        case .rows(let weight): weight
        case .codes(let packed): packed.bytes
        }
    }

    fileprivate var base: Tensor? {
        if case .codes(let packed) = storage { packed.base } else { nil }
    }

    /// Codes are stored in the order of the slots.
    fileprivate var rowTable: Tensor? {
        if case .rows = storage { tables.rows } else { nil }
    }

    /// What linear.cu is specialised by, of the matrix.
    fileprivate var constants: [String: KernelConstant] {
        var result: [String: KernelConstant] = [
            "ROWS": .int(slots.count), "COLUMNS": .int(columns),
            "PITCH": .int((columns + 7) / 8 * 8),
            "OUTPUT_TABLE": .int(tables.outputs == nil ? 0 : 1),
            "ROW_TABLE": .int(rowTable == nil ? 0 : 1),
        ]
        let problem = problem(tokens: 1, normalised: false)
        result["WEIGHT"] = .int(problem.bits)
        result["TILES_PER_STAGE"] = .int(problem.tilesPerStage)
        result["PIECE"] = .int(problem.piece)
        result["LOOKED_UP"] = .int(problem.lookedUp)
        result["UNIFORM"] = .int(problem.isUniform ? 1 : 0)
        result["FACTOR"] = 1.0
        if case .codes(let packed) = storage {
            result["FACTOR"] = .double(packed.factor)
            for (index, bits) in (packed.levels?.constants ?? []).enumerated() {
                result["LEVEL_\(index)"] = .int(bits)
            }
        }
        return result
    }
}
