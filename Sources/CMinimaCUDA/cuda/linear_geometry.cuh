// What the parts of linear.cu share: roles of warps, tiles and stages, the layout of shared memory,
// and which columns of which tiles a block takes. Constants: linear.cu.
#pragma once
#include "common.cuh"

// Values of EPILOGUE.
#define STORE 0
#define STORE_FLOAT 1
#define ADD 2
#define SWIGLU 3
#define SWIGLU_FACTORED 4

// Threads of a block: the consumers', the producer's, the finisher's.
#define CONSUMERS (WARPS * 32)
#define THREADS (CONSUMERS + 64)
// Barriers of the block by name; 0 is __syncthreads. All that wait at one wait at one place in the
// code: so consumers and finisher have one each to wait for the producer (NOTES-linear.md).
#define CONSUMER_BARRIER 1
#define START_BARRIER 2
#define FINISHER_START_BARRIER 3

#define ROUND_UP(a, b) (((a) + (b) - 1) / (b) * (b))
#define MINIMUM(a, b) ((a) < (b) ? (a) : (b))
#define MAXIMUM(a, b) ((a) > (b) ? (a) : (b))

// Equally spaced codes are turned into bfloat16.
#define SPACED (UNIFORM && !INTEGERS)
// Codes of 8 bits are numbers of e4m3.
#define FLOAT8 (WEIGHT == 8 && !INTEGERS)
// A lane has codes of eight neighbouring columns, and reads these of x.
#define NEIGHBOURS (SPACED || FLOAT8 || (WEIGHT == 3 && !INTEGERS))
// x becomes integers where a run comes to its columns, not all before the first stage: worth a
// barrier now and then where it is long.
#define PROGRESSIVE \
    (INTEGERS && TOKENS == 1 && !PROLOGUE && CHUNK >= COLUMNS && COLUMNS * WEIGHT >= 65536)

// ---- tiles and stages ----

constexpr i32 TOKEN_SETS = (TOKENS + 7) / 8;
// Of the four pairs of tokens in a set, those in use.
constexpr i32 PAIRS = TOKENS >= 8 ? 4 : (TOKENS + 1) / 2;
constexpr i32 TILE_ROWS = 16 * TILES_PER_STAGE;
constexpr i32 TILES = (ROWS + TILE_ROWS - 1) / TILE_ROWS;
constexpr i32 CHUNKS = (COLUMNS + CHUNK - 1) / CHUNK;
// Work is dealt out in grains: GRAIN columns of a chunk of a tile. The last chunk may lack some.
constexpr i32 GRAINS = (MINIMUM(CHUNK, COLUMNS) + GRAIN - 1) / GRAIN;
constexpr i32 UNITS = TILES * GRAINS;
static_assert(STAGE % GRAIN == 0 && (CHUNKS == 1 || CHUNK % GRAIN == 0), "grains do not fit");
constexpr i32 RUN = UNITS / CTAS;
constexpr i32 LONGER_RUNS = UNITS % CTAS;
// Parts of a tile's sums: one for each of its 16-slot tiles and token sets.
constexpr i32 SETS = TILES_PER_STAGE * TOKEN_SETS;
constexpr i32 SET_LANES = 8 * PAIRS;
// Consumer warps of a tile of 16 slots. Of integers the tiles of a stage go to the warps in turn,
// and a warp has its own tile's sets only.
constexpr i32 TILE_WARPS = INTEGERS ? WARPS / TILES_PER_STAGE : WARPS;
constexpr i32 WARP_SETS = INTEGERS ? TOKEN_SETS : SETS;
static_assert(TILE_WARPS % 4 == 0, "warps are gathered by fours");

#if WEIGHT == 16
constexpr i32 ROW_BYTES = STAGE * 2 + 16;
constexpr i32 STAGE_BYTES = 16 * ROW_BYTES;
constexpr i32 STEP = 32;
#else
constexpr i32 STEP = 64;
constexpr i32 CODE_BYTES = 128 * WEIGHT;
// From lane to lane of their first codes.
constexpr i32 CODE_PITCH = WEIGHT == 3 ? 8 : 16;
constexpr i32 SCALE_BYTES = 16 * (64 / PIECE);
constexpr i32 BLOCK_BYTES = TILES_PER_STAGE * (CODE_BYTES + SCALE_BYTES);
constexpr i32 BLOCKS_PER_TILE = (COLUMNS + 63) / 64;
constexpr i32 STAGE_BYTES = STAGE / 64 * BLOCK_BYTES;
// Pieces of a block of 64 columns.
constexpr i32 PIECES = 64 / PIECE;
#endif
constexpr i32 X_COLUMNS = ROUND_UP(MINIMUM(CHUNK, COLUMNS), 64);
// Of neighbouring tokens, 16 bytes at the same columns (with NEIGHBOURS 64) are in banks of their
// own.
constexpr i32 X_PITCH = X_COLUMNS * 2 + (NEIGHBOURS ? 64 : 16);

