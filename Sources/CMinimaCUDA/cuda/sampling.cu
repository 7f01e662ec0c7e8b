// Sampling: the next token of every row of logits [rows, VOCAB] (fp32), each with the parameters of
// its slot. Reference: SamplingDraw (MinimaRuntime); given the same logits it agrees bit for bit,
// because weights and noise are integers and float32 sums and products, each rounded once, in one
// order: tolerance 0. Log-sum-exp: relative error at most 2^-18 of the sum of exponentials.
//
//   a = logits after bias, repetition, frequency, presence penalty;  z = (a - max a) / temperature
//   weight w = e^z (fp32, at most 1)
//   min-p keeps w >= min-p; top-k those with fewer than k larger weights; top-p those for which the
//   larger weights, as integers in units of 2^-44, have not reached top-p of the sum of the rest
//   token = argmax over the kept of z - ln E, where Philox4x32-10(seed; token / 4, position, 0, 0)
//   made exponential is E; equal scores: the lowest id. Temperature 0: argmax a.
//
// Thresholds are found by radix selection over the 30 bits of w: three digits of 10 bits, each with
// a histogram of counts and integer masses, so that the order of additions does not matter. A row
// is shared by gridDim.x blocks, which meet at a counter in device memory: all blocks of the grid
// must fit on the device at once unless gridDim.x is 1. The last block to arrive writes the
// results, moves the slot's counters on and leaves the workspace zero.
//
// Entry sample. Grid (blocks per row <= 64, rows), block BLOCK. Constants: VOCAB (at most 2^18),
// BIASES (most biases of a slot), BLOCK (a power of two, 32 to 1024). Static shared memory.
// Parameters, in order:
//   logits      fp32 [rows, VOCAB]
//   rows        int32 [rows], the slot of each row, each once; negative: the row is skipped. Null:
//               row r is slot r
//   settings    u32 [slots, 16]: 0 1/temperature (float; 0 takes the likeliest), 1 top-k (0: all),
//               2 top-p in 2^-31 (2^31: all), 3 min-p, 4 repetition, 5 frequency, 6 presence
//               penalty (floats), 7 flags (1: penalties use the history, 2: log-probabilities),
//               8, 9 seed (low word first), 10 number of biases
//   bias_tokens int32 [slots, BIASES] ascending, bias_values fp32 [slots, BIASES]
//   history     u16 [slots, HISTORY_STRIDE]: bit 15 the prompt holds the token, bits 0-14 how often
//               the answer does; HISTORY_STRIDE is VOCAB rounded up to 8. Null: no row has
//               penalties
//   positions   int32 [slots], index of the step's input token; the new token's is one more. Moved
//               on by one. lengths int32 [slots], moved on alike; may be null
//   tokens      int32 [slots], the new token; -1 where a logit is not finite
//   log_sums    fp32 [slots], ln of the sum of e^logit, and chosen fp32 [slots], the new token's
//               logit, both before bias and penalties; written for flag 2
//   workspace   WORKSPACE_BYTES (63,104) bytes per row, zero before the first launch
//
// Entry open_history (history, tokens, count, prompt_count, slot): a slot's history from `count`
// tokens (int32), the first `prompt_count` of them the prompt. Grid 1, block BLOCK.
// compile: VOCAB=151936 BIASES=512 BLOCK=256
// compile: VOCAB=1003 BIASES=16 BLOCK=1024
#include "common.cuh"

#define WARPS (BLOCK / 32)
#define GROUPS ((VOCAB + 3) / 4)
#define HISTORY_STRIDE ((VOCAB + 7) / 8 * 8)

#define SETTINGS 16
#define USES_HISTORY 1u
#define WANTS_LOGPROBS 2u
#define WHOLE 0x80000000u  // top-p of 1

#define SPLITS 64
#define DIGIT_BITS 10
#define BINS 1024
#define AREAS 5  // at most three histograms for top-k and two more for top-p

