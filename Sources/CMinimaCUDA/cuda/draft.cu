// What proposes tokens by weights of its own, between its matrix products: which places a round
// computes, and the token it proposes; of an EAGLE-3 head also the features that the target leaves for
// it, and what its layer reads.
//
// Of a head: a slot with tokens s[0 ... p], p = positions[slot], has features of places 0 ... p - 1
// (the residual stream entering three layers of the target) in a ring of RING places. Place q reads
// the features of s[q] and the embedding of s[q + 1] and predicts s[q + 2]: place p - 1 proposes what
// follows s[p]. A round computes the last `places` places anew, so that those which an earlier round
// computed from guesses hold what is true, then as many single places as it proposes further tokens. A
// step leaves features of p ... p + K: with K + places < RING none of them replaces one that a round
// still reads.
//
// Of a model of its own: place q reads s[q] and predicts s[q + 1]; place p proposes what follows s[p].
// So everything is as for a head whose sequence is one token longer and whose places read one token
// earlier.
//
// Entry draft_begin. Grid: one block per row. Parameters, in order:
//   rows int32 [gridDim.x], slots, negative for padding; positions int32 [slots]; sequence int32
//   [slots, length]; tables int32 [slots, max_pages]
//   row_tables int32 [gridDim.x, max_pages]   the row's pages
//   lengths    int32 [steps, gridDim.x]       tokens with those of each attention: first + places,
//              first = max(n - places, 0), then n + 1, n + 2, …; at most what the pages hold; 0: padding
//   tokens     int32 [gridDim.x places]       s[q + 1 - own] for q = first + i; -1: padding or unknown
//   ring_rows  int32 [gridDim.x places]       slot RING + q % RING; -1: padding
//   last_rows  int32 [gridDim.x]              row of place n - 1 (of n = 0: the first); -1: padding
//   max_pages, length, places, steps, own int32
// own: 0 for a head, 1 for a model, n = p + own. In a sequence shorter than `places` the places behind
// n - 1 are computed from nothing, are seen by none before them, and are computed again when their
// tokens are known.
//
// Entry keep_feature. Grid (blocks over width / 8, rows count). Parameters: stream bf16 [rows count,
// width], rows, positions, ring bf16 [slots, RING, stride], count, width, stride, column int32: writes
// row r count + i to ring[rows[r], (p + i) % RING, column ...].
//
// Entry draft_inputs (constant HIDDEN, a multiple of 8, at most 64 BLOCK). Grid (rows, 2). Parameters:
// table bf16 [vocabulary, HIDDEN], tokens int32 [rows], hidden bf16 [rows, HIDDEN], token_norm and
// hidden_norm bf16 [HIDDEN], x bf16 [rows, 2 HIDDEN], residual bf16 [rows, HIDDEN], vocabulary,
// normed_residual int32, epsilon float32: x = norm(table[tokens]) ∥ norm(hidden), residual = hidden, or
// norm(hidden) if normed_residual. A token outside of the table embeds as zeros.
//
// Entry draft_choose. Grid (rows, any): blocks of a row meet in `meetings`, u64 [rows, 2], zero between
// launches. Parameters: logits fp32 [rows, vocabulary], rows, settings u32 [slots, 16] and positions as
// in sampling.cu, target_ids int32 [vocabulary] or null where they are the target's, drafts int32
// [slots, most], next int32 [rows], meetings, vocabulary, most, place int32: drafts[slot, place] = next =
// target_ids[argmax of logits / temperature - ln E], E the draw with which the sampler will choose
// token p + 1 + place (drafter-invariant coupling, Daliri et al. 2024); of temperature 0 the argmax of
// the logits; -1 where none is finite. Of equal ones the first, whatever the grid.
//
// References: the definitions above, exact; norms as norm_rows of elementwise.cu; draft_choose agrees
// with the same arithmetic on the host bit for bit, as the sampler does. Constants: RING, BLOCK.
// compile: RING=32 BLOCK=256
// compile: RING=32 BLOCK=1024
// compile: RING=32 BLOCK=256 HIDDEN=5120
#include "sampling_arithmetic.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    draft_begin(const i32* rows, const i32* positions, const i32* sequence, const i32* tables,
                i32* row_tables, i32* lengths, i32* tokens, i32* ring_rows, i32* last_rows,
                i32 max_pages, i32 length, i32 places, i32 steps, i32 own) {
    dependents_launch();
    dependencies_wait();
    const i32 row = blockIdx.x, slot = rows[row];
    const i32 n = slot < 0 ? 0 : positions[slot] + own, first = max(n - places, 0);
    for (i32 i = threadIdx.x; i < max_pages; i += BLOCK)
        row_tables[(i64)row * max_pages + i] = slot < 0 ? 0 : tables[(i64)slot * max_pages + i];
    for (i32 step = threadIdx.x; step < steps; step += BLOCK) {
        i32 count = step == 0 ? first + places : n + step;
        lengths[step * gridDim.x + row] = slot < 0 ? 0 : min(count, 64 * max_pages);
    }
    for (i32 i = threadIdx.x; i < places; i += BLOCK) {
        i32 place = first + i, read = place + 1 - own;
        bool is_known = slot >= 0 && place < n && read < length;
        tokens[row * places + i] = is_known ? sequence[(i64)slot * length + read] : -1;
        ring_rows[row * places + i] = slot < 0 ? -1 : slot * RING + place % RING;
    }
    if (threadIdx.x == 0) last_rows[row] = slot < 0 ? -1 : row * places + max(n - 1 - first, 0);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    keep_feature(const bf16* stream, const i32* rows, const i32* positions, bf16* ring, i32 count,
                 i32 width, i32 stride, i32 column) {
    dependents_launch();
    dependencies_wait();
    const i32 slot = rows[blockIdx.y / count];
    if (slot < 0) return;
    const i32 place = positions[slot] + (i32)blockIdx.y % count;
    const bf16* source = stream + (i64)blockIdx.y * width;
    bf16* target = ring + ((i64)slot * RING + place % RING) * stride + column;
    for (i32 i = 8 * (blockIdx.x * BLOCK + threadIdx.x); i < width; i += 8 * BLOCK * gridDim.x)
        *reinterpret_cast<uint4*>(target + i) = *reinterpret_cast<const uint4*>(source + i);
}

#ifdef HIDDEN
extern "C" __global__ void __launch_bounds__(BLOCK)
    draft_inputs(const bf16* table, const i32* tokens, const bf16* hidden, const bf16* token_norm,
                 const bf16* hidden_norm, bf16* x, bf16* residual, i32 vocabulary,
                 i32 normed_residual, float epsilon) {
    constexpr i32 VECTORS = (HIDDEN / 8 + BLOCK - 1) / BLOCK;
    __shared__ float sums[BLOCK / 32];
    dependents_launch();
    const bool is_hidden = blockIdx.y == 1;
    const bf16* weight = is_hidden ? hidden_norm : token_norm;
    dependencies_wait();
    const i64 row = blockIdx.x;
    const i32 token = tokens[row];
    const bool exists = is_hidden || (token >= 0 && token < vocabulary);
    const bf16* source = is_hidden ? hidden + row * HIDDEN : table + (i64)token * HIDDEN;
    uint4 values[VECTORS];
    float sum = 0.0f;
#pragma unroll
    for (i32 v = 0; v < VECTORS; v++) {
        i32 i = 8 * (v * BLOCK + threadIdx.x);
        values[v] = exists && i < HIDDEN ? *reinterpret_cast<const uint4*>(source + i)
                                         : make_uint4(0, 0, 0, 0);
        u32 words[4] = {values[v].x, values[v].y, values[v].z, values[v].w};
#pragma unroll
        for (i32 k = 0; k < 4; k++) {
            sum = fmaf(low_float(words[k]), low_float(words[k]), sum);
            sum = fmaf(high_float(words[k]), high_float(words[k]), sum);
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < BLOCK / 32 ? sums[threadIdx.x % 32] : 0.0f);
    const float inverse = rsqrtf(sum / HIDDEN + epsilon);
    bf16* target = x + row * 2 * HIDDEN + (is_hidden ? HIDDEN : 0);
#pragma unroll
    for (i32 v = 0; v < VECTORS; v++) {
        i32 i = 8 * (v * BLOCK + threadIdx.x);
        if (i >= HIDDEN) continue;
        uint4 scale = *reinterpret_cast<const uint4*>(weight + i);
        u32 scales[4] = {scale.x, scale.y, scale.z, scale.w};
        u32 words[4] = {values[v].x, values[v].y, values[v].z, values[v].w}, normed[4];
#pragma unroll
        for (i32 k = 0; k < 4; k++) {
            u32 unit = to_bf16x2(low_float(words[k]) * inverse, high_float(words[k]) * inverse);
            normed[k] = to_bf16x2(low_float(unit) * low_float(scales[k]),
                                  high_float(unit) * high_float(scales[k]));
        }
        uint4 result = make_uint4(normed[0], normed[1], normed[2], normed[3]);
        *reinterpret_cast<uint4*>(target + i) = result;
        if (is_hidden)
            *reinterpret_cast<uint4*>(residual + row * HIDDEN + i) =
                normed_residual ? result : values[v];
    }
}
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    draft_choose(const float* logits, const i32* rows, const u32* settings, const i32* positions,
                 const i32* target_ids, i32* drafts, i32* next, u64* meetings, i32 vocabulary,
                 i32 most, i32 place) {
    __shared__ u64 shared[BLOCK / 32];
    dependents_launch();
    dependencies_wait();
    const i32 slot = rows[blockIdx.x];
    if (slot < 0) {
        if (threadIdx.x == 0 && blockIdx.y == 0) next[blockIdx.x] = -1;
        return;
    }
    const u32* setting = settings + slot * 16;
    const float inverse = __uint_as_float(setting[0]);
    const u32 position = (u32)(positions[slot] + 1 + place);
    const float* own = logits + (i64)blockIdx.x * vocabulary;
    u64 best = 0;
    for (i32 i = blockIdx.y * BLOCK + threadIdx.x; i < vocabulary; i += BLOCK * gridDim.y) {
        float score = own[i];
        if (!drafted_score(score, i, inverse, target_ids, setting, position)) continue;
        u64 candidate = ranked(score, i);
        best = candidate > best ? candidate : best;
    }
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    best = warp_best(threadIdx.x < BLOCK / 32 ? shared[threadIdx.x] : 0);
    if (threadIdx.x > 0) return;
    if (gridDim.y > 1) {
        u64* meeting = meetings + 2 * blockIdx.x;
        atomicMax(meeting, best);
        __threadfence();
        if (atomicAdd(meeting + 1, 1ull) + 1 < gridDim.y) return;
        __threadfence();
        best = atomicExch(meeting, 0ull);
        meeting[1] = 0;
    }
    const i32 chosen = (i32) ~(u32)best;
    i32 token = best == 0 ? -1 : target_ids == nullptr ? chosen : target_ids[chosen];
    drafts[(i64)slot * most + place] = token;
    next[blockIdx.x] = token;
}
