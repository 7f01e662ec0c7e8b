// attention: one decode step of one layer over paged keys and values.
//
// For request r with n = lengths[r] tokens (the QUERIES new ones of this step included; 0:
// padding), query i of it (position p = n - QUERIES + i), head h of key-value head g = h / GROUP:
//   q = rotate(norm(qkv[r QUERIES + i, h]), p); k and v of the new tokens likewise from qkv (v as
//   it is), stored in the request's pages;
//   attended[r QUERIES + i, h] = sum_t softmax_t(scale q . K[t, g]) V[t, g], t = 0 ... p.
// norm is RMSNorm per head (QK_NORM = 1), rotate the half-split rotary embedding of the first
// ROTARY_DIM values; both round to bfloat16 where transformers' modules do. Angles are float32
// products of position and frequency. New tokens are seen as they are stored (in e4m3 if KV_FP8).
//
// Parameters, in order:
//   qkv         bf16 [requests QUERIES, (HEADS + 2 KV_HEADS) HEAD_DIM]
//   query_norm  bf16 [HEAD_DIM]            (null without QK_NORM)
//   key_norm    bf16 [HEAD_DIM]            (null without QK_NORM)
//   frequencies float32 [ROTARY_DIM / 2]
//   pages       uint8, this layer's (keyvalue.cuh)
//   table       int32 [requests, max_pages]: the page of tokens 64 j ... 64 j + 63 of request r
//   lengths     int32 [requests], each 0 or at least QUERIES
//   attended    bf16 [requests QUERIES, HEADS HEAD_DIM]; zeros for padding
//   workspace   float32 [slots, PART_FLOATS]; slots = 2 thread blocks if split = 0, else
//               KV_HEADS times the parts of all requests' heads
//   counters    int32 [requests KV_HEADS], zero before the first launch and after each
//   requests    int32, 1 ... 256
//   max_pages   int32
//   split       int32: 0 chooses parts by the batch (see below), so that the order of sums depends
//               on it; otherwise a part has `split` blocks (of BLOCK tokens) and depends on the
//               request's own length only
//   epsilon, scale, rope_scaling: float32 (scale: of the scores; rope_scaling: of cosines and
//   sines)
//   seen, older: with MASK_WORDS only, see below
// Constants: those of keyvalue.cuh, QUERIES (GROUP QUERIES <= 64), PAGE_WARPS (blocks of tokens in
// work at once) and SLOTS (tiles in flight, a multiple of 2 PAGE_WARPS).
//
// With a constant MASK_WORDS above 0 the last places of a request are a tree's: the `older` (int32) before
// the new ones, and these. All before, places 0 ... trunk - 1 with trunk = n - QUERIES - older, are seen
// by every query; of the others query i sees place trunk + j where bit j % 32 of word j / 32 of
// seen[r QUERIES + i] is set (u32 [requests QUERIES, MASK_WORDS]): its own, place trunk + older + i, and
// those of its branch. Its position p is trunk + (bits set) - 1, its depth; keys and values go to the
// new tokens' own places. A place past the last bit is seen by none. Masks are read ahead of the wait,
// like tables and lengths.
// Grid: any number of blocks; as many as fit at once. Block: THREADS = 32 (PAGE_WARPS SETS + 1).
// Shared memory: SHARED_BYTES, dynamic. Needs sm_80; bulk copies from sm_90 on.
//
// A thread block's last warp streams the tiles of its tokens through a ring of SLOTS buffers. The
// others take a block of tokens each in turn, so that a buffer is always one warp's: were it two
// warps', the second could take the end of an earlier phase of its barrier for that of its own.
// With g = lane / 4 and q = lane % 4, S^T = K Q^T has keys as rows and eight (query, head) pairs as
// columns. S^T, transposed 8x8 by 8x8, is the right operand of O^T = V^T P^T. Each warp has its own
// maximum, sum and output; they are merged over warps, then, by the thread block that comes last,
// over thread blocks, always in one order. e4m3 tiles are read 16 bytes a lane; the order of
// dimensions in the first product and of keys in the second is permuted alike in both operands.
// With KV_FP8 the products are float16's: a key's scale multiplies its scores; a value's scale
// joins the exponent before the maximum is taken, so that weights times scales stay at most 1.
//
// A thread block that has parts of two heads does everything but the loop over tokens twice, which
// takes as long as about SLACK blocks of tokens. So where all heads' parts can be as many as there
// are thread blocks, at most SLACK blocks longer than the mean, each thread block has one; where
// not, all blocks of tokens are dealt out evenly.
//
// Ahead of the wait for the previous kernel only tables, lengths, norms, frequencies and pages are
// read. That is safe where a launch may overlap its predecessors if none of those kernels writes
// them: a layer's pages are written once per step, by this kernel, and steps (or a step and the
// prefill, or copy of pages, before it) are separated by a launch that does not overlap, as is the
// first of every graph. The new tokens' places may be read stale; they are overwritten in shared
// memory before use.
//
// A multiprocessor's registers are four parts of 16384. With 224 a warp (attention_geometry.cuh), one
// warp in each part, a block of the next kernel fits beside this one if it has three warps of at
// most 96 in a part.
//
// Reference: softmax attention in float64 over the stored pages. Tolerance per element, with S the
// absolute sum of weights times values: 2^-8 S (weights rounded to bfloat16; 2^-11 S with KV_FP8, to
// float16) plus 2^-8 of the output (rounded to bfloat16) plus 2 delta S, delta = 2^-22 DIM max
// |scale q k| for the scores.
//
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0 QUERIES=1 SLOTS=12 PAGE_WARPS=3
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=1 QUERIES=1 SLOTS=12 PAGE_WARPS=3
// compile: HEADS=3 KV_HEADS=1 HEAD_DIM=64 ROTARY_DIM=32 QK_NORM=0 KV_FP8=0 QUERIES=4 SLOTS=8 PAGE_WARPS=2
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0 QUERIES=8 SLOTS=12 PAGE_WARPS=3 MASK_WORDS=1
// compile: HEADS=3 KV_HEADS=1 HEAD_DIM=64 ROTARY_DIM=32 QK_NORM=0 KV_FP8=1 QUERIES=8 SLOTS=4 PAGE_WARPS=2 MASK_WORDS=4
// compile: HEADS=32 KV_HEADS=2 HEAD_DIM=256 ROTARY_DIM=256 QK_NORM=0 KV_FP8=0 QUERIES=1 SLOTS=6 PAGE_WARPS=3
// compile: HEADS=3 KV_HEADS=1 HEAD_DIM=64 ROTARY_DIM=32 QK_NORM=0 KV_FP8=0 QUERIES=4 SLOTS=8 PAGE_WARPS=2 RACECHECK=1
#include "attention_parts.cuh"
#include "attention_stream.cuh"
#include "attention_tokens.cuh"

