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
#include "keyvalue.cuh"

#define WARP_TILES (GROUP * QUERIES > 8 && DIM <= 128 ? 2 : 1)
#define ROWS (GROUP * QUERIES)
#define SETS ((ROWS + 8 * WARP_TILES - 1) / (8 * WARP_TILES))
#define PADDED_ROWS (SETS * WARP_TILES * 8)
#define WARPS (SETS * PAGE_WARPS)
#define THREADS (32 * (WARPS + 1))
#define QUERY_ROW (DIM + 8)
#define MAX_REQUESTS 256
#define SLACK 12
#define DIM_TILES (DIM / 16)
#define KEY_TILES (BLOCK / 16)
// A part of the result: for each tile of eight columns 2 DIM_TILES rows of a float2 a lane
// (outputs), then a row of a float4 a lane (maxima and sums).
#define TILE_FLOATS (32 * (4 * DIM_TILES + 4))
#define PART_FLOATS (SETS * WARP_TILES * TILE_FLOATS)
// Where warps leave their results: in their own last buffers if these suffice.
#define MERGE_IN_RING (PART_FLOATS * 4 <= 2 * TILE_BYTES)
static_assert(SLOTS % (2 * PAGE_WARPS) == 0, "a buffer must stay one warp's");
#define INFINITE __uint_as_float(0x7f800000u)

// Shared memory, in bytes.
#define RING_AT 0
#define MERGE_AT (RING_AT + SLOTS * TILE_BYTES)
#define QUERIES_AT (MERGE_AT + (MERGE_IN_RING ? 0 : PAGE_WARPS * PART_FLOATS * 4))
#define NEW_AT (QUERIES_AT + PADDED_ROWS * QUERY_ROW * 2)
#define NEW_ROW (2 * DIM)
#define ANGLES_AT (NEW_AT + 2 * QUERIES * NEW_ROW)
#define SCALES_NEW_AT (ANGLES_AT + QUERIES * (ROTARY_DIM / 2) * 8)
#define STARTS_AT (SCALES_NEW_AT + (2 * QUERIES * 4 + 15) / 16 * 16)
#define SPLIT_AT (STARTS_AT + (MAX_REQUESTS + 1) * 4)
#define FLAG_AT (SPLIT_AT + 4)
#define BARRIERS_AT ((FLAG_AT + 4 + 7) / 8 * 8)
#define SHARED_BYTES (BARRIERS_AT + 16 * SLOTS)

#if KV_FP8
#define MULTIPLY_ADD multiply_add_half
#define PACK to_half2
#else
#define MULTIPLY_ADD multiply_add
#define PACK to_bf16x2
#endif

