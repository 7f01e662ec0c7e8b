// draft_ngram: proposals from the sequence itself, prompt lookup (Saxena 2023).
//
// With s[0 ... p] the tokens of a slot, p = positions[slot]: m(i) is how many of s[i], s[i - 1], …,
// at most NGRAM, are s[p], s[p - 1], … in turn. Of the i < p with the largest m > 0 the last one, i*,
// proposes what followed it, s[i* + 1], s[i* + 2], …; behind s[p] the proposals themselves go on. With
// no m > 0 all proposals are -1.
//
// Parameters, in order: rows int32 [gridDim.x], the slot of each row, negative for padding;
// positions int32 [slots]; sequence int32 [slots, length]; drafts int32 [slots, most], of which the
// first `count` columns are written; length, most, count int32.
// Constants: NGRAM (1 to 8), BLOCK (a multiple of 32). Grid: one block per row. Static shared memory.
// Reference: NGramDrafter.proposal; exact.
// compile: NGRAM=3 BLOCK=1024
// compile: NGRAM=1 BLOCK=32
#include "common.cuh"

/// The larger of all threads' values, in the first warp.
DEVICE u32 block_max(u32 value, u32* shared) {
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2)
        value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < BLOCK / 32 ? shared[threadIdx.x % 32] : 0;
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2)
        value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    draft_ngram(const i32* rows, const i32* positions, const i32* sequence, i32* drafts,
                i32 length, i32 most, i32 count) {
    __shared__ u32 shared[32];
    dependents_launch();
    dependencies_wait();
    const i32 slot = rows[blockIdx.x];
    if (slot < 0) return;
    const i32* s = sequence + (i64)slot * length;
    const i32 last = min(positions[slot], length - 1);
    i32 suffix[NGRAM];
#pragma unroll
    for (i32 j = 0; j < NGRAM; j++) suffix[j] = last >= j ? s[last - j] : -1;
    // The length of the match above the place: 4 bits and 28.
    u32 best = 0;
    for (i32 i = threadIdx.x; i < last; i += BLOCK) {
        u32 same = 0;
#pragma unroll
        for (i32 j = 0; j < NGRAM; j++)
            if (same == j && i >= j && s[i - j] == suffix[j]) same++;
        if (same > 0) best = max(best, same << 28 | (u32)i);
    }
    best = block_max(best, shared);
    const i32 first = (i32)(best & 0xfffffffu) + 1, period = last + 1 - first;
    for (i32 j = threadIdx.x; j < count; j += BLOCK)
        drafts[(i64)slot * most + j] = best == 0 ? -1 : s[first + j % period];
}
