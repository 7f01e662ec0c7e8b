// x in shared memory, chunk by chunk, as it is or normalised; by the consumer warps. With INTEGERS
// in integers: of each token and piece of PIECE columns 16-bit multiples of one scale, in two planes
// of signed bytes.
#pragma once
#include "linear_codes.cuh"
#include "linear_ring.cuh"

#if INTEGERS
/// What a piece of a token's columns is multiplied with, and the sum of its integers times twice
/// the value of the code 0.
struct alignas(8) Piece {
    float scale;
    i32 offset;
};

/// The larger of each pair; NaN if either is.
DEVICE u32 larger(u32 a, u32 b) {
    u32 both;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(b));
    return both;
}

/// Without the columns from `left` on.
DEVICE Eight without_rest(Eight values, i32 left) {
    if (COLUMNS % 8 != 0 && left < 8) {
#pragma unroll
        for (i32 k = 0; k < 4; ++k)
            values.pairs[k] = 2 * k + 1 < left ? values.pairs[k]
                : 2 * k < left                 ? values.pairs[k] & 0xffff
                                               : 0;
    }
    return values;
}

/// Stores eight columns of a token, of which neighbouring lanes have the rest of the piece: 256 ·
/// high + low = rint(value / scale), scale = the piece's largest magnitude / 32512. In a block of
/// 64 columns (128 bytes, `high` first) column 32j + 8q + 4h + i is byte 16q + 8j + 4h + i, so that
/// a lane finds its operands B together. `used`: whether there is such a vector.
DEVICE void store_integers(i32 xOffset, i32 token, i32 vector, bool used, const Eight& values) {
    u32 top = values.pairs[0] & 0x7fff7fff;
#pragma unroll
    for (i32 k = 1; k < 4; ++k) top = larger(top, values.pairs[k] & 0x7fff7fff);
    top = larger(top, permute(top, 0, 0x1032));
#pragma unroll
    for (i32 offset = 1; offset < PIECE / 8; offset *= 2)
        top = larger(top, __shfl_xor_sync(0xffffffffu, top, offset));
    // A piece so small is 0; NaN stays.
    const float most = low_float(top) < 1e-30f ? 0.0f : low_float(top);
    const float inverse = most == 0.0f ? 0.0f : __fdividef(32512.0f, most);
    u32 low[2], high[2];
    i32 lows = 0, highs = 0;
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        u32 pairs[2];
#pragma unroll
        for (i32 k = 0; k < 2; ++k) {
            const u32 pair = values.pairs[2 * h + k];
            // 1.5 · 2^23 + 2^15 + 2^7 and the nearest integer: its lower bytes are `high` and `low`
            // with the uppermost bit of each turned over.
            constexpr float shift = 12582912.0f + 32896.0f;
            pairs[k] = permute(__float_as_uint(fmaf(low_float(pair), inverse, shift)),
                               __float_as_uint(fmaf(high_float(pair), inverse, shift)), 0x5410);
        }
        // With 3 and 4 bits the columns 1 and 2 change places.
        low[h] = permute(pairs[0], pairs[1], WEIGHT == 8 ? 0x6420 : 0x6240) ^ 0x80808080;
        high[h] = permute(pairs[0], pairs[1], WEIGHT == 8 ? 0x7531 : 0x7351) ^ 0x80808080;
        lows = __dp4a((i32)low[h], 0x01010101, lows);
        highs = __dp4a((i32)high[h], 0x01010101, highs);
    }
    i32 sum = highs * 256 + lows;
#pragma unroll
    for (i32 offset = 1; offset < PIECE / 8; offset *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    // The other lanes have read what was there: their shuffles needed it.
    __syncwarp();
    if (!used) return;
    u8* place = shared + xOffset + token * X_PITCH + vector / 8 * 128 + vector % 4 * 16
        + vector % 8 / 4 * 8;
    *(u64*)place = (u64)high[1] << 32 | high[0];
    *(u64*)(place + 64) = (u64)low[1] << 32 | low[0];
    if (vector % (PIECE / 8) == 0)
        *(Piece*)(shared + PIECES_AT + token * PIECES_PITCH + vector / (PIECE / 8) * 8) =
            Piece{most * (1.0f / 32512.0f), WEIGHT == 8 ? sum : (1 - (1 << WEIGHT)) * sum};
}
#endif

