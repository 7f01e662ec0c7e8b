// Codes of weights, in repack.cu's order, to tensor-core operands; codes of scales to scales.
#pragma once
#include "float8.cuh"
#include "linear_geometry.cuh"
#include "three_bits.cuh"

#if WEIGHT != 16
/// Byte n is the one that nibble n of `selector` picks of the eight of `low` and `high`.
DEVICE u32 permute(u32 low, u32 high, u32 selector) {
    u32 bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

/// 2^(-code / 16 - octaves) for a byte of `codes`; 0 for 255.
DEVICE float scale_of(u32 codes, i32 byte, float octaves = 0.0f) {
    // 2^23 + code, exactly.
    const float shifted = __uint_as_float(permute(codes, 0x4b000000u, 0x7440 + byte));
    const float exponent = fmaf(shifted, -0.0625f, 524288.0f - octaves);
    return exp2_fast(exponent < -15.9f - octaves ? -200.0f : exponent);
}

#if WEIGHT == 3
/// A lane's four words of codes of a block of 16 slots and 64 columns, from its three there.
DEVICE void load_words(u32 (&words)[4], const u64* firstTwo, const u32* third) {
    const u64 two = *firstTwo;
    words[0] = (u32)two;
    words[1] = (u32)(two >> 32);
    words[2] = *third;
    words[3] = fourth_word(words[0], words[1], words[2]);
}
#endif

/// Bytes of four levels for `permute`: the lower or the upper ones.
#define LEVEL_BYTES(a, b, c, d, shift)                                \
    ((u32)(((a) >> shift) & 255) | (u32)(((b) >> shift) & 255) << 8 | \
     (u32)(((c) >> shift) & 255) << 16 | (u32)(((d) >> shift) & 255) << 24)

#if WEIGHT == 4 && !UNIFORM
/// One word of codes to the operand A of 16 columns.
///
/// Looked up: byte j holds the codes of the pair a[j], each a sign over three bits of a level's
/// place. Permuted: nibble i holds in three bits the place of value i, of a[i / 2]; the signs of
/// the lower and the upper value of a[j] are the bits 3 + 4j and 19 + 4j.
template <bool lookedUp>
DEVICE void decode(u32 (&a)[4], u32 word) {
    if (lookedUp) {
        const u32 lane = (threadIdx.x & 31) * 4;
        a[0] = *(const u32*)(shared + TABLE_AT + (((word << 7) & 0x7f80) | lane));
        a[1] = *(const u32*)(shared + TABLE_AT + (((word >> 1) & 0x7f80) | lane));
        a[2] = *(const u32*)(shared + TABLE_AT + (((word >> 9) & 0x7f80) | lane));
        a[3] = *(const u32*)(shared + TABLE_AT + (((word >> 17) & 0x7f80) | lane));
    } else {
        constexpr u32 low0 = LEVEL_BYTES(LEVEL_0, LEVEL_1, LEVEL_2, LEVEL_3, 0);
        constexpr u32 low1 = LEVEL_BYTES(LEVEL_4, LEVEL_5, LEVEL_6, LEVEL_7, 0);
        constexpr u32 high0 = LEVEL_BYTES(LEVEL_0, LEVEL_1, LEVEL_2, LEVEL_3, 8);
        constexpr u32 high1 = LEVEL_BYTES(LEVEL_4, LEVEL_5, LEVEL_6, LEVEL_7, 8);
        const u32 places = word & 0x77777777;
        const u32 upper = places >> 16;
        const u32 low = permute(low0, low1, places), high = permute(high0, high1, places);
        const u32 low2 = permute(low0, low1, upper), high2 = permute(high0, high1, upper);
        a[0] = permute(low, high, 0x5140) ^ ((word << 12) & 0x80008000);
        a[1] = permute(low, high, 0x7362) ^ ((word << 8) & 0x80008000);
        a[2] = permute(low2, high2, 0x5140) ^ ((word << 4) & 0x80008000);
        a[3] = permute(low2, high2, 0x7362) ^ (word & 0x80008000);
    }
}

#if LOOKED_UP > 0
/// The pairs that a byte of two codes stands for, once per lane so that no two lanes share a bank.
DEVICE void fill_table() {
    const i32 thread = threadIdx.x;
    if (thread >= 256) return;
    // The byte `thread`, permuted as by `decode`: its nibbles' signs go to the bits 3 and 19.
    u32 a[4];
    decode<false>(a, (thread & 0x77) | (thread & 8) | (thread & 128) << 12);
#pragma unroll
    for (i32 k = 0; k < 8; ++k)
        *(Eight*)(shared + TABLE_AT + thread * 128 + ((k + thread) & 7) * 16) =
            Eight{{a[0], a[0], a[0], a[0]}};
}
#endif
#elif FLOAT8
/// Two words of codes to the operand A of 16 columns.
DEVICE void decode(u32 (&a)[4], u32 left, u32 right) {
    a[0] = first_of_float8(left);
    a[1] = second_of_float8(left);
    a[2] = first_of_float8(right);
    a[3] = second_of_float8(right);
#pragma unroll
    for (i32 i = 0; i < 4; ++i)
        // 2^120 and -0.
        asm("fma.rn.bf16x2 %0, %1, %2, %3;"
            : "=r"(a[i])
            : "r"(a[i]), "r"(0x7b807b80u), "r"(0x80008000u));
}
#elif SPACED
/// One word of codes c to the operand A of 16 columns, (2c - 15) / 128, of 3 bits (2c - 7) / 128.
DEVICE void decode(u32 (&a)[4], u32 word) {
    constexpr bool isFour = WEIGHT == 4;
    constexpr u32 masks[2] = {isFour ? 0x000f000f : 0x001c001c, isFour ? 0x00f000f0 : 0x00e000e0};
    // An integer below 256 is, as bits of a bfloat16, 2^-133 times itself.
    constexpr u32 factors[2] = {isFour ? 0x7f007f00 : 0x7e007e00, isFour ? 0x7d007d00 : 0x7c807c80};
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
        const u32 codes = (i < 2 ? word : word >> 8) & masks[i % 2];
        asm("fma.rn.bf16x2 %0, %1, %2, %3;"
            : "=r"(a[i])
            : "r"(codes), "r"(factors[i % 2]), "r"(isFour ? 0xbdf0bdf0 : 0xbd60bd60));
    }
}
#elif WEIGHT == 3 && !INTEGERS
/// A bfloat16's bits, of an integer from 0 to 127.
constexpr u32 bits_of(u32 value) {
    u32 exponent = 0;
    while (value >> (exponent + 1) != 0) ++exponent;
    return value == 0 ? 0 : (127 + exponent) << 7 | (value << (7 - exponent) & 127);
}

