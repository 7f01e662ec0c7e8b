// The best token of a block and of a row, and what follows from it.
#pragma once
#include "log_sum.cuh"
#include "sampling_arithmetic.cuh"
#include "sampling_workspace.cuh"

/// The best of the block's threads, in all of its first warp.
DEVICE u64 block_best(Shared& shared, u64 best) {
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x < 32) best = warp_best(threadIdx.x < WARPS ? shared.best[threadIdx.x] : 0);
    return best;
}

/// The best of the row's blocks, in every thread.
DEVICE u64 row_best(const u64* first, i32 words) {
    u64 best = 0;
    for (u32 split = threadIdx.x % 32; split < gridDim.x; split += 32) {
        u64 other = load_fresh(first + split * words);
        best = other > best ? other : best;
    }
    return warp_best(best);
}

/// What follows from the row's token but for the slot's counters: log-probabilities, history; clears
/// counters and histograms. By one block.
///
/// - Returns: The token, in every thread; -1 where a logit was not finite.
DEVICE i32 finish(Workspace& workspace, const float* logits, u32 flags, i32 slot, u64 best,
                  u32 areas, u16* history, float* log_sum, float* chosen) {
    i32 token = best == NOT_FINITE ? -1 : (i32) ~(u32)best;
    if (threadIdx.x < 32 && (flags & WANTS_LOGPROBS)) {
        LogSum all;
        for (u32 split = threadIdx.x; split < gridDim.x; split += 32)
            all.add(__uint_as_float(load_fresh((u32*)&workspace.partials[split].maximum)),
                    __uint_as_float(load_fresh((u32*)&workspace.partials[split].sum)));
        all.add_lanes();
        if (threadIdx.x == 0) {
            *log_sum = all.largest + __logf(all.sum);
            *chosen = token < 0 ? 0.0f : logits[token];
        }
    }
    if (threadIdx.x == 0) {
        if (token >= 0 && (flags & USES_HISTORY)) {
            u16* entry = history + (u64)slot * HISTORY_STRIDE + token;
            if ((*entry & 0x7fff) != 0x7fff) *entry += 1;
        }
        workspace.arrivals = 0;
    }
    for (u32 area = 0; area < areas; area++) {
        for (i32 bin = threadIdx.x; bin < BINS; bin += BLOCK) {
            workspace.counts[area][bin] = 0;
            workspace.masses[area][bin] = 0;
        }
    }
    return token;
}