#if KV_FP8
/// c += a · b as `multiply_add`, of float16.
DEVICE void multiply_add_half(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

/// The transpose of an 8x8 matrix of 16-bit values of which lane l holds row l / 4, columns
/// 2 (l % 4) and the next.
DEVICE u32 transposed(u32 pair) {
    u32 result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

DEVICE uint4 load_piece(const u8* address) { return *(const uint4*)address; }

// ---- which pages a block reads ----

/// Blocks first ..< last of a key-value head of a request: a part of its keys.
struct Segment {
    i32 request, head, first, last;
    /// Parts of this request and head, and this one's slot in the workspace.
    i32 parts, slot;
    /// The slot of the first part, and that of part p > 0: base + p step.
    i32 first_slot, base, step;
};

/// The work: units of one block of tokens (or of `split`), ordered by request, head, place. Thread
/// blocks have as many units as each other, the first `rest` one more.
struct Plan {
    const i32* starts;
    i32 requests, split, share, rest;

    __device__ i32 start(i32 block) const { return block * share + min(block, rest); }
    __device__ i32 owner(i32 unit) const {
        i32 longer = rest * (share + 1);
        return unit < longer ? unit / (share + 1) : rest + (unit - longer) / share;
    }

    /// The segment that starts with `unit` of a thread block whose units end at `end`, and the unit
    /// after it.
    __device__ i32 segment(i32 unit, i32 end, const i32* lengths, Segment& segment) const {
        i32 low = 0, high = requests;
        while (high - low > 1) {
            i32 middle = (low + high) / 2;
            if (starts[middle] * KV_HEADS <= unit) low = middle; else high = middle;
        }
        i32 per_head = starts[low + 1] - starts[low];
        i32 offset = unit - starts[low] * KV_HEADS;
        segment.request = low;
        segment.head = offset / per_head;
        i32 head_start = unit - offset % per_head, head_end = head_start + per_head;
        if (split > 0) {
            segment.first = (unit - head_start) * split;
            segment.last = min(segment.first + split, (lengths[low] + BLOCK - 1) / BLOCK);
            segment.parts = per_head;
            segment.slot = unit;
            segment.first_slot = segment.base = head_start;
            segment.step = 1;
            return unit + 1;
        }
        i32 next = min(end, head_end);
        segment.first = unit - head_start;
        segment.last = next - head_start;
        // A thread block leaves at most two parts: one of the head that it starts in, if not at
        // its start, and one of the head that it ends in.
        i32 block = owner(unit), first = owner(head_start);
        segment.parts = owner(head_end - 1) - first + 1;
        segment.base = 2 * first;
        segment.step = 2;
        segment.first_slot = 2 * first + (start(first) < head_start);
        segment.slot = block == first ? segment.first_slot : 2 * block;
        return next;
    }
};

/// Units of a head of a request.
DEVICE i32 units_of(i32 length, i32 split) {
    i32 blocks = (length + BLOCK - 1) / BLOCK;
    return split > 0 ? (blocks + split - 1) / split : blocks;
}

/// The blocks of a part: `split`, or the fewest for which there are no more parts than thread
/// blocks; 0 if blocks are better dealt out evenly. By one warp.
DEVICE i32 chosen_split(i32 split, const i32* lengths, i32 requests, u32 lane) {
    i32 blocks = gridDim.x;
    if (split > 0 || requests * KV_HEADS > blocks) return split;
    auto units = [&](i32 trial) {
        i32 sum = 0;
        for (i32 request = lane; request < requests; request += 32)
            sum += units_of(lengths[request], trial);
        return (i32)__reduce_add_sync(ALL_LANES, sum) * KV_HEADS;
    };
    i32 mean = (units(0) + blocks - 1) / blocks;
    for (i32 trial = max(mean, 1); trial <= mean + SLACK; trial++)
        if (units(trial) <= blocks) return trial;
    return 0;
}

// ---- results of warps and thread blocks ----

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

// ---- operands ----

/// The key that row `row` < 8 of tile `tile` of S^T stands for; row + 8 is KEY_HALF on.
#define KEY_HALF (KV_FP8 ? 2 : 8)
DEVICE u32 key_row(u32 tile, u32 row) {
    return KV_FP8 ? 16 * (row / 2) + 4 * tile + row % 2 : 16 * tile + row;
}

#if KV_FP8
/// The left operand of product `step` from a lane's pieces of rows g and g + 8.
DEVICE void left_operand(u32 (&a)[4], const uint4& upper, const uint4& lower, i32 step) {
    u32 above[4] = {upper.x, upper.y, upper.z, upper.w};
    u32 below[4] = {lower.x, lower.y, lower.z, lower.w};
    e4m3_to_half(above[step], a[0], a[2]);
    e4m3_to_half(below[step], a[1], a[3]);
}
#endif

/// scores [BLOCK keys, 8 columns] of each tile of columns: K Q^T.
DEVICE void multiply_keys(float (&scores)[WARP_TILES][KEY_TILES][4], const u8* keys,
                          const u32 (&queries)[WARP_TILES][DIM_TILES][2], u32 lane) {
#if KV_FP8
#pragma unroll
    for (i32 b = 0; b < DIM_TILES / 4; b++) {
        uint4 upper[KEY_TILES], lower[KEY_TILES];
#pragma unroll
        for (i32 t = 0; t < KEY_TILES; t++) {
            u32 row = key_row(t, lane / 4), piece = 4 * b + lane % 4;
            upper[t] = load_piece(keys + piece_offset(row, piece, KEY_ROW));
            lower[t] = load_piece(keys + piece_offset(row + KEY_HALF, piece, KEY_ROW));
        }
#pragma unroll
        for (i32 step = 0; step < 4; step++)
#pragma unroll
            for (i32 t = 0; t < KEY_TILES; t++) {
                u32 a[4];
                left_operand(a, upper[t], lower[t], step);
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++)
                    MULTIPLY_ADD(scores[n][t], a, queries[n][4 * b + step][0],
                                 queries[n][4 * b + step][1]);
            }
    }
#else
    // Odd and even steps have sums of their own, for shorter chains.
    float odd[WARP_TILES][KEY_TILES][4] = {};
#pragma unroll
    for (i32 step = 0; step < DIM_TILES; step++)
#pragma unroll
        for (i32 t = 0; t < KEY_TILES; t++) {
            u32 a[4];
            u32 offset = piece_offset(16 * t + lane % 16, 2 * step + lane / 16, KEY_ROW);
            load_matrices(a, shared_address(keys + offset));
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++)
                MULTIPLY_ADD(step % 2 ? odd[n][t] : scores[n][t], a, queries[n][step][0],
                             queries[n][step][1]);
        }
#pragma unroll
    for (i32 n = 0; n < WARP_TILES; n++)
#pragma unroll
        for (i32 t = 0; t < KEY_TILES; t++)
#pragma unroll
            for (i32 c = 0; c < 4; c++) scores[n][t][c] += odd[n][t][c];
#endif
}

