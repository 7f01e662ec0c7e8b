// A row of logits, with mask, bias and penalties.
#pragma once
#include "sampling_workspace.cuh"

/// A row of logits as a block sees it.
struct Row {
    const float* logits;
    const u32* mask;     // null where any token may come
    const u16* history;  // null without penalties
    float repetition, frequency, presence;
    u32 biases;

    DEVICE void load(i32 group, float (&x)[4]) const {
#if VOCAB % 4 == 0
        float4 v = reinterpret_cast<const float4*>(logits)[group];
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
#else
#pragma unroll
        for (i32 i = 0; i < 4; i++) x[i] = 4 * group + i < VOCAB ? logits[4 * group + i] : 0.0f;
#endif
    }

    /// Mask, bias and penalties, each step rounded; -inf stays what it is.
    DEVICE void adjust(const Shared& shared, i32 group, float (&x)[4]) const {
        if (mask != nullptr) {
            u32 allowed = mask[group / 8] >> group % 8 * 4;
#pragma unroll
            for (i32 i = 0; i < 4; i++)
                x[i] = allowed >> i & 1 ? x[i] : -__int_as_float(0x7f800000);
        }
        if (biases > 0 && (shared.biased[group / 32] >> group % 32 & 1)) {
#pragma unroll
            for (i32 i = 0; i < 4; i++) {
                u32 low = 0, high = biases;
                while (low < high) {
                    u32 middle = (low + high) / 2;
                    if (shared.bias_tokens[middle] < 4 * group + i)
                        low = middle + 1;
                    else
                        high = middle;
                }
                if (low < biases && shared.bias_tokens[low] == 4 * group + i)
                    x[i] = __fadd_rn(x[i], shared.bias_values[low]);
            }
        }
        if (history == nullptr) return;
        u64 four = *reinterpret_cast<const u64*>(history + 4 * group);
        if (four == 0) return;
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            u32 entry = (u32)(four >> 16 * i) & 0xffffu;
            if (entry == 0) continue;
            x[i] = x[i] <= 0.0f ? __fmul_rn(x[i], repetition) : __fdiv_rn(x[i], repetition);
            u32 count = entry & 0x7fffu;
            x[i] = __fsub_rn(x[i], __fmul_rn(frequency, (float)count));
            x[i] = __fsub_rn(x[i], count > 0 ? presence : 0.0f);
        }
    }

    /// Calls `body(group, logits)` for the block's groups of four tokens, two loads at a time.
    template <class Body>
    DEVICE void each(Body body) const {
        i32 stride = (i32)gridDim.x * BLOCK;
        for (i32 group = (i32)blockIdx.x * BLOCK + threadIdx.x; group < GROUPS;
             group += 2 * stride) {
            float first[4], second[4];
            bool has_second = group + stride < GROUPS;
            load(group, first);
            if (has_second) load(group + stride, second);
            body(group, first);
            if (has_second) body(group + stride, second);
        }
    }
};

DEVICE bool exists(i32 group, i32 i) { return VOCAB % 4 == 0 || 4 * group + i < VOCAB; }
