// Keys and values of one request between projections, pages and contiguous tensors: prefill's side
// of the paged cache. Page layout and constants: keyvalue.cuh. Both kernels need sm_80.
//
// Reference: RMSNorm and rotation in torch's bfloat16, whose roundings they repeat; results are
// equal but where a float32 sum in another order rounds to the neighbouring bfloat16 (rarely), so
// within 2^-6 of each element or 2^-8 of the largest of its head (two roundings to the neighbour);
// what e4m3 adds: keyvalue.cuh. Gathered values are those of the pages, exactly.
//
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0
// compile: HEADS=3 KV_HEADS=1 HEAD_DIM=64 ROTARY_DIM=32 QK_NORM=0 KV_FP8=1
#include "keyvalue.cuh"

#define WRITE_WARPS 8
#define TASKS (GROUP + 2)

// Shared memory of write_keyvalues, in bytes: cosines and sines of a block's tokens, a V tile, a
// head per warp.
#define ANGLES_AT 0
#define TILE_AT (ANGLES_AT + BLOCK * ROTARY_DIM * 4)
#define HEADS_AT (TILE_AT + (TILE_BYTES + 15) / 16 * 16)
#define WRITE_SHARED_BYTES (HEADS_AT + WRITE_WARPS * ((HEAD_DIM * 2 + 15) / 16 * 16))

/// write_keyvalues: what attention needs of `count` new tokens at `position` of a request.
///
///   queries[t, h] = rotate(norm(qkv[t, h])), bf16 [count, HEADS, HEAD_DIM]
///   keys[t, g]    = rotate(norm(qkv[t, HEADS + g])), values[t, g] = qkv[t, HEADS + KV_HEADS + g],
///                   bf16 [count, KV_HEADS, HEAD_DIM], each unless null; both also into the pages.
///
/// Parameters: qkv bf16 [count, (HEADS + 2 KV_HEADS) HEAD_DIM], query_norm and key_norm bf16
/// [HEAD_DIM] (null without QK_NORM), frequencies float32 [ROTARY_DIM / 2], pages uint8, table
/// int32 (the request's row), queries, keys, values, position, count int32, epsilon, rope_scaling
/// float32.
/// Grid: (blocks of BLOCK tokens that position ..< position + count touch, KV_HEADS). Block: 256.
/// Shared memory: WRITE_SHARED_BYTES, dynamic.
/// A block of tokens whose first token is new is written whole, zeros where no token is yet, so
/// that nothing of an earlier owner of the page is left.
extern "C" __global__ void __launch_bounds__(32 * WRITE_WARPS) write_keyvalues(
    const bf16* qkv, const bf16* query_norm, const bf16* key_norm, const float* frequencies,
    u8* pages, const i32* table, bf16* queries, bf16* keys, bf16* values, i32 position, i32 count,
    float epsilon, float rope_scaling) {
    extern __shared__ __align__(16) u8 shared[];
    dependents_launch();
    i32 block = position / BLOCK + blockIdx.x, head = blockIdx.y;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    i32 first = max(position - block * BLOCK, 0);
    i32 last = min(position + count - block * BLOCK, BLOCK);
    float* angles = (float*)(shared + ANGLES_AT);
    for (i32 at = threadIdx.x; at < (last - first) * (ROTARY_DIM / 2); at += 32 * WRITE_WARPS) {
        i32 token = first + at / (ROTARY_DIM / 2), pair = at % (ROTARY_DIM / 2);
        float* place = angles + token * ROTARY_DIM + pair;
        rotation(block * BLOCK + token, frequencies[pair], rope_scaling, place[0],
                 place[ROTARY_DIM / 2]);
    }
    u8* tile = shared + TILE_AT;
    for (u32 at = 16 * threadIdx.x; at < TILE_BYTES; at += 16 * 32 * WRITE_WARPS)
        *(uint4*)(tile + at) = make_uint4(0, 0, 0, 0);
    u32 query_weights[PAIRS] = {}, key_weights[PAIRS] = {};
    if (QK_NORM) {
        load_head(query_weights, query_norm, lane);
        load_head(key_weights, key_norm, lane);
    }
    dependencies_wait();
    __syncthreads();

    i32 page = table[block / (PAGE / BLOCK)];
    u8* key_tile = tile_at(pages, page, head, block, 0);
    u8* value_tile = tile_at(pages, page, head, block, 1);
    u32* scratch = (u32*)(shared + HEADS_AT + warp * ((HEAD_DIM * 2 + 15) / 16 * 16));
    for (i32 row = warp; row < (last - first) * TASKS; row += WRITE_WARPS) {
        i32 token = first + row / TASKS, task = row % TASKS;
        i64 index = block * BLOCK + token - position;
        i32 column = task < GROUP ? head * GROUP + task : HEADS + (task - GROUP) * KV_HEADS + head;
        u32 x[PAIRS];
        load_head(x, qkv + index * QKV_WIDTH + column * HEAD_DIM, lane);
        if (task <= GROUP) {
            if (QK_NORM) normalise_head(x, task < GROUP ? query_weights : key_weights, epsilon);
            __syncwarp();
            store_head(scratch, x, lane);
            __syncwarp();
            const float* cosines = angles + token * ROTARY_DIM;
            rotate_head(x, (const bf16*)scratch, cosines, cosines + ROTARY_DIM / 2, lane);
        }
        if (task < GROUP) {
            store_head((u32*)(queries + (index * HEADS + column) * HEAD_DIM), x, lane);
            continue;
        }
        bf16* copy = task == GROUP ? keys : values;
        if (copy) store_head((u32*)(copy + (index * KV_HEADS + head) * HEAD_DIM), x, lane);
        u8* stored = task == GROUP ? key_tile : tile;
#if KV_FP8
        u32 code = head_scale_code(x);
        float inverse = inverse_scale_of(code);
        if (lane == 0) stored[SCALES_AT + token] = (u8)code;
#endif
#pragma unroll
        for (u32 j = 0; j < PAIRS; j++) {
            u32 dim = 2 * (lane + 32 * j);
            if (dim >= DIM) continue;
#if KV_FP8
            u16 pair = to_e4m3x2(low_float(x[j]) * inverse, high_float(x[j]) * inverse);
            if (task == GROUP) {
                *(u16*)(stored + key_offset(token, dim)) = pair;
            } else {
                stored[value_offset(token, dim)] = (u8)pair;
                stored[value_offset(token, dim + 1)] = (u8)(pair >> 8);
            }
#else
            if (task == GROUP) {
                *(u32*)(stored + key_offset(token, dim)) = x[j];
            } else {
                *(u16*)(stored + value_offset(token, dim)) = (u16)x[j];
                *(u16*)(stored + value_offset(token, dim + 1)) = (u16)(x[j] >> 16);
            }
#endif
        }
    }
    __syncthreads();
    if (first == 0) {
        for (u32 at = 16 * threadIdx.x; at < TILE_BYTES; at += 16 * 32 * WRITE_WARPS)
            *(uint4*)(value_tile + at) = *(const uint4*)(tile + at);
        return;
    }
    for (i32 at = threadIdx.x; at < (last - first) * DIM; at += 32 * WRITE_WARPS) {
        u32 offset = value_offset(first + at % (last - first), at / (last - first));
#if KV_FP8
        value_tile[offset] = tile[offset];
#else
        *(u16*)(value_tile + offset) = *(const u16*)(tile + offset);
#endif
    }
#if KV_FP8
    for (i32 token = first + threadIdx.x; token < last; token += 32 * WRITE_WARPS)
        value_tile[SCALES_AT + token] = tile[SCALES_AT + token];
#endif
}