DEVICE float squares(const Eight& values) {
    float sum = 0.0f;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
        float low = low_float(values.pairs[i]), high = high_float(values.pairs[i]);
        sum = fmaf(low, low, sum);
        sum = fmaf(high, high, sum);
    }
    return sum;
}

/// Where a chunk is, from the start of shared memory.
DEVICE i32 x_offset(i32 chunk) { return X_AT + (chunk & (X_BUFFERS - 1)) * X_BYTES; }

#if HAS_BULK_COPY
/// Starts to copy a chunk, by one thread.
DEVICE void request_x(const bf16* x, i32 chunk) {
    const u32 bytes = ROUND_UP(MINIMUM(CHUNK, COLUMNS - chunk * CHUNK), 8) * 2;
    mbarrier_expect(x_barrier(), TOKENS * bytes);
#pragma unroll 1
    for (i32 t = 0; t < TOKENS; ++t)
        copy_bulk(shared_address(shared + x_offset(chunk)) + t * X_PITCH,
                  x + (i64)t * X_STRIDE + chunk * CHUNK, bytes, x_barrier());
}
#endif

/// Asks for the chunk after one that nobody waits for any more, with AHEAD.
DEVICE void request_after(const bf16* x, i32 chunk) {
#if HAS_BULK_COPY
    if (AHEAD && chunk + 1 < CHUNKS && threadIdx.x == 0) request_x(x, chunk + 1);
#endif
}

/// Has a chunk of x in shared memory; by all consumers.
DEVICE void load_x(const bf16* x, i32 chunk) {
    const i32 thread = threadIdx.x;
    const i32 columns = columns_of(chunk);
    u8* to = shared + x_offset(chunk);
    // All warps are done with the chunk before, which they may have written to.
    if (chunk > 0) {
        bulk_copy_fence();
        barrier_sync(CONSUMER_BARRIER, CONSUMERS);
    }
#if HAS_BULK_COPY
    if ((!AHEAD || chunk == 0) && thread == 0) request_x(x, chunk);
    mbarrier_wait(x_barrier(), chunk & 1);
#else
    for (i32 t = 0; t < TOKENS; ++t)
        for (u32 at = thread * 16; at < columns * 2; at += CONSUMERS * 16)
            *(Eight*)(to + t * X_PITCH + at) =
                *(const Eight*)((const u8*)(x + (i64)t * X_STRIDE + chunk * CHUNK) + at);
    barrier_sync(CONSUMER_BARRIER, CONSUMERS);
#endif
#if !INTEGERS
    // What pads the last step's columns must not be NaN.
    const i32 padding = ROUND_UP(columns, 64) - columns;
    for (i32 i = thread; i < TOKENS * padding; i += CONSUMERS)
        *(bf16*)(to + i / padding * X_PITCH + (columns + i % padding) * 2) = 0;
#endif
}

// x of one chunk and few values goes through registers, at most four vectors of 8 to a thread. In
// integers also more, one lot after the other; whole blocks of 64 columns.
constexpr i32 VECTORS = INTEGERS ? X_COLUMNS / 8 : (COLUMNS + 7) / 8;
constexpr i32 HELD = (TOKENS * VECTORS + CONSUMERS - 1) / CONSUMERS;
constexpr bool DIRECT = CHUNKS == 1 && (TOKENS == 1 || !PROLOGUE)
    && (INTEGERS ? HELD <= (PROLOGUE ? 4 : 16) : COLUMNS % 8 == 0 && HELD <= 4);

/// A thread's share of the norm's weights.
struct Share {
    Eight values[DIRECT && (PROLOGUE || !INTEGERS) ? HELD : 1];

    DEVICE void load(const bf16* norm) {
#pragma unroll
        for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
            const i32 vector = threadIdx.x + i * CONSUMERS;
            if (DIRECT && PROLOGUE && vector < (COLUMNS + 7) / 8)
                values[i] = ((const Eight*)norm)[vector];
            else if (DIRECT && PROLOGUE && INTEGERS)
                values[i] = Eight{};
        }
    }
};

/// The rounded products of two pairs.
DEVICE u32 product(u32 a, u32 b) {
    u32 both;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(both) : "r"(a), "r"(b), "r"(0x80008000u));
    return both;
}

DEVICE Eight normalised(Eight values, const Eight& weight, float inverse) {
#pragma unroll
    for (i32 k = 0; k < 4; ++k) {
        const u32 unit = to_bf16x2(low_float(values.pairs[k]) * inverse,
                                   high_float(values.pairs[k]) * inverse);
        values.pairs[k] = product(unit, weight.pairs[k]);
    }
    return values;
}

