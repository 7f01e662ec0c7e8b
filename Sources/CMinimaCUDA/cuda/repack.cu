// repack: packed rows of codes with their scales into the layout that linear.cu streams, once at
// load.
//
// In: codes [rows, ROW_BYTES] as BitPlanes stores them (a row is one plane per part of a code,
// lowest bits first; of widths 2 | 2 + 1 | 4 | 8 for 2, 3, 4, 8 BITS), scales [rows, GROUPS] (one
// code for GROUP_SIZE columns), order [SLOTS]: the row for each slot (-1: none; null: its own
// number).
// Out: for every tile of 16 · TILES_PER_STAGE slots, for every block of 64 columns: per 16 slots m
// the codes, 128 · WEIGHT bytes, then per m the scales, 16 · 64 / PIECE bytes. Slots and columns
// that do not exist have the scale 0 or the code of the lowest level; x is 0 there.
//   Lane l = 4g + q of a warp holds operands A. WEIGHT 4, for 16 columns at a time (step k of
//   the block's four): pairs a[0] = (slot g, columns 2q, 2q + 1), a[1] = slot g + 8, a[2] = slot
//   g at 8 columns more, a[3] = slot g + 8 there; word k of the lane's 16 bytes, in one of the
//   two orders that `decode` (linear_codes.cuh) describes, by k < LOOKED_UP. A code c of 16
//   ascending levels symmetric about 0 becomes a sign and the place of a positive level. WEIGHT
//   8, for 32 columns at a time (half j): bytes i of the registers 2h and 2h + 1 are c - 128 of
//   the slots g and g + 8 at column 32j + 8q + 4h + i; register r is the lane's word 4j + r,
//   words 0–3 of all lanes before words 4–7. WEIGHT 4 with UNIFORM, likewise: byte i of the lane's
//   word 2j + h holds the codes of slot g (lower four bits) and g + 8 at column 32j + 8q + 4h + 0,
//   2, 1, 3 (i = 0, 1, 2, 3); so its bytes are operands of integers, and its halves of bfloat16.
//   WEIGHT 8 without UNIFORM: numbers of e4m3; register 2h + p of half j holds those of slot g, then of
//   g + 8, at the columns 32j + 8q + 4h + 2p and one more, in the order of float8.cuh. WEIGHT 3: the
//   columns of WEIGHT 4 with UNIFORM in the words that three_bits.cuh describes, words 0 and 1 of all
//   lanes before word 2; codes of 2 bits become the middle ones of 8.
//   Scales: bytes [g][piece][slot g, slot g + 8].
// Constants: BITS WEIGHT (BITS, but 3 for 2) SLOTS COLUMNS ROW_BYTES GROUPS GROUP_SIZE
// TILES_PER_STAGE PIECE (divides GROUP_SIZE, or GROUPS is 1) LOOKED_UP UNIFORM (1: levels are
// equally spaced; 0: others, of 8 bits those of e4m3).
// Grid (ceil(COLUMNS / 64), tiles · TILES_PER_STAGE), block 32. Parameters: codes, scales, order,
// out.
// Reference: BitPlanes.unpack and the layout above; exact.
// compile: BITS=2 WEIGHT=3 ROW_BYTES=250 LOOKED_UP=0 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=2 PIECE=64 UNIFORM=0
// compile: BITS=3 WEIGHT=3 ROW_BYTES=375 LOOKED_UP=0 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=2 PIECE=64 UNIFORM=0
// compile: BITS=4 WEIGHT=4 ROW_BYTES=500 LOOKED_UP=2 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=2 PIECE=64 UNIFORM=0
// compile: BITS=8 WEIGHT=8 ROW_BYTES=1000 LOOKED_UP=0 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=2 PIECE=64 UNIFORM=1
// compile: BITS=8 WEIGHT=8 ROW_BYTES=1000 LOOKED_UP=0 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=1 PIECE=64 UNIFORM=0
// compile: BITS=3 WEIGHT=3 ROW_BYTES=375 LOOKED_UP=0 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=1 PIECE=64 UNIFORM=1
// compile: BITS=4 WEIGHT=4 ROW_BYTES=500 LOOKED_UP=0 SLOTS=1001 COLUMNS=1000 GROUPS=16 GROUP_SIZE=64 TILES_PER_STAGE=2 PIECE=64 UNIFORM=1
#include "common.cuh"
#include "float8.cuh"
#include "three_bits.cuh"

