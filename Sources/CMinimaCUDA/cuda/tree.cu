// Trees of proposals, grown from an EAGLE-3 head level by level; tree_path.cu is what steps do with them.
//
// A slot's tree has nodes 0, 1, ...: drafts[slot, i] is a node's token and parents[slot, i] the row of its
// parent among the rows that a step verifies, 0 the sequence's last token and j + 1 node j. Parents come
// before their children.
//
// Growth: a node's score is the sum of the logarithms of the draft's confidence in all tokens up to it
// (float32, from its parent's downwards). Level 0 are the WIDTH best tokens after the sequence; each
// further level goes on from the WIDTH best nodes of the level before, each with its WIDTH best tokens;
// the tree are the `count` best nodes of all levels, best first. Of equal ones the earlier counts first:
// that of the lower level, then of the better parent, then of the better token. (Li et al. 2024, "EAGLE-2",
// section 4; reference: DraftBranches.) A round has as many levels as a tree has nodes, so that a chain
// could come of it. With WIDTH = min(width, count) it is the tree of any larger width's rule: who has
// `count` better ones in his level, or among his siblings, is not in the tree, nor is what follows him.
//
// For a slot with tokens s[0 ... p], p = positions[slot], places 0 ... p - 1 of the head are known
// (draft.cu) and level 0 follows from place p - 1. Node k of the nodes that are gone on from in level
// l > 0 has keys and values in place p + (l - 1) WIDTH + k. Those in the page of place p are overwritten
// when that place is computed; the others are in pages of the row's own.
//
// Confidence is e^(score - ln sum e^score) over the draft's vocabulary, the scores being the logits where
// the temperature is 0, otherwise logits / temperature - ln E, E the draw with which the sampler will
// choose the token at that place, as draft_choose of draft.cu has it; penalties and biases do not count.
//
// Entry tree_begin. Grid: a block per row. Parameters: rows, positions; tables int32 [slots, max_pages];
// level_tables int32 [gridDim.x, columns]: the slot's pages up to that of place p, then page
// first_page + r (columns - max_pages) and the next; lengths int32 [levels, gridDim.x]: p + (l + 1)
// WIDTH, 0 for padding; max_pages, columns, first_page, levels int32.
//
// Entry tree_top. Grid (rows nodes, any): blocks of a node meet in `meetings`, u32 [rows nodes], zero
// between launches. Parameters: logits fp32 [rows nodes, vocabulary]; rows; settings u32 [slots, 16] and
// positions as in sampling.cu; target_ids int32 [vocabulary], null where they are the target's;
// partials u64 [rows nodes, gridDim.y, WIDTH + 1]; values fp32 [rows nodes, WIDTH] and tokens int32
// [rows nodes, WIDTH]: the WIDTH best logarithms of confidence, best first, and the target's tokens; -1
// where there are fewer finite ones; meetings; vocabulary, nodes, level int32.
//
// Entry tree_grow. Grid: a block of 32 per row. Takes what tree_top has found after each node of level
// `level`: of level 0 after the sequence, otherwise after its WIDTH nodes. Parameters: values, tokens;
// rows; keys u64 [gridDim.x, most_candidates], candidate_tokens and candidate_parents int32 of the same
// shape, opened int32 [gridDim.x, WIDTH + 1]: candidates so far, their parents, and which of them are
// gone on from (how many, then who), kept from level to level; next int32 [gridDim.x WIDTH]: tokens
// of the nodes that are gone on from, `sources` of the same shape: their parents' rows among the nodes
// of this level, -1 for padding; seen u32 [gridDim.x WIDTH, WORDS]: bit (l - 1) WIDTH + k is set where
// node k of level l is in the branch; most_candidates, level int32; drafts and parents int32 [slots,
// most], count, most int32: count > 0 in the last level, whose call writes the tree, and nothing
// more. Rows with fewer nodes to go on from repeat the first, and nothing is taken from the repeats.
//
// References: the definitions above; exact but for the logarithm of the sum, whose relative error is at
// most 2^-18 of the sum. Constants: WIDTH (1 to 8), WORDS, BLOCK.
// compile: WIDTH=3 WORDS=1 BLOCK=1024
// compile: WIDTH=8 WORDS=4 BLOCK=1024
#include "log_sum.cuh"
#include "sampling_arithmetic.cuh"

#define ALL 0xffffffffu

extern "C" __global__ void __launch_bounds__(BLOCK)
    tree_begin(const i32* rows, const i32* positions, const i32* tables, i32* level_tables,
               i32* lengths, i32 max_pages, i32 columns, i32 first_page, i32 levels) {
    dependents_launch();
    dependencies_wait();
    const i32 row = blockIdx.x, slot = rows[row], extra = columns - max_pages;
    const i32 position = slot < 0 ? 0 : positions[slot];
    const i32 own = slot < 0 ? 0 : min(position / 64 + 1, max_pages);
    for (i32 i = threadIdx.x; i < columns; i += BLOCK) {
        i32 page = i - own < extra ? first_page + row * extra + i - own : 0;
        level_tables[(i64)row * columns + i] = i < own ? tables[(i64)slot * max_pages + i] : page;
    }
    for (i32 level = threadIdx.x; level < levels; level += BLOCK)
        lengths[level * gridDim.x + row] =
            slot < 0 ? 0 : min(position + (level + 1) * WIDTH, 64 * columns);
}