struct Partial {
    u64 best;
    float maximum, sum;
};

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
    u32 low_masses[BINS], high_masses[BINS];  // there is no 64-bit addition in shared memory
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

// ---- arithmetic that is the same everywhere ----

DEVICE float horner(float sum, float x, float coefficient) {
    return __fmul_rn(__fadd_rn(sum, coefficient), x);
}

/// e^x for x <= 0; 0 below -87. Relative error at most 2^-23.
DEVICE float exact_exp(float x) {
    if (x < -87.0f) return 0.0f;
    float n = rintf(__fmul_rn(x, 0x1.715476p0f));
    float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0x1.63p-1f)), __fmul_rn(n, -0x1.bd0106p-13f));
    float tail = __fmul_rn(r, 0x1.6dbc68p-10f);
    tail = horner(tail, r, 0x1.124148p-7f);
    tail = horner(tail, r, 0x1.555454p-5f);
    tail = horner(tail, r, 0x1.555486p-3f);
    tail = __fadd_rn(tail, 0x1p-1f);
    float value = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(r, r), tail), r), 1.0f);
    return __fmul_rn(value, __int_as_float(((i32)n + 127) << 23));
}

/// ln x for normal x > 0; absolute error at most 2^-23 (1 + |ln x|).
DEVICE float exact_log(float x) {
    i32 bits = __float_as_int(x);
    i32 exponent = (bits - 0x3f3504f3) >> 23;
    float f = __fadd_rn(__int_as_float(bits - (i32)((u32)exponent << 23)), -1.0f);
    float tail = __fmul_rn(f, 0x1.65baa8p-4f);
    tail = horner(tail, f, -0x1.27c4fep-3f);
    tail = horner(tail, f, 0x1.32c69ap-3f);
    tail = horner(tail, f, -0x1.52fde8p-3f);
    tail = horner(tail, f, 0x1.98a666p-3f);
    tail = horner(tail, f, -0x1.000688p-2f);
    tail = horner(tail, f, 0x1.5557acp-2f);
    tail = __fadd_rn(tail, -0x1.fffff4p-2f);
    float value = __fadd_rn(__fmul_rn(__fmul_rn(f, f), tail), f);
    return __fadd_rn(value, __fmul_rn((float)exponent, 0x1.62e43p-1f));
}

/// -ln(j 2^-32): an exponential draw from 32 random bits; 0 counts as 1.
DEVICE float exponential_draw(u32 j) {
    j = j == 0 ? 1 : j;
    i32 zeros = __clz(j);
    // 1 - m of j = m 2^(32 - zeros), exact as an integer: small draws, which win, stay precise.
    float y = __fmul_rn(__uint2float_rn(0u - (j << zeros)), 0x1p-32f);
    float tail = __fmul_rn(y, 0x1.734526p0f);
    tail = horner(tail, y, -0x1.b5dac6p0f);
    tail = horner(tail, y, 0x1.43f87ep0f);
    tail = horner(tail, y, -0x1.a2f706p-3f);
    tail = horner(tail, y, 0x1.138c3cp-2f);
    tail = horner(tail, y, 0x1.f1b5dap-3f);
    tail = horner(tail, y, 0x1.55adbp-2f);
    tail = __fadd_rn(tail, 0x1.fffe8cp-2f);
    float value = __fadd_rn(__fmul_rn(__fmul_rn(y, y), tail), y);
    return __fadd_rn(value, __fmul_rn((float)zeros, 0x1.62e43p-1f));
}