/// 1 / root mean square of a token, from the consumers' sums of squares.
DEVICE float inverse_of(i32 token, float epsilon) {
    const float* all = (const float*)(shared + STATISTICS_AT) + token * WARPS;
    float sum = 0.0f;
#pragma unroll
    for (i32 w = 0; w < WARPS; ++w) sum += all[w];
    return rsqrtf(sum * (1.0f / COLUMNS) + epsilon);
}

DEVICE void store_sum(i32 token, float sum) {
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0)
        ((float*)(shared + STATISTICS_AT))[token * WARPS + threadIdx.x / 32] = sum;
}

#if !INTEGERS
/// x, normalised if so asked, to shared memory.
DEVICE void load_directly(const bf16* x, const Share& norm, float epsilon) {
    Eight held[DIRECT ? HELD : 1];
    float sum = 0.0f;
#pragma unroll
    for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
        const i32 vector = threadIdx.x + i * CONSUMERS;
        if (vector < TOKENS * VECTORS)
            held[i] = *((const Eight*)(x + (i64)(vector / VECTORS) * X_STRIDE) + vector % VECTORS);
    }
    float inverse = 0.0f;
    if (PROLOGUE) {
#pragma unroll
        for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i)
            if ((i32)threadIdx.x + i * CONSUMERS < VECTORS) sum += squares(held[i]);
        store_sum(0, sum);
        barrier_sync(CONSUMER_BARRIER, CONSUMERS);
        inverse = inverse_of(0, epsilon);
    }
#pragma unroll
    for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
        const i32 vector = threadIdx.x + i * CONSUMERS;
        if (vector < TOKENS * VECTORS)
            *((Eight*)(shared + X_AT + vector / VECTORS * X_PITCH) + vector % VECTORS) =
                PROLOGUE ? normalised(held[i], norm.values[i], inverse) : held[i];
    }
    constexpr i32 padding = ROUND_UP(COLUMNS, 64) - COLUMNS;
    for (i32 i = threadIdx.x; i < TOKENS * padding; i += CONSUMERS)
        *(bf16*)(shared + X_AT + i / MAXIMUM(padding, 1) * X_PITCH
                 + (COLUMNS + i % MAXIMUM(padding, 1)) * 2) = 0;
}
#else
/// Eight columns of x from device memory; what is beyond x is 0.
DEVICE Eight columns_from(const bf16* x, i32 index) {
    const i32 token = index / VECTORS, vector = index % VECTORS;
    if (index >= TOKENS * VECTORS || vector * 8 >= COLUMNS) return Eight{};
    return without_rest(*((const Eight*)(x + (i64)token * X_STRIDE) + vector),
                        COLUMNS - vector * 8);
}

#if PROGRESSIVE
/// x of one token on its way to integers in shared memory, a vector of 8 per consumer at a time,
/// from the columns where the block's run begins.
struct Progress {
    // Columns of the run that are there, and that the run has come to.
    i32 done = 0, needed = 0;
    // The next vector of this thread.
    i32 vector;
    Eight held;

    DEVICE Progress(const bf16* x, i32 column) {
        vector = column / 8 + threadIdx.x;
        fetch(x);
    }

    DEVICE void fetch(const bf16* x) {
        if (vector >= VECTORS) vector -= VECTORS;
        held = columns_from(x, vector);
    }

    /// Has the run's next `columns` columns in shared memory; by all consumers.
    DEVICE void advance(const bf16* x, i32 columns) {
        needed += ROUND_UP(columns, 64);
        while (done < MINIMUM(needed, X_COLUMNS)) {
            store_integers(X_AT, 0, vector, done + (i32)threadIdx.x * 8 < X_COLUMNS, held);
            done += CONSUMERS * 8;
            vector += CONSUMERS;
            if (done < X_COLUMNS) fetch(x);
            barrier_sync(CONSUMER_BARRIER, CONSUMERS);
        }
    }
};
#endif

