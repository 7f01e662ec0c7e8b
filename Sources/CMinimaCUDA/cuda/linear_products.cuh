// The products of one stage of W with x, summed in registers.
#pragma once
#include "linear_codes.cuh"

typedef float Sums[TILES_PER_STAGE][TOKEN_SETS][4];

/// The address of this lane's row of x in `load_matrices`, at column 0.
DEVICE u32 x_address() {
    const i32 lane = threadIdx.x & 31, token = lane & 7;
    // Columns of unused tokens are computed from another and dropped.
    return shared_address(shared + X_AT) + (token < TOKENS ? token : 0) * X_PITCH + lane / 8 * 16;
}

// A full stage has as many steps for every warp.
constexpr bool EVEN = STAGE % (STEP * WARPS) == 0;

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
                load_matrices(b, x + set * (8 * X_PITCH) + step * 64);
                multiply_add(sums[0][set], a[0], b[0], b[1]);
                multiply_add(sums[0][set], a[1], b[2], b[3]);
            }
        }
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty);
}
#else
/// What a warp reads of one step of 64 columns.
struct Step {
    u32 b[TOKEN_SETS][2][4];
    u32 words[TILES_PER_STAGE][WEIGHT];
    u32 scales[TILES_PER_STAGE];

    DEVICE void load(u32 stage, u32 x, i32 step, i32 lane) {
#pragma unroll
        for (i32 set = 0; set < TOKEN_SETS; ++set) {
            load_matrices(b[set][0], x + set * (8 * X_PITCH) + step * 128);
            load_matrices(b[set][1], x + set * (8 * X_PITCH) + step * 128 + 64);
        }
        const u8* block = shared + stage + step * BLOCK_BYTES;
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
            const Eight* codes = (const Eight*)(block + m * CODE_BYTES) + lane;
#pragma unroll
            for (i32 k = 0; k < WEIGHT / 4; ++k) {
                const Eight four = codes[k * 32];
#pragma unroll
                for (i32 j = 0; j < 4; ++j) words[m][k * 4 + j] = four.pairs[j];
            }
            const u8* from =
                block + TILES_PER_STAGE * CODE_BYTES + m * SCALE_BYTES + lane / 4 * (128 / PIECE);
            scales[m] = PIECE == 64 ? *(const u16*)from : *(const u32*)from;
        }
    }

    DEVICE void operand(u32 (&a)[4], i32 m, i32 k) const {
#if WEIGHT == 4
        if (k < LOOKED_UP)
            decode<true>(a, words[m][k]);
        else
            decode<false>(a, words[m][k]);
#else
        a[0] = integers(words[m][2 * k]);
        a[1] = integers(words[m][2 * k] >> 8);
        a[2] = integers(words[m][2 * k + 1]);
        a[3] = integers(words[m][2 * k + 1] >> 8);
#endif
    }

    DEVICE void accumulate(Sums& sums) const {
        constexpr i32 steps = PIECE / 16;
#pragma unroll
        for (i32 piece = 0; piece < 64 / PIECE; ++piece) {
            float part[TILES_PER_STAGE][TOKEN_SETS][4] = {};
#if WEIGHT == 8
            // Half the sum of x: the codes stand for odd multiples of 1/255.
            const u32 halves[4] = {0x3f003f00, 0x3f003f00, 0x3f003f00, 0x3f003f00};
            float half[TOKEN_SETS][4] = {};
#endif
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
#if WEIGHT == 8
#pragma unroll
                for (i32 set = 0; set < TOKEN_SETS; ++set)
                    multiply_add(half[set], halves, b[set][k / 2][k % 2 * 2],
                                 b[set][k / 2][k % 2 * 2 + 1]);
#endif
            }
#pragma unroll
            for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
                const float first = scale_of(scales[m], 2 * piece);
                const float second = scale_of(scales[m], 2 * piece + 1);
#pragma unroll
                for (i32 set = 0; set < TOKEN_SETS; ++set) {
#if WEIGHT == 8
#pragma unroll
                    for (i32 i = 0; i < 4; ++i)
                        if (TOKENS > 1 || i % 2 == 0) part[m][set][i] += half[set][i];
#endif
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
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty);
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
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty);
#endif
}
#endif
