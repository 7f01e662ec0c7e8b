/// How a linear kernel cuts its work; any choice gives the same sums in another order.
public struct LinearTuning: Sendable, Hashable, CustomStringConvertible {
    /// Columns of a stage of the ring that the weights stream through, a multiple of ``grain``.
    public var stage: Int
    /// Columns by which work is dealt out to multiprocessors; a multiple of 64.
    public var grain: Int
    /// Columns of the input that shared memory holds at a time, a multiple of ``grain``; all of them
    /// when at least as many.
    public var chunk: Int
    /// Whether a second chunk is loaded while one is used.
    public var readsAhead: Bool
    /// Blocks, at most one per multiprocessor.
    public var blocks: Int

    /// What the properties say.
    public init(stage: Int, grain: Int, chunk: Int, readsAhead: Bool, blocks: Int) {
        (self.stage, self.grain, self.chunk) = (stage, grain, chunk)
        (self.readsAhead, self.blocks) = (readsAhead, blocks)
    }

    /// Such as `stages of 1024, grains of 512, chunks of 5120 read ahead`.
    public var description: String {
        "stages of \(stage), grains of \(grain), chunks of \(chunk)\(readsAhead ? " read ahead" : "")"
    }
}

/// What decides about a linear kernel's cut.
struct LinearProblem: Sendable, Hashable {
    /// Bits of a weight: 16 (bfloat16), 8, 4 or 3.
    let bits: Int
    let slots: Int
    let columns: Int
    let tokens: Int
    let normalised: Bool
    /// Tiles of 16 slots that share a stage.
    let tilesPerStage: Int
    /// Columns with one scale; codes only.
    let piece: Int
    /// Words of codes that a table decodes, of four.
    let lookedUp: Int
    /// Whether codes have equally spaced levels; else those of 8 bits are numbers of e4m3.
    let isUniform: Bool

    static let warps = 8
    /// Threads of a block: consumers, producer, finisher.
    static let threads = 32 * (warps + 2)

    /// Columns that one warp takes at a time.
    var step: Int { bits == 16 ? 32 : 64 }

    /// Whether codes of up to 4 bits are decoded without a table.
    private var isComputed: Bool { isUniform || bits == 3 }

    /// Whether codes and x are multiplied as integers. Where 3 or 4 bits would do with bfloat16, turning x
    /// into integers pays for one token, for large matrices and where x is normalised anyway; with
    /// equally spaced levels of 3 bits not where x is long (`NOTES-linear.md`).
    var multipliesIntegers: Bool {
        let isLong = bits == 3 && isUniform && columns > 16_384
        return bits == 8
            ? isUniform
            : isComputed && tokens == 1 && (normalised || tilesPerStage == 2 && !isLong)
    }

    private var isFloat8: Bool { bits == 8 && !isUniform }

    /// Whether lanes read neighbouring columns of x as bfloat16: NEIGHBOURS in linear_geometry.cuh.
    private var readsNeighbours: Bool { isFloat8 || isComputed && !multipliesIntegers }

    private var tokenSets: Int { (tokens + 7) / 8 }
    /// Values of a lane, four each, that a tile's sums take.
    private var lanes: Int { tilesPerStage * tokenSets * 8 * (tokens >= 8 ? 4 : (tokens + 1) / 2) }
    /// Stages' worth of tiles.
    var tiles: Int { (slots + 16 * tilesPerStage - 1) / (16 * tilesPerStage) }

    /// Bytes of a stage in shared memory.
    func stageBytes(_ stage: Int) -> Int {
        bits == 16
            ? 16 * (2 * stage + 16)
            : stage / 64 * tilesPerStage * (128 * bits + 16 * (64 / piece))
    }

