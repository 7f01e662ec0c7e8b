// Pages of keys and values, and what makes a key or a query out of a projection.
//
// A page holds PAGE = 64 tokens of one layer. A page's part of a key-value head is PAGE / BLOCK
// blocks of BLOCK tokens, each a K tile and a V tile: [page, KV_HEADS, PAGE / BLOCK, 2,
// TILE_BYTES]. With DIM = HEAD_DIM rounded up to BLOCK (by zeros):
//   K tile: rows [BLOCK][DIM], a token's key in one row;
//   V tile: rows [DIM][BLOCK], transposed: a row is one dimension of the block's tokens, 64 bytes.
// Within rows the pieces of 16 bytes are permuted: piece c of row r is at c ^ (r / 2 % 4), and ^ 4
// for odd r if rows are multiples of 128 bytes. So eight rows' pieces c lie in different banks, as
// do four neighbouring pieces of two neighbouring rows.
// KV_FP8 = 0: values are bfloat16, BLOCK = 32. KV_FP8 = 1: values are e4m3, BLOCK = 64, and each
// tile ends with BLOCK bytes, a token's scale 2^(byte - 127); the scale is the smallest power of
// two for which the largest value of the head does not pass 448, so that a value's error is at most
// 2^-4 of itself or 2^-10 scales.
//
// Constants: HEADS, KV_HEADS, HEAD_DIM (multiple of 8, at most 256), ROTARY_DIM (even, at most
// HEAD_DIM), QK_NORM (0 or 1), KV_FP8 (0 or 1).
#pragma once
#include "common.cuh"

#define PAGE 64
#define BLOCK (KV_FP8 ? 64 : 32)
#define DIM ((HEAD_DIM + BLOCK - 1) / BLOCK * BLOCK)
#define VALUE_BYTES (KV_FP8 ? 1 : 2)
#define KEY_ROW (DIM * VALUE_BYTES)
#define VALUE_ROW (BLOCK * VALUE_BYTES)
#define SCALES_AT (BLOCK * DIM * VALUE_BYTES)
#define TILE_BYTES (SCALES_AT + (KV_FP8 ? BLOCK : 0))
#define GROUP (HEADS / KV_HEADS)
#define QKV_WIDTH ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define ALL_LANES 0xffffffffu

/// Byte offset of 16-byte piece `piece` of `row` among rows of `row_bytes` bytes.
DEVICE u32 piece_offset(u32 row, u32 piece, u32 row_bytes) {
    u32 turn = row / 2 % 4 + (row_bytes % 128 == 0 ? row % 2 * 4 : 0);
    return row * row_bytes + (piece ^ turn) * 16;
}

/// Byte offset of dimension `dim` of the key of token `token` of a block.
DEVICE u32 key_offset(u32 token, u32 dim) {
    u32 byte = dim * VALUE_BYTES;
    return piece_offset(token, byte / 16, KEY_ROW) + byte % 16;
}

/// Byte offset of dimension `dim` of the value of token `token` of a block.
DEVICE u32 value_offset(u32 token, u32 dim) {
    u32 byte = token * VALUE_BYTES;
    return piece_offset(dim, byte / 16, VALUE_ROW) + byte % 16;
}

/// The K tile (`kind` 0) or V tile (1) of block `block` of a request's tokens, which is in page
/// `page`.
DEVICE u8* tile_at(u8* pages, i32 page, i32 head, i32 block, i32 kind) {
    i64 tile = ((i64)page * KV_HEADS + head) * (PAGE / BLOCK) + block % (PAGE / BLOCK);
    return pages + (tile * 2 + kind) * TILE_BYTES;
}

// ---- float16 and e4m3 ----

/// Two floats rounded to float16; `low` in the lower half.
DEVICE u32 to_half2(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE float half_to_float(u16 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

/// Four e4m3 numbers, the lowest byte first, as float16; exact.
DEVICE void e4m3_to_half(u32 bytes, u32& low, u32& high) {
#if __CUDA_ARCH__ >= 890
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2;"
        "  cvt.rn.f16x2.e4m3x2 %0, a; cvt.rn.f16x2.e4m3x2 %1, b; }"
        : "=r"(low), "=r"(high)
        : "r"(bytes));
#else
    // Exponent and mantissa moved into float16's fields are the value times 2^-8.
    u32 pairs[2] = {__byte_perm(bytes, 0, 0x1404), __byte_perm(bytes, 0, 0x3424)};
#pragma unroll
    for (i32 i = 0; i < 2; i++) {
        u32 spread = (pairs[i] & 0x80008000u) | ((pairs[i] & 0x7f007f00u) >> 1);
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(pairs[i]) : "r"(spread), "r"(0x5c005c00u));
    }
    low = pairs[0];
    high = pairs[1];
#endif
}

/// Two floats rounded to e4m3, ties to even, at most 448; `low` in the lower byte.
DEVICE u16 to_e4m3x2(float low, float high) {
#if __CUDA_ARCH__ >= 890
    u16 pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    u32 pair = 0;
#pragma unroll
    for (i32 i = 0; i < 2; i++) {
        float x = i ? high : low;
        float size = fminf(fabsf(x), 448.0f);
        // Adding 2^(e + 20) leaves three bits of mantissa for size in [2^e, 2^(e+1)), e >= -6.
        u32 exponent = max(__float_as_uint(size) >> 23, 121u);
        float magic = __uint_as_float((exponent + 20) << 23);
        float rounded = __fadd_rn(__fadd_rn(size, magic), -magic);
        // Subnormal numbers of e4m3 are those of float times 2^120.
        u32 bits = __float_as_uint(rounded * 7.52316384526264e-37f) >> 20;
        if (rounded < 0.015625f) bits = (u32)(rounded * 512.0f);
        pair |= (bits | (__float_as_uint(x) >> 31 << 7)) << (8 * i);
    }
    return (u16)pair;
#endif
}

