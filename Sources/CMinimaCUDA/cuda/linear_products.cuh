// The products of one stage of W with x, summed in registers.
#pragma once
#include "linear_finisher.cuh"
#include "linear_input.cuh"

// A full stage has as many steps for every warp.
constexpr bool EVEN = STAGE % (STEP * TILE_WARPS) == 0;

#if !INTEGERS
typedef float Sums[TILES_PER_STAGE][TOKEN_SETS][4];

#if NEIGHBOURS
/// The offset of this lane's columns of x, at the first block.
DEVICE u32 x_address() {
    const i32 lane = threadIdx.x & 31, token = lane / 4;
    // Columns of unused tokens are computed from another and dropped.
    return X_AT + (token < TOKENS ? token : 0) * X_PITCH + (lane & 3) * 16;
}
#else
/// The address of this lane's row of x in `load_matrices`, at column 0.
DEVICE u32 x_address() {
    const i32 lane = threadIdx.x & 31, token = lane & 7;
    // Columns of unused tokens are computed from another and dropped.
    return shared_address(shared + X_AT) + (token < TOKENS ? token : 0) * X_PITCH + lane / 8 * 16;
}
#endif

/// From this lane's token of the first eight to its token of `set`; 0 where that is unused, for its
/// row may be beyond the block's memory.
DEVICE i32 set_offset(i32 set) {
    const i32 lane = threadIdx.x & 31, token = set * 8 + (NEIGHBOURS ? lane / 4 : lane & 7);
    return TOKENS % 8 == 0 || token < TOKENS ? set * (8 * X_PITCH) : 0;
}

#if WEIGHT == 16
/// Adds a stage's products; the warp takes every WARPS-th step from `first` on. `full`: the stage
/// has all its columns. Arrives at `empty` when the stage has been read.
template <bool full>
DEVICE void accumulate(Sums& sums, u32 stage, u32 x, i32 columns, i32 first, i32 lane, u32 empty) {
    stage += ((lane & 7) + (lane & 8)) * ROW_BYTES + (lane & 16);
#pragma unroll
    for (i32 i = 0; i < (STAGE / STEP + WARPS - 1) / WARPS; ++i) {
        const i32 step = first + i * WARPS;
        if (full || step * STEP < columns) {
            u32 a[2][4];
            load_matrices(a[0], stage + step * 64);
            load_matrices(a[1], stage + step * 64 + 32);
            if (!full && PITCH % 32 != 0 && (step + 1) * STEP > columns) {
                // Columns that were not copied.
                const i32 left = ROUND_UP(columns, 8) - step * STEP;
#pragma unroll
                for (i32 k = 0; k < 4; ++k) {
                    if (k * 8 >= left) a[k / 2][k % 2 * 2] = a[k / 2][k % 2 * 2 + 1] = 0;
                }
            }
#pragma unroll
            for (i32 set = 0; set < TOKEN_SETS; ++set) {
                u32 b[4];
                load_matrices(b, x + set_offset(set) + step * 64);
                multiply_add(sums[0][set], a[0], b[0], b[1]);
                multiply_add(sums[0][set], a[1], b[2], b[3]);
            }
        }
    }
    mbarrier_arrive_warp(empty, lane);
}
#else
/// What a warp reads of one step of 64 columns.
struct Step {
    u32 b[TOKEN_SETS][2][4];
    u32 words[TILES_PER_STAGE][MAXIMUM(WEIGHT, 4)];
    u32 scales[TILES_PER_STAGE];