    /// Bytes of shared memory with a ring of `depth` stages; as in linear_geometry.cuh.
    func sharedBytes(_ tuning: LinearTuning, depth: Int) -> Int {
        func padded(_ bytes: Int) -> Int { (bytes + 127) / 128 * 128 }
        let held = min(tuning.chunk, columns)
        let blocks = (held + 63) / 64
        let buffers = held < columns && tuning.readsAhead ? 2 : 1
        // Of integers a warp has the sums of one tile, and x has scales.
        let sums = multipliesIntegers ? lanes / tilesPerStage : lanes
        let pieces = multipliesIntegers ? padded(tokens * blocks * (64 / piece) * 8) : 0
        let padding = readsNeighbours ? 64 : 16
        return (bits == 4 && lookedUp > 0 ? 256 * 128 : 0) + padded((2 * depth + 5) * 8)
            + 2 * Self.warps * sums * 16 + (normalised ? padded(tokens * Self.warps * 4) : 0)
            + buffers * padded(tokens * (blocks * 128 + padding)) + pieces
            + depth * stageBytes(tuning.stage)
    }

    /// The most stages, up to 40, whose ring fits into `limit` bytes; `nil` when not even two do.
    func depth(_ tuning: LinearTuning, limit: Int) -> Int? {
        (2...40).last { sharedBytes(tuning, depth: $0) <= limit }
    }

    /// Floats for parts of tiles, 64-bit places of their exchange, and counters.
    func workspace(blocks: Int) -> (parts: Int, places: Int, counters: Int) {
        ((tiles + blocks) * lanes * 4, tiles * lanes * 2, tiles)
    }

    /// Whether the kernel takes a cut.
    func allows(_ tuning: LinearTuning) -> Bool {
        tuning.grain > 0 && tuning.grain % 64 == 0 && tuning.stage % tuning.grain == 0
            && tuning.stage > 0 && tuning.blocks > 0
            && (tuning.chunk >= columns || tuning.chunk > 0 && tuning.chunk % tuning.grain == 0)
    }

    /// The cut that measurements on an H200 favour (`NOTES-linear.md`).
    func tuning(multiprocessors: Int, limit: Int) -> LinearTuning {
        if tokens == 1, let choice = unchunked(multiprocessors, limit: limit) { return choice }
        // All columns at once where x leaves the ring enough room.
        let whole = tokens > 1 ? 40_960 / tokens : bits == 16 ? 5120 : 8192
        let most =
            tokens == 1 || bits == 16 || readsNeighbours
            ? (columns <= whole ? columns : min(whole, 5120)) : 20_480 / tokens
        let widest =
            bits == 16 ? widestRows(multiprocessors) : bits == 8 || tokens > 2 ? 512 : 1024
        var choice = cut(most: most, widest: widest, multiprocessors)
        // Small devices, many tokens.
        for divisor in [2, 4, 8, 16] where depth(choice, limit: limit) == nil {
            choice = cut(
                most: max(most / divisor, 64), widest: max(widest / divisor / 64 * 64, 64),
                multiprocessors)
        }
        return choice
    }

    /// Cuts worth timing, the usual one first: larger and smaller stages, grains and chunks that fit.
    func candidates(multiprocessors: Int, limit: Int) -> [LinearTuning] {
        var result = [tuning(multiprocessors: multiprocessors, limit: limit)]
        func add(_ choice: LinearTuning) {
            if !result.contains(choice), allows(choice), depth(choice, limit: limit) != nil {
                result.append(choice)
            }
        }
        for widest in [512, 768, 1024, 1280] {
            for most in Set([columns, 5120, 2560, 1280].map { min($0, columns) }).sorted(by: >) {
                var choice = cut(most: most, widest: widest, multiprocessors)
                for grain in [choice.stage, choice.stage / 2] {
                    for ahead in choice.chunk < columns ? [true, false] : [false] {
                        choice.grain = grain
                        choice.readsAhead = ahead
                        add(choice)
                    }
                }
            }
        }
        let stages = [512, 640, 768, 1024, 1280, 1536, 2048, 2560]
        // The first that holds all columns stands for the longer ones.
        let last = stages.firstIndex { $0 >= columns } ?? stages.count - 1
        for stage in stages[...last] {
            for grain in [stage, stage / 2] {
                add(undivided(stage: stage, grain: grain, multiprocessors))
            }
        }
        return result
    }

