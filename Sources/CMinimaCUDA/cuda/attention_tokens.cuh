// What a warp does with a block of tokens: scores, weights, sums of values.
#pragma once
#include "attention_products.cuh"
#include "attention_rows.cuh"

/// The set's queries as the right operand of the products with keys.
DEVICE void load_queries(u32 (&queries)[WARP_TILES][DIM_TILES][2], const u8* shared, u32 set,
                         u32 lane) {
#pragma unroll
    for (i32 n = 0; n < WARP_TILES; n++) {
        const u8* rows = shared + QUERIES_AT + (set * WARP_TILES + n) * 8 * QUERY_ROW * 2;
#pragma unroll
        for (i32 step = 0; step < DIM_TILES; step += 2) {
#if KV_FP8
            const uint4* row =
                (const uint4*)(rows + lane / 4 * QUERY_ROW * 2 + step / 4 * 128 + lane % 4 * 32);
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
}

/// Adds block `block` of a head's tokens to the warp's state. Its tiles come into buffers `slot` and
/// the next, by the phases of parity `parity`; unless `keep`, they are given back. `row` has the
/// request's pages, `position` its first new token; `sight`: what queries see of a tree.
DEVICE void attend(State& state, const u32 (&queries)[WARP_TILES][DIM_TILES][2], u8* shared,
                   u32 slot, u32 parity, bool keep, i32 block, i32 position, const Sight& sight,
                   i32 head, u8* pages, const i32* row, float factor, u32 set, u32 page_warp,
                   u32 lane) {
    u32 g = lane / 4, q = lane % 4;
    u32 full = shared_address(shared + BARRIERS_AT), empty = full + 8 * SLOTS;
    u8* keys = shared + RING_AT + slot * TILE_BYTES;
    u8* values = keys + TILE_BYTES;
    bool fresh = (block + 1) * BLOCK > position;
    i32 page = fresh ? row[block / (PAGE / BLOCK)] : 0;

    mbarrier_wait(full + 8 * slot, parity);
    if (fresh)
        store_new(keys, tile_at(pages, page, head, block, 0), shared, 0, block,
                  position, set, page_warp, lane);
    float scores[WARP_TILES][KEY_TILES][4] = {};
    multiply_keys(scores, keys, queries, lane);
#if KV_FP8
    // A lane's keys are bytes g % 2 and g % 2 + 2 of the words of piece g / 2.
    uint4 key_codes = load_piece(keys + SCALES_AT + 16 * (g / 2));
    u32 key_words[4] = {key_codes.x, key_codes.y, key_codes.z, key_codes.w};
#endif
    if (!keep) release(empty + 8 * slot, lane);

    mbarrier_wait(full + 8 * slot + 8, parity);
    if (fresh)
        store_new(values, tile_at(pages, page, head, block, 1), shared, 1, block,
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
#if MASK_WORDS > 0
    if ((block + 1) * BLOCK > sight.trunk) {
#pragma unroll
        for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
            for (i32 c = 0; c < 4; c++) {
                i32 query = ((set * WARP_TILES + n) * 8 + 2 * q + c % 2) / GROUP;
                i32 first = block * BLOCK + c / 2 * KEY_HALF - sight.trunk;
#pragma unroll
                for (i32 t = 0; t < KEY_TILES; t++)
                    if (!sight.holds(query, first + (i32)key_row(t, g))) scores[n][t][c] = -INFINITE;
            }
    }
#else
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
#endif

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
    if (!keep) release(empty + 8 * slot + 8, lane);
}