/// output += V^T P^T.
DEVICE void multiply_values(State& state, const u8* values,
                            const u32 (&weights)[WARP_TILES][KEY_TILES][2], u32 lane) {
#if KV_FP8
    constexpr i32 TOGETHER = 4;
#pragma unroll
    for (i32 m = 0; m < DIM_TILES; m += TOGETHER) {
        uint4 upper[TOGETHER], lower[TOGETHER];
#pragma unroll
        for (i32 i = 0; i < TOGETHER; i++) {
            u32 row = 16 * (m + i) + lane / 4;
            upper[i] = load_piece(values + piece_offset(row, lane % 4, VALUE_ROW));
            lower[i] = load_piece(values + piece_offset(row + 8, lane % 4, VALUE_ROW));
        }
#pragma unroll
        for (i32 step = 0; step < KEY_TILES; step++)
#pragma unroll
            for (i32 i = 0; i < TOGETHER; i++) {
                u32 a[4];
                left_operand(a, upper[i], lower[i], step);
#pragma unroll
                for (i32 n = 0; n < WARP_TILES; n++)
                    MULTIPLY_ADD(state.output[n][m + i], a, weights[n][step][0],
                                 weights[n][step][1]);
            }
    }
#else
#pragma unroll
    for (i32 step = 0; step < KEY_TILES; step++)
#pragma unroll
        for (i32 m = 0; m < DIM_TILES; m++) {
            u32 a[4];
            u32 offset = piece_offset(16 * m + lane % 16, 2 * step + lane / 16, VALUE_ROW);
            load_matrices(a, shared_address(values + offset));
#pragma unroll
            for (i32 n = 0; n < WARP_TILES; n++)
                MULTIPLY_ADD(state.output[n][m], a, weights[n][step][0], weights[n][step][1]);
        }
#endif
}

