// attention_exchange: attention.cu for one request, or a few, whose parts all run at once.
//
// PARTS thread blocks have a key-value head: each takes `split` blocks of tokens of one request, the
// fewest for which all requests together have at most PARTS parts. Warps do with them what those of
// attention.cu do. Then each warp sends its outputs, maxima and sums, in slices, to the head's
// thread blocks, each of which waits for its slices of all parts, merges them, always in the order
// of parts and warps, and writes that share of the result. What is sent needs neither fence nor
// flag: an empty place has all bits set, which no result of arithmetic has, and whoever has read a
// place empties it. So nothing waits for the last thread block of a head to come and read all parts.
//
// The thread blocks wait for each other: all of them must be able to run at once. Ones beyond
// KV_HEADS PARTS only keep a multiprocessor's place until the next kernel's blocks lie one on each.
// Requests are merged one after the other: it pays for one (NOTES-attention.md).
//
// Parameters: as attention.cu's up to attended, then
//   space       [KV_HEADS, PARTS, RECEIVED_BYTES], all bits set before the first launch and after
//               each
//   requests    int32, 1 ... PARTS
//   max_pages, epsilon, scale, rope_scaling, and with MASK_WORDS seen and older, as there.
// Constants: those of attention.cu, and PARTS.
// Grid: KV_HEADS PARTS, or more up to the number of multiprocessors. Block: THREADS. Shared memory:
// EXCHANGE_SHARED_BYTES, dynamic. Needs sm_80; what is read when, reference and tolerance as there.
//
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0 QUERIES=1 SLOTS=12 PAGE_WARPS=3 PARTS=16
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=1 QUERIES=1 SLOTS=12 PAGE_WARPS=3 PARTS=16
// compile: HEADS=12 KV_HEADS=4 HEAD_DIM=64 ROTARY_DIM=32 QK_NORM=0 KV_FP8=0 QUERIES=4 SLOTS=8 PAGE_WARPS=2 PARTS=5
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0 QUERIES=8 SLOTS=12 PAGE_WARPS=3 PARTS=16 MASK_WORDS=1
#include "attention_slices.cuh"
#include "attention_stream.cuh"
#include "attention_tokens.cuh"

/// Blocks of tokens in a part: the fewest with which all requests together have at most PARTS. By
/// one warp.
DEVICE i32 exchange_split(const i32* lengths, i32 requests, u32 lane) {
    i32 sum = 0;
    for (i32 request = lane; request < requests; request += 32)
        sum += units_of(lengths[request], 0);
    sum = (i32)__reduce_add_sync(ALL_LANES, sum);
    for (i32 trial = max(1, (sum + PARTS - 1) / PARTS);; trial += 32) {
        i32 parts = 0;
        for (i32 request = 0; request < requests; request++)
            parts += units_of(lengths[request], trial + lane);
        u32 fits = __ballot_sync(ALL_LANES, parts <= PARTS);
        if (fits) return trial + __ffs(fits) - 1;
    }
}

