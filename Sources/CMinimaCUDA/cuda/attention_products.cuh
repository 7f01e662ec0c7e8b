// Tensor-core products of a tile: scores of its keys, and weights times its values.
#pragma once
#include "attention_parts.cuh"

#if KV_FP8
#define MULTIPLY_ADD multiply_add_half
#define PACK to_half2

/// c += a · b as `multiply_add`, of float16.
DEVICE void multiply_add_half(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#else
#define MULTIPLY_ADD multiply_add
#define PACK to_bf16x2
#endif

/// The transpose of an 8x8 matrix of 16-bit values of which lane l holds row l / 4, columns
/// 2 (l % 4) and the next.
DEVICE u32 transposed(u32 pair) {
    u32 result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

/// The key that row `row` < 8 of tile `tile` of S^T stands for; row + 8 is KEY_HALF on.
#define KEY_HALF (KV_FP8 ? 2 : 8)
DEVICE u32 key_row(u32 tile, u32 row) {
    return KV_FP8 ? 16 * (row / 2) + 4 * tile + row % 2 : 16 * tile + row;
}

#if KV_FP8
/// The left operand of product `step` from a lane's pieces of rows g and g + 8.
DEVICE void left_operand(u32 (&a)[4], const uint4& upper, const uint4& lower, i32 step) {
    u32 above[4] = {upper.x, upper.y, upper.z, upper.w};
    u32 below[4] = {lower.x, lower.y, lower.z, lower.w};
    e4m3_to_half(above[step], a[0], a[2]);
    e4m3_to_half(below[step], a[1], a[3]);
}
#endif

/// scores [BLOCK keys, 8 columns] of each tile of columns: K Q^T.
DEVICE void multiply_keys(float (&scores)[WARP_TILES][KEY_TILES][4], const u8* keys,
                          const u32 (&queries)[WARP_TILES][DIM_TILES][2], u32 lane) {
#if KV_FP8
#pragma unroll
    for (i32 b = 0; b < DIM_TILES / 4; b++) {
        uint4 upper[KEY_TILES], lower[KEY_TILES];
#pragma unroll
        for (i32 t = 0; t < KEY_TILES; t++) {
            u32 row = key_row(t, lane / 4), piece = 4 * b + lane % 4;
            upper[t] = load_piece(keys + piece_offset(row, piece, KEY_ROW));
            lower[t] = load_piece(keys + piece_offset(row + KEY_HALF, piece, KEY_ROW));
        }
#pragma unroll
        for (i32 step = 0; step < 4; step++)
#pragma unroll
            for (i32 t = 0; t < KEY_TILES; t++) {
                u32 a[4];
                left_operand(a, upper[t], lower[t], step);
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++)
                    MULTIPLY_ADD(scores[n][t], a, queries[n][4 * b + step][0],
                                 queries[n][4 * b + step][1]);
            }
    }
#else
    // Odd and even steps have sums of their own, for shorter chains.
    float odd[WARP_TILES][KEY_TILES][4] = {};
#pragma unroll
    for (i32 step = 0; step < DIM_TILES; step++)
#pragma unroll
        for (i32 t = 0; t < KEY_TILES; t++) {
            u32 a[4];
            u32 offset = piece_offset(16 * t + lane % 16, 2 * step + lane / 16, KEY_ROW);
            load_matrices(a, shared_address(keys + offset));
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++)
                MULTIPLY_ADD(step % 2 ? odd[n][t] : scores[n][t], a, queries[n][step][0],
                             queries[n][step][1]);
        }
#pragma unroll
    for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
        for (i32 t = 0; t < KEY_TILES; t++)
#pragma unroll
            for (i32 c = 0; c < 4; c++) scores[n][t][c] += odd[n][t][c];
#endif
}

/// output += V^T P^T.
DEVICE void multiply_values(State& state, const u8* values,
                            const u32 (&weights)[WARP_TILES][KEY_TILES][2], u32 lane) {
#if KV_FP8
    constexpr i32 TOGETHER = 4;
#pragma unroll
    for (i32 m = 0; m < DIM_TILES; m += TOGETHER) {
        uint4 upper[TOGETHER], lower[TOGETHER];
#pragma unroll
        for (i32 i = 0; i < TOGETHER; i++) {
            u32 row = 16 * (m + i) + lane / 4;
            upper[i] = load_piece(values + piece_offset(row, lane % 4, VALUE_ROW));
            lower[i] = load_piece(values + piece_offset(row + 8, lane % 4, VALUE_ROW));
        }
#pragma unroll
        for (i32 step = 0; step < KEY_TILES; step++)
#pragma unroll
            for (i32 i = 0; i < TOGETHER; i++) {
                u32 a[4];
                left_operand(a, upper[i], lower[i], step);
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++)
                    MULTIPLY_ADD(state.output[n][m + i], a, weights[n][step][0],
                                 weights[n][step][1]);
            }
    }
#else
#pragma unroll
    for (i32 step = 0; step < KEY_TILES; step++)
#pragma unroll
        for (i32 m = 0; m < DIM_TILES; m++) {
            u32 a[4];
            u32 offset = piece_offset(16 * m + lane % 16, 2 * step + lane / 16, VALUE_ROW);
            load_matrices(a, shared_address(values + offset));
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++)
                MULTIPLY_ADD(state.output[n][m], a, weights[n][step][0], weights[n][step][1]);
        }
#endif
}