/// gather_keyvalues: the first `length` tokens of a request, contiguous.
///
///   keys, values bf16 [length, KV_HEADS, HEAD_DIM]; e4m3 values times their scales, exactly where
///   the product is a bfloat16 (which four significant bits always are).
///
/// Parameters: pages uint8, table int32 (the request's row), keys, values, length int32.
/// Grid: (blocks of BLOCK tokens that `length` touches, KV_HEADS). Block: 256.
/// Shared memory: 2 TILE_BYTES, dynamic.
extern "C" __global__ void __launch_bounds__(256) gather_keyvalues(
    const u8* pages, const i32* table, bf16* keys, bf16* values, i32 length) {
    extern __shared__ __align__(16) u8 shared[];
    dependents_launch();
    dependencies_wait();
    i32 block = blockIdx.x, head = blockIdx.y;
    const u8* tiles = tile_at((u8*)pages, table[block / (PAGE / BLOCK)], head, block, 0);
    for (u32 at = 16 * threadIdx.x; at < 2 * TILE_BYTES; at += 16 * 256)
        *(uint4*)(shared + at) = *(const uint4*)(tiles + at);
    __syncthreads();
    i32 tokens = min(length - block * BLOCK, BLOCK);
    for (i32 at = threadIdx.x; at < tokens * (HEAD_DIM / 2); at += 256) {
        i32 token = at / (HEAD_DIM / 2), dim = at % (HEAD_DIM / 2) * 2;
        i64 place = ((i64)(block * BLOCK + token) * KV_HEADS + head) * HEAD_DIM + dim;
#pragma unroll
        for (i32 kind = 0; kind < 2; kind++) {
            const u8* tile = shared + kind * TILE_BYTES;
            u32 low_at = kind ? value_offset(token, dim) : key_offset(token, dim);
            u32 high_at = kind ? value_offset(token, dim + 1) : key_offset(token, dim + 1);
#if KV_FP8
            u32 halves, rest;
            e4m3_to_half(tile[low_at] | tile[high_at] << 8, halves, rest);
            float scale = scale_of(tile[SCALES_AT + token]);
            u32 pair = to_bf16x2(half_to_float((u16)halves) * scale,
                                 half_to_float((u16)(halves >> 16)) * scale);
#else
            u32 pair = *(const u16*)(tile + low_at) | (u32)*(const u16*)(tile + high_at) << 16;
#endif
            *(u32*)((kind ? values : keys) + place) = pair;
        }
    }
}