extern "C" __global__ void REGISTERS_AT_MOST attention_exchange(
    const bf16* qkv, const bf16* query_norm, const bf16* key_norm, const float* frequencies,
    u8* pages, const i32* table, const i32* lengths, bf16* attended, u8* space, i32 requests,
    i32 max_pages, float epsilon, float scale, float rope_scaling TREE_PARAMETERS) {
    extern __shared__ __align__(128) u8 shared[];
    dependents_launch();
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    i32* starts = (i32*)(shared + STARTS_AT);
    i32 rank = blockIdx.x % PARTS, head = blockIdx.x / PARTS;

    if (warp == WARPS) {
        i32 split = exchange_split(lengths, requests, lane);
        find_starts(starts, split, lengths, requests, lane);
        if (lane == 0) *(i32*)(shared + SPLIT_AT) = split;
        if (lane == 0) init_ring(shared);
    } else {
        clear_rows(shared);
    }
    __syncthreads();

    i32 split = *(const i32*)(shared + SPLIT_AT);
    Segment segment = {};
    segment.head = head;
    if (head < KV_HEADS && rank < starts[requests]) {
        while (starts[segment.request + 1] <= rank) segment.request++;
        segment.first = (rank - starts[segment.request]) * split;
        segment.last = min(segment.first + split, units_of(lengths[segment.request], 0));
    }
    i32 count = segment.last - segment.first;
    const i32* row = table + (i64)segment.request * max_pages;
    if (warp == WARPS) {
        Filler().fill(shared, segment, pages, row, evict_first_policy(), lane);
        return;
    }
    if (head >= KV_HEADS) {
        dependencies_wait();
        __nanosleep(2000);
        return;
    }

    u32 set = warp / PAGE_WARPS, page_warp = warp % PAGE_WARPS;
    u32 query_weights[PAIRS] = {}, key_weights[PAIRS] = {};
    if (QK_NORM) {
        load_head(query_weights, query_norm, lane);
        load_head(key_weights, key_norm, lane);
    }
    i32 position = lengths[segment.request] - QUERIES;
#if MASK_WORDS > 0
    Sight sight = {seen + (i64)segment.request * QUERIES * MASK_WORDS, position - older};
#else
    Sight sight = {};
#endif
    if (count > 0) find_angles(shared, frequencies, position, sight, rope_scaling);
    dependencies_wait();
    space += (i64)head * PARTS * RECEIVED_BYTES;
    if (count > 0) {
        prepare(shared, qkv, segment, segment.last * BLOCK > position, query_weights, key_weights,
                epsilon, warp, lane);
        u32 queries[WARP_TILES][DIM_TILES][2];
        load_queries(queries, shared, set, lane);
        State state;
        state.clear();
        for (i32 mine = page_warp; mine < count; mine += PAGE_WARPS) {
            u32 tile = 2 * mine;
            attend(state, queries, shared, tile % SLOTS, tile / SLOTS % 2, false,
                   segment.first + mine, position, sight, head, pages, row,
                   scale * 1.4426950408889634f, set, page_warp, lane);
        }
        if ((i32)page_warp < count)
            send(state, space + (rank * WARPS + warp) * SHARE_BYTES, RECEIVED_BYTES, lane);
    }

    // First each warp merges what warps of its place sent, then one of the set what that gave: one
    // loop, so that its code is in the instruction cache the second time.
    Slice slice;
    u8* merged = shared + MERGED_AT + set * PAGE_WARPS * SLICE_BYTES;
    i32 rows = slice_rows(rank);
    for (i32 request = 0; request < requests && rows > 0; request++) {
        i32 first = starts[request], parts = starts[request + 1] - first;
        if (parts == 0) continue;
        i32 blocks = units_of(lengths[request], 0), warps = min(min(blocks, split), PAGE_WARPS);
        // The last part may have fewer blocks of tokens than there are warps.
        parts -= (i32)page_warp >= blocks - (parts - 1) * split;
        u8* shares = space + rank * RECEIVED_BYTES + (first * WARPS + warp) * SHARE_BYTES;
        bf16* output = attended + ((i64)request * QUERIES * HEADS + head * GROUP) * HEAD_DIM;
#pragma unroll 1
        for (i32 task = 0; task < 2 * WARP_TILES; task++) {
            bool last = task % 2 == 1;
            if ((i32)page_warp < (last ? 1 : warps)) {
                slice.merge(last ? merged : shares + task / 2 * SLICE_BYTES,
                            last ? SLICE_BYTES : WARPS * SHARE_BYTES, last ? warps : parts, rows,
                            !last, lane);
                if (last)
                    slice.write_output(output, set * WARP_TILES + task / 2, rank, lane);
                else
                    slice.write(merged + page_warp * SLICE_BYTES, lane);
            }
            barrier_sync(1, 32 * WARPS);
        }
    }

    clear_padding(attended, lengths, requests);
}
