// What becomes of a tile's sums: biases, residuals, gates, and where they are stored.
#pragma once
#include "linear_geometry.cuh"

/// The epilogue's parameters, as the kernel has them.
struct Destination {
    const bf16* x;
    const bf16* bias;
    void* y;
    bf16* compact;
    const i32* outputs;
    const i32* partners;
    const i32* kinds;
};

/// Where this lane's values of a stage's tiles go: slots g and g + 8, g = lane / 4.
struct Targets {
    i32 output[TILES_PER_STAGE][2];
    i32 partner[TILES_PER_STAGE][2];
    i32 kind[TILES_PER_STAGE];

    DEVICE void load(const Destination& to, i32 tile) {
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
            const i32 first = (tile * TILES_PER_STAGE + m) * 16 + (threadIdx.x & 31) / 4;
#if EPILOGUE == SWIGLU_FACTORED
            kind[m] =
                first - (threadIdx.x & 31) / 4 < ROWS ? to.kinds[tile * TILES_PER_STAGE + m] : 0;
#endif
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const i32 slot = first + half * 8;
#if OUTPUT_TABLE
                output[m][half] = slot < ROWS ? to.outputs[slot] : -1;
#elif EPILOGUE == SWIGLU
                output[m][half] = slot < ROWS ? slot / 16 * 8 + (slot & 7) : -1;
#else
                output[m][half] = slot < ROWS ? slot : -1;
#endif
#if EPILOGUE == SWIGLU_FACTORED
                partner[m][half] = slot < ROWS ? to.partners[slot] : 0;
#endif
            }
        }
    }
};

/// What the epilogue combines the sums with, by set, half and token of the pair.
struct Operands {
    float other[SETS][2][2];
    float bias[TILES_PER_STAGE][2];

    DEVICE void load(const Destination& to, const Targets& targets) {
#if BIAS || EPILOGUE == ADD || EPILOGUE == SWIGLU_FACTORED
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const i32 output = targets.output[m][half];
#if BIAS
                bias[m][half] = output < 0 ? 0.0f : to_float(to.bias[output]);
#endif
#pragma unroll
                for (i32 i = 0; i < 2 * TOKEN_SETS; ++i) {
                    const i32 token = i / 2 * 8 + (threadIdx.x & 3) * 2 + i % 2;
                    [[maybe_unused]] const bool used = output >= 0 && token < TOKENS;
#if EPILOGUE == ADD
                    other[m * TOKEN_SETS + i / 2][half][i % 2] =
                        used ? to_float(((const bf16*)to.y)[(i64)token * Y_STRIDE + output]) : 0.0f;
#elif EPILOGUE == SWIGLU_FACTORED
                    other[m * TOKEN_SETS + i / 2][half][i % 2] = used && targets.kind[m] != 0
                        ? to_float(to.x[(i64)token * X_STRIDE + targets.partner[m][half]])
                        : 0.0f;
#endif
                }
            }
        }
#endif
    }
};

DEVICE bf16 gated(float gate, float up) {
    return to_bf16(rounded_to_bf16(silu(rounded_to_bf16(gate))) * rounded_to_bf16(up));
}

#if EPILOGUE == SWIGLU_FACTORED
/// The outputs of which gate and up are both in p = x; all blocks' consumers share them.
DEVICE void store_pairs(const bf16* x, bf16* y, const i32* pairs, i32 pairCount) {
    const i32 thread = threadIdx.x;
    for (i32 i = blockIdx.x * CONSUMERS + thread; i < pairCount * TOKENS; i += CTAS * CONSUMERS) {
        const i32 pair = i / TOKENS, token = i % TOKENS;
        const bf16* p = x + (i64)token * X_STRIDE;
        y[(i64)token * Y_STRIDE + pairs[3 * pair + 2]] =
            gated(to_float(p[pairs[3 * pair]]), to_float(p[pairs[3 * pair + 1]]));
    }
}
#endif

/// Stores this lane's sums of a set: of slots g and g + 8, each for the two tokens that are done.
template <i32 set>
DEVICE void finish(const Destination& to, const Targets& targets, const Operands& with, i32 tile,
                   const float (&sums)[4], const bool (&done)[2]) {
    constexpr i32 m = set / TOKEN_SETS;
#pragma unroll
    for (i32 i = 0; i < 2; ++i) {
        const i32 token = set % TOKEN_SETS * 8 + (threadIdx.x & 3) * 2 + i;
        if (token >= TOKENS || !done[i]) continue;
        const i64 row = (i64)token * Y_STRIDE;
#if EPILOGUE == SWIGLU || EPILOGUE == SWIGLU_FACTORED
        bf16* y = (bf16*)to.y + row;
#if EPILOGUE == SWIGLU_FACTORED
        if (targets.kind[m] != 0) {
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const float own = sums[2 * half + i], other = with.other[set][half][i];
                if (targets.output[m][half] >= 0)
                    y[targets.output[m][half]] =
                        targets.kind[m] == 1 ? gated(own, other) : gated(other, own);
            }
            continue;
        }
#endif
        if (targets.output[m][0] >= 0) y[targets.output[m][0]] = gated(sums[i], sums[2 + i]);
#else
#pragma unroll
        for (i32 half = 0; half < 2; ++half) {
            const i32 output = targets.output[m][half];
            float value = sums[2 * half + i];
#if COMPACT
            const i32 slot =
                (tile * TILES_PER_STAGE + m) * 16 + (threadIdx.x & 31) / 4 + half * 8;
            if (slot < ROWS) to.compact[(i64)token * P_STRIDE + slot] = to_bf16(value);
#endif
            if (output < 0) continue;
#if BIAS
            value += with.bias[m][half];
#endif
#if EPILOGUE == STORE_FLOAT
            ((float*)to.y)[row + output] = value;
#elif EPILOGUE == ADD
            ((bf16*)to.y)[row + output] =
                to_bf16(with.other[set][half][i] + rounded_to_bf16(value));
#else
            ((bf16*)to.y)[row + output] = to_bf16(value);
#endif
        }
#endif
    }
}
