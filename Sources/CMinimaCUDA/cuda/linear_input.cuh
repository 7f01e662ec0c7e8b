// x in shared memory, chunk by chunk, as it is or normalised; by the consumer warps.
#pragma once
#include "linear_ring.cuh"

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
    bulk_copy_fence();
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
    // All warps are done with the chunk before.
    if (chunk > 0) barrier_sync(CONSUMER_BARRIER, CONSUMERS);
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
    // What pads the last step's columns must not be NaN.
    const i32 padding = ROUND_UP(columns, 64) - columns;
    for (i32 i = thread; i < TOKENS * padding; i += CONSUMERS)
        *(bf16*)(to + i / padding * X_PITCH + (columns + i % padding) * 2) = 0;
}

// x of one chunk and few values goes through registers, at most four vectors of 8 to a thread.
constexpr i32 VECTORS = (COLUMNS + 7) / 8;
constexpr i32 HELD = (TOKENS * VECTORS + CONSUMERS - 1) / CONSUMERS;
constexpr bool DIRECT = CHUNKS == 1 && COLUMNS % 8 == 0 && HELD <= 4 && (TOKENS == 1 || !PROLOGUE);

/// A thread's share of the norm's weights.
struct Share {
    Eight values[DIRECT ? HELD : 1];

    DEVICE void load(const bf16* norm) {
#pragma unroll
        for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
            const i32 vector = threadIdx.x + i * CONSUMERS;
            if (DIRECT && PROLOGUE && vector < VECTORS) values[i] = ((const Eight*)norm)[vector];
        }
    }
};

DEVICE Eight normalised(Eight values, const Eight& weight, float inverse) {
#pragma unroll
    for (i32 k = 0; k < 4; ++k) {
        const u32 unit = to_bf16x2(low_float(values.pairs[k]) * inverse,
                                   high_float(values.pairs[k]) * inverse);
        values.pairs[k] = to_bf16x2(low_float(unit) * low_float(weight.pairs[k]),
                                    high_float(unit) * high_float(weight.pairs[k]));
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
#endif
