// What warps and thread blocks have of a result: outputs with maxima and sums, and their merging.
#pragma once
#include "attention_geometry.cuh"

/// Values in shared memory, or in global memory as the L2 cache has them.
DEVICE void load_relaxed(float (&x)[4], const float* place) {
    asm volatile("ld.relaxed.gpu.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "l"(place)
                 : "memory");
}

DEVICE void load_relaxed(float (&x)[2], const float* place) {
    asm volatile("ld.relaxed.gpu.v2.f32 {%0, %1}, [%2];"
                 : "=f"(x[0]), "=f"(x[1])
                 : "l"(place)
                 : "memory");
}

/// What a warp has of the outputs, and of the maxima and sums that go with them.
struct State {
    float output[WARP_TILES][DIM_TILES][4];
    float maximum[WARP_TILES][2];
    float sum[WARP_TILES][2];

    __device__ void clear() {
#pragma unroll
        for (i32 n = 0; n < WARP_TILES; n++) {
#pragma unroll
            for (i32 m = 0; m < DIM_TILES; m++)
#pragma unroll
                for (i32 c = 0; c < 4; c++) output[n][m][c] = 0.0f;
#pragma unroll
            for (i32 c = 0; c < 2; c++) {
                maximum[n][c] = -INFINITE;
                sum[n][c] = 0.0f;
            }
        }
    }

    /// Adds up the lanes' sums over their keys and writes the set's share of a part.
    __device__ void write(float* share, u32 lane) {
#pragma unroll
        for (i32 n = 0; n < WARP_TILES; n++) {
            float* tile = share + n * TILE_FLOATS;
#pragma unroll
            for (i32 m = 0; m < DIM_TILES; m++)
#pragma unroll
                for (i32 half = 0; half < 2; half++)
                    ((float2*)tile)[(2 * m + half) * 32 + lane] =
                        make_float2(output[n][m][2 * half], output[n][m][2 * half + 1]);
#pragma unroll
            for (i32 c = 0; c < 2; c++)
#pragma unroll
                for (i32 offset = 4; offset < 32; offset *= 2)
                    sum[n][c] += __shfl_xor_sync(ALL_LANES, sum[n][c], offset);
            ((float4*)tile)[DIM_TILES * 32 + lane] =
                make_float4(maximum[n][0], maximum[n][1], sum[n][0], sum[n][1]);
        }
    }
};

/// Rows of outputs, of all tiles of a set, that one of its warps merges.
#define MERGED_ROWS ((2 * DIM_TILES * WARP_TILES + PAGE_WARPS - 1) / PAGE_WARPS)

/// Rows of outputs of one set: page_warp, page_warp + PAGE_WARPS, ...
struct Merged {
    float output[MERGED_ROWS][2];
    float maximum[WARP_TILES][2];
    float sum[WARP_TILES][2];

