// expand: the layout of repack.cu into row-major bfloat16 [rows, PITCH], for matrix products over
// many tokens: out[order[slot], column] = bf16(level · base · 2^(-scale / 16)), 0 from COLUMNS to
// PITCH.
//
// A warp decodes blocks of 16 slots and 64 columns into shared memory and writes 128 bytes a row.
// Constants: as of repack.cu without the storage's, and PITCH (a multiple of 8), BLOCKS (blocks of
// 64 columns per warp), VALUE_0…VALUE_7 (positive levels; without UNIFORM, WEIGHT 4, or four of 3),
// FACTOR (as of linear.cu; else).
// Grid (ceil(ceil(PITCH / 64) / (8 · BLOCKS)), tiles of 16 slots), block 256.
// Parameters: in, base [1] float, order [SLOTS] (null: slot), out.
// Reference: QuantizedMatrix.dense; within 2^-8 of a value for the rounding and 2^-20 for the
// scale.
// compile: WEIGHT=4 SLOTS=1001 COLUMNS=1000 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=4 PITCH=1000 BLOCKS=4 VALUE_0=0.046987 VALUE_1=0.142008 VALUE_2=0.240343 VALUE_3=0.344853 VALUE_4=0.459722 VALUE_5=0.592129 VALUE_6=0.757164 VALUE_7=1.0 UNIFORM=0
// compile: WEIGHT=4 SLOTS=1001 COLUMNS=1003 TILES_PER_STAGE=1 PIECE=32 LOOKED_UP=2 PITCH=1008 BLOCKS=1 VALUE_0=0.046987 VALUE_1=0.142008 VALUE_2=0.240343 VALUE_3=0.344853 VALUE_4=0.459722 VALUE_5=0.592129 VALUE_6=0.757164 VALUE_7=1.0 UNIFORM=0
// compile: WEIGHT=8 SLOTS=1001 COLUMNS=1000 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 PITCH=1000 BLOCKS=4 UNIFORM=1 FACTOR=0.0039215686
// compile: WEIGHT=8 SLOTS=1001 COLUMNS=1003 TILES_PER_STAGE=1 PIECE=32 LOOKED_UP=0 PITCH=1008 BLOCKS=4 UNIFORM=0 FACTOR=0.00223214286
// compile: WEIGHT=4 SLOTS=1001 COLUMNS=1003 TILES_PER_STAGE=2 PIECE=32 LOOKED_UP=0 PITCH=1008 BLOCKS=4 UNIFORM=1 FACTOR=0.0666666667
// compile: WEIGHT=3 SLOTS=1001 COLUMNS=1003 TILES_PER_STAGE=2 PIECE=32 LOOKED_UP=0 PITCH=1008 BLOCKS=4 UNIFORM=1 FACTOR=0.1428571429
// compile: WEIGHT=3 SLOTS=1001 COLUMNS=1000 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 PITCH=1000 BLOCKS=4 VALUE_0=0.113894 VALUE_1=0.351312 VALUE_2=0.624509 VALUE_3=1.0 UNIFORM=0
#include "common.cuh"
#include "float8.cuh"
#include "three_bits.cuh"

struct alignas(16) Words {
    u32 w[4];
};

extern "C" __global__ void __launch_bounds__(256)
expand(const u8* in, const float* base, const i32* order, bf16* out) {
    dependents_launch();
    dependencies_wait();
    constexpr i32 codeBytes = 128 * WEIGHT, scaleBytes = 16 * (64 / PIECE);
    constexpr i32 blocks = (COLUMNS + 63) / 64;
    constexpr i32 blockBytes = TILES_PER_STAGE * (codeBytes + scaleBytes);
    // A row of 64 values and 16 bytes that keep rows off each other's banks.
    constexpr i32 pitch = 144;
    __shared__ __align__(16) u8 rows[8][16 * pitch];
    const i32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, g = lane / 4, q = lane & 3;
    const i32 tile = blockIdx.y, m = tile % TILES_PER_STAGE;
    u8* own = rows[warp];
#if WEIGHT == 4 && !UNIFORM
    __shared__ float levels[16];
    if (threadIdx.x == 0) {
        const float values[8] = {VALUE_0, VALUE_1, VALUE_2, VALUE_3,
                                 VALUE_4, VALUE_5, VALUE_6, VALUE_7};
#pragma unroll
        for (i32 i = 0; i < 8; ++i) {
            levels[i] = values[i];
            levels[i + 8] = -values[i];
        }
    }
    __syncthreads();
    const float unit = *base;
#elif WEIGHT == 3 && !UNIFORM
    __shared__ float levels[8];
    if (threadIdx.x == 0) {
        const float values[4] = {VALUE_0, VALUE_1, VALUE_2, VALUE_3};
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
            levels[4 + i] = values[i];
            levels[3 - i] = -values[i];
        }
    }
    __syncthreads();
    const float unit = *base;