    /// Columns of a stage of bfloat16 at most. A row is one copy, which has to be long; shorter ones pay
    /// only where stages of 1024 leave some blocks with a fifth more than the others (`NOTES-linear.md`).
    private func widestRows(_ multiprocessors: Int) -> Int {
        if columns % 1280 == 0, tokens > 1 || columns % 1024 != 0 { return 1280 }
        let isUneven =
            tokens == 1 && units(1024, columns) >= multiprocessors
            && excess(1024, columns, multiprocessors) > 0.2
        return isUneven ? 512 : 1024
    }

    /// All columns at once, where that is best for one token and fits.
    private func unchunked(_ multiprocessors: Int, limit: Int) -> LinearTuning? {
        let all = (columns + 63) / 64 * 64
        // Stages of 1024 columns, unless the longest run is 3% longer then than with 512, or the last of
        // two tiles is not full.
        let isWideBest =
            100 * longest(min(1024, all), multiprocessors)
            <= 103 * longest(min(512, all), multiprocessors)
            && (tilesPerStage == 1 || all <= 1024 || columns % 1024 == 0)
        let usual = (isWideBest ? [(1024, 1024)] : []) + [(512, 512)]
        // The best first.
        let choices: [(stage: Int, grain: Int)]
        if isFloat8 {
            // A block of 64 columns for each warp, of one tile or of two; not measured.
            choices = [(512, 512)]
        } else if bits == 8 {
            choices = usual
        } else if isComputed, tilesPerStage == 1 {
            choices = columns > 16_384 ? [(2048, 1024), (1024, 1024)] : [(1024, 1024)]
        } else if isComputed {
            let isShort = columns <= 4096 && tiles >= 4 * multiprocessors
            choices = (isShort ? [(2048, 2048)] : []) + usual
        } else if bits == 4, columns > 8192 {
            choices = [(1024 / tilesPerStage, 1024 / tilesPerStage)]
        } else {
            return nil
        }
        // Two stages of 32 KB do; those of fewer bits are smaller.
        let least = bits == 8 ? 2 : 3
        return choices.lazy.map {
            undivided(stage: min($0.stage, all), grain: min($0.grain, all), multiprocessors)
        }.first { (depth($0, limit: limit) ?? 0) >= least }
    }

    /// A cut with all columns at once.
    private func undivided(stage: Int, grain: Int, _ blocks: Int) -> LinearTuning {
        LinearTuning(stage: stage, grain: grain, chunk: columns, readsAhead: false, blocks: blocks)
    }

    /// Columns of the longest run where stages are dealt out to blocks.
    private func longest(_ stage: Int, _ blocks: Int) -> Int {
        let inTile = (columns + stage - 1) / stage
        let run = (units(stage, columns) + blocks - 1) / blocks
        return run / inTile * columns + run % inTile * stage
    }

    /// Chunks of at most about `most` columns in stages of at most `widest`, as even as they come.
    private func cut(most: Int, widest: Int, _ multiprocessors: Int) -> LinearTuning {
        let least = (columns + most - 1) / max(most, 1)
        // A number of chunks that leaves no rest, if one is near.
        let near = least...least + 2
        let chunks =
            near.first { columns % ($0 * widest) == 0 } ?? near.first { columns % ($0 * 64) == 0 }
            ?? least
        let width = (columns + chunks - 1) / chunks
        let stages = (width + widest - 1) / widest
        let even = width % widest == 0
        let stage = even ? widest : (width + stages * 64 - 1) / (stages * 64) * 64
        var grain = stage
        if bits == 16, tokens > 1, stage % 128 == 0, stage >= 1024,
            excess(stage, width, multiprocessors) > 0.015
        {
            grain = stage / 2
        }
        return LinearTuning(
            stage: stage, grain: grain, chunk: chunks == 1 ? columns : stages * stage,
            readsAhead: chunks > 1 && tokens == 1 && bits < 16, blocks: multiprocessors)
    }

    /// How much longer the longest run is than the mean one.
    private func excess(_ grain: Int, _ width: Int, _ blocks: Int) -> Double {
        let units = units(grain, width)
        return Double((units + blocks - 1) / blocks * blocks) / Double(units) - 1
    }

    /// Grains that are dealt out to blocks for so many columns.
    private func units(_ grain: Int, _ width: Int) -> Int {
        tiles * ((width + grain - 1) / grain)
    }
}