    /// Merges `count` parts; `share` gives the place of a part's share of the set, in shared memory
    /// or in global memory that other thread blocks wrote.
    template <class Share>
    __device__ void merge(i32 count, Share share, u32 page_warp, u32 lane) {
        constexpr i32 TOGETHER = MERGED_ROWS * WARP_TILES > 6 ? 4 : 8;
#pragma unroll
        for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
            for (i32 c = 0; c < 2; c++) {
                maximum[n][c] = -INFINITE;
                sum[n][c] = 0.0f;
            }
#pragma unroll
        for (i32 i = 0; i < MERGED_ROWS; i++) output[i][0] = output[i][1] = 0.0f;
#pragma unroll 1
        for (i32 first = 0; first < count; first += TOGETHER) {
            float ends[TOGETHER][WARP_TILES][4], values[TOGETHER][MERGED_ROWS][2];
#pragma unroll
            for (i32 j = 0; j < TOGETHER; j++) {
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++) {
                    ends[j][n][0] = ends[j][n][1] = -INFINITE;
                    ends[j][n][2] = ends[j][n][3] = 0.0f;
                }
#pragma unroll
                for (i32 i = 0; i < MERGED_ROWS; i++) values[j][i][0] = values[j][i][1] = 0.0f;
                if (first + j >= count) continue;
                const float* part = share(first + j);
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++)
                    load_relaxed(ends[j][n], part + n * TILE_FLOATS + 4 * (DIM_TILES * 32 + lane));
#pragma unroll
                for (i32 i = 0; i < MERGED_ROWS; i++) {
                    i32 row = min(page_warp + PAGE_WARPS * i, 2 * DIM_TILES * WARP_TILES - 1);
                    load_relaxed(values[j][i], part + row / (2 * DIM_TILES) * TILE_FLOATS
                                                   + 2 * (row % (2 * DIM_TILES) * 32 + lane));
                }
            }
            float before[WARP_TILES][2];
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
                for (i32 c = 0; c < 2; c++) {
                    float top = maximum[n][c];
#pragma unroll
                    for (i32 j = 0; j < TOGETHER; j++) top = fmaxf(top, ends[j][n][c]);
                    float base = top == -INFINITE ? 0.0f : top;
                    before[n][c] = exp2_fast(maximum[n][c] - base);
                    maximum[n][c] = top;
                    sum[n][c] *= before[n][c];
#pragma unroll
                    for (i32 j = 0; j < TOGETHER; j++) {
                        ends[j][n][c] = exp2_fast(ends[j][n][c] - base);
                        sum[n][c] = fmaf(ends[j][n][c + 2], ends[j][n][c], sum[n][c]);
                    }
                }
#pragma unroll
            for (i32 i = 0; i < MERGED_ROWS; i++) {
                bool upper = WARP_TILES > 1 && page_warp + PAGE_WARPS * i >= 2 * DIM_TILES;
#pragma unroll
                for (i32 c = 0; c < 2; c++) {
                    output[i][c] *= upper ? before[WARP_TILES - 1][c] : before[0][c];
#pragma unroll
                    for (i32 j = 0; j < TOGETHER; j++)
                        output[i][c] =
                            fmaf(values[j][i][c],
                                 upper ? ends[j][WARP_TILES - 1][c] : ends[j][0][c], output[i][c]);
                }
            }
        }
    }

    /// Writes the rows to the set's share of a part.
    __device__ void write(float* share, u32 page_warp, u32 lane) const {
#pragma unroll
        for (i32 i = 0; i < MERGED_ROWS; i++) {
            i32 row = page_warp + PAGE_WARPS * i;
            if (row >= 2 * DIM_TILES * WARP_TILES) continue;
            float2* tile = (float2*)(share + row / (2 * DIM_TILES) * TILE_FLOATS);
            tile[row % (2 * DIM_TILES) * 32 + lane] = make_float2(output[i][0], output[i][1]);
        }
        if (page_warp == 0)
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++)
                ((float4*)(share + n * TILE_FLOATS))[DIM_TILES * 32 + lane] =
                    make_float4(maximum[n][0], maximum[n][1], sum[n][0], sum[n][1]);
    }

    /// Writes the outputs divided by the sums; `attended` is that of the request's first query and
    /// the segment's first head.
    __device__ void write_output(bf16* attended, u32 set, u32 page_warp, u32 lane) const {
        float inverse[WARP_TILES][2];
#pragma unroll
        for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
            for (i32 c = 0; c < 2; c++) inverse[n][c] = __frcp_rn(sum[n][c]);
#pragma unroll
        for (i32 i = 0; i < MERGED_ROWS; i++) {
            i32 row = page_warp + PAGE_WARPS * i;
            bool upper = WARP_TILES > 1 && row >= 2 * DIM_TILES;
            u32 dim = 8 * (row % (2 * DIM_TILES)) + lane / 4;
#pragma unroll
            for (i32 c = 0; c < 2; c++) {
                i32 column = (set * WARP_TILES + upper) * 8 + 2 * (lane % 4) + c;
                if (row >= 2 * DIM_TILES * WARP_TILES || column >= ROWS || dim >= HEAD_DIM)
                    continue;
                attended[(column / GROUP * HEADS + column % GROUP) * HEAD_DIM + dim] =
                    to_bf16(output[i][c] * (upper ? inverse[WARP_TILES - 1][c] : inverse[0][c]));
            }
        }
    }
};
