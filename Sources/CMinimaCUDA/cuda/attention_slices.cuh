// How the thread blocks of a head bring together what their warps have of its result: each warp
// sends slices of its outputs, with maxima and sums, to the thread blocks that merge them.
// Constants: attention_exchange.cu.
#pragma once
#include "attention_parts.cuh"

// Of a tile's 2 DIM_TILES rows of outputs block b of the head merges rows b, b + PARTS, ...
#define SLICE_ROWS ((2 * DIM_TILES + PARTS - 1) / PARTS)
// A warp's slice of a tile: SLICE_ROWS rows of a float2 a lane, then a float4 of maxima and sums for
// every two of the eight columns.
#define SLICE_BYTES (SLICE_ROWS * 256 + 64)
// A warp's slices, and what a block receives: those of all warps, in the order of blocks.
#define SHARE_BYTES (WARP_TILES * SLICE_BYTES)
#define RECEIVED_BYTES (PARTS * WARPS * SHARE_BYTES)
// Slices of a set's warps while they are merged, behind what attention.cu has in shared memory.
#define MERGED_AT ((SHARED_BYTES + 15) / 16 * 16)
#define EXCHANGE_SHARED_BYTES (MERGED_AT + WARPS * SLICE_BYTES)

/// Rows of each tile that block `rank` of a head merges.
DEVICE i32 slice_rows(i32 rank) { return (2 * DIM_TILES + PARTS - 1 - rank) / PARTS; }

DEVICE void store_relaxed(u8* place, float2 x) {
    asm volatile("st.relaxed.gpu.v2.f32 [%0], {%1, %2};" ::"l"(place), "f"(x.x), "f"(x.y)
                 : "memory");
}

DEVICE void store_relaxed(u8* place, float4 x) {
    asm volatile("st.relaxed.gpu.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(place), "f"(x.x), "f"(x.y),
                 "f"(x.z), "f"(x.w)
                 : "memory");
}

/// What has not come yet has all bits set, which no result of arithmetic has.
#define ABSENT __uint_as_float(0xffffffffu)
DEVICE bool is_there(float x) { return __float_as_uint(x) != 0xffffffffu; }

/// Sends a warp's state to the blocks of its head: slice b to `share` + b `stride`.
DEVICE void send(State& state, u8* share, u32 stride, u32 lane) {
#pragma unroll
    for (i32 n = 0; n < WARP_TILES; n++) {
        u8* slice = share + n * SLICE_BYTES;
#pragma unroll
        for (i32 row = 0; row < 2 * DIM_TILES; row++) {
            const float* x = &state.output[n][row / 2][row % 2 * 2];
            store_relaxed(slice + row % PARTS * stride + row / PARTS * 256 + 8 * lane,
                          make_float2(x[0], x[1]));
        }
        // All lanes of a column have its maximum and then its sum.
#pragma unroll
        for (i32 c = 0; c < 2; c++)
#pragma unroll
            for (i32 offset = 4; offset < 32; offset *= 2)
                state.sum[n][c] += __shfl_xor_sync(ALL_LANES, state.sum[n][c], offset);
#pragma unroll
        for (i32 to = 0; to < PARTS; to += 8) {
            i32 block = to + lane / 4;
            if (block < PARTS && slice_rows(block) > 0)
                store_relaxed(slice + block * stride + SLICE_ROWS * 256 + lane % 4 * 16,
                              make_float4(state.maximum[n][0], state.maximum[n][1],
                                          state.sum[n][0], state.sum[n][1]));
        }
    }
}

/// A slice of one tile, merged.
struct Slice {
    float output[SLICE_ROWS][2];
    float maximum[2], sum[2];