/// x, normalised if so asked, to shared memory in integers.
DEVICE void load_directly(const bf16* x, const Share& norm, float epsilon) {
    constexpr i32 batches = PROLOGUE ? 1 : (HELD + 4) / 5;
    constexpr i32 batch = DIRECT ? (HELD + batches - 1) / batches : 1;
#pragma unroll 1
    for (i32 i = 0; i < batches; ++i) {
        const i32 first = threadIdx.x + i * (batch * CONSUMERS);
        Eight held[batch];
#pragma unroll
        for (i32 k = 0; k < batch; ++k) held[k] = columns_from(x, first + k * CONSUMERS);
        if (PROLOGUE) {
            float sum = 0.0f;
#pragma unroll
            for (i32 k = 0; k < batch; ++k) sum += squares(held[k]);
            store_sum(0, sum);
            barrier_sync(CONSUMER_BARRIER, CONSUMERS);
            const float inverse = inverse_of(0, epsilon);
#pragma unroll
            for (i32 k = 0; k < batch; ++k)
                held[k] = normalised(held[k], norm.values[DIRECT ? k : 0], inverse);
        }
#pragma unroll
        for (i32 k = 0; k < batch; ++k) {
            const i32 index = first + k * CONSUMERS;
            store_integers(X_AT, index / VECTORS, index % VECTORS, index < TOKENS * VECTORS,
                           held[k]);
        }
    }
}
#endif

#if PROLOGUE
/// 1 / root mean square of every token, from shared memory or, where only a chunk is there, from x.
DEVICE void statistics(const bf16* x, float epsilon, float (&inverse)[TOKENS]) {
    const i32 thread = threadIdx.x;
    float sums[TOKENS];
#pragma unroll
    for (i32 t = 0; t < TOKENS; ++t) sums[t] = 0.0f;
    for (i32 i = thread; i < COLUMNS / 8; i += CONSUMERS) {
#pragma unroll
        for (i32 t = 0; t < TOKENS; ++t) {
            const u8* row =
                CHUNKS == 1 ? shared + X_AT + t * X_PITCH : (const u8*)(x + (i64)t * X_STRIDE);
            sums[t] += squares(*(const Eight*)(row + i * 16));
        }
    }
#pragma unroll
    for (i32 t = 0; t < TOKENS; ++t) store_sum(t, sums[t]);
    barrier_sync(CONSUMER_BARRIER, CONSUMERS);
#pragma unroll
    for (i32 t = 0; t < TOKENS; ++t) inverse[t] = inverse_of(t, epsilon);
}

#if !INTEGERS
/// Normalises the chunk in shared memory.
DEVICE void normalise(const bf16* norm, i32 chunk, const float (&inverse)[TOKENS]) {
    const i32 columns = columns_of(chunk);
    for (i32 i = threadIdx.x; i < columns / 8; i += CONSUMERS) {
        const Eight weight = *(const Eight*)(norm + chunk * CHUNK + i * 8);
#pragma unroll
        for (i32 t = 0; t < TOKENS; ++t) {
            Eight* place = (Eight*)(shared + x_offset(chunk) + t * X_PITCH + i * 16);
            *place = normalised(*place, weight, inverse[t]);
        }
    }
}
#else
/// Normalises the chunk in shared memory and turns it into integers.
DEVICE void normalise(const bf16* norm, i32 chunk, const float (&inverse)[TOKENS]) {
    const i32 columns = columns_of(chunk), lane = threadIdx.x & 31;
    for (i32 first = threadIdx.x - lane; first < X_COLUMNS / 8; first += CONSUMERS) {
        const i32 vector = first + lane;
        const bool present = vector * 8 < columns;
        Eight weight = {};
        if (present) weight = *(const Eight*)(norm + chunk * CHUNK + vector * 8);
#pragma unroll
        for (i32 t = 0; t < TOKENS; ++t) {
            Eight values = {};
            if (present)
                values = normalised(
                    *(const Eight*)(shared + x_offset(chunk) + t * X_PITCH + vector * 16), weight,
                    inverse[t]);
            store_integers(x_offset(chunk), t, vector, vector < X_COLUMNS / 8, values);
        }
    }
}
#endif
#endif

#if INTEGERS
/// Turns the chunk in shared memory into integers.
DEVICE void convert(i32 chunk) {
    const i32 columns = columns_of(chunk), lane = threadIdx.x & 31;
    constexpr i32 vectors = X_COLUMNS / 8;
    for (i32 first = threadIdx.x - lane; first < TOKENS * vectors; first += CONSUMERS) {
        const i32 index = first + lane, token = index / vectors, vector = index % vectors;
        const bool used = index < TOKENS * vectors;
        Eight values = {};
        if (used && vector * 8 < columns)
            values = without_rest(
                *(const Eight*)(shared + x_offset(chunk) + token * X_PITCH + vector * 16),
                columns - vector * 8);
        store_integers(x_offset(chunk), token, vector, used, values);
    }
}
#endif
