// What the parts of sampling.cu share: constants, the workspace in device memory through which the
// blocks of a row work together, shared memory, and the meetings of blocks.
#pragma once
#include "common.cuh"

#define WARPS (BLOCK / 32)
#define GROUPS ((VOCAB + 3) / 4)
#define HISTORY_STRIDE ((VOCAB + 7) / 8 * 8)
#define MASK_STRIDE (1 + (VOCAB + 31) / 32)

#define SETTINGS 16  // words of a slot; flags in word 7
#define USES_HISTORY 1u
#define WANTS_LOGPROBS 2u
#define WHOLE 0x80000000u  // top-p of 1

#define SPLITS 64  // most blocks of a row
#define DIGIT_BITS 10
#define BINS 1024
#define AREAS 5  // at most three histograms for top-k and two more for top-p

/// What a block found in its share of a row.
struct Partial {
    u64 best;
    float maximum, sum;
};

/// Of one row; zero between launches, but for partials and scores.
struct Workspace {
    u32 arrivals;
    u32 padding[31];
    Partial partials[SPLITS];
    u64 scores[SPLITS];
    u32 counts[AREAS][BINS];
    u64 masses[AREAS][BINS];
};
#define WORKSPACE_BYTES 63104
static_assert(sizeof(Workspace) == WORKSPACE_BYTES,
              "the workspace's size is part of the interface");
static_assert(BLOCK % 32 == 0 && BINS % BLOCK == 0, "a thread searches whole bins");
static_assert(VOCAB <= 1 << 18, "sums of masses must fit into 62 bits");

struct Shared {
    u32 counts[BINS];
    u32 low_masses[BINS], high_masses[BINS];  // a 64-bit addition would be a loop of exchanges
    u32 biased[(GROUPS + 31) / 32];
    i32 bias_tokens[BIASES];
    float bias_values[BIASES];
    u64 scan_masses[WARPS];
    u64 best[WARPS];
    u32 scan_counts[WARPS];
    float maxima[WARPS], sums[WARPS];
    // What a search found.
    u32 bin, count_above;
    u64 mass_above, mass_within, mass_total;
    u32 is_last;
};

// ---- blocks of one row ----

/// What other blocks wrote, past the L1 cache.
DEVICE u32 load_fresh(const u32* pointer) {
    u32 value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                 : "=r"(value)
                 : "l"(__cvta_generic_to_global(pointer))
                 : "memory");
    return value;
}

DEVICE u64 load_fresh(const u64* pointer) {
    u64 value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];"
                 : "=l"(value)
                 : "l"(__cvta_generic_to_global(pointer))
                 : "memory");
    return value;
}

/// Counts this block in, after everything its threads wrote; how many came before.
DEVICE u32 arrive(u32* arrivals) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(arrivals))
                 : "memory");
    return before;
}

/// Waits for all blocks of the row; `meetings` counts these calls.
DEVICE void meet(Workspace& workspace, u32& meetings) {
    meetings++;
    __syncthreads();
    if (threadIdx.x == 0 && gridDim.x > 1) {
        arrive(&workspace.arrivals);
        u32 arrived;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(arrived)
                         : "l"(__cvta_generic_to_global(&workspace.arrivals))
                         : "memory");
        } while (arrived < meetings * gridDim.x);
    }
    __syncthreads();
}

/// Whether this block is the last of its row to come here.
DEVICE bool is_last(Workspace& workspace, Shared& shared, u32 meetings) {
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 before = gridDim.x > 1 ? arrive(&workspace.arrivals) : 0;
        shared.is_last = gridDim.x == 1 || before == (meetings + 1) * gridDim.x - 1;
    }
    __syncthreads();
    return shared.is_last;
}
