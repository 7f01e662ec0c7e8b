// Sampling: the next token of every row of logits [rows, VOCAB] (fp32), each with the parameters of
// its slot. Reference: SamplingDraw (MinimaRuntime); given the same logits it agrees bit for bit,
// because weights and noise are integers and float32 sums and products, each rounded once, in one
// order: tolerance 0. Log-sum-exp: relative error at most 2^-18 of the sum of exponentials.
//
//   a = logits after mask, bias, repetition, frequency, presence penalty;
//   z = (a - max a) / temperature
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
// results, moves the slot's counters on and leaves counters and histograms of the workspace zero.
//
// Entry sample. Grid (blocks per row <= 64, rows), block BLOCK. Constants: VOCAB (at most 2^18),
// BIASES (most biases of a slot), BLOCK (a power of two, 32 to 1024). Static shared memory.
// Parameters, in order:
//   logits      fp32 [rows stride, VOCAB]; row r's are those of r stride + place
//   rows        int32 [rows], the slot of each row, each once; negative: the row is skipped. Null:
//               row r is slot r
//   settings    u32 [slots, 16]: 0 1/temperature (float; 0 takes the likeliest), 1 top-k (0: all),
//               2 top-p in 2^-31 (2^31: all), 3 min-p, 4 repetition, 5 frequency, 6 presence
//               penalty (floats), 7 flags (1: penalties use the history, 2: log-probabilities),
//               8, 9 seed (low word first), 10 number of biases
//   bias_tokens int32 [slots, BIASES] ascending, bias_values fp32 [slots, BIASES]
//   masks       u32 [slots, 1 + ceil(VOCAB / 32)]: 1 where the slot has a mask, else 0; then a bit per
//               token, the lowest of the first word token 0's. Tokens whose bit is 0 have a = -inf; at
//               least one is 1
//   history     u16 [slots, HISTORY_STRIDE]: bit 15 the prompt holds the token, bits 0-14 how often
//               the answer does; HISTORY_STRIDE is VOCAB rounded up to 8. Null: no row has
//               penalties
//   positions   int32 [slots], index of the step's input token; the new token's is one more. Moved
//               on by one. lengths int32 [slots], moved on alike; may be null
//   tokens      int32 [slots], the new token; -1 where a logit is not finite
//   log_sums    fp32 [slots, places], ln of the sum of e^logit, and chosen fp32 [slots, places], the
//               new token's logit, both before bias and penalties; written for flag 2
//   workspace   WORKSPACE_BYTES (63,104) bytes per row, zero before the first launch
//   emitted     int32 [slots, places], the new token in column `place`
//   counts      int32 [slots]: place + 1
//   drafts      int32 [slots, places - 1], proposals; not read where place is 0
//   sequence    int32 [slots, length], the tokens of each slot: the new one is added. May be null
//   place       int32: which token of a step this launch chooses, from 0 on
//   places      int32: tokens of a step at most
//   stride      int32: rows of logits of a row, more than place
//   length      int32: columns of sequence
//   parents, path: with TREE only, see below
//
// A step that verifies proposals has a launch for each place. One with place > 0 chooses for the rows
// whose token of the place before is finite and was proposed, drafts[slot, place - 1], and does
// nothing for the others: what is emitted are the tokens that steps without proposals would choose. A
// mask is the next token's alone, so a slot that has one chooses in place 0 only.
//
// With a constant TREE proposals are a tree's nodes: row r stride of logits is what follows the slot's
// last token, row r stride + i + 1 what follows node i, drafts[slot, i], whose parent is node
// parents[slot, i] - 1 (int32 [slots, places - 1]; 0: the last token). Nodes come behind their parents;
// where there are more, at most 31, than the step has rows of logits, the first count. The launch of
// place j > 0 goes from row path[slot, j - 1] to that of its first child that holds the token of place
// j - 1, chooses from it, and leaves it in path[slot, j] (int32 [slots, places]). As drafted tokens are
// point masses and each place's token is drawn from the target's own distribution behind what is before
// it, penalties and all, going on while a child holds it leaves that distribution as it is: exact by
// construction, as for a chain. (Where siblings are drawn from the draft instead, they have to be
// rejected one after the other: Miao et al. 2024, "SpecInfer", 4.3.)
//
// With a constant ACCEPTANCE, a list of numbers of 2^-32, a proposal counts as right in place j with
// the j-th of these probabilities, whatever it is, by writing the chosen token, or -1, into drafts;
// seed, position and slot decide.
// That is for measuring times at a given acceptance and no sampling.
//
// Entry open_history (history, tokens, count, prompt_count, slot): a slot's history from `count`
// tokens (int32), the first `prompt_count` of them the prompt. Grid 1, block BLOCK.
// compile: VOCAB=151936 BIASES=512 BLOCK=256
// compile: VOCAB=1003 BIASES=16 BLOCK=1024
// compile: VOCAB=151936 BIASES=512 BLOCK=256 ACCEPTANCE=2147483648u,1073741824u
// compile: VOCAB=151936 BIASES=512 BLOCK=256 TREE=1
// compile: VOCAB=1003 BIASES=16 BLOCK=1024 TREE=1 ACCEPTANCE=2147483648u
#include "sampling_workspace.cuh"
#include "sampling_arithmetic.cuh"
#include "sampling_row.cuh"
#include "sampling_selection.cuh"
#include "sampling_results.cuh"
#include "sampling_verification.cuh"