/// The scale byte of a head whose largest absolute value is `largest`.
DEVICE u32 scale_code(float largest) {
    u32 bits = __float_as_uint(largest);
    i32 code = (i32)(bits >> 23) - 8 + ((bits & 0x7fffffu) > 0x600000u);
    return largest == 0.0f ? 127 : (u32)min(max(code, 1), 246);
}

DEVICE float scale_of(u32 code) { return __uint_as_float(code << 23); }

/// 1 / scale_of(code), for codes up to 253.
DEVICE float inverse_scale_of(u32 code) { return __uint_as_float((254 - code) << 23); }

// ---- rotation ----

/// Cosine and sine of position · frequency, times `scaling` and rounded to bfloat16. The product is
/// float32's; before rounding the error is below 2^-22.
DEVICE void rotation(i32 position, float frequency, float scaling, float& cosine, float& sine) {
    double turns = (double)__fmul_rn((float)position, frequency) * 0.15915494309189535;
    float halves = (float)(2.0 * (turns - rint(turns)));
    cosine = rounded_to_bf16(__fmul_rn(cospif(halves), scaling));
    sine = rounded_to_bf16(__fmul_rn(sinpif(halves), scaling));
}

/// The rotated element `dim`, where `x` is the element and `pair` the one half a rotation away.
DEVICE float rotated(float x, float pair, float cosine, float sine, bool first) {
    float turned = rounded_to_bf16(pair * sine);
    return rounded_to_bf16(rounded_to_bf16(x * cosine) + (first ? -turned : turned));
}

// ---- heads held by a warp ----

/// Pairs of neighbouring values that a lane holds of a head: values 2 (lane + 32 j) and the next.
#define PAIRS ((HEAD_DIM + 63) / 64)

/// A head of HEAD_DIM bfloat16 values; zeros past its end.
DEVICE void load_head(u32 (&x)[PAIRS], const bf16* source, u32 lane) {
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++) {
        u32 at = 2 * (lane + 32 * j);
        x[j] = at < HEAD_DIM ? *(const u32*)(source + at) : 0;
    }
}

/// x / sqrt(mean(x²) + epsilon) rounded to bfloat16, times the weights, rounded again.
DEVICE void normalise_head(u32 (&x)[PAIRS], const u32 (&weights)[PAIRS], float epsilon) {
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++)
        sum += low_float(x[j]) * low_float(x[j]) + high_float(x[j]) * high_float(x[j]);
    float factor = rsqrtf(warp_sum(sum) * (1.0f / HEAD_DIM) + epsilon);
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++) {
        u32 scaled = to_bf16x2(low_float(x[j]) * factor, high_float(x[j]) * factor);
        x[j] = to_bf16x2(low_float(scaled) * low_float(weights[j]),
                         high_float(scaled) * high_float(weights[j]));
    }
}

/// Rotates a head whose values are also in `shared`, with ROTARY_DIM / 2 cosines and as many sines.
DEVICE void rotate_head(u32 (&x)[PAIRS], const bf16* shared, const float* cosines,
                        const float* sines, u32 lane) {
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++) {
        float pair[2] = {low_float(x[j]), high_float(x[j])};
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 at = 2 * (lane + 32 * j) + i;
            if (at < ROTARY_DIM) {
                bool first = at < ROTARY_DIM / 2;
                u32 angle = first ? at : at - ROTARY_DIM / 2;
                u32 other = first ? at + ROTARY_DIM / 2 : angle;
                pair[i] = rotated(pair[i], to_float(shared[other]), cosines[angle], sines[angle],
                                  first);
            }
        }
        x[j] = to_bf16x2(pair[0], pair[1]);
    }
}

/// The scale byte of a head held by a warp.
DEVICE u32 head_scale_code(const u32 (&x)[PAIRS]) {
    float largest = 0.0f;
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++)
        largest = fmaxf(largest, fmaxf(fabsf(low_float(x[j])), fabsf(high_float(x[j]))));
    return scale_code(warp_max(largest));
}

/// Writes a head of bfloat16 (or float16) values.
DEVICE void store_head(u32* row, const u32 (&x)[PAIRS], u32 lane) {
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++)
        if (2 * (lane + 32 * j) < HEAD_DIM) row[lane + 32 * j] = x[j];
}

/// Writes a head of bfloat16 values divided by the scale of `code`, and the zeros up to DIM.
DEVICE void store_head_e4m3(u8* row, const u32 (&x)[PAIRS], u32 code, u32 lane) {
    float inverse = inverse_scale_of(code);
#pragma unroll
    for (u32 j = 0; j < PAIRS; j++)
        if (2 * (lane + 32 * j) < DIM)
            ((u16*)row)[lane + 32 * j] =
                to_e4m3x2(low_float(x[j]) * inverse, high_float(x[j]) * inverse);
}