/// Streams the tiles of the thread block's segments through the ring.
DEVICE void stream_tiles(u8* shared, const Plan& plan, i32 unit, i32 end, const u8* pages,
                         const i32* table, i32 max_pages, const i32* lengths, u32 lane) {
    u32 full = shared_address(shared + BARRIERS_AT), empty = full + 8 * SLOTS;
    u32 slot = 0, parity = 1;
    bool reused = false;
    u64 policy = evict_first_policy();
    while (unit < end) {
        Segment segment;
        unit = plan.segment(unit, end, lengths, segment);
        const i32* row = table + (i64)segment.request * max_pages;
        for (i32 base = segment.first; base < segment.last; base += 32) {
            i32 own = base + (i32)lane < segment.last ? row[(base + lane) / (PAGE / BLOCK)] : 0;
            i32 count = min(32, segment.last - base);
            for (i32 tile = 0; tile < 2 * count; tile++) {
                i32 page = __shfl_sync(ALL_LANES, own, tile / 2);
                const u8* source =
                    tile_at((u8*)pages, page, segment.head, base + tile / 2, tile % 2);
                u32 place = shared_address(shared + RING_AT) + slot * TILE_BYTES;
                if (reused) mbarrier_wait(empty + 8 * slot, parity);
#if HAS_BULK_COPY
                if (lane == 0) {
                    mbarrier_expect(full + 8 * slot, TILE_BYTES);
                    copy_bulk(place, source, TILE_BYTES, full + 8 * slot, policy);
                }
#else
                for (u32 at = 16 * lane; at < TILE_BYTES; at += 512)
                    copy_async(place + at, source + at);
                mbarrier_arrive_after_copies(full + 8 * slot);
#endif
                if (++slot == SLOTS) {
                    slot = 0;
                    parity ^= 1;
                    reused = true;
                }
            }
        }
    }
}

/// What every step needs of the launch.
struct Launch {
    const bf16* qkv;
    u8* pages;
    const i32* table;
    const i32* lengths;
    bf16* attended;
    i32 max_pages;
    float epsilon;
};

/// Where in shared memory a query (`task` below ROWS), new key or new value is.
DEVICE u32* new_row(u8* shared, i32 task) {
    return (u32*)(task < ROWS ? shared + QUERIES_AT + task * QUERY_ROW * 2
                              : shared + NEW_AT + (task - ROWS) * NEW_ROW);
}

/// Queries of the segment's head to shared memory, normalised and rotated; of new tokens also keys
/// and values as pages hold them, if the segment has their page. All warps but the last.
DEVICE void prepare(u8* shared, const Launch& launch, const Segment& segment, bool fresh,
                    const u32 (&query_weights)[PAIRS], const u32 (&key_weights)[PAIRS], u32 warp,
                    u32 lane) {
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
                  launch.qkv + (i64)(segment.request * QUERIES + query) * QKV_WIDTH
                      + column * HEAD_DIM,
                  lane);
    }
    barrier_sync(1, 32 * WARPS);
#pragma unroll
    for (i32 round = 0; round < ROUNDS; round++) {
        i32 task = (i32)warp + WARPS * round, extra = task - ROWS;
        if (task >= tasks || extra >= QUERIES) continue;
        if (QK_NORM)
            normalise_head(x[round], extra < 0 ? query_weights : key_weights, launch.epsilon);
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

/// Writes the new tokens of block `block` into its K (`kind` 0) or V tile, both the one in shared
/// memory and the page's own. A tile that gets its first token is cleared, so that what an earlier
/// owner left there is never multiplied. By the warps of all sets that have the tile.
DEVICE void store_new(u8* tile, u8* stored, const u8* shared, i32 kind, i32 block, i32 position,
                      u32 set, u32 page_warp, u32 lane) {
    if (set == 0) {
        if (kind == 1 && block * BLOCK >= position) {
            for (u32 at = 16 * lane; at < SCALES_AT; at += 512)
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
    if (SETS > 1) barrier_sync(2 + page_warp, 32 * SETS); else __syncwarp();
}

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
        i32 total = 0;
        for (i32 base = 0; base < requests; base += 32) {
            i32 request = base + lane;
            i32 units = request < requests ? units_of(lengths[request], split) : 0;
#pragma unroll
            for (i32 offset = 1; offset < 32; offset *= 2) {
                i32 before = __shfl_up_sync(ALL_LANES, units, offset);
                if (lane >= offset) units += before;
            }
            if (request < requests) starts[request + 1] = total + units;
            total += __shfl_sync(ALL_LANES, units, 31);
        }
        if (lane == 0) {
            starts[0] = 0;
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

    Launch launch = {qkv, pages, table, lengths, attended, max_pages, epsilon};
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
        prepare(shared, launch, segment, segment.last * BLOCK > position, query_weights,
                key_weights, warp, lane);

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
