import MinimaCore
import MinimaTensor

/// Quantised rows as a checkpoint stores them: element = level(code) · base · 2^(-scale / 16), 0 where
/// the scale's code is 255.
public struct LinearCodes: Sendable {
    /// Bits of a code: 2, 3, 4 or 8.
    public let bits: Int
    /// Columns with one scale; the last group of a row may be shorter.
    public let groupSize: Int
    /// Columns.
    public let columns: Int
    /// Packed planes, uint8 `[rows, bytes]`: 2, 4 and 8 bits are one plane, 3 are 2 + 1.
    public let codes: Tensor
    /// uint8 `[rows, groups]`.
    public let scales: Tensor
    /// float32 `[1]`.
    public let base: Tensor
    /// What each of 2^bits codes stands for. Ascending and symmetric about 0; with 8 bits
    /// (2c - 255) / 255, or the numbers of e4m3 / 448 by their bits, 448 for NaN.
    public let levels: [Float]

    /// Whether the levels are equally spaced.
    var isUniform: Bool {
        let last = Float(levels.count - 1)
        return levels.enumerated().allSatisfy { index, level in
            abs(level - Float(2 * index - (levels.count - 1)) / last) <= 0x1p-22
        }
    }

    /// Whether the levels are those of e4m3, to float32's rounding of them.
    var isFloat8: Bool {
        guard levels.count == 256 else { return false }
        return levels.enumerated().allSatisfy { code, level in
            let magnitude = min(code & 0x7F, 0x7E)
            let (exponent, mantissa) = (magnitude >> 3, magnitude & 7)
            let unit = Float(sign: .plus, exponent: max(exponent, 1) - 10, significand: 1)
            let number = Float(exponent == 0 ? mantissa : 8 + mantissa) * unit
            return abs((code < 128 ? level : -level) - number / 448) <= number * (0x1p-22 / 448)
        }
    }

    /// What the properties say.
    public init(
        bits: Int, groupSize: Int, columns: Int, codes: Tensor, scales: Tensor, base: Tensor,
        levels: [Float]
    ) {
        (self.bits, self.groupSize, self.columns) = (bits, groupSize, columns)
        (self.codes, self.scales, self.base, self.levels) = (codes, scales, base, levels)
    }
}

/// The weights of a linear on the device, in a form that ``DecodeLinear`` streams.
public struct LinearMatrix: Sendable {
    /// Slots, and for codes the order they are stored in.
    public let slots: LinearSlots
    /// Inputs.
    public let columns: Int
    let storage: Storage
    /// The slots on the device.
    let tables: LinearSlots.Tables

    enum Storage: Sendable {
        /// bfloat16 `[rows, pitch]`, the first `columns` of which count.
        case rows(Tensor)
        case codes(Packed)
    }

    /// Repacked codes.
    struct Packed: Sendable {
        let bytes: Tensor
        let base: Tensor
        let layout: LinearLayout
        /// Levels of at most 4 bits that are not equally spaced.
        let levels: LinearLevels?
        /// What a level is a multiple of in the kernel.
        let factor: Double
    }

    /// A matrix of bfloat16 rows.
    ///
    /// - Parameters:
    ///   - weight: bfloat16 `[rows, columns]` on a CUDA device. With columns a multiple of 8 it is used
    ///     as it is, and stays what cuBLAS multiplies with; else a padded copy is made.
    ///   - slots: Rows and outputs; row i gives element i by default.
    public init(_ weight: Tensor, slots: LinearSlots? = nil) throws(KernelError) {
        let shape = weight.shape
        guard shape.count == 2, shape[0] > 0, shape[1] > 0, weight.dtype == .bfloat16 else {
            throw .invalidLaunch(
                kernel: "linear.cu",
                reason: "\(weight.summary) is no bfloat16 matrix [rows, columns]")
        }
        self.slots = slots ?? LinearSlots(rows: shape[0])
        columns = shape[1]
        let pitch = (shape[1] + 7) / 8 * 8
        try self.slots.check(rows: shape[0])
        tables = try LinearSlots.Tables(self.slots, on: weight.device)
        storage = .rows(
            try KernelError.wrapping { () throws(TensorError) in
                guard pitch > shape[1] else { return try weight.contiguous() }
                let padding = try Tensor.zeros(
                    [shape[0], pitch - shape[1]], dtype: .bfloat16, device: weight.device)
                return try Tensor.cat([weight, padding], dim: 1)
            })
    }