// ---- shared memory, in this order ----

constexpr i32 TABLE_AT = 0;
#if LOOKED_UP > 0
constexpr i32 TABLE_BYTES = 256 * 128;
#else
constexpr i32 TABLE_BYTES = 0;
#endif
constexpr i32 BARRIERS_AT = TABLE_AT + TABLE_BYTES;
constexpr i32 BARRIER_BYTES = ROUND_UP((2 * DEPTH + 5) * 8, 128);
constexpr i32 SUMS_AT = BARRIERS_AT + BARRIER_BYTES;
constexpr i32 SUM_BYTES = 2 * WARPS * WARP_SETS * SET_LANES * 16;
constexpr i32 STATISTICS_AT = SUMS_AT + SUM_BYTES;
constexpr i32 STATISTIC_BYTES = PROLOGUE ? ROUND_UP(TOKENS * WARPS * 4, 128) : 0;
constexpr i32 X_AT = STATISTICS_AT + STATISTIC_BYTES;
constexpr i32 X_BYTES = ROUND_UP(TOKENS * X_PITCH, 128);
constexpr i32 X_BUFFERS = CHUNKS > 1 && AHEAD ? 2 : 1;
constexpr i32 PIECES_AT = X_AT + X_BUFFERS * X_BYTES;
#if INTEGERS
// Of x in integers: the scale and the sum of each token's pieces.
constexpr i32 PIECES_PITCH = X_COLUMNS / PIECE * 8;
constexpr i32 RING_AT = PIECES_AT + ROUND_UP(TOKENS * PIECES_PITCH, 128);
#else
constexpr i32 RING_AT = PIECES_AT;
#endif

extern __shared__ __align__(128) u8 shared[];

/// Sixteen bytes: eight bfloat16 values, or four words of codes.
struct alignas(16) Eight {
    u32 pairs[4];
};

// ---- work ----

// No stage lacks columns: one path of code.
constexpr bool ALL_FULL =
    GRAIN == STAGE && COLUMNS % STAGE == 0 && (CHUNKS == 1 || CHUNK % STAGE == 0);

DEVICE i32 columns_of(i32 chunk) { return MINIMUM(CHUNK, COLUMNS - chunk * CHUNK); }

/// A block's share of one tile and chunk: columns from `at` to `end` of the chunk.
struct Segment {
    i32 tile, at, end;
    i32 units;
    // Columns to the next multiple of STAGE, where stages end.
    i32 room;

    /// The segment that begins at a unit (tile · GRAINS + grain) and ends with the tile or before
    /// `stop`.
    DEVICE Segment(i32 unit, i32 stop, i32 chunk) {
        tile = unit / GRAINS;
        const i32 grain = unit - tile * GRAINS;
        units = MINIMUM(GRAINS - grain, stop - unit);
        at = grain * GRAIN;
        end = MINIMUM((grain + units) * GRAIN, columns_of(chunk));
        room = STAGE - at % STAGE;
    }

    /// Columns of the next stage.
    DEVICE i32 columns() const { return ALL_FULL ? STAGE : MINIMUM(room, end - at); }

    DEVICE void advance(i32 columns) {
        at += columns;
        room = STAGE;
    }
};

/// The first unit of a block's run, in every chunk the same.
DEVICE i32 run_start(i32 cta) { return cta * RUN + MINIMUM(cta, LONGER_RUNS); }

/// The block whose run holds a unit.
DEVICE i32 owner(i32 unit) {
    constexpr i32 longer = LONGER_RUNS * (RUN + 1);
    if (RUN == 0) return unit;
    return unit < longer ? unit / (RUN + 1) : LONGER_RUNS + (unit - longer) / (RUN > 0 ? RUN : 1);
}