/// The best of some candidates, best first; 0 for none.
struct Best {
    u64 held[WIDTH];

    DEVICE void clear() {
#pragma unroll
        for (i32 i = 0; i < WIDTH; i++) held[i] = 0;
    }

    DEVICE void add(u64 candidate) {
#pragma unroll
        for (i32 i = 0; i < WIDTH; i++) {
            u64 other = held[i];
            bool is_better = candidate > other;
            held[i] = is_better ? candidate : other;
            candidate = is_better ? other : candidate;
        }
    }

    /// Takes the first away.
    DEVICE void pop() {
#pragma unroll
        for (i32 i = 0; i + 1 < WIDTH; i++) held[i] = held[i + 1];
        held[WIDTH - 1] = 0;
    }
};

/// The float that `ranked` has made a key of.
DEVICE float value_of(u64 key) {
    u32 ordered = (u32)(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    tree_top(const float* logits, const i32* rows, const u32* settings, const i32* positions,
             const i32* target_ids, u64* partials, float* values, i32* tokens, u32* meetings,
             i32 vocabulary, i32 nodes, i32 level) {
    constexpr i32 WARPS = BLOCK / 32, ENTRY = WIDTH + 1;
    __shared__ u64 heads[WARPS];
    __shared__ float maxima[WARPS], sums[WARPS];
    __shared__ bool is_last;
    dependents_launch();
    dependencies_wait();
    const i32 node = blockIdx.x, slot = rows[node / nodes];
    const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (slot < 0) {
        if (blockIdx.y == 0 && threadIdx.x < WIDTH) tokens[node * WIDTH + threadIdx.x] = -1;
        return;
    }
    const u32* setting = settings + slot * 16;
    const float inverse = __uint_as_float(setting[0]);
    const u32 position = (u32)(positions[slot] + 1 + level);
    const float* own = logits + (i64)node * vocabulary;
    Best best;
    best.clear();
    LogSum sum;
    for (i32 i = blockIdx.y * BLOCK + threadIdx.x; i < vocabulary; i += BLOCK * gridDim.y) {
        float score = own[i];
        if (!drafted_score(score, i, inverse, target_ids, setting, position)) continue;
        sum.add(score, 1.0f);
        best.add(ranked(score, i));
    }
    // The block's best ones, one after the other, and its sum.
    u64* partial = partials + ((i64)node * gridDim.y + blockIdx.y) * ENTRY;
#pragma unroll 1
    for (i32 i = 0; i < WIDTH; i++) {
        u64 first = warp_best(best.held[0]);
        __syncthreads();
        if (lane == 0) heads[warp] = first;
        __syncthreads();
        first = warp_best(lane < WARPS ? heads[lane] : 0);
        if (first != 0 && best.held[0] == first) best.pop();
        if (threadIdx.x == 0) partial[i] = first;
    }
    sum.add_lanes();
    if (lane == 0) maxima[warp] = sum.largest, sums[warp] = sum.sum;
    __syncthreads();
    if (warp > 0) return;
    sum.largest = lane < WARPS ? maxima[lane] : -__int_as_float(0x7f800000);
    sum.sum = lane < WARPS ? sums[lane] : 0.0f;
    sum.add_lanes();
    if (lane == 0) {
        partial[WIDTH] = (u64)__float_as_uint(sum.largest) << 32 | __float_as_uint(sum.sum);
        __threadfence();
        is_last = gridDim.y == 1 || atomicAdd(meetings + node, 1u) + 1 == gridDim.y;
        __threadfence();
        if (is_last) meetings[node] = 0;
    }
    __syncwarp();
    if (!is_last) return;
    // The node's, of all blocks, always in the same order.
    const volatile u64* all = partials + (i64)node * gridDim.y * ENTRY;
    best.clear();
    LogSum total;
    for (i32 block = lane; block < gridDim.y; block += 32) {
        for (i32 i = 0; i < WIDTH; i++) best.add(all[block * ENTRY + i]);
        u64 pair = all[block * ENTRY + WIDTH];
        float largest = __uint_as_float((u32)(pair >> 32)), part = __uint_as_float((u32)pair);
        if (part > 0.0f) total.add(largest, part);
    }
    total.add_lanes();
    // Never below the largest, for all that the fast logarithm may be off: no child is likelier than its
    // parent, so that parents come first.
    const float log_sum = total.largest + fmaxf(__logf(total.sum), 0.0f);
#pragma unroll 1
    for (i32 i = 0; i < WIDTH; i++) {
        u64 first = warp_best(best.held[0]);
        if (first != 0 && best.held[0] == first) best.pop();
        if (lane > 0) continue;
        i32 chosen = (i32) ~(u32)first;
        values[node * WIDTH + i] = first == 0 ? 0.0f : value_of(first) - log_sum;
        tokens[node * WIDTH + i] =
            first == 0 ? -1 : target_ids == nullptr ? chosen : target_ids[chosen];
    }
}

extern "C" __global__ void __launch_bounds__(32)
    tree_grow(const float* values, const i32* tokens, const i32* rows, u64* keys,
              i32* candidate_tokens, i32* candidate_parents, i32* opened, i32* next, i32* sources,
              u32* seen, i32* drafts, i32* parents, i32 most_candidates, i32 level, i32 count,
              i32 most) {
    dependents_launch();
    dependencies_wait();
    const i32 row = blockIdx.x, slot = rows[row], lane = threadIdx.x;
    next += row * WIDTH, sources += row * WIDTH;
    if (slot < 0) {
        if (lane < WIDTH) next[lane] = sources[lane] = -1;
        return;
    }
    keys += (i64)row * most_candidates;
    candidate_tokens += (i64)row * most_candidates;
    candidate_parents += (i64)row * most_candidates;
    opened += row * (WIDTH + 1);
    seen += row * WIDTH * WORDS;
    const i32 nodes = level == 0 ? 1 : WIDTH;
    const i32 first = level == 0 ? 0 : WIDTH + (level - 1) * WIDTH * WIDTH;
    const i32 open = level == 0 ? 1 : opened[0];

    // The level's candidates; the best of each lane's.
    constexpr i32 SHARE = (WIDTH * WIDTH + 31) / 32;
    u64 own[SHARE];
#pragma unroll
    for (i32 i = 0; i < SHARE; i++) {
        own[i] = 0;
        i32 at = lane + 32 * i;
        if (at >= nodes * WIDTH) continue;
        i32 node = at / WIDTH, parent = level == 0 ? -1 : opened[1 + node];
        i32 token = tokens[row * nodes * WIDTH + at];
        if (node < open && token >= 0) {
            float before = parent < 0 ? 0.0f : value_of(keys[parent]);
            own[i] = ranked(__fadd_rn(before, values[row * nodes * WIDTH + at]), first + at);
        }
        keys[first + at] = own[i];
        candidate_tokens[first + at] = token;
        candidate_parents[first + at] = parent;
    }
    __syncwarp();

    if (count > 0) {
        // The best of all: lane i keeps the i-th.
        const i32 all = first + nodes * WIDTH;
        u64 limit = ~0ull, mine = 0;
        for (i32 i = 0; i < count; i++) {
            u64 best = 0;
            for (i32 at = lane; at < all; at += 32) {
                u64 key = keys[at];
                if (key < limit && key > best) best = key;
            }
            limit = warp_best(best);
            if (lane == i) mine = limit;
        }
        const bool is_there = mine != 0;
        const i32 candidate = is_there ? (i32) ~(u32)mine : -2;
        const i32 parent = is_there ? candidate_parents[candidate] : -1;
        i32 parent_row = 0;
        for (i32 i = 0; i < count; i++)
            if (__shfl_sync(ALL, candidate, i) == parent) parent_row = i + 1;
        if (lane < count) {
            drafts[(i64)slot * most + lane] = is_there ? candidate_tokens[candidate] : -1;
            parents[(i64)slot * most + lane] = parent_row;
        }
        return;
    }

    // Who is gone on from: lane k keeps the k-th.
    u64 mine = 0, filling = 0;
    i32 found = 0;
#pragma unroll 1
    for (i32 k = 0; k < WIDTH; k++) {
        u64 best = 0;
#pragma unroll
        for (i32 i = 0; i < SHARE; i++) best = own[i] > best ? own[i] : best;
        best = warp_best(best);
#pragma unroll
        for (i32 i = 0; i < SHARE; i++) own[i] = own[i] == best ? 0 : own[i];
        if (k == 0) filling = best;
        if (lane == k) mine = best;
        found += best != 0;
    }
    if (mine == 0) mine = filling;
    const bool is_there = mine != 0;
    const i32 candidate = is_there ? (i32) ~(u32)mine : -1;
    const i32 node = is_there ? (candidate - first) / WIDTH : 0;
    u32 branch[WORDS];
#pragma unroll
    for (i32 word = 0; word < WORDS; word++)
        branch[word] = level == 0 || !is_there ? 0 : seen[node * WORDS + word];
    __syncwarp();
    if (lane == 0) opened[0] = found;
    if (lane >= WIDTH) return;
    opened[1 + lane] = candidate;
    next[lane] = is_there ? candidate_tokens[candidate] : -1;
    sources[lane] = row * nodes + node;
    const i32 bit = level * WIDTH + lane;
#pragma unroll
    for (i32 word = 0; word < WORDS; word++)
        seen[lane * WORDS + word] = branch[word] | (bit / 32 == word ? 1u << bit % 32 : 0);
}