    /// A matrix of codes, repacked on `stream`; afterwards the stored ones are not needed.
    ///
    /// - Parameter tilesPerStage: 2, or 1 where a matrix is too small to go around; `nil` decides by
    ///   the matrix.
    public init(
        _ codes: LinearCodes, slots: LinearSlots? = nil, tilesPerStage: Int? = nil,
        on stream: CUDAStream
    ) throws(KernelError) {
        let context = stream.context
        let (shape, groups) = (codes.codes.shape, codes.scales.shape)
        let isUniform = codes.isUniform
        let levels =
            isUniform ? nil : LinearLevels(codes.levels, bits: LinearLayout.bits(codes.bits))
        guard shape.count == 2, groups.count == 2, shape[0] == groups[0],
            codes.codes.dtype == .uint8, codes.scales.dtype == .uint8, codes.base.count == 1,
            codes.base.dtype == .float32, codes.levels.count == 1 << codes.bits,
            isUniform || (codes.bits < 8 ? levels != nil : codes.isFloat8)
        else {
            throw .invalidLaunch(
                kernel: "repack.cu",
                reason: """
                    \(codes.codes.summary), \(codes.scales.summary), \(codes.base.summary) and \
                    \(codes.levels.count) levels are no codes of \(codes.bits) bits with symmetric levels, \
                    with 8 equally spaced or those of e4m3, below equally spaced or near multiples of \
                    one number
                    """)
        }
        let slots = slots ?? LinearSlots(rows: shape[0])
        try slots.check(rows: shape[0])
        let layout = try LinearLayout(
            codeBits: codes.bits, groupSize: codes.groupSize, columns: codes.columns,
            isUniform: isUniform,
            tilesPerStage: tilesPerStage ?? (slots.count < 32 * context.multiprocessors ? 1 : 2),
            // The table takes 32 KiB of shared memory.
            lookedUp: context.sharedPerMultiprocessor < 160 << 10 ? 0 : 4)
        tables = try LinearSlots.Tables(slots, on: context.device)
        let packed = try KernelError.wrapping { () throws(TensorError) in
            try Tensor.empty(
                [layout.bytes(slots: slots.count, columns: codes.columns)], dtype: .uint8,
                device: context.device)
        }
        var constants = layout.constants(slots: slots.count, columns: codes.columns)
        constants["BITS"] = .int(codes.bits)
        constants["ROW_BYTES"] = .int(shape[1])
        constants["GROUPS"] = .int(groups[1])
        constants["GROUP_SIZE"] = .int(codes.groupSize)
        let tiles = (slots.count + 16 * layout.tilesPerStage - 1) / (16 * layout.tilesPerStage)
        try context.kernel(KernelSource("repack.cu"), entry: "repack", constants: constants).launch(
            grid: ((codes.columns + 63) / 64, tiles * layout.tilesPerStage, 1), block: 32,
            on: stream,
            [
                .tensor(codes.codes), .tensor(codes.scales),
                .optional(tables.rows), .tensor(packed),
            ])
        self.slots = slots
        columns = codes.columns
        storage = .codes(
            Packed(
                bytes: packed, base: codes.base, layout: layout, levels: levels,
                factor: levels.map { 1 / $0.multiplier }
                    ?? 1 / (isUniform ? Double(codes.levels.count - 1) : 448)))
    }

    /// Bytes that a token's product reads.
    public var bytes: Int {
        switch storage {
        case .rows(let weight): weight.count * 2
        case .codes(let packed): packed.bytes.count
        }
    }