#else
    const float unit = *base * (float)FACTOR;
#endif
    for (i32 i = 0; i < BLOCKS; ++i) {
        const i32 block = (blockIdx.x * BLOCKS + i) * 8 + warp;
        if (block * 64 >= PITCH) break;
        const bool present = block < blocks;
        const u8* from = in + ((i64)(tile / TILES_PER_STAGE) * blocks + block) * blockBytes;
        float scales[2][64 / PIECE];
#pragma unroll
        for (i32 piece = 0; piece < 64 / PIECE; ++piece) {
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const u32 code = present
                    ? from[TILES_PER_STAGE * codeBytes + m * scaleBytes + g * (128 / PIECE)
                           + piece * 2 + half]
                    : 255;
                scales[half][piece] = code == 255 ? 0.0f : unit * exp2_fast((float)code * -0.0625f);
            }
        }
        Words words[(WEIGHT + 3) / 4] = {};
#if WEIGHT == 3
        if (present) {
            const u32* own = (const u32*)(from + m * codeBytes);
            const u32 first = own[lane * 2], second = own[lane * 2 + 1], third = own[64 + lane];
            words[0] = Words{{first, second, third, fourth_word(first, second, third)}};
        }
#endif
#pragma unroll
        for (i32 k = 0; k < WEIGHT / 4; ++k)
            words[k] = present ? ((const Words*)(from + m * codeBytes))[k * 32 + lane] : Words{};
        __syncwarp();
#if WEIGHT == 4 && !UNIFORM
#pragma unroll
        for (i32 k = 0; k < 4; ++k) {
#pragma unroll
            for (i32 pair = 0; pair < 4; ++pair) {
                float values[2];
#pragma unroll
                for (i32 second = 0; second < 2; ++second) {
                    const u32 word = words[0].w[k];
                    const u32 place = word >> (8 * pair + 4 * second) & 7;
                    const u32 sign = k < LOOKED_UP ? word >> (8 * pair + 4 * second + 3) & 1
                                                   : word >> (4 * pair + 16 * second + 3) & 1;
                    values[second] = levels[place | sign << 3];
                    const i32 column = block * 64 + k * 16 + (pair & 2) * 4 + q * 2 + second;
                    values[second] =
                        column < COLUMNS ? values[second] * scales[pair & 1][k * 16 / PIECE] : 0.0f;
                }
                *(u32*)(own + (g + (pair & 1) * 8) * pitch
                        + (k * 16 + (pair & 2) * 4 + q * 2) * 2) = to_bf16x2(values[0], values[1]);
            }
        }
#else
#pragma unroll
        for (i32 j = 0; j < 2; ++j) {
            const i32 first = block * 64 + j * 32 + q * 8;
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                float values[8];
#pragma unroll
                for (i32 i = 0; i < 8; ++i) {
#if WEIGHT == 8 && !UNIFORM
                    const u32 word = words[j].w[i / 2];
                    const u32 pair = half ? second_of_float8(word) : first_of_float8(word);
                    // 2^120.
                    const float level =
                        (i % 2 ? high_float(pair) : low_float(pair)) * 1.329227995784916e36f;
#elif WEIGHT == 8
                    const u32 word = words[j].w[i / 4 * 2 + half];
                    const u32 code = (word >> (8 * (i % 4)) & 255) ^ 128;
                    const float level = (float)((i32)code * 2 - 255);
#else
                    const u32 word = words[0].w[j * 2 + i / 4];
                    const i32 place = i % 4 / 2 + i % 2 * 2;
#if WEIGHT == 4
                    const u32 code = word >> (8 * place + 4 * half) & 15;
                    const float level = (float)((i32)code * 2 - 15);
#elif UNIFORM
                    const u32 code = word >> (8 * place + 3 * half + 2) & 7;
                    const float level = (float)((i32)code * 2 - 7);
#else
                    const float level = levels[word >> (4 * place + 16 * half) & 7];
#endif
#endif
                    values[i] = first + i < COLUMNS ? level * scales[half][j * 32 / PIECE] : 0.0f;
                }
                Words eight;
#pragma unroll
                for (i32 i = 0; i < 4; ++i)
                    eight.w[i] = to_bf16x2(values[2 * i], values[2 * i + 1]);
                *(Words*)(own + (g + half * 8) * pitch + (j * 32 + q * 8) * 2) = eight;
            }
        }
#endif
        __syncwarp();
#pragma unroll
        for (i32 part = 0; part < 4; ++part) {
            const i32 row = part * 4 + lane / 8, column = block * 64 + lane % 8 * 8;
            const i32 slot = tile * 16 + row;
            const i32 target = slot >= SLOTS ? -1 : order ? order[slot] : slot;
            if (target >= 0 && column < PITCH)
                *(Words*)(out + (i64)target * PITCH + column) =
                    *(const Words*)(own + row * pitch + lane % 8 * 16);
        }
    }
}