/// One word of codes to the operand A of 16 columns.
DEVICE void decode(u32 (&a)[4], u32 word) {
    constexpr u32 b0 = bits_of(LEVEL_0), b1 = bits_of(LEVEL_1), b2 = bits_of(LEVEL_2),
                  b3 = bits_of(LEVEL_3);
    constexpr u32 low0 = LEVEL_BYTES(b3, b2, b1, b0, 0), low1 = LEVEL_BYTES(b0, b1, b2, b3, 0);
    constexpr u32 high0 = LEVEL_BYTES(b3, b2, b1, b0, 8) | 0x80808080;
    constexpr u32 high1 = LEVEL_BYTES(b0, b1, b2, b3, 8);
    const u32 places = word & 0x77777777;
#pragma unroll
    for (i32 row = 0; row < 2; ++row) {
        const u32 low = permute(low0, low1, places >> (16 * row));
        const u32 high = permute(high0, high1, places >> (16 * row));
        // The columns 1 and 2 have changed places.
        a[row] = permute(low, high, 0x6240);
        a[2 + row] = permute(low, high, 0x7351);
    }
}
#endif

#if INTEGERS
/// c [16, 8] += a [16, 32] · b [32, 8], bytes times signed bytes into integers; lanes as with
/// bfloat16, four bytes where two values were. Bytes of A are unsigned where they are codes of 3
/// or 4 bits, else signed.
DEVICE void multiply_add(i32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if WEIGHT == 8 || !UNIFORM
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// A lane's codes of one block of 16 slots and 64 columns, in the order of operands A of two times
/// 32 columns. 8 bits: signed bytes s that stand for s + 1/2, as they are. 4 bits: bytes u + 16 v of
/// two codes, u of the slot g and v of g + 8. u alone is the operand's row g; both together are its
/// row g + 8, whose sum is taken apart later. 3 bits: bytes of 4 u + 32 v and a rest, of which the
/// two rows are parts; or nibbles that pick the bytes of levels.
struct Codes {
    u32 words[MAXIMUM(WEIGHT, 4)];

    DEVICE void load(const u8* own) {
#if WEIGHT == 3
        load_words(words, (const u64*)own, (const u32*)(own + 256 - (threadIdx.x & 31) * 4));
#else
        const Eight* from = (const Eight*)own;
#pragma unroll
        for (i32 k = 0; k < WEIGHT / 4; ++k) {
            const Eight four = from[k * 32];
#pragma unroll
            for (i32 i = 0; i < 4; ++i) words[k * 4 + i] = four.pairs[i];
        }
#endif
    }

    DEVICE void operand(u32 (&a)[4], i32 half) const {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
#if WEIGHT == 8
            a[i] = words[half * 4 + i];
#else
            const u32 both = words[half * 2 + i / 2];
#if WEIGHT == 4
            a[i] = i % 2 == 0 ? both & 0x0f0f0f0f : both;
#elif UNIFORM
            a[i] = both & (i % 2 == 0 ? 0x1c1c1c1c : 0xe0e0e0e0);
#else
            constexpr u32 low = LEVEL_BYTES(-LEVEL_3, -LEVEL_2, -LEVEL_1, -LEVEL_0, 0);
            constexpr u32 high = LEVEL_BYTES(LEVEL_0, LEVEL_1, LEVEL_2, LEVEL_3, 0);
            a[i] = permute(low, high, (both & 0x77777777) >> (i % 2 * 16));
#endif
#endif
        }
    }
};
#endif
#endif