/// Philox 4x32 with 10 rounds (Salmon et al. 2011).
DEVICE void philox(u32 (&c)[4], u32 key0, u32 key1) {
#pragma unroll
    for (i32 round = 0; round < 10; round++) {
        u32 high0 = __umulhi(c[0], 0xd2511f53u), low0 = c[0] * 0xd2511f53u;
        u32 high1 = __umulhi(c[2], 0xcd9e8d57u), low1 = c[2] * 0xcd9e8d57u;
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

// ---- order ----

/// Larger for larger values and, among equal values, for lower ids.
DEVICE u64 ranked(float value, i32 token) {
    u32 bits = __float_as_uint(__fadd_rn(value, 0.0f));  // -0 ties with 0
    bits ^= (u32)((i32)bits >> 31) | 0x80000000u;
    return (u64)bits << 32 | (u32)~token;
}
#define NOT_FINITE 0xffffffffffffffffull  // above every finite value

DEVICE u64 warp_best(u64 value) {
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2) {
        u64 other = __shfl_xor_sync(0xffffffffu, value, offset);
        value = other > value ? other : value;
    }
    return value;
}

// ---- blocks of one row ----

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

/// A row of logits as a block sees it.
struct Row {
    const float* logits;
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

    /// Bias and penalties, each step rounded.
    DEVICE void adjust(const Shared& shared, i32 group, float (&x)[4]) const {
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

// ---- radix selection ----

/// Adds the row's weights of at least `least` whose bits begin with `prefix` to the histogram of
/// their next digit in `area`, and waits for all blocks.
DEVICE void build(const Row& row, Workspace& workspace, Shared& shared, u32& meetings, i32 area,
                  i32 level, u32 prefix, u32 least, float largest, float inverse) {
    i32 shift = DIGIT_BITS * (2 - level);
    __syncthreads();
    for (i32 bin = threadIdx.x; bin < BINS; bin += BLOCK) {
        shared.counts[bin] = 0;
        shared.low_masses[bin] = 0;
        shared.high_masses[bin] = 0;
    }
    __syncthreads();
    row.each([&](i32 group, float (&x)[4]) {
        row.adjust(shared, group, x);
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            float weight = exact_exp(__fmul_rn(__fsub_rn(x[i], largest), inverse));
            u32 key = __float_as_uint(weight);
            if (key < least || key >> shift >> DIGIT_BITS != prefix || !exists(group, i)) continue;
            u32 bin = key >> shift & (BINS - 1);
            atomicAdd(&shared.counts[bin], 1u);
            u64 mass = __float2ull_rz(__fmul_rn(weight, 0x1p44f));
            u32 low = (u32)mass, high = (u32)(mass >> 32);
            if (low > 0) high += atomicAdd(&shared.low_masses[bin], low) > ~low;  // the carry
            if (high > 0) atomicAdd(&shared.high_masses[bin], high);
        }
    });
    __syncthreads();
    for (i32 bin = threadIdx.x; bin < BINS; bin += BLOCK) {
        if (shared.counts[bin] == 0) continue;
        atomicAdd(&workspace.counts[area][bin], shared.counts[bin]);
        atomicAdd(&workspace.masses[area][bin],
                  (u64)shared.high_masses[bin] << 32 | shared.low_masses[bin]);
    }
    meet(workspace, meetings);
}

/// Finds the bin of `area` at which, from the highest down, the counts reach `count` or the masses
/// `mass`; what is not asked for is given its largest value. Results in `shared`; false when the
/// bins together do not reach it.
DEVICE bool search(const Workspace& workspace, Shared& shared, i32 area, u32 count, u64 mass) {
    constexpr i32 PER_THREAD = BINS / BLOCK;
    i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 counts[PER_THREAD], count_sum = 0;
    u64 masses[PER_THREAD], mass_sum = 0;
#pragma unroll
    for (i32 i = 0; i < PER_THREAD; i++) {
        i32 bin = BINS - 1 - ((i32)threadIdx.x * PER_THREAD + i);
        counts[i] = load_fresh(&workspace.counts[area][bin]);
        masses[i] = load_fresh(&workspace.masses[area][bin]);
        count_sum += counts[i];
        mass_sum += masses[i];
    }
    __syncthreads();  // everyone has read the last search's results
    if (threadIdx.x == 0) shared.bin = BINS;
    u32 count_above = count_sum;
    u64 mass_above = mass_sum;
#pragma unroll
    for (i32 offset = 1; offset < 32; offset *= 2) {
        u32 other_count = __shfl_up_sync(0xffffffffu, count_above, offset);
        u64 other_mass = __shfl_up_sync(0xffffffffu, mass_above, offset);
        if (lane >= offset) {
            count_above += other_count;
            mass_above += other_mass;
        }
    }
    if (lane == 31) {
        shared.scan_counts[warp] = count_above;
        shared.scan_masses[warp] = mass_above;
    }
    __syncthreads();
    u32 count_total = 0;
    u64 mass_total = 0;
    for (i32 other = 0; other < WARPS; other++) {
        if (other == warp) {
            count_above += count_total;
            mass_above += mass_total;
        }
        count_total += shared.scan_counts[other];
        mass_total += shared.scan_masses[other];
    }
    count_above -= count_sum;
    mass_above -= mass_sum;
#pragma unroll
    for (i32 i = 0; i < PER_THREAD; i++) {
        bool was_reached = count_above >= count || mass_above >= mass;
        bool is_reached = count_above + counts[i] >= count || mass_above + masses[i] >= mass;
        if (is_reached && !was_reached) {
            shared.bin = BINS - 1 - ((i32)threadIdx.x * PER_THREAD + i);
            shared.count_above = count_above;
            shared.mass_above = mass_above;
            shared.mass_within = masses[i];
        }
        count_above += counts[i];
        mass_above += masses[i];
    }
    if (threadIdx.x == 0) shared.mass_total = mass_total;
    __syncthreads();
    return shared.bin < BINS;
}

/// The bits of the smallest weight that top-k and top-p leave of those of at least `least`; `areas`
/// becomes the number of histograms used.
DEVICE u32 threshold(const Row& row, Workspace& workspace, Shared& shared, u32& meetings,
                     u32& areas, u32 top_k, u32 top_p, u32 least, float largest, float inverse) {
    u32 built[3] = {0, 0, 0};
    i32 where[3] = {-1, -1, -1};
    auto histogram = [&](i32 level, u32 prefix) {
        if (where[level] >= 0 && built[level] == prefix) return;
        where[level] = (i32)areas++;
        built[level] = prefix;
        build(row, workspace, shared, meetings, where[level], level, prefix, least, largest,
              inverse);
    };
    u32 result = least;
    u64 total = 0;
    bool is_limited = top_k > 0;
    if (is_limited) {
        u32 prefix = 0, above = 0;
#pragma unroll 1
        for (i32 level = 0; level < 3; level++) {
            histogram(level, prefix);
            // Fewer tokens than k: all stay.
            is_limited = search(workspace, shared, where[level], top_k - above, ~0ull);
            if (!is_limited) break;
            above += shared.count_above;
            total += shared.mass_above;
            prefix = prefix << DIGIT_BITS | shared.bin;
        }
        if (is_limited) {
            total += shared.mass_within;
            result = prefix;
        }
    }
    if (top_p == WHOLE) return result;
    if (!is_limited) {
        histogram(0, 0);
        search(workspace, shared, where[0], ~0u, ~0ull);
        total = shared.mass_total;
    }
    // top-p of the total in two halves of 31 bits: their product would pass 64 bits.
    u64 target = (total >> 31) * top_p + ((total & 0x7fffffffu) * top_p >> 31);
    target = target == 0 ? 1 : target;
    u32 prefix = 0;
    u64 above = 0;
#pragma unroll 1
    for (i32 level = 0; level < 3; level++) {
        histogram(level, prefix);
        search(workspace, shared, where[level], ~0u, target - above);
        above += shared.mass_above;
        prefix = prefix << DIGIT_BITS | shared.bin;
    }
    return prefix;
}

// ---- results ----

/// Writes the row's token and all that follows from it, and clears the workspace. One block.
DEVICE void finish(Workspace& workspace, Shared& shared, const float* logits, u32 flags, i32 slot,
                   u64 best, u32 areas, u16* history, i32* positions, i32* lengths, i32* tokens,
                   float* log_sums, float* chosen) {
    i32 token = best == NOT_FINITE ? -1 : (i32) ~(u32)best;
    if (threadIdx.x < 32 && (flags & WANTS_LOGPROBS)) {
        float maximum = -__int_as_float(0x7f800000), sum = 0.0f;
        for (u32 split = threadIdx.x; split < gridDim.x; split += 32) {
            float other = __uint_as_float(load_fresh((u32*)&workspace.partials[split].maximum));
            float part = __uint_as_float(load_fresh((u32*)&workspace.partials[split].sum));
            float larger = fmaxf(maximum, other);
            sum = sum * exp_fast(maximum - larger) + part * exp_fast(other - larger);
            maximum = larger;
        }
        float largest = warp_max(maximum);
        sum = warp_sum(maximum == largest ? sum : sum * exp_fast(maximum - largest));
        if (threadIdx.x == 0) {
            log_sums[slot] = largest + __logf(sum);
            chosen[slot] = token < 0 ? 0.0f : logits[token];
        }
    }
    if (threadIdx.x == 0) {
        tokens[slot] = token;
        positions[slot] += 1;
        if (lengths != nullptr) lengths[slot] += 1;
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
}

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

extern "C" __global__ void __launch_bounds__(BLOCK, 1024 / BLOCK)
    sample(const float* logits, const i32* rows, const u32* settings, const i32* bias_tokens,
           const float* bias_values, u16* history, i32* positions, i32* lengths, i32* tokens,
           float* log_sums, float* chosen, Workspace* workspaces) {
    __shared__ Shared shared;
    dependents_launch();
    dependencies_wait();
    i32 slot = rows == nullptr ? (i32)blockIdx.y : rows[blockIdx.y];
    if (slot < 0) return;
    Workspace& workspace = workspaces[blockIdx.y];
    const u32* setting = settings + slot * SETTINGS;
    float inverse = __uint_as_float(setting[0]);
    u32 flags = setting[7];
    Row row;
    row.logits = logits + (u64)blockIdx.y * VOCAB;
    row.history = flags & USES_HISTORY ? history + (u64)slot * HISTORY_STRIDE : nullptr;
    row.repetition = __uint_as_float(setting[4]);
    row.frequency = __uint_as_float(setting[5]);
    row.presence = __uint_as_float(setting[6]);
    row.biases = setting[10];
    if (row.biases > 0) {
        for (i32 word = threadIdx.x; word < (GROUPS + 31) / 32; word += BLOCK)
            shared.biased[word] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < row.biases; i += BLOCK) {
            i32 token = bias_tokens[slot * BIASES + i];
            shared.bias_tokens[i] = token;
            shared.bias_values[i] = bias_values[slot * BIASES + i];
            atomicOr(&shared.biased[token / 128], 1u << token / 4 % 32);
        }
        __syncthreads();
    }

    // The largest logit, and what log-probabilities need.
    u32 meetings = 0, areas = 0;
    u64 best = 0;
    float maximum = -__int_as_float(0x7f800000), sum = 0.0f;
    row.each([&](i32 group, float (&x)[4]) {
        bool is_finite = true;
#pragma unroll
        for (i32 i = 0; i < 4; i++)
            is_finite &= (__float_as_uint(x[i]) & 0x7f800000u) != 0x7f800000u;
        if (flags & WANTS_LOGPROBS) {
#pragma unroll
            for (i32 i = 0; i < 4; i++) {
                if (!exists(group, i)) continue;
                float larger = fmaxf(maximum, x[i]);
                sum = sum * exp_fast(maximum - larger) + exp_fast(x[i] - larger);
                maximum = larger;
            }
        }
        row.adjust(shared, group, x);
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            u64 candidate = exists(group, i) ? ranked(x[i], 4 * group + i) : 0;
            best = candidate > best ? candidate : best;
        }
        if (!is_finite) best = NOT_FINITE;
    });
    best = block_best(shared, best);
    if (flags & WANTS_LOGPROBS) {
        float largest = warp_max(maximum);
        sum = warp_sum(maximum == largest ? sum : sum * exp_fast(maximum - largest));
        if (threadIdx.x % 32 == 0) {
            shared.maxima[threadIdx.x / 32] = largest;
            shared.sums[threadIdx.x / 32] = sum;
        }
        __syncthreads();
        maximum = threadIdx.x % 32 < WARPS ? shared.maxima[threadIdx.x % 32] : maximum;
        sum = threadIdx.x % 32 < WARPS ? shared.sums[threadIdx.x % 32] : 0.0f;
        largest = warp_max(maximum);
        sum = warp_sum(maximum == largest ? sum : sum * exp_fast(maximum - largest));
        maximum = largest;
    }
    if (threadIdx.x == 0) {
        workspace.partials[blockIdx.x].best = best;
        workspace.partials[blockIdx.x].maximum = maximum;
        workspace.partials[blockIdx.x].sum = sum;
    }

    if (inverse > 0.0f) {
        meet(workspace, meetings);
        best = row_best(&workspace.partials[0].best, sizeof(Partial) / sizeof(u64));
        if (best != NOT_FINITE) {
            u32 ordered = (u32)(best >> 32);
            float largest =
                __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
            u32 top_k = setting[1], top_p = setting[2], least = setting[3];
            bool is_filtered = top_k > 0 || top_p != WHOLE || least > 0;
            if (is_filtered) least = least == 0 ? 1 : least;
            if (top_k > 0 || top_p != WHOLE)
                least = threshold(row, workspace, shared, meetings, areas, top_k, top_p, least,
                                  largest, inverse);
            u32 seed0 = setting[8], seed1 = setting[9], position = (u32)positions[slot] + 1;
            best = 0;
            row.each([&](i32 group, float (&x)[4]) {
                row.adjust(shared, group, x);
                bool is_kept[4], is_any_kept = false;
#pragma unroll
                for (i32 i = 0; i < 4; i++) {
                    x[i] = __fmul_rn(__fsub_rn(x[i], largest), inverse);
                    is_kept[i] = exists(group, i) &&
                                 (!is_filtered || __float_as_uint(exact_exp(x[i])) >= least);
                    is_any_kept |= is_kept[i];
                }
                if (!is_any_kept) return;
                u32 words[4] = {(u32)group, position, 0, 0};
                philox(words, seed0, seed1);
#pragma unroll
                for (i32 i = 0; i < 4; i++) {
                    if (!is_kept[i]) continue;
                    float score = __fsub_rn(x[i], exact_log(exponential_draw(words[i])));
                    u64 candidate = ranked(score, 4 * group + i);
                    best = candidate > best ? candidate : best;
                }
            });
            __syncthreads();
            best = block_best(shared, best);
        }
    }
    if (threadIdx.x == 0) workspace.scores[blockIdx.x] = best;
    if (!is_last(workspace, shared, meetings)) return;
    finish(workspace, shared, row.logits, flags, slot, row_best(workspace.scores, 1), areas,
           history, positions, lengths, tokens, log_sums, chosen);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    open_history(u16* history, const i32* tokens, i32 count, i32 prompt_count, i32 slot) {
    dependents_launch();
    dependencies_wait();
    u16* entries = history + (u64)slot * HISTORY_STRIDE;
    for (i32 i = threadIdx.x; i < HISTORY_STRIDE / 8; i += BLOCK)
        reinterpret_cast<uint4*>(entries)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    u32* pairs = reinterpret_cast<u32*>(entries);
    for (i32 i = threadIdx.x; i < count; i += BLOCK) {
        i32 token = tokens[i];
        if (token < 0 || token >= VOCAB) continue;
        u32 shift = token % 2 * 16;
        if (i < prompt_count) {
            atomicOr(&pairs[token / 2], 0x8000u << shift);
            continue;
        }
        u32 seen = pairs[token / 2], expected;
        do {
            expected = seen;
            if ((expected >> shift & 0x7fffu) == 0x7fffu) break;
            seen = atomicCAS(&pairs[token / 2], expected, expected + (1u << shift));
        } while (seen != expected);
    }
}
