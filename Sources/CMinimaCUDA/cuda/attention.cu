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
// Constants: those of keyvalue.cuh, QUERIES (GROUP QUERIES <= 64), PAGE_WARPS (blocks of tokens in
// work at once) and SLOTS (tiles in flight, a multiple of 2 PAGE_WARPS).
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
// Reference: softmax attention in float64 over the stored pages. Tolerance per element, with S the
// absolute sum of weights times values: 2^-8 S (weights and output rounded to bfloat16; 2^-9 S and
// 2^-9 of the output with KV_FP8) plus 2 delta S, delta = 2^-22 DIM max |scale q k| for the scores.
//
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0 QUERIES=1 SLOTS=12 PAGE_WARPS=3
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=1 QUERIES=1 SLOTS=12 PAGE_WARPS=3
// compile: HEADS=3 KV_HEADS=1 HEAD_DIM=64 ROTARY_DIM=32 QK_NORM=0 KV_FP8=0 QUERIES=4 SLOTS=8 PAGE_WARPS=2
#include "attention_geometry.cuh"
#include "attention_plan.cuh"
#include "attention_stream.cuh"
#include "attention_rows.cuh"
#include "attention_parts.cuh"
#include "attention_products.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, SETS * WARP_TILES == 1 ? 2 : 1) attention(
    const bf16* qkv, const bf16* query_norm, const bf16* key_norm, const float* frequencies,
    u8* pages, const i32* table, const i32* lengths, bf16* attended, float* workspace,
    i32* counters, i32 requests, i32 max_pages, i32 split, float epsilon, float scale,
    float rope_scaling) {
    extern __shared__ __align__(128) u8 shared[];
    dependents_launch();
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 full = shared_address(shared + BARRIERS_AT), empty = full + 8 * SLOTS;
    i32* starts = (i32*)(shared + STARTS_AT);

    if (warp == WARPS) {
        split = chosen_split(split, lengths, requests, lane);
        find_starts(starts, split, lengths, requests, lane);
        if (lane == 0) {
            *(i32*)(shared + SPLIT_AT) = split;
            for (u32 slot = 0; slot < SLOTS; slot++) {
                mbarrier_init(full + 8 * slot, HAS_BULK_COPY ? 1 : 32);
                mbarrier_init(empty + 8 * slot, SETS);
            }
            mbarrier_init_fence();
        }
    } else {
        // Rows and dimensions past the real ones stay zero.
        for (u32 at = 16 * threadIdx.x; at < ANGLES_AT - QUERIES_AT; at += 16 * 32 * WARPS)
            *(uint4*)(shared + QUERIES_AT + at) = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();

    split = *(const i32*)(shared + SPLIT_AT);
    i32 units = starts[requests] * KV_HEADS, own = blockIdx.x, blocks = gridDim.x;
    if (split == 0) blocks = max(1, min(blocks, units));
    Plan plan = {starts, requests, split, units / blocks, units % blocks};
    i32 unit = own < blocks ? plan.start(own) : 0;
    i32 end = own < blocks ? plan.start(own + 1) : 0;

    if (warp == WARPS) {
        stream_tiles(shared, plan, unit, end, pages, table, max_pages, lengths, lane);
        return;
    }

    u32 set = warp / PAGE_WARPS, page_warp = warp % PAGE_WARPS;
    u32 g = lane / 4, q = lane % 4;
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
        const i32* page_row = table + (i64)segment.request * max_pages;
        float* angles = (float*)(shared + ANGLES_AT);
        for (i32 at = threadIdx.x; at < QUERIES * (ROTARY_DIM / 2); at += 32 * WARPS) {
            i32 query = at / (ROTARY_DIM / 2), pair = at % (ROTARY_DIM / 2);
            float* place = angles + query * ROTARY_DIM + pair;
            rotation(position + query, frequencies[pair], rope_scaling, place[0],
                     place[ROTARY_DIM / 2]);
        }
        if (!waited) dependencies_wait();
        waited = true;
        prepare(shared, qkv, segment, segment.last * BLOCK > position, query_weights, key_weights,
                epsilon, warp, lane);

        u32 queries[WARP_TILES][DIM_TILES][2];
#pragma unroll
        for (i32 n = 0; n < WARP_TILES; n++) {
            const u8* rows = shared + QUERIES_AT + (set * WARP_TILES + n) * 8 * QUERY_ROW * 2;
#pragma unroll
            for (i32 step = 0; step < DIM_TILES; step += 2) {
#if KV_FP8
                const uint4* row =
                    (const uint4*)(rows + g * QUERY_ROW * 2 + step / 4 * 128 + 32 * q);
                uint4 words = row[step / 2 % 2];
                queries[n][step][0] = words.x;
                queries[n][step][1] = words.y;
                queries[n][step + 1][0] = words.z;
                queries[n][step + 1][1] = words.w;
#else
                u32 words[4];
                load_matrices(words, shared_address(rows + lane % 8 * QUERY_ROW * 2 + step * 32
                                                    + lane / 8 * 16));
                queries[n][step][0] = words[0];
                queries[n][step][1] = words[1];
                queries[n][step + 1][0] = words[2];
                queries[n][step + 1][1] = words[3];
#endif
            }
        }

        State state;
        state.clear();
        i32 count = segment.last - segment.first;
        i32 mine = (page_warp + PAGE_WARPS - streamed % PAGE_WARPS) % PAGE_WARPS;
        for (; mine < count; mine += PAGE_WARPS) {
            i32 block = segment.first + mine;
            u32 tile = 2 * (streamed + mine), slot = tile % SLOTS, parity = tile / SLOTS % 2;
            u8* keys = shared + RING_AT + slot * TILE_BYTES;
            u8* values = keys + TILE_BYTES;
            bool fresh = (block + 1) * BLOCK > position;
            // The last buffers of the segment are kept for the result.
            bool keep = MERGE_IN_RING && mine + PAGE_WARPS >= count;
            i32 page = fresh ? page_row[block / (PAGE / BLOCK)] : 0;

            mbarrier_wait(full + 8 * slot, parity);
            if (fresh)
                store_new(keys, tile_at(pages, page, segment.head, block, 0), shared, 0, block,
                          position, set, page_warp, lane);
            float scores[WARP_TILES][KEY_TILES][4] = {};
            multiply_keys(scores, keys, queries, lane);
#if KV_FP8
            // A lane's keys are bytes g % 2 and g % 2 + 2 of the words of piece g / 2.
            uint4 key_codes = load_piece(keys + SCALES_AT + 16 * (g / 2));
            u32 key_words[4] = {key_codes.x, key_codes.y, key_codes.z, key_codes.w};
#endif
            __syncwarp();
            if (lane == 0 && !keep) mbarrier_arrive(empty + 8 * slot);

            mbarrier_wait(full + 8 * slot + 8, parity);
            if (fresh)
                store_new(values, tile_at(pages, page, segment.head, block, 1), shared, 1, block,
                          position, set, page_warp, lane);
            float inverse[KEY_TILES][2];
#if KV_FP8
            uint4 value_codes = load_piece(values + SCALES_AT + 16 * (g / 2));
            u32 value_words[4] = {value_codes.x, value_codes.y, value_codes.z, value_codes.w};
#endif
#pragma unroll
            for (i32 t = 0; t < KEY_TILES; t++)
#pragma unroll
                for (i32 half = 0; half < 2; half++) {
                    float key_factor = factor, exponent = 0.0f;
#if KV_FP8
                    u32 shift = 8 * (g % 2) + 16 * half;
                    u32 code = value_words[t] >> shift & 0xff;
                    key_factor *= scale_of(key_words[t] >> shift & 0xff);
                    exponent = (float)(i32)code - 127.0f;
                    inverse[t][half] = inverse_scale_of(code);
#else
                    inverse[t][half] = 1.0f;
#endif
#pragma unroll
                    for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
                        for (i32 c = 0; c < 2; c++) {
                            float& score = scores[n][t][2 * half + c];
                            score = fmaf(score, key_factor, exponent);
                        }
                }
            if (fresh) {
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
                    for (i32 c = 0; c < 4; c++) {
                        i32 column = (set * WARP_TILES + n) * 8 + 2 * q + c % 2;
                        i32 seen = position + column / GROUP + 1 - block * BLOCK;
#pragma unroll
                        for (i32 t = 0; t < KEY_TILES; t++)
                            if ((i32)key_row(t, g) + c / 2 * KEY_HALF >= seen)
                                scores[n][t][c] = -INFINITE;
                    }
            }

            u32 weights[WARP_TILES][KEY_TILES][2];
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++) {
                float top[2], shrink[2];
#pragma unroll
                for (i32 c = 0; c < 2; c++) {
                    top[c] = fmaxf(scores[n][0][c], scores[n][0][c + 2]);
#pragma unroll
                    for (i32 t = 1; t < KEY_TILES; t++)
                        top[c] = fmaxf(top[c], fmaxf(scores[n][t][c], scores[n][t][c + 2]));
                }
#pragma unroll
                for (i32 offset = 4; offset < 32; offset *= 2)
#pragma unroll
                    for (i32 c = 0; c < 2; c++)
                        top[c] = fmaxf(top[c], __shfl_xor_sync(ALL_LANES, top[c], offset));
#pragma unroll
                for (i32 c = 0; c < 2; c++) {
                    top[c] = fmaxf(top[c], state.maximum[n][c]);
                    float base = top[c] == -INFINITE ? 0.0f : top[c];
                    shrink[c] = exp2_fast(state.maximum[n][c] - base);
                    state.maximum[n][c] = top[c];
                    float sum = state.sum[n][c] * shrink[c];
#pragma unroll
                    for (i32 t = 0; t < KEY_TILES; t++)
#pragma unroll
                        for (i32 half = 0; half < 2; half++) {
                            float& weight = scores[n][t][2 * half + c];
                            weight = exp2_fast(weight - base);
                            sum = fmaf(weight, inverse[t][half], sum);
                        }
                    state.sum[n][c] = sum;
                }
#pragma unroll
                for (i32 t = 0; t < KEY_TILES; t++)
#pragma unroll
                    for (i32 half = 0; half < 2; half++)
                        weights[n][t][half] = transposed(
                            PACK(scores[n][t][2 * half], scores[n][t][2 * half + 1]));
#pragma unroll
                for (i32 m = 0; m < DIM_TILES; m++)
#pragma unroll
                    for (i32 c = 0; c < 4; c++) state.output[n][m][c] *= shrink[c % 2];
            }
            multiply_values(state, values, weights, lane);
            __syncwarp();
            if (lane == 0 && !keep) mbarrier_arrive(empty + 8 * slot + 8);
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
        if (last >= 0) state.write(place(last - (count - parts)), lane);
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
            if (MERGE_IN_RING && last >= 0 && lane == 0) {
                u32 slot = 2 * (streamed + last) % SLOTS;
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
    for (i32 request = own; request < requests; request += gridDim.x)
        if (lengths[request] == 0) {
            bf16* place = attended + (i64)request * QUERIES * HEADS * HEAD_DIM;
            for (i32 at = threadIdx.x; at < QUERIES * HEADS * HEAD_DIM; at += 32 * WARPS)
                place[at] = 0;
        }
}