extern "C" __global__ void REGISTERS_AT_MOST attention(
    const bf16* qkv, const bf16* query_norm, const bf16* key_norm, const float* frequencies,
    u8* pages, const i32* table, const i32* lengths, bf16* attended, float* workspace,
    i32* counters, i32 requests, i32 max_pages, i32 split, float epsilon, float scale,
    float rope_scaling TREE_PARAMETERS) {
    extern __shared__ __align__(128) u8 shared[];
    dependents_launch();
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 full = shared_address(shared + BARRIERS_AT), empty = full + 8 * SLOTS;
    i32* starts = (i32*)(shared + STARTS_AT);

    if (warp == WARPS) {
        split = chosen_split(split, lengths, requests, lane);
        find_starts(starts, split, lengths, requests, lane);
        if (lane == 0) *(i32*)(shared + SPLIT_AT) = split;
        if (lane == 0) init_ring(shared);
    } else {
        clear_rows(shared);
    }
    __syncthreads();

    split = *(const i32*)(shared + SPLIT_AT);
    i32 units = starts[requests] * KV_HEADS, own = blockIdx.x, blocks = gridDim.x;
    if (split == 0) blocks = max(1, min(blocks, units));
    Plan plan = {starts, requests, split, units / blocks, units % blocks};
    i32 unit = own < blocks ? plan.start(own) : 0;
    i32 end = own < blocks ? plan.start(own + 1) : 0;

    if (warp == WARPS) {
        Filler filler;
        u64 policy = evict_first_policy();
        while (unit < end) {
            Segment segment;
            unit = plan.segment(unit, end, lengths, segment);
            filler.fill(shared, segment, pages, table + (i64)segment.request * max_pages, policy,
                        lane);
        }
        return;
    }

    u32 set = warp / PAGE_WARPS, page_warp = warp % PAGE_WARPS;
    u32 query_weights[PAIRS] = {}, key_weights[PAIRS] = {};
    if (QK_NORM) {
        load_head(query_weights, query_norm, lane);
        load_head(key_weights, key_norm, lane);
    }
    const float factor = scale * 1.4426950408889634f;
    bool waited = false;
    u32 streamed = 0;

    while (unit < end) {
        Segment segment;
        unit = plan.segment(unit, end, lengths, segment);
        i32 position = lengths[segment.request] - QUERIES;
#if MASK_WORDS > 0
        Sight sight = {seen + (i64)segment.request * QUERIES * MASK_WORDS, position - older};
#else
        Sight sight = {};
#endif
        const i32* page_row = table + (i64)segment.request * max_pages;
        find_angles(shared, frequencies, position, sight, rope_scaling);
        if (!waited) dependencies_wait();
        waited = true;
        prepare(shared, qkv, segment, segment.last * BLOCK > position, query_weights, key_weights,
                epsilon, warp, lane);

        u32 queries[WARP_TILES][DIM_TILES][2];
        load_queries(queries, shared, set, lane);
        State state;
        state.clear();
        i32 count = segment.last - segment.first;
        i32 mine = (page_warp + PAGE_WARPS - streamed % PAGE_WARPS) % PAGE_WARPS;
        for (; mine < count; mine += PAGE_WARPS) {
            u32 tile = 2 * (streamed + mine);
            // The last buffers of the segment are kept for the result.
            bool keep = MERGE_IN_RING && mine + PAGE_WARPS >= count;
            attend(state, queries, shared, tile % SLOTS, tile / SLOTS % 2, keep,
                   segment.first + mine, position, sight, segment.head, pages, page_row, factor,
                   set, page_warp, lane);
        }

        // Merge the warps that had a block (all of them if there were as many), then, in the thread
        // block that comes last, the parts. It is one loop so that its code is in the instruction
        // cache the second time.
        i32 parts = min(count, PAGE_WARPS), first_part = streamed + count - parts;
        float* share = workspace + set * WARP_TILES * TILE_FLOATS;
        auto place = [&](i32 part) {
            u32 n = first_part + part;
            float* base = MERGE_IN_RING
                              ? (float*)(shared + RING_AT + 2 * n % SLOTS * TILE_BYTES)
                              : (float*)(shared + MERGE_AT) + n % PAGE_WARPS * PART_FLOATS;
            return base + set * WARP_TILES * TILE_FLOATS;
        };
        // `mine` is PAGE_WARPS past the warp's last block.
        i32 last = mine - PAGE_WARPS;
        if (last >= 0) {
            // Its last buffers hold tiles that other lanes, and those of other sets, may be reading.
            if (MERGE_IN_RING) sets_meet(page_warp);
            state.write(place(last - (count - parts)), lane);
        }
        barrier_sync(1, 32 * WARPS);
        bool final = segment.parts == 1, global = false;
#pragma unroll 1
        while (true) {
            Merged merged;
            merged.merge(
                global ? segment.parts : parts,
                [&](i32 part) {
                    i32 slot = part == 0 ? segment.first_slot : segment.base + part * segment.step;
                    return global ? share + (i64)slot * PART_FLOATS : place(part);
                },
                page_warp, lane);
            if (final) {
                bf16* output = attended
                               + ((i64)segment.request * QUERIES * HEADS + segment.head * GROUP)
                                     * HEAD_DIM;
                merged.write_output(output, set, page_warp, lane);
            } else {
                merged.write(share + (i64)segment.slot * PART_FLOATS, page_warp, lane);
                __threadfence();
            }
            if (global) break;
            bulk_copy_fence();
            barrier_sync(1, 32 * WARPS);
            // The kept buffers are free: each warp that kept some gives back its own. RACECHECK: every
            // thread gives back all.
            bool owner = last >= 0 && lane == 0;
            i32 freed = RACECHECK ? parts : owner;
            for (i32 i = 0; MERGE_IN_RING && i < freed; i++) {
                u32 slot = 2 * (RACECHECK ? first_part + i : streamed + last) % SLOTS;
                mbarrier_arrive(empty + 8 * slot);
                mbarrier_arrive(empty + 8 * slot + 8);
            }
            if (final) break;
            i32* flag = (i32*)(shared + FLAG_AT);
            if (threadIdx.x == 0) {
                i32* counter = counters + segment.request * KV_HEADS + segment.head;
                bool complete = atomicAdd(counter, 1) == segment.parts - 1;
                if (complete) *counter = 0;
                __threadfence();
                *flag = complete;
            }
            barrier_sync(1, 32 * WARPS);
            if (!*flag) break;
            final = global = true;
        }
        streamed += count;
    }

    if (!waited) dependencies_wait();
    clear_padding(attended, lengths, requests);
}