    /// Merges `count` slices of `rows` rows, each `step` bytes after the one before, as they come;
    /// makes their places empty again if `clear`.
    __device__ void merge(u8* slices, u32 step, i32 count, i32 rows, bool clear, u32 lane) {
        constexpr i32 TOGETHER = SLICE_ROWS == 1 ? 16 : SLICE_ROWS == 2 ? 8 : 4;
        maximum[0] = maximum[1] = -INFINITE;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (i32 i = 0; i < SLICE_ROWS; i++) output[i][0] = output[i][1] = 0.0f;
#pragma unroll 1
        for (i32 first = 0; first < count; first += TOGETHER) {
            float ends[TOGETHER][4], values[TOGETHER][SLICE_ROWS][2];
#pragma unroll
            for (i32 j = 0; j < TOGETHER; j++) {
                ends[j][0] = ends[j][1] = -INFINITE;
                ends[j][2] = ends[j][3] = 0.0f;
#pragma unroll
                for (i32 i = 0; i < SLICE_ROWS; i++) values[j][i][0] = values[j][i][1] = 0.0f;
            }
            u32 missing = (1u << min(count - first, TOGETHER)) - 1;
            while (missing != 0) {
#pragma unroll
                for (i32 j = 0; j < TOGETHER; j++) {
                    if (!(missing >> j & 1)) continue;
                    const u8* slice = slices + (first + j) * step;
                    load_relaxed(ends[j],
                                 (const float*)(slice + SLICE_ROWS * 256 + lane % 4 * 16));
#pragma unroll
                    for (i32 i = 0; i < SLICE_ROWS; i++)
                        if (i < rows)
                            load_relaxed(values[j][i], (const float*)(slice + i * 256 + 8 * lane));
                }
                u32 there = 0;
#pragma unroll
                for (i32 j = 0; j < TOGETHER; j++) {
                    bool all = true;
#pragma unroll
                    for (i32 c = 0; c < 4; c++) all &= is_there(ends[j][c]);
#pragma unroll
                    for (i32 i = 0; i < SLICE_ROWS; i++)
                        all &= is_there(values[j][i][0]) & is_there(values[j][i][1]);
                    there |= (u32)all << j;
                }
                missing &= ~there;
                // Asked for less often, the others' slices come sooner.
                if (missing != 0) __nanosleep(200);
            }
            __syncwarp();
            if (clear) {
#pragma unroll
                for (i32 j = 0; j < TOGETHER; j++) {
                    if (first + j >= count) continue;
                    u8* slice = slices + (first + j) * step;
                    if (lane < 4)
                        store_relaxed(slice + SLICE_ROWS * 256 + lane * 16,
                                      make_float4(ABSENT, ABSENT, ABSENT, ABSENT));
#pragma unroll
                    for (i32 i = 0; i < SLICE_ROWS; i++)
                        if (i < rows)
                            store_relaxed(slice + i * 256 + 8 * lane, make_float2(ABSENT, ABSENT));
                }
            }
#pragma unroll
            for (i32 c = 0; c < 2; c++) {
                float top = maximum[c];
#pragma unroll
                for (i32 j = 0; j < TOGETHER; j++) top = fmaxf(top, ends[j][c]);
                float base = top == -INFINITE ? 0.0f : top;
                float before = exp2_fast(maximum[c] - base);
                maximum[c] = top;
                sum[c] *= before;
#pragma unroll
                for (i32 i = 0; i < SLICE_ROWS; i++) output[i][c] *= before;
#pragma unroll
                for (i32 j = 0; j < TOGETHER; j++) {
                    float weight = exp2_fast(ends[j][c] - base);
                    sum[c] = fmaf(ends[j][c + 2], weight, sum[c]);
#pragma unroll
                    for (i32 i = 0; i < SLICE_ROWS; i++)
                        output[i][c] = fmaf(values[j][i][c], weight, output[i][c]);
                }
            }
        }
    }

    /// Writes it as a slice to be merged.
    __device__ void write(u8* slice, u32 lane) const {
#pragma unroll
        for (i32 i = 0; i < SLICE_ROWS; i++)
            *(float2*)(slice + i * 256 + 8 * lane) = make_float2(output[i][0], output[i][1]);
        if (lane < 4)
            *(float4*)(slice + SLICE_ROWS * 256 + lane * 16) =
                make_float4(maximum[0], maximum[1], sum[0], sum[1]);
    }

    /// Writes the outputs of tile `tile` divided by the sums; `attended` is that of the request's
    /// first query and the key-value head's first head.
    __device__ void write_output(bf16* attended, u32 tile, u32 rank, u32 lane) const {
#pragma unroll
        for (i32 i = 0; i < SLICE_ROWS; i++) {
            u32 dim = 8 * (rank + PARTS * i) + lane / 4;
#pragma unroll
            for (i32 c = 0; c < 2; c++) {
                i32 column = tile * 8 + 2 * (lane % 4) + c;
                if (column >= ROWS || dim >= HEAD_DIM) continue;
                attended[(column / GROUP * HEADS + column % GROUP) * HEAD_DIM + dim] =
                    to_bf16(output[i][c] * __frcp_rn(sum[c]));
            }
        }
    }
};