#ifdef TREE
#define TREE_PARAMETERS , const i32 *parents, i32 *path
#define TREE_OF_SLOT , parents + (i64)slot * (places - 1), path + (i64)slot * places, stride - 1
#else
#define TREE_PARAMETERS
#define TREE_OF_SLOT
#endif

extern "C" __global__ void __launch_bounds__(BLOCK, 1024 / BLOCK)
    sample(const float* logits, const i32* rows, const u32* settings, const i32* bias_tokens,
           const float* bias_values, const u32* masks, u16* history, i32* positions, i32* lengths,
           i32* tokens, float* log_sums, float* chosen, Workspace* workspaces, i32* emitted,
           i32* counts, i32* drafts, i32* sequence, i32 place, i32 places, i32 stride,
           i32 length TREE_PARAMETERS) {
    __shared__ Shared shared;
    dependents_launch();
    dependencies_wait();
    i32 slot = rows == nullptr ? (i32)blockIdx.y : rows[blockIdx.y];
    if (slot < 0) return;
    Verification verification = {emitted + (i64)slot * places, counts + slot,
                                 drafts + (i64)slot * (places - 1), settings + slot * SETTINGS,
                                 place, places TREE_OF_SLOT};
    const u32* mask = masks + (u64)slot * MASK_STRIDE;
    bool is_masked = mask[0] != 0;
    if (!verification.is_alive(is_masked)) return;
    Workspace& workspace = workspaces[blockIdx.y];
    const u32* setting = settings + slot * SETTINGS;
    float inverse = __uint_as_float(setting[0]);
    u32 flags = setting[7];
    Row row;
    row.logits = logits + ((u64)blockIdx.y * stride + verification.row_of_logits()) * VOCAB;
    row.mask = is_masked ? mask + 1 : nullptr;
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
    LogSum log_sum;
    row.each([&](i32 group, float (&x)[4]) {
        bool is_finite = true;
#pragma unroll
        for (i32 i = 0; i < 4; i++)
            is_finite &= (__float_as_uint(x[i]) & 0x7f800000u) != 0x7f800000u;
        if (flags & WANTS_LOGPROBS) {
#pragma unroll
            for (i32 i = 0; i < 4; i++)
                if (exists(group, i)) log_sum.add(x[i], 1.0f);
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
        log_sum.add_lanes();
        if (threadIdx.x % 32 == 0) {
            shared.maxima[threadIdx.x / 32] = log_sum.largest;
            shared.sums[threadIdx.x / 32] = log_sum.sum;
        }
        __syncthreads();
        if (threadIdx.x % 32 < WARPS) log_sum.largest = shared.maxima[threadIdx.x % 32];
        log_sum.sum = threadIdx.x % 32 < WARPS ? shared.sums[threadIdx.x % 32] : 0.0f;
        log_sum.add_lanes();
    }
    if (threadIdx.x == 0) {
        workspace.partials[blockIdx.x].best = best;
        workspace.partials[blockIdx.x].maximum = log_sum.largest;
        workspace.partials[blockIdx.x].sum = log_sum.sum;
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
    i32 token = finish(workspace, row.logits, flags, slot, row_best(workspace.scores, 1), areas,
                       history, log_sums + (i64)slot * places + place,
                       chosen + (i64)slot * places + place);
    if (threadIdx.x > 0) return;
    tokens[slot] = token;
    i32 position = positions[slot] += 1;
    if (lengths != nullptr) lengths[slot] += 1;
    if (sequence != nullptr && position < length) sequence[(i64)slot * length + position] = token;
    verification.emit(token, position, slot);
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