    /// The rows as they are, bfloat16 `[rows, pitch]`, for products over many tokens; `nil` for codes.
    public var rows: Tensor? {
        if case .rows(let weight) = storage { weight } else { nil }
    }

    /// Decodes into row-major bfloat16: what ``rows`` is for a matrix of rows.
    ///
    /// - Parameter out: bfloat16 `[rows, pitch]`, pitch a multiple of 8 and at least the columns; what
    ///   is beyond them becomes 0. Rows that no slot has stay.
    public func expand(
        into out: Tensor, on stream: CUDAStream, overlapping: Bool = true
    ) throws(KernelError) {
        guard case .codes(let packed) = storage else {
            throw .invalidLaunch(
                kernel: "expand.cu", reason: "the matrix has bfloat16 rows already; use `rows`")
        }
        let shape = out.shape
        let least = (slots.rows?.max()).map { Int($0) + 1 } ?? slots.count
        guard shape.count == 2, shape[0] >= least, shape[1] >= columns, shape[1] % 8 == 0,
            out.dtype == .bfloat16
        else {
            throw .invalidLaunch(
                kernel: "expand.cu",
                reason: """
                    \(out.summary) does not hold bfloat16 [\(least), \(columns)] with rows of a multiple \
                    of 8
                    """)
        }
        let layout = packed.layout
        var constants = layout.constants(slots: slots.count, columns: columns)
        let blocks = 4
        constants["PITCH"] = .int(shape[1])
        constants["BLOCKS"] = .int(blocks)
        if let levels = packed.levels {
            for (index, value) in levels.positive.enumerated() {
                constants["VALUE_\(index)"] = .double(value)
            }
        } else {
            constants["FACTOR"] = .double(packed.factor)
        }
        let columnBlocks = (shape[1] + 63) / 64
        try stream.context.kernel(
            KernelSource("expand.cu"), entry: "expand", constants: constants
        ).launch(
            grid: (
                (columnBlocks + 8 * blocks - 1) / (8 * blocks), (slots.count + 15) / 16, 1
            ), block: 256, on: stream, overlapping: overlapping,
            [
                .tensor(packed.bytes), .tensor(packed.base), .optional(tables.rows), .tensor(out),
            ])
    }
}

extension LinearLayout {
    /// What repack.cu and expand.cu are specialised by.
    func constants(slots: Int, columns: Int) -> [String: KernelConstant] {
        [
            "WEIGHT": .int(bits), "SLOTS": .int(slots), "COLUMNS": .int(columns),
            "TILES_PER_STAGE": .int(tilesPerStage), "PIECE": .int(piece),
            "LOOKED_UP": .int(lookedUp), "UNIFORM": .int(isUniform ? 1 : 0),
        ]
    }
}

extension LinearSlots {
    /// int32 tables on the device, `nil` where there is none.
    struct Tables: Sendable {
        let rows, outputs, partners, kinds, pairs: Tensor?

        init(_ slots: LinearSlots, on device: Device) throws(KernelError) {
            func tensor(_ table: [Int32]?) throws(KernelError) -> Tensor? {
                guard let table, !table.isEmpty else { return nil }
                return try KernelError.wrapping { () throws(TensorError) in
                    try Tensor(table).to(device)
                }
            }
            rows = try tensor(slots.rows)
            outputs = try tensor(slots.outputs)
            partners = try tensor(slots.gates?.partners)
            kinds = try tensor(slots.gates?.kinds)
            pairs = try tensor(slots.gates?.pairs)
        }
    }

    /// That the slots name rows of a matrix of so many.
    func check(rows count: Int) throws(KernelError) {
        let highest = rows?.max().map(Int.init) ?? (self.count - 1)
        guard self.count > 0, highest < count else {
            throw .invalidLaunch(
                kernel: "linear.cu",
                reason: "its slots ask for row \(highest) of a matrix of \(count) rows")
        }
    }
}
