// Codes of 3 bits: 32 of a lane in three words, of 16 slots and 64 columns.
//
// They belong to four words, of which word s has the slots g and g + 8 (g = lane / 4) at four
// columns each. Three are stored; what these have no use for, a quarter of their bits, is the
// fourth. Levels equally spaced: byte i holds the codes of both slots at column i in the bits 2–4
// and 5–7, and the bits 0–1 are left. Others: nibble i + 4 · half holds that code in the bits 0–2,
// and the bit 3 is left.
#pragma once
#include "common.cuh"

/// Bits of `a` where `mask` is 1, of `b` elsewhere, in one operation.
template <u32 mask>
DEVICE u32 merged(u32 a, u32 b) {
    u32 bits;
    asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(bits) : "r"(a), "r"(b), "n"(mask));
    return bits;
}

/// The fourth word. The bits that others have left are of no meaning in it.
DEVICE u32 fourth_word(u32 first, u32 second, u32 third) {
#if UNIFORM
    return merged<0xf0f0f0f0>(merged<0xc0c0c0c0>(first << 6, second << 4), third << 2);
#else
    return merged<0x33333333>(merged<0x11111111>(first >> 3, second >> 2), third >> 1);
#endif
}

/// What the three words keep of the fourth, where `word` is one of them, number `s`.
DEVICE u32 with_share(u32 word, u32 fourth, i32 s) {
#if UNIFORM
    return word | (fourth >> (6 - 2 * s) & 0x03030303);
#else
    return word | (fourth >> s & 0x11111111) << 3;
#endif
}
