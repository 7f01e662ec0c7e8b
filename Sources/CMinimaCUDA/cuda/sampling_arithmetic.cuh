// Arithmetic that gives the same bits everywhere: float32 sums and products, each rounded once, in
// one order; random numbers; and the order of scores.
#pragma once
#include "common.cuh"

DEVICE float horner(float sum, float x, float coefficient) {
    return __fmul_rn(__fadd_rn(sum, coefficient), x);
}

/// e^x for x <= 0; 0 below -87. Relative error at most 2^-23.
DEVICE float exact_exp(float x) {
    if (x < -87.0f) return 0.0f;
    float n = rintf(__fmul_rn(x, 0x1.715476p0f));
    float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0x1.63p-1f)), __fmul_rn(n, -0x1.bd0106p-13f));
    float tail = __fmul_rn(r, 0x1.6dbc68p-10f);
    tail = horner(tail, r, 0x1.124148p-7f);
    tail = horner(tail, r, 0x1.555454p-5f);
    tail = horner(tail, r, 0x1.555486p-3f);
    tail = __fadd_rn(tail, 0x1p-1f);
    float value = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(r, r), tail), r), 1.0f);
    return __fmul_rn(value, __int_as_float(((i32)n + 127) << 23));
}

/// ln x for normal x > 0; absolute error at most 2^-23 (1 + |ln x|).
DEVICE float exact_log(float x) {
    i32 bits = __float_as_int(x);
    i32 exponent = (bits - 0x3f3504f3) >> 23;
    float f = __fadd_rn(__int_as_float(bits - (i32)((u32)exponent << 23)), -1.0f);
    float tail = __fmul_rn(f, 0x1.65baa8p-4f);
    tail = horner(tail, f, -0x1.27c4fep-3f);
    tail = horner(tail, f, 0x1.32c69ap-3f);
    tail = horner(tail, f, -0x1.52fde8p-3f);
    tail = horner(tail, f, 0x1.98a666p-3f);
    tail = horner(tail, f, -0x1.000688p-2f);
    tail = horner(tail, f, 0x1.5557acp-2f);
    tail = __fadd_rn(tail, -0x1.fffff4p-2f);
    float value = __fadd_rn(__fmul_rn(__fmul_rn(f, f), tail), f);
    return __fadd_rn(value, __fmul_rn((float)exponent, 0x1.62e43p-1f));
}

/// -ln(j 2^-32): an exponential draw from 32 random bits; 0 counts as 1.
DEVICE float exponential_draw(u32 j) {
    j = j == 0 ? 1 : j;
    i32 zeros = __clz(j);
    // 1 - m of j = m 2^(32 - zeros), exact as an integer: small draws, which win, stay precise.
    float y = __fmul_rn(__uint2float_rn(0u - (j << zeros)), 0x1p-32f);
    float tail = __fmul_rn(y, 0x1.734526p0f);
    tail = horner(tail, y, -0x1.b5dac6p0f);
    tail = horner(tail, y, 0x1.43f87ep0f);
    tail = horner(tail, y, -0x1.a2f706p-3f);
    tail = horner(tail, y, 0x1.138c3cp-2f);
    tail = horner(tail, y, 0x1.f1b5dap-3f);
    tail = horner(tail, y, 0x1.55adbp-2f);
    tail = __fadd_rn(tail, 0x1.fffe8cp-2f);
    float value = __fadd_rn(__fmul_rn(__fmul_rn(y, y), tail), y);
    return __fadd_rn(value, __fmul_rn((float)zeros, 0x1.62e43p-1f));
}

/// Philox 4x32 with 10 rounds (Salmon et al. 2011).
DEVICE void philox(u32 (&c)[4], u32 key0, u32 key1) {
#pragma unroll
    for (i32 round = 0; round < 10; round++) {
        u32 high0 = __umulhi(c[0], 0xd2511f53u), low0 = c[0] * 0xd2511f53u;
        u32 high1 = __umulhi(c[2], 0xcd9e8d57u), low1 = c[2] * 0xcd9e8d57u;
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

// ---- order ----

/// Larger for larger values and, among equal values, for lower ids.
DEVICE u64 ranked(float value, i32 token) {
    u32 bits = __float_as_uint(__fadd_rn(value, 0.0f));  // -0 ties with 0
    bits ^= (u32)((i32)bits >> 31) | 0x80000000u;
    return (u64)bits << 32 | (u32)~token;
}
#define NOT_FINITE 0xffffffffffffffffull  // above every finite value

DEVICE u64 warp_best(u64 value) {
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2) {
        u64 other = __shfl_xor_sync(0xffffffffu, value, offset);
        value = other > value ? other : value;
    }
    return value;
}

/// Makes a draft's logit of its token `i` the score by which it is ranked: with a temperature under the
/// target's own noise, so that like distributions choose alike. `setting` is the slot's row of settings,
/// `target_ids` the target's tokens of the draft's, null where they are the same.
///
/// - Returns: Whether the logit is finite; others are no candidates.
DEVICE bool drafted_score(float& score, i32 i, float inverse, const i32* target_ids,
                          const u32* setting, u32 position) {
    if ((__float_as_uint(score) & 0x7f800000u) == 0x7f800000u) return false;
    if (inverse > 0.0f) {
        u32 token = target_ids == nullptr ? (u32)i : (u32)target_ids[i];
        u32 words[4] = {token / 4, position, 0, 0};
        philox(words, setting[8], setting[9]);
        u32 part = token % 4;
        u32 word = part < 2 ? (part == 0 ? words[0] : words[1])
                            : (part == 2 ? words[2] : words[3]);
        score = __fsub_rn(__fmul_rn(score, inverse), exact_log(exponential_draw(word)));
    }
    return true;
}
