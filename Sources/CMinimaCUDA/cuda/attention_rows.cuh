// Queries, and the new tokens' keys and values, from the projections to shared memory and pages.
#pragma once
#include "attention_plan.cuh"

/// Where in shared memory a query (`task` below ROWS), new key or new value is.
DEVICE u32* new_row(u8* shared, i32 task) {
    return (u32*)(task < ROWS ? shared + QUERIES_AT + task * QUERY_ROW * 2
                              : shared + NEW_AT + (task - ROWS) * NEW_ROW);
}

/// Rows and dimensions past the real ones stay zero. All warps but the last.
DEVICE void clear_rows(u8* shared) {
    for (u32 at = 16 * threadIdx.x; at < ANGLES_AT - QUERIES_AT; at += 16 * 32 * WARPS)
        *(uint4*)(shared + QUERIES_AT + at) = make_uint4(0, 0, 0, 0);
}

/// Cosines and sines of the new tokens' rotations. All warps but the last.
DEVICE void find_angles(u8* shared, const float* frequencies, i32 position, const Sight& sight,
                        float rope_scaling) {
    float* angles = (float*)(shared + ANGLES_AT);
    for (i32 at = threadIdx.x; at < QUERIES * (ROTARY_DIM / 2); at += 32 * WARPS) {
        i32 query = at / (ROTARY_DIM / 2), pair = at % (ROTARY_DIM / 2);
        float* place = angles + query * ROTARY_DIM + pair;
        i32 token = MASK_WORDS > 0 ? sight.position(query) : position + query;
        rotation(token, frequencies[pair], rope_scaling, place[0], place[ROTARY_DIM / 2]);
    }
}

/// Queries of the segment's head to shared memory, normalised and rotated; of new tokens also keys
/// and values as pages hold them, if the segment has their page. All warps but the last.
DEVICE void prepare(u8* shared, const bf16* qkv, const Segment& segment, bool fresh,
                    const u32 (&query_weights)[PAIRS], const u32 (&key_weights)[PAIRS],
                    float epsilon, u32 warp, u32 lane) {
    constexpr i32 TASKS = ROWS + 2 * QUERIES, ROUNDS = (TASKS + WARPS - 1) / WARPS;
    const float* angles = (const float*)(shared + ANGLES_AT);
    u32 x[ROUNDS][PAIRS];
    i32 tasks = fresh ? TASKS : ROWS;
#pragma unroll
    for (i32 round = 0; round < ROUNDS; round++) {
        i32 task = (i32)warp + WARPS * round;
        if (task >= tasks) continue;
        i32 extra = task - ROWS;
        i32 query = extra < 0 ? task / GROUP : extra % QUERIES;
        i32 column = extra < 0 ? segment.head * GROUP + task % GROUP
                               : HEADS + extra / QUERIES * KV_HEADS + segment.head;
        load_head(x[round],
                  qkv + (i64)(segment.request * QUERIES + query) * QKV_WIDTH
                      + column * HEAD_DIM,
                  lane);
    }
    barrier_sync(1, 32 * WARPS);
#pragma unroll
    for (i32 round = 0; round < ROUNDS; round++) {
        i32 task = (i32)warp + WARPS * round, extra = task - ROWS;
        if (task >= tasks || extra >= QUERIES) continue;
        if (QK_NORM)
            normalise_head(x[round], extra < 0 ? query_weights : key_weights, epsilon);
        store_head(new_row(shared, task), x[round], lane);
    }
    __syncwarp();
#pragma unroll
    for (i32 round = 0; round < ROUNDS; round++) {
        i32 task = (i32)warp + WARPS * round, extra = task - ROWS;
        if (task >= tasks || extra >= QUERIES) continue;
        const float* cosines = angles + (extra < 0 ? task / GROUP : extra) * ROTARY_DIM;
        rotate_head(x[round], (const bf16*)new_row(shared, task), cosines,
                    cosines + ROTARY_DIM / 2, lane);
    }
    __syncwarp();
#pragma unroll
    for (i32 round = 0; round < ROUNDS; round++) {
        i32 task = (i32)warp + WARPS * round;
        if (task >= tasks) continue;
        u32* row = new_row(shared, task);
#if KV_FP8
        if (task >= ROWS) {
            u32 code = head_scale_code(x[round]);
            store_head_e4m3((u8*)row, x[round], code, lane);
            if (lane == 0) ((u32*)(shared + SCALES_NEW_AT))[task - ROWS] = code;
            continue;
        }
#pragma unroll
        for (u32 j = 0; j < PAIRS; j++)
            x[round][j] = to_half2(low_float(x[round][j]), high_float(x[round][j]));
#endif
        store_head(row, x[round], lane);
    }
    barrier_sync(1, 32 * WARPS);
}

/// Waits for the warps of all sets that have a block of tokens.
DEVICE void sets_meet(u32 page_warp) {
    if (SETS > 1) barrier_sync(2 + page_warp, 32 * SETS); else __syncwarp();
}

/// Writes the new tokens of block `block` into its K (`kind` 0) or V tile, both the one in shared
/// memory and the page's own. A tile that gets its first token is cleared, so that what an earlier
/// owner left there is never multiplied. By the warps of all sets that have the tile.
DEVICE void store_new(u8* tile, u8* stored, const u8* shared, i32 kind, i32 block, i32 position,
                      u32 set, u32 page_warp, u32 lane) {
    if (set == 0) {
        if (kind == 1 && block * BLOCK >= position) {
            for (u32 at = 16 * lane; at < TILE_BYTES; at += 512)
                *(uint4*)(tile + at) = *(uint4*)(stored + at) = make_uint4(0, 0, 0, 0);
            __syncwarp();
        }
#pragma unroll
        for (i32 i = 0; i < QUERIES; i++) {
            i32 token = position + i - block * BLOCK;
            if (token < 0 || token >= BLOCK) continue;
            const u8* row = shared + NEW_AT + (kind * QUERIES + i) * NEW_ROW;
            if (kind == 0) {
                for (u32 piece = lane; piece < KEY_ROW / 16; piece += 32) {
                    u32 at = piece_offset(token, piece, KEY_ROW);
                    *(uint4*)(tile + at) = *(uint4*)(stored + at) = load_piece(row + 16 * piece);
                }
            } else {
                for (u32 dim = lane; dim < DIM; dim += 32) {
                    u32 at = value_offset(token, dim);
#if KV_FP8
                    tile[at] = stored[at] = row[dim];
#else
                    *(u16*)(tile + at) = *(u16*)(stored + at) = ((const u16*)row)[dim];
#endif
                }
            }
#if KV_FP8
            u32 code = ((const u32*)(shared + SCALES_NEW_AT))[kind * QUERIES + i];
            if (lane == 0) tile[SCALES_AT + token] = stored[SCALES_AT + token] = (u8)code;
#endif
        }
    }
    bulk_copy_fence();
    sets_meet(page_warp);
}

/// Zeros as the results of requests without tokens. All warps but the last.
DEVICE void clear_padding(bf16* attended, const i32* lengths, i32 requests) {
    for (i32 request = blockIdx.x; request < requests; request += gridDim.x)
        if (lengths[request] == 0) {
            bf16* place = attended + (i64)request * QUERIES * HEADS * HEAD_DIM;
            for (i32 at = threadIdx.x; at < QUERIES * HEADS * HEAD_DIM; at += 32 * WARPS)
                place[at] = 0;
        }
}
