import MinimaCore
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaKernels

/// The decoding linear against libtorch in float64; skipped where there is no GPU.
@Suite("Decoding linear on the GPU", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct DecodeLinearGPUTests {
    let context: CUDAContext
    let stream: CUDAStream
    let workspace: DecodeLinear.Workspace

    init() throws {
        context = try GPU.context.get()
        stream = try CUDAStream(on: context)
        workspace = DecodeLinear.Workspace(device: context.device)
    }

    /// A matrix for the kernel and what it stands for.
    struct Weights {
        let matrix: LinearMatrix
        /// float64 `[rows, columns]`.
        let dense: Tensor
        /// Relative rounding of a weight inside the kernel.
        let rounding: Double
        /// Columns over which x is rounded to multiples of one number; `nil` where it is not.
        var piece: Int?

        /// How far products with x, float64 `[tokens, columns]`, may be from the exact ones: a
        /// rounding per product and sum, `more` of x itself, and half a multiple of largest
        /// magnitude / 32512 where codes are multiplied as integers.
        func slack(_ x: Tensor, more: Double = 0) throws -> Tensor {
            let (tokens, columns) = (x.shape[0], x.shape[1])
            let right = try dense.abs().transpose()
            let share = Double(columns) * 0x1p-24 + rounding + more
            let products = try x.abs().matmul(right) * share
            guard let piece else { return products }
            var values: [Double] = try x.abs().values()
            for start in stride(from: 0, to: tokens * columns, by: columns) {
                for first in stride(from: start, to: start + columns, by: piece) {
                    let columns = first..<min(first + piece, start + columns)
                    let largest = values[columns].max() ?? 0
                    for column in columns { values[column] = largest }
                }
            }
            let halves = try Tensor(values, shape: [tokens, columns]).to(x.device)
            return try products + halves.matmul(right) * (0x1.04p0 / 65_024)
        }
    }

    struct Case: Sendable, CustomTestStringConvertible {
        var bits = 16
        var isUniform = false
        /// Codes of 8 bits are numbers of e4m3.
        var isFloat8 = false
        /// Tiles of a stage; `nil`: as the matrix decides.
        var tiles: Int?
        var rows: Int
        var columns: Int
        var tokens: Int
        var group = 64
        var epilogue = DecodeLinear.Epilogue.store
        var normalised = false
        var biased = false
        var compact = false

        var testDescription: String {
            """
            \(bits) bits\(isUniform ? " uniform" : isFloat8 ? " float8" : "") \(rows)x\(columns) T=\(tokens) group \(group) \
            \(epilogue) norm \(normalised) bias \(biased) compact \(compact)
            """
        }
    }

    func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor {
        try Tensor.randn(
            shape, device: context.device,
            generator: RandomGenerator(seed: seed, device: context.device)
        ).to(dtype: .bfloat16)
    }

    func double(_ tensor: Tensor) throws(TensorError) -> Tensor {
        try tensor.to(dtype: .float64)
    }

    private static func levels(_ bits: Int, isUniform: Bool, isFloat8: Bool) throws -> [Float] {
        if isFloat8 {
            return try Float8Tests.numbers().map { $0 / 448 }
        }
        if bits == 8 || isUniform {
            let last = (1 << bits) - 1
            return (0...last).map { Float(2 * $0 - last) / Float(last) }
        }
        let positive: [Float] =
            switch bits {
            case 2: [0.299771, 1]
            case 3: [0.113894, 0.351312, 0.624509, 1]
            default: [0.046987, 0.142008, 0.240343, 0.344853, 0.459722, 0.592129, 0.757164, 1]
            }
        return positive.reversed().map { -$0 } + positive
    }

    /// Random codes, their scales, and the matrix they stand for.
    private func codes(
        _ bits: Int, rows: Int, columns: Int, group: Int, isUniform: Bool, isFloat8: Bool
    ) throws -> (codes: LinearCodes, dense: Tensor) {
        var generator = SplitMix(UInt64(rows * columns + bits))
        let groups = (columns + group - 1) / group
        let levels = try Self.levels(bits, isUniform: isUniform, isFloat8: isFloat8)
        let widths = bits == 3 ? [2, 1] : [bits]
        let rowBytes = widths.reduce(0) { $0 + (columns + 8 / $1 - 1) / (8 / $1) }
        var planes = [UInt8](repeating: 0, count: rows * rowBytes)
        var scales = [UInt8](repeating: 0, count: rows * groups)
        var dense = [Double](repeating: 0, count: rows * columns)
        let base: Float = 1.75
        for row in 0..<rows {
            for index in 0..<groups {
                let chosen = Int.random(in: 0..<40, using: &generator)
                scales[row * groups + index] = chosen == 39 ? 255 : UInt8(chosen)
            }
            for column in 0..<columns {
                let code = Int.random(in: 0..<levels.count, using: &generator)
                let scale = scales[row * groups + column / group]
                let octaves = -Double(scale) / 16
                dense[row * columns + column] =
                    scale == 255 ? 0 : Double(levels[code]) * Double(base) * power(octaves)
                var (start, rest) = (row * rowBytes, code)
                for width in widths {
                    let perByte = 8 / width
                    let part = rest & ((1 << width) - 1)
                    planes[start + column / perByte] |= UInt8(part << (column % perByte * width))
                    rest >>= width
                    start += (columns + perByte - 1) / perByte
                }
            }
        }
        let device = context.device
        return (
            try LinearCodes(
                bits: bits, groupSize: group, columns: columns,
                codes: Tensor(planes, shape: [rows, rowBytes]).to(device),
                scales: Tensor(scales, shape: [rows, groups]).to(device),
                base: Tensor([base]).to(device), levels: levels),
            try Tensor(dense, shape: [rows, columns]).to(device)
        )
    }

    /// 2^x for -16 < x <= 0 in steps of 1/16.
    private func power(_ x: Double) -> Double {
        var (result, root) = (1.0, 0.5.squareRoot().squareRoot().squareRoot().squareRoot())
        var steps = Int((-x * 16).rounded())
        while steps > 0 {
            if steps & 1 == 1 { result *= root }
            root *= root
            steps >>= 1
        }
        return result
    }

    func weights(
        _ bits: Int, rows: Int, columns: Int, group: Int, slots: LinearSlots? = nil,
        isUniform: Bool = false, isFloat8: Bool = false, tiles: Int? = nil, tokens: Int = 1,
        normalised: Bool = false
    ) throws -> Weights {
        guard bits < 16 else {
            let values = try random([rows, columns], 1)
            return Weights(
                matrix: try LinearMatrix(values, slots: slots), dense: try double(values),
                rounding: 0)
        }
        let (stored, dense) = try codes(
            bits, rows: rows, columns: columns, group: group, isUniform: isUniform,
            isFloat8: isFloat8)
        let matrix = try LinearMatrix(
            stored, slots: slots, tilesPerStage: tiles, on: stream)
        let problem = matrix.problem(tokens: tokens, normalised: normalised)
        // Normal levels of up to 4 bits are rounded to bfloat16 or integers; scales to 2^-20.
        return Weights(
            matrix: matrix, dense: dense,
            rounding: (bits == 8 || isUniform ? 0 : 0x1p-8) + 0x1p-20,
            piece: problem.multipliesIntegers ? problem.piece : nil)
    }

    /// `|found - expected| <= units · 2^-8 · |expected| + slack` everywhere.
    func expectClose(
        _ found: Tensor, _ expected: Tensor, units: Double, slack: Tensor,
        _ location: SourceLocation = #_sourceLocation
    ) throws {
        let limit = try expected.abs() * (units * 0x1p-8) + slack
        let error = try (double(found) - expected).abs()
        let errors: [Double] = try error.values(), limits: [Double] = try limit.values()
        // NaN, from an element that was not written, is not at most anything.
        #expect(
            zip(errors, limits).allSatisfy { $0 <= $1 + 1e-30 }, sourceLocation: location)
    }

    /// x with rows of a multiple of 8, NaN beyond the columns.
    private func input(_ tokens: Int, _ columns: Int, _ seed: UInt64) throws -> (Tensor, Tensor) {
        let values = try random([tokens, columns], seed)
        let stride = (columns + 7) / 8 * 8
        guard stride > columns else { return (values, values) }
        let rest = try Tensor.full(
            [tokens, stride - columns], .nan, dtype: .bfloat16, device: context.device)
        return (values, try Tensor.cat([values, rest], dim: 1))
    }

    private func run(_ item: Case, tuning: LinearTuning? = nil) throws {
        try stream.use {
            let outputs = (0..<item.rows).map { ($0 * 7) % (item.rows + 1) }
            let isPermuted = Set(outputs).count == item.rows
            let slots = isPermuted ? LinearSlots(outputs: outputs) : LinearSlots(rows: item.rows)
            let width = item.rows + 3
            let weights = try weights(
                item.bits, rows: item.rows, columns: item.columns, group: item.group, slots: slots,
                isUniform: item.isUniform, isFloat8: item.isFloat8, tiles: item.tiles,
                tokens: item.tokens, normalised: item.normalised)
            let (values, x) = try input(item.tokens, item.columns, 2)
            let norm = try random([item.columns], 3), bias = try random([width], 4)
            let linear = try DecodeLinear(
                weights.matrix, tokens: item.tokens, epilogue: item.epilogue,
                normalised: item.normalised, biased: item.biased, inputStride: x.shape[1],
                outputStride: width, compactStride: item.compact ? item.rows : nil,
                tuning: tuning, workspace: workspace, context: context)
            var used = values
            if item.normalised {
                let exact = try values.to(dtype: .float32)
                let mean = try exact.square().mean([-1], keepDims: true)
                used = try (exact / (mean + 1e-6).sqrt()).to(dtype: .bfloat16) * norm
            }
            let right = try weights.dense.transpose()
            var expected = try double(used).matmul(right)
            // Where x is normalised, it is rounded otherwise now and then.
            let slack = try weights.slack(double(used), more: item.normalised ? 0x1p-9 : 0)
            let product = expected
            let index = try Tensor(
                (isPermuted ? outputs : Array(0..<item.rows)).map { Int64($0) }
            ).to(context.device)
            if item.biased { expected = try expected + double(bias.selecting(0, index)) }
            let y: Tensor
            let before = try random([item.tokens, width], 5)
            switch item.epilogue {
            case .add: y = try before + 0
            case .storeFloat:
                y = try Tensor.full([item.tokens, width], .nan, device: context.device)
            default:
                y = try Tensor.full(
                    [item.tokens, width], .nan, dtype: .bfloat16, device: context.device)
            }
            let compact =
                item.compact
                ? try Tensor.full(
                    [item.tokens, item.rows], .nan, dtype: .bfloat16, device: context.device) : nil
            try linear.launch(
                x, norm: item.normalised ? norm : nil, epsilon: 1e-6,
                bias: item.biased ? bias : nil, into: y, compact: compact, on: stream)
            var limit = slack
            if item.epilogue == .add {
                limit = try slack + expected.abs() * 0x1p-8
                expected = try expected + double(before.selecting(1, index))
            }
            try expectClose(
                y.selecting(1, index), expected, units: item.epilogue == .storeFloat ? 0 : 1,
                slack: limit)
            if let compact { try expectClose(compact, product, units: 1, slack: slack) }
            // The exchange is left as it was found.
            let room = try workspace.reserve((0, 0, 0))
            let places: [Int64] = try room.places.values()
            let counters: [Int32] = try room.counters.values()
            #expect(places.allSatisfy { $0 == -1 } && counters.allSatisfy { $0 == 0 })
        }
    }

    @Test(arguments: [
        Case(rows: 1000, columns: 512, tokens: 1),
        Case(rows: 1280, columns: 5120, tokens: 1, normalised: true, compact: true),
        Case(rows: 1280, columns: 5120, tokens: 8, normalised: true),
        Case(rows: 331, columns: 2790, tokens: 3, epilogue: .add, compact: true),
        Case(rows: 500, columns: 1005, tokens: 16, epilogue: .storeFloat, biased: true),
        Case(rows: 48, columns: 8192, tokens: 1, epilogue: .add, biased: true),
        Case(rows: 24, columns: 64, tokens: 2),
        Case(rows: 1, columns: 8, tokens: 1),
        Case(bits: 4, rows: 300, columns: 1024, tokens: 1),
        Case(bits: 4, rows: 300, columns: 1000, tokens: 8, normalised: true),
        Case(bits: 4, rows: 101, columns: 1390, tokens: 2, group: 96, biased: true, compact: true),
        Case(bits: 4, rows: 100, columns: 1000, tokens: 16, group: 1000),
        Case(bits: 3, rows: 300, columns: 1024, tokens: 1),
        Case(bits: 3, tiles: 2, rows: 1280, columns: 5120, tokens: 1, normalised: true),
        Case(bits: 3, tiles: 2, rows: 333, columns: 25_600, tokens: 1, epilogue: .add),
        Case(bits: 3, tiles: 2, rows: 101, columns: 1390, tokens: 1, group: 96, biased: true),
        Case(bits: 3, rows: 200, columns: 1000, tokens: 4, epilogue: .add),
        Case(bits: 3, rows: 100, columns: 1000, tokens: 16, group: 1000),
        Case(bits: 2, rows: 200, columns: 500, tokens: 1, epilogue: .storeFloat),
        Case(bits: 4, isUniform: true, rows: 300, columns: 1024, tokens: 1),
        Case(bits: 4, isUniform: true, tiles: 2, rows: 300, columns: 1024, tokens: 1),
        Case(
            bits: 4, isUniform: true, tiles: 2, rows: 1280, columns: 5120, tokens: 1,
            normalised: true, compact: true),
        Case(
            bits: 4, isUniform: true, tiles: 2, rows: 333, columns: 25_600, tokens: 1,
            epilogue: .add),
        Case(bits: 4, isUniform: true, rows: 100, columns: 25_600, tokens: 1, epilogue: .add),
        Case(bits: 4, isUniform: true, rows: 300, columns: 1000, tokens: 1, normalised: true),
        Case(
            bits: 4, isUniform: true, tiles: 2, rows: 101, columns: 1390, tokens: 1, group: 96,
            biased: true, compact: true),
        Case(bits: 4, isUniform: true, rows: 101, columns: 1390, tokens: 2, group: 32),
        Case(
            bits: 4, isUniform: true, tiles: 2, rows: 300, columns: 1000, tokens: 8,
            normalised: true),
        Case(bits: 4, isUniform: true, rows: 100, columns: 1000, tokens: 16, group: 1000),
        Case(
            bits: 3, isUniform: true, tiles: 2, rows: 200, columns: 1000, tokens: 1,
            epilogue: .storeFloat),
        Case(
            bits: 3, isUniform: true, tiles: 2, rows: 1280, columns: 5120, tokens: 1,
            normalised: true, compact: true),
        Case(bits: 3, isUniform: true, rows: 100, columns: 25_600, tokens: 1, epilogue: .add),
        Case(
            bits: 3, isUniform: true, tiles: 2, rows: 101, columns: 1390, tokens: 1, group: 96,
            biased: true, compact: true),
        Case(bits: 3, isUniform: true, rows: 200, columns: 1000, tokens: 4, epilogue: .add),
        Case(bits: 2, isUniform: true, rows: 200, columns: 500, tokens: 3),
        Case(bits: 2, isUniform: true, tiles: 2, rows: 200, columns: 1000, tokens: 1),
        Case(bits: 2, tiles: 2, rows: 200, columns: 1000, tokens: 1),
        Case(bits: 8, rows: 300, columns: 1024, tokens: 1),
        Case(bits: 8, rows: 64, columns: 8200, tokens: 1, epilogue: .storeFloat),
        Case(bits: 8, rows: 333, columns: 25_600, tokens: 1, epilogue: .add),
        Case(bits: 8, rows: 101, columns: 1100, tokens: 1, group: 96, epilogue: .storeFloat),
        Case(bits: 8, rows: 101, columns: 1005, tokens: 2, group: 32, compact: true),
        Case(bits: 8, rows: 177, columns: 1100, tokens: 9, group: 32, epilogue: .add),
        Case(bits: 8, rows: 64, columns: 5120, tokens: 8, group: 128, normalised: true),
        Case(bits: 8, isFloat8: true, rows: 333, columns: 1024, tokens: 1, epilogue: .storeFloat),
        Case(
            bits: 8, isFloat8: true, tiles: 2, rows: 1280, columns: 5120, tokens: 1,
            normalised: true, compact: true),
        Case(
            bits: 8, isFloat8: true, tiles: 2, rows: 101, columns: 1005, tokens: 2, group: 32,
            epilogue: .storeFloat, biased: true),
        Case(bits: 8, isFloat8: true, rows: 100, columns: 25_600, tokens: 1, epilogue: .add),
        Case(bits: 8, isFloat8: true, tiles: 2, rows: 177, columns: 1000, tokens: 16),
    ])
    func productsAreExactToRounding(_ item: Case) throws {
        try run(item)
    }

    /// However the work is cut: stages, grains, chunks, and more blocks than tiles.
    @Test(arguments: [
        Case(rows: 100, columns: 2790, tokens: 1), Case(rows: 100, columns: 2790, tokens: 8),
        Case(bits: 4, rows: 100, columns: 2790, tokens: 1),
        Case(bits: 4, isUniform: true, tiles: 1, rows: 100, columns: 2790, tokens: 1),
        Case(bits: 4, isUniform: true, tiles: 2, rows: 100, columns: 2790, tokens: 1),
        Case(bits: 4, isUniform: true, tiles: 2, rows: 100, columns: 16_400, tokens: 1),
        Case(bits: 4, isUniform: true, tiles: 2, rows: 100, columns: 2790, tokens: 3),
        Case(bits: 3, tiles: 2, rows: 100, columns: 2790, tokens: 1),
        Case(bits: 8, rows: 100, columns: 2790, tokens: 3),
        Case(bits: 8, isFloat8: true, rows: 100, columns: 2790, tokens: 3),
    ])
    func everyCutGivesTheProduct(_ item: Case) throws {
        let problem = LinearProblem(
            bits: item.bits, slots: item.rows, columns: item.columns, tokens: item.tokens,
            normalised: false, tilesPerStage: item.tiles ?? 1, piece: 64,
            lookedUp: item.bits == 4 && !item.isUniform ? 4 : 0,
            isUniform: item.isUniform || item.bits == 8 && !item.isFloat8)
        let candidates = problem.candidates(
            multiprocessors: context.multiprocessors, limit: context.sharedPerBlock / 2)
        // The usual one, and others from all of them.
        let count = min(underRacecheck(3, otherwise: 8), candidates.count)
        for place in 0..<count {
            var tuning = candidates[place * candidates.count / count]
            try run(item, tuning: tuning)
            tuning.blocks = 3
            try run(item, tuning: tuning)
        }
    }

    /// Of a second set of tokens that is not full, only rows that there are may be read: here those
    /// of the others would be beyond the block's shared memory.
    @Test(arguments: [(16, false), (4, false), (4, true), (3, false)])
    func tokensThatThereAreNotAreNotRead(_ bits: Int, _ isUniform: Bool) throws {
        // The cut takes as much.
        guard context.sharedPerBlock >= 232_448 else { return }
        let item = Case(bits: bits, isUniform: isUniform, rows: 64, columns: 7680, tokens: 9)
        try run(
            item,
            tuning: LinearTuning(
                stage: 512, grain: 512, chunk: 7680, readsAhead: false, blocks: 4))
    }

    /// A row's result is the same alone and among others, with the same cut.
    @Test func rowsDoNotDependOnTheirNeighbours() throws {
        try stream.use {
            let weights = try weights(16, rows: 640, columns: 5120, group: 64)
            let x = try random([8, 5120], 2)
            let tuning = LinearTuning(
                stage: 512, grain: 512, chunk: 1024, readsAhead: false,
                blocks: context.multiprocessors)
            var results: [[Float]] = []
            for tokens in [1, 3, 8] {
                let linear = try DecodeLinear(
                    weights.matrix, tokens: tokens, epilogue: .storeFloat, inputStride: 5120,
                    outputStride: 640, tuning: tuning, workspace: workspace, context: context)
                let y = try Tensor.full([tokens, 640], .nan, device: context.device)
                try linear.launch(x.narrow(0, 0..<tokens), into: y, on: stream)
                results.append(try y.narrow(0, 0..<1).values())
            }
            #expect(results[0] == results[1] && results[0] == results[2])
            #expect(results[0].allSatisfy { $0.isFinite })
        }
    }

    /// What timing finds is kept for other processes, and gives the product.
    @Test func cutsAreFoundAndKept() throws {
        let folder = try Scratch()
        func opened() throws -> (CUDAContext, LinearTuner) {
            let context = try CUDAContext.forTests(cacheDirectory: folder.path)
            return (context, try #require(try LinearTuner(context: context)))
        }
        try stream.use {
            let weights = try weights(16, rows: 640, columns: 2048, group: 64)
            let x = try random([1, 2048], 2)
            let kind = LinearTuner.Kind(weights.matrix, tokens: 1, normalised: false)
            #expect("\(kind)" == "640 × 2048 bf16, 1 token")
            func linear(_ context: CUDAContext, _ tuning: LinearTuning?) throws -> DecodeLinear {
                try DecodeLinear(
                    weights.matrix, tokens: 1, epilogue: .storeFloat, inputStride: 2048,
                    outputStride: 640, tuning: tuning, workspace: workspace, context: context)
            }
            let y = try Tensor.full([1, 640], .nan, device: context.device)
            let kept = try Tensor.full([1, 640], .nan, device: context.device)
            try stream.synchronize()
            let (context, tuner) = try opened()
            #expect(tuner.known(kind) == nil)
            let finding = try tuner.tune(
                kind, launches: 2,
                cuts: tuner.candidates(kind).map { tuning in
                    let linear = try linear(context, tuning)
                    return (tuning, { stream, _ in try linear.launch(x, into: y, on: stream) })
                })
            #expect(finding.time.median > 0 && finding.time.median.isFinite)
            #expect(tuner.known(kind) == finding.tuning)
            let (another, reader) = try opened()
            #expect(reader.known(kind) == finding.tuning)
            #expect(
                reader.known(LinearTuner.Kind(weights.matrix, tokens: 2, normalised: false)) == nil)
            let other = try CUDAStream(on: another)
            try linear(another, reader.known(kind)).launch(x, into: kept, on: other)
            try other.synchronize()
            try expectClose(
                kept, double(x).matmul(weights.dense.transpose()), units: 0,
                slack: weights.slack(double(x)))
        }
    }

    @Test func whatDoesNotFitIsRefused() throws {
        let matrix = try LinearMatrix(random([32, 64], 1))
        #expect(throws: KernelError.self) {
            try DecodeLinear(
                matrix, tokens: 17, epilogue: .store, inputStride: 64, outputStride: 32,
                workspace: workspace, context: context)
        }
        #expect(throws: KernelError.self) {
            try DecodeLinear(
                matrix, tokens: 1, epilogue: .interpolatedSwiglu, inputStride: 64,
                outputStride: 32, workspace: workspace, context: context)
        }
        #expect(throws: KernelError.self) {
            try DecodeLinear(
                matrix, tokens: 1, epilogue: .store, inputStride: 64, outputStride: 31,
                workspace: workspace, context: context)
        }
        let linear = try DecodeLinear(
            matrix, tokens: 2, epilogue: .store, inputStride: 64, outputStride: 32,
            workspace: workspace, context: context)
        let (x, y) = (try random([2, 64], 2), try random([2, 40], 3))
        #expect(throws: KernelError.self) { try linear.launch(x, into: y, on: stream) }
        #expect(throws: KernelError.self) {
            try linear.launch(x, norm: x, into: y.narrow(1, 0..<32), on: stream)
        }
        #expect(throws: KernelError.self) {
            try LinearMatrix(random([32, 64], 1), slots: LinearSlots(rows: 33))
        }
    }
}