    DEVICE void load(u32 stage, u32 x, i32 step, i32 lane) {
#pragma unroll
        for (i32 set = 0; set < TOKEN_SETS; ++set) {
#pragma unroll
            for (i32 j = 0; j < 2; ++j) {
                const u32 from = x + set_offset(set) + step * 128 + j * 64;
#if NEIGHBOURS
                const Eight four = *(const Eight*)(shared + from);
#pragma unroll
                for (i32 i = 0; i < 4; ++i) b[set][j][i] = four.pairs[i];
#else
                load_matrices(b[set][j], from);
#endif
            }
        }
        const u8* block = shared + stage + step * BLOCK_BYTES;
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
            const u8* codes = block + m * CODE_BYTES;
#if WEIGHT == 3
            load_words(words[m], (const u64*)codes + lane, (const u32*)(codes + 256) + lane);
#else
            const Eight* own = (const Eight*)codes + lane;
#pragma unroll
            for (i32 part = 0; part < WEIGHT / 4; ++part) {
                const Eight four = own[part * 32];
#pragma unroll
                for (i32 j = 0; j < 4; ++j) words[m][part * 4 + j] = four.pairs[j];
            }
#endif
            const u8* from =
                block + TILES_PER_STAGE * CODE_BYTES + m * SCALE_BYTES + lane / 4 * (128 / PIECE);
            scales[m] = PIECE == 64 ? *(const u16*)from : *(const u32*)from;
        }
    }

    DEVICE void operand(u32 (&a)[4], i32 m, i32 k) const {
#if FLOAT8
        decode(a, words[m][2 * k], words[m][2 * k + 1]);
#elif NEIGHBOURS
        decode(a, words[m][k]);
#else
        if (k < LOOKED_UP)
            decode<true>(a, words[m][k]);
        else
            decode<false>(a, words[m][k]);
#endif
    }

    DEVICE void accumulate(Sums& sums) const {
        constexpr i32 steps = PIECE / 16;
#pragma unroll
        for (i32 piece = 0; piece < 64 / PIECE; ++piece) {
            float part[TILES_PER_STAGE][TOKEN_SETS][4] = {};
#pragma unroll
            for (i32 s = 0; s < steps; ++s) {
                const i32 k = piece * steps + s;
#pragma unroll
                for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
                    u32 a[4];
                    operand(a, m, k);
#pragma unroll
                    for (i32 set = 0; set < TOKEN_SETS; ++set)
                        multiply_add(part[m][set], a, b[set][k / 2][k % 2 * 2],
                                     b[set][k / 2][k % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
                const float first = scale_of(scales[m], 2 * piece);
                const float second = scale_of(scales[m], 2 * piece + 1);
#pragma unroll
                for (i32 set = 0; set < TOKEN_SETS; ++set) {
#pragma unroll
                    for (i32 i = 0; i < 4; ++i) {
                        // One token is the first of its pair.
                        if (TOKENS > 1 || i % 2 == 0)
                            sums[m][set][i] =
                                fmaf(i < 2 ? first : second, part[m][set][i], sums[m][set][i]);
                    }
                }
            }
        }
    }
};

/// As above; `stage` is an offset in shared memory.
template <bool full>
DEVICE void accumulate(Sums& sums, u32 stage, u32 x, i32 columns, i32 first, i32 lane, u32 empty) {
#if STAGE <= 64 * WARPS
    // The stage is free before the arithmetic.
    const bool some = full || first * STEP < columns;
    Step step;
    if (some) step.load(stage, x, first, lane);
    mbarrier_arrive_warp(empty, lane);
    if (some) step.accumulate(sums);
#else
    if (full) {
#pragma unroll
        for (i32 i = 0; i < STAGE / STEP / WARPS; ++i) {
            Step step;
            step.load(stage, x, first + i * WARPS, lane);
            step.accumulate(sums);
        }
    } else {
#pragma unroll 1
        for (i32 place = first; place * STEP < columns; place += WARPS) {
            Step step;
            step.load(stage, x, place, lane);
            step.accumulate(sums);
        }
    }
    mbarrier_arrive_warp(empty, lane);
#endif
}
#endif
#else
// The operand B has four pairs of columns, high and low: of four tokens, or of 4 / SPAN tokens for
// each of SPAN pieces. It is 0 in the columns of other pieces.
constexpr i32 SPAN = TOKENS == 1 ? 4 : TOKENS == 2 ? 2 : 1;
constexpr i32 QUADS = (TOKENS + 3) / 4;
// Blocks whose pieces share sums of integers, and how many such sums a block has.
constexpr i32 SPAN_BLOCKS = MAXIMUM(1, SPAN / PIECES);
constexpr i32 BLOCK_SPANS = MAXIMUM(1, PIECES / SPAN);
// Where the codes of the two rows begin in a byte.
constexpr i32 FIRST_BIT = UNIFORM && WEIGHT == 3 ? 2 : 0;
constexpr i32 SECOND_BIT = UNIFORM && WEIGHT <= 4 ? FIRST_BIT + WEIGHT : 0;
// Operands hold levels instead of codes.
constexpr bool LEVELLED = WEIGHT == 3 && !UNIFORM;
// Blocks of a stage for each warp, at most.
constexpr i32 WARP_BLOCKS = (STAGE / STEP + TILE_WARPS - 1) / TILE_WARPS;

/// Of slots g and g + 8 (g = lane / 4), each for the lane's tokens.
typedef float Sums[QUADS][2];

/// The lane's place in operands and sums; offsets in shared memory.
struct Place {
    // The operand B and the piece of the sums, in block 0.
    u32 b[QUADS], piece[QUADS];
    // 1 for the piece that the lane's column of B belongs to.
    u32 masks[SPAN];
    // Which of a span's blocks column and sums belong to; of its pieces, the sums.
    i32 blockB, block, part;
    // Where the chunk of x begins, from the first buffer.
    u32 x;
    // From where a stage's first block for the warp begins: the lane's codes and its scales.
    u32 codes, scales;

    DEVICE u32 start(i32 chunk) { return x = x_offset(chunk) - X_AT; }

    DEVICE Place() {
        constexpr i32 share = 4 / SPAN;
        const i32 lane = threadIdx.x & 31, g = lane / 4, q = lane & 3;
        const i32 pieceB = g / 2 / share, own = q / share;
        blockB = SPAN == 1 ? 0 : pieceB / PIECES;
        block = SPAN == 1 ? 0 : own / PIECES;
        part = SPAN == 1 ? 0 : own % PIECES;
#pragma unroll
        for (i32 quad = 0; quad < QUADS; ++quad) {
            // Columns of tokens that there are not are computed from another's and dropped.
            const i32 tokenB = quad * 4 + g / 2 % share, token = quad * 4 + q % share;
            b[quad] = X_AT + MINIMUM(tokenB, TOKENS - 1) * X_PITCH + g % 2 * 64 + q * 16
                + (SPAN == 1 ? 0 : pieceB % PIECES * 8);
            piece[quad] = PIECES_AT + MINIMUM(token, TOKENS - 1) * PIECES_PITCH + part * 8;
        }
#pragma unroll
        for (i32 i = 0; i < SPAN; ++i) {
            masks[i] = pieceB == i;
            // Multiplied with, for multipliers are idle.
            asm("" : "+r"(masks[i]));
        }
        const i32 m = threadIdx.x / 32 % TILES_PER_STAGE;
        codes = m * CODE_BYTES + lane * CODE_PITCH;
        scales = TILES_PER_STAGE * CODE_BYTES + m * SCALE_BYTES + (g * PIECES + part) * 2;
#if WEIGHT == 3 && UNIFORM
        // Held, not computed anew for every stage (NOTES-linear.md).
        asm("" : "+r"(codes), "+r"(scales), "+r"(b[0]), "+r"(piece[0]), "+r"(block), "+r"(blockB));
#endif
    }
};

/// The block for a lane of those that there are.
template <bool full>
DEVICE i32 present(i32 block, i32 count) {
    return SPAN_BLOCKS == 1 || (full && WARP_BLOCKS % SPAN_BLOCKS == 0)
        ? block
        : MINIMUM(block, count - 1);
}

/// Blocks whose pieces share sums of integers: every TILE_WARPS-th of a stage from one on.
struct Span {
    Codes codes[SPAN_BLOCKS];
    u32 scales[BLOCK_SPANS];

    /// `stage`: the offset of the first block; `count`: how many there are.
    template <bool full>
    DEVICE void load(u32 stage, i32 count, const Place& place) {
        const u8* first = shared + stage;
#pragma unroll
        for (i32 k = 0; k < SPAN_BLOCKS; ++k)
            if (k < count)
                codes[k].load(first + place.codes + k * (TILE_WARPS * BLOCK_BYTES));
        const u8* from = first + place.scales
            + present<full>(place.block, count) * (TILE_WARPS * BLOCK_BYTES);
#pragma unroll
        for (i32 f = 0; f < BLOCK_SPANS; ++f) scales[f] = *(const u16*)(from + f * 2);
    }

    /// Adds the products; `block`: of the chunk, the first one.
    template <bool full>
    DEVICE void accumulate(Sums& sums, i32 block, i32 count, const Place& place) const {
        const i32 blockB = block + present<full>(place.blockB, count) * TILE_WARPS;
        const i32 own = block + present<full>(place.block, count) * TILE_WARPS;
        constexpr i32 words = SPAN > 1 && PIECES == 2 ? 2 : 4;
        u32 b[QUADS][words];
#pragma unroll
        for (i32 quad = 0; quad < QUADS; ++quad) {
            const u8* from = shared + place.b[quad] + place.x + blockB * 128;
            if (words == 4) {
                const Eight four = *(const Eight*)from;
#pragma unroll
                for (i32 i = 0; i < words; ++i) b[quad][i] = four.pairs[i];
            } else {
                const u64 two = *(const u64*)from;
                b[quad][0] = (u32)two;
                b[quad][1] = (u32)(two >> 32);
            }
        }
#pragma unroll
        for (i32 f = 0; f < BLOCK_SPANS; ++f) {
            // Two chains of sums where there is one quad, for a product waits for the one before.
            i32 c[QUADS][4] = {}, other[4] = {};
#pragma unroll
            for (i32 k = 0; k < SPAN_BLOCKS; ++k) {
                if (k >= count) break;
#pragma unroll
                for (i32 j = f * (2 / BLOCK_SPANS); j < (f + 1) * (2 / BLOCK_SPANS); ++j) {
                    u32 a[4];
                    codes[k].operand(a, j);
#pragma unroll
                    for (i32 quad = 0; quad < QUADS; ++quad) {
                        const u32 low = b[quad][words == 4 ? 2 * j : 0];
                        const u32 high = b[quad][words == 4 ? 2 * j + 1 : 1];
                        if (SPAN == 1) {
                            multiply_add(c[quad], a, low, high);
                        } else {
                            const u32 mask = place.masks[PIECES == 1 ? k : 2 * k + j];
                            multiply_add(j == 1 ? other : c[0], a, low * mask, high * mask);
                        }
                    }
                }
            }
            if (SPAN > 1) {
#pragma unroll
                for (i32 i = 0; i < 4; ++i) c[0][i] += other[i];
            }
            // Codes are where they lie in their bytes, a power of two times as large.
            const float scale[2] = {scale_of(scales[f], 0, FIRST_BIT),
                                    scale_of(scales[f], 1, SECOND_BIT)};
#pragma unroll
            for (i32 quad = 0; quad < QUADS; ++quad) {
                const Piece piece =
                    *(const Piece*)(shared + place.piece[quad] + (own * PIECES + f) * 8);
#pragma unroll
                for (i32 row = 0; row < 2; ++row) {
                    i32 high = c[quad][2 * row], low = c[quad][2 * row + 1];
                    i32 offset = piece.offset;
                    if (WEIGHT == 4 && row == 1) {
                        high -= c[quad][0];
                        low -= c[quad][1];
                    }
                    offset <<= row == 0 ? FIRST_BIT : SECOND_BIT;
                    // Twice the sum of (s + 1/2) · x, or of (c - 15/2) · x; of levels that are
                    // integers the sum.
                    const i32 twice = LEVELLED ? high * 256 + low : high * 512 + (low * 2 + offset);
                    const float factor = SPAN_BLOCKS == 1 || place.block < count
                        ? scale[row] * piece.scale
                        : 0.0f;
                    sums[quad][row] = fmaf((float)twice, factor, sums[quad][row]);
                }
            }
        }
    }
};

/// Adds a stage's products; the warp takes every TILE_WARPS-th block of its tile from `first` on.
/// `stage` and `x` are offsets.
template <bool full>
DEVICE void accumulate(Sums& sums, u32 stage, u32 x, i32 columns, i32 first, const Place& place,
                       u32 empty) {
    const i32 block = (x - place.x) / 128;
    const i32 count =
        full ? WARP_BLOCKS : ((columns + STEP - 1) / STEP - first + TILE_WARPS - 1) / TILE_WARPS;
    const i32 lane = threadIdx.x & 31;
    // Codes of one span leave the stage before the arithmetic.
    constexpr bool once = WARP_BLOCKS <= SPAN_BLOCKS;
#pragma unroll
    for (i32 i = 0; i < WARP_BLOCKS; i += SPAN_BLOCKS) {
        Span span;
        const bool some = full || i < count;
        const i32 left = full ? MINIMUM(WARP_BLOCKS - i, SPAN_BLOCKS) : count - i;
        const i32 at = first + i * TILE_WARPS;
        if (some) span.load<full>(stage + at * BLOCK_BYTES, left, place);
        if (once) mbarrier_arrive_warp(empty, lane);
        if (some) span.accumulate<full>(sums, block + at, left, place);
    }
    if (!once) mbarrier_arrive_warp(empty, lane);
}

/// Leaves the warp's sums of a tile on its shelf, and begins anew.
DEVICE void shelve(Sums& sums, Four* shelf) {
    const i32 lane = threadIdx.x & 31, g = lane / 4, q = lane & 3;
#pragma unroll
    for (i32 quad = 0; quad < QUADS; ++quad) {
#pragma unroll
        for (i32 row = 0; row < 2; ++row) {
            float& own = sums[quad][row];
#pragma unroll
            for (i32 offset = 4 / SPAN; offset < 4; offset *= 2)
                own += __shfl_xor_sync(0xffffffffu, own, offset);
            const i32 token = quad * 4 + q;
            if (token < TOKENS)
                shelf[token / 8 * SET_LANES + g * PAIRS + token % 8 / 2].v[2 * row + token % 2] =
                    own;
            own = 0.0f;
        }
    }
}
#endif
