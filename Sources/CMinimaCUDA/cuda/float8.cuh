// Numbers of e4m3 (a sign, four bits of exponent with bias 7, three of mantissa; at most 448) in
// words of four, whose bits lie so that few operations make bfloat16 of them. Without includes, for
// the tests compile this file for the CPU, too.
//
// A bfloat16 with e4m3's exponent and mantissa in its bits 4 to 10, and the sign, is the number
// times 2^-120, subnormal ones too. Numbers 0 and 1 of a word lie so in its halves. Between these
// bits are those of the numbers 2 and 3: turning the word by 4 brings sign, mantissa and the lowest
// bit of the exponent to their places, turning it by 12 the rest of the exponent.
#pragma once

// Bits of numbers 0 and 1, and of 2 and 3 after either turn.
#define FLOAT8_FIRST 0x87f087f0u
#define FLOAT8_BY_4 0x80f080f0u
#define FLOAT8_BY_12 0x07000700u

/// Number `place` of a word, from its bits in e4m3. NaN (0x7F, 0xFF) becomes 448 of the same sign.
DEVICE u32 pack_float8(u32 code, i32 place) {
    if ((code & 0x7f) == 0x7f) code -= 1;
    const u32 half = ((code & 0x80) << 8 | (code & 0x7f) << 4) << place % 2 * 16;
    if (place < 2) return half;
    const u32 first = half & FLOAT8_BY_4, rest = half & FLOAT8_BY_12;
    return (first >> 4 | first << 28) | (rest >> 12 | rest << 20);
}

/// Numbers 0 and 1 of a word times 2^-120, as a pair of bfloat16.
DEVICE u32 first_of_float8(u32 word) { return word & FLOAT8_FIRST; }

/// Numbers 2 and 3 likewise; with the others 5 operations (a turn is one).
DEVICE u32 second_of_float8(u32 word) {
    const u32 by4 = word << 4 | word >> 28, by12 = word << 12 | word >> 20;
    return (by4 & FLOAT8_BY_4) | (by12 & FLOAT8_BY_12);
}