/// The code of a row's column.
DEVICE u32 code_at(const u8* row, i32 column) {
#if BITS == 3
    const u32 low = row[column / 4] >> column % 4 * 2 & 3;
    return low | (row[(COLUMNS + 3) / 4 + column / 8] >> column % 8 & 1) << 2;
#else
    constexpr i32 perByte = 8 / BITS;
    return row[column / perByte] >> column % perByte * BITS & ((1 << BITS) - 1);
#endif
}

extern "C" __global__ void repack(const u8* codes, const u8* scales, const i32* order, u8* out) {
    const i32 lane = threadIdx.x, g = lane / 4, q = lane % 4;
    const i32 block = blockIdx.x, tile = blockIdx.y;
    constexpr i32 codeBytes = 128 * WEIGHT, scaleBytes = 16 * (64 / PIECE);
    constexpr i32 blocks = (COLUMNS + 63) / 64;
    const i32 m = tile % TILES_PER_STAGE;
    u8* to = out
        + ((i64)(tile / TILES_PER_STAGE) * blocks + block)
            * (TILES_PER_STAGE * (codeBytes + scaleBytes));

    i32 rows[2];
    for (i32 half = 0; half < 2; ++half) {
        const i32 slot = tile * 16 + g + half * 8;
        rows[half] = slot >= SLOTS ? -1 : order ? order[slot] : slot;
    }
    auto code = [&](i32 half, i32 column) -> u32 {
        return rows[half] < 0 || column >= COLUMNS
            ? 0
            : code_at(codes + (i64)rows[half] * ROW_BYTES, column);
    };
    u32* words = (u32*)(to + m * codeBytes);
#if WEIGHT == 3
    u32 four[4] = {};
    for (i32 s = 0; s < 4; ++s) {
        for (i32 half = 0; half < 2; ++half) {
            for (i32 i = 0; i < 4; ++i) {
                const i32 column = block * 64 + s / 2 * 32 + q * 8 + s % 2 * 4 + i / 2 + i % 2 * 2;
                const u32 c = code(half, column) + (4 - (1 << (BITS - 1)));
                four[s] |= c << (UNIFORM ? 8 * i + 3 * half + 2 : 4 * i + 16 * half);
            }
        }
    }
    for (i32 s = 0; s < 3; ++s)
        words[s < 2 ? lane * 2 + s : 64 + lane] = with_share(four[s], four[3], s);
#else
    for (i32 k = 0; k < 4; ++k) {
#if WEIGHT == 4 && UNIFORM
        u32 word = 0;
        for (i32 half = 0; half < 2; ++half) {
            for (i32 i = 0; i < 4; ++i) {
                const i32 column = block * 64 + k / 2 * 32 + q * 8 + k % 2 * 4 + i / 2 + i % 2 * 2;
                word |= code(half, column) << (8 * i + 4 * half);
            }
        }
        words[lane * 4 + k] = word;
#elif WEIGHT == 4
        u32 word = 0;
        for (i32 pair = 0; pair < 4; ++pair) {
            for (i32 second = 0; second < 2; ++second) {
                const u32 c =
                    code(pair & 1, block * 64 + k * 16 + (pair & 2) * 4 + q * 2 + second);
                const u32 sign = c < 8, place = c < 8 ? 7 - c : c - 8;
                word |= place << (8 * pair + 4 * second);
                word |= sign << (k < LOOKED_UP ? 8 * pair + 4 * second + 3
                                               : 4 * pair + 16 * second + 3);
            }
        }
        words[lane * 4 + k] = word;
#else
        // Half j = k / 2 of the block, half h = k % 2 of the lane's columns there.
        const i32 column = block * 64 + k / 2 * 32 + q * 8 + k % 2 * 4;
        for (i32 part = 0; part < 2; ++part) {
            u32 word = 0;
            for (i32 i = 0; i < 4; ++i) {
#if UNIFORM
                word |= (code(part, column + i) ^ 128) << (8 * i);
#else
                word |= pack_float8(code(i / 2, column + 2 * part + i % 2), i);
#endif
            }
            words[k / 2 * 128 + lane * 4 + k % 2 * 2 + part] = word;
        }
#endif
    }
#endif
    if (q == 0) {
        u8* scaleTo = to + TILES_PER_STAGE * codeBytes + m * scaleBytes + g * (128 / PIECE);
        for (i32 piece = 0; piece < 64 / PIECE; ++piece) {
            for (i32 half = 0; half < 2; ++half) {
                const i32 column = block * 64 + piece * PIECE;
                scaleTo[piece * 2 + half] = rows[half] < 0 || column >= COLUMNS
                    ? 255
                    : scales[(i64)rows[half] * GROUPS + column / GROUP_SIZE];
            }
        }
    }
}
