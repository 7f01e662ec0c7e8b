// Elementwise kernels of prefill and of the steps between other kernels: embedding rows, RMSNorm,
// SwiGLU, columns picked by an index. bfloat16 in and out, arithmetic in fp32; made to move each
// byte once. Row lengths are multiples of 8 and rows are aligned to 16 bytes, unless an entry says
// otherwise. Constant: BLOCK, threads of a block.
//
// Each entry rounds where transformers' modules do. Gathers are exact. RMSNorm and
// SwiGLU differ from them by the order of a sum and the last bits of e^x, which can move each of
// their two roundings by one unit in the last place: tolerance 2 x 2^-7 relative to the element.
// compile: BLOCK=256 HIDDEN=5120
// compile: BLOCK=256
#include "common.cuh"

DEVICE uint4 load16(const void* pointer) { return *reinterpret_cast<const uint4*>(pointer); }
DEVICE void store16(void* pointer, uint4 value) { *reinterpret_cast<uint4*>(pointer) = value; }

/// Eight bfloat16 as floats.
DEVICE void unpack(uint4 packed, float (&x)[8]) {
    x[0] = low_float(packed.x), x[1] = high_float(packed.x);
    x[2] = low_float(packed.y), x[3] = high_float(packed.y);
    x[4] = low_float(packed.z), x[5] = high_float(packed.z);
    x[6] = low_float(packed.w), x[7] = high_float(packed.w);
}

DEVICE uint4 pack(const float (&x)[8]) {
    return make_uint4(to_bf16x2(x[0], x[1]), to_bf16x2(x[2], x[3]), to_bf16x2(x[4], x[5]),
                      to_bf16x2(x[6], x[7]));
}

/// out[t] = table[ids[rows[t]]]: rows of a table, such as embeddings.
///
/// table bf16 [count, columns]; ids int32; rows int32 [gridDim.y], null: rows[t] = t; out bf16
/// [gridDim.y, columns]. An id outside 0..<count, or a negative row, gives zeros. Grid (blocks over
/// columns / 8, rows).
extern "C" __global__ void __launch_bounds__(BLOCK)
    gather_rows(const bf16* table, const i32* ids, const i32* rows, bf16* out, i32 count,
                i32 columns) {
    dependents_launch();
    dependencies_wait();
    i32 place = rows == nullptr ? (i32)blockIdx.y : rows[blockIdx.y];
    i32 id = place < 0 ? -1 : ids[place];
    bool is_valid = id >= 0 && id < count;
    const bf16* source = table + (i64)(is_valid ? id : 0) * columns;
    bf16* target = out + (i64)blockIdx.y * columns;
    for (i32 i = 8 * (blockIdx.x * BLOCK + threadIdx.x); i < columns; i += 8 * BLOCK * gridDim.x)
        store16(target + i, is_valid ? load16(source + i) : make_uint4(0, 0, 0, 0));
}

#ifdef HIDDEN
/// x += delta (rounded to bfloat16 and stored; delta may be null), then
/// out = weight · bf16(x / sqrt(mean x^2 + epsilon)), rounded.
///
/// x, delta, out bf16 [rows, HIDDEN]; weight bf16 [HIDDEN]. out may be x only without delta.
/// Constant HIDDEN (multiple of 8, at most 64 BLOCK). Grid: one block per row. The row stays in
/// registers.
extern "C" __global__ void __launch_bounds__(BLOCK)
    norm_rows(bf16* x, const bf16* delta, const bf16* weight, bf16* out, float epsilon) {
    constexpr i32 VECTORS = (HIDDEN / 8 + BLOCK - 1) / BLOCK;
    __shared__ float sums[BLOCK / 32];
    dependents_launch();
    uint4 scales[VECTORS];
#pragma unroll
    for (i32 v = 0; v < VECTORS; v++) {
        i32 i = 8 * (v * BLOCK + threadIdx.x);
        if (i < HIDDEN) scales[v] = load16(weight + i);
    }
    dependencies_wait();
    i64 row = (i64)blockIdx.x * HIDDEN;
    uint4 values[VECTORS], changes[VECTORS];
#pragma unroll
    for (i32 v = 0; v < VECTORS; v++) {
        i32 i = 8 * (v * BLOCK + threadIdx.x);
        values[v] = i < HIDDEN ? load16(x + row + i) : make_uint4(0, 0, 0, 0);
        if (delta != nullptr && i < HIDDEN) changes[v] = load16(delta + row + i);
    }
    float sum = 0.0f;
#pragma unroll
    for (i32 v = 0; v < VECTORS; v++) {
        i32 i = 8 * (v * BLOCK + threadIdx.x);
        float a[8];
        unpack(values[v], a);
        if (delta != nullptr && i < HIDDEN) {
            float b[8];
            unpack(changes[v], b);
#pragma unroll
            for (i32 k = 0; k < 8; k++) a[k] += b[k];
            values[v] = pack(a);
            unpack(values[v], a);
            store16(x + row + i, values[v]);
        }
#pragma unroll
        for (i32 k = 0; k < 8; k++) sum = fmaf(a[k], a[k], sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < BLOCK / 32 ? sums[threadIdx.x % 32] : 0.0f);
    float inverse = rsqrtf(sum / HIDDEN + epsilon);
#pragma unroll
    for (i32 v = 0; v < VECTORS; v++) {
        i32 i = 8 * (v * BLOCK + threadIdx.x);
        if (i >= HIDDEN) continue;
        float a[8], w[8];
        unpack(values[v], a);
        unpack(scales[v], w);
#pragma unroll
        for (i32 k = 0; k < 8; k++) a[k] = rounded_to_bf16(a[k] * inverse) * w[k];
        store16(out + row + i, pack(a));
    }
}
#endif

DEVICE float swiglu(float gate, float up) { return rounded_to_bf16(silu(gate)) * up; }

/// out = bf16(silu(gate)) · up with source = [gate | up].
///
/// source bf16 [rows, 2 columns]; out bf16 [rows, columns]. Grid (blocks over columns / 8, blocks
/// over rows).
extern "C" __global__ void __launch_bounds__(BLOCK)
    swiglu_halves(const bf16* source, bf16* out, i32 rows, i32 columns) {
    dependents_launch();
    dependencies_wait();
    i32 column = 8 * (blockIdx.x * BLOCK + threadIdx.x);
    if (column >= columns) return;
    for (i32 row = blockIdx.y; row < rows; row += gridDim.y) {
        const bf16* gate = source + (i64)row * 2 * columns + column;
        float g[8], u[8];
        unpack(load16(gate), g);
        unpack(load16(gate + columns), u);
#pragma unroll
        for (i32 k = 0; k < 8; k++) g[k] = swiglu(g[k], u[k]);
        store16(out + (i64)row * columns + column, pack(g));
    }
}

// Gathers by an index give each thread PAIRS pairs of neighbouring columns, the pairs of a warp
// side by side: indices that are neighbours, as most are, then make one access of 128 bytes.
#define PAIRS 4

/// The first column of a thread's pair `q`.
DEVICE i32 pair_column(i32 q) { return 2 * ((blockIdx.x * PAIRS + q) * BLOCK + threadIdx.x); }

/// out[t, j] = bf16(silu(source[t, gates[j]])) · source[t, ups[j]].
///
/// source bf16 [rows, stride], any stride; gates, ups int32 [columns], below stride; out bf16
/// [rows, columns]; columns even. Grid (blocks over columns / (2 PAIRS), blocks over rows).
extern "C" __global__ void __launch_bounds__(BLOCK)
    swiglu_gathered(const bf16* source, const i32* gates, const i32* ups, bf16* out, i32 rows,
                    i32 columns, i32 stride) {
    dependents_launch();
    int2 gate[PAIRS], up[PAIRS];
#pragma unroll
    for (i32 q = 0; q < PAIRS; q++) {
        i32 column = pair_column(q);
        gate[q] = up[q] = make_int2(0, 0);
        if (column < columns) {
            gate[q] = *reinterpret_cast<const int2*>(gates + column);
            up[q] = *reinterpret_cast<const int2*>(ups + column);
        }
    }
    dependencies_wait();
    for (i32 row = blockIdx.y; row < rows; row += gridDim.y) {
        const bf16* from = source + (i64)row * stride;
        bf16 picked[PAIRS][4];
#pragma unroll
        for (i32 q = 0; q < PAIRS; q++) {
            picked[q][0] = from[gate[q].x], picked[q][1] = from[gate[q].y];
            picked[q][2] = from[up[q].x], picked[q][3] = from[up[q].y];
        }
#pragma unroll
        for (i32 q = 0; q < PAIRS; q++) {
            i32 column = pair_column(q);
            if (column >= columns) break;
            float low = swiglu(to_float(picked[q][0]), to_float(picked[q][2]));
            float high = swiglu(to_float(picked[q][1]), to_float(picked[q][3]));
            *reinterpret_cast<u32*>(out + (i64)row * columns + column) = to_bf16x2(low, high);
        }
    }
}

/// out[t, j] = source[t, index[j]] + residual[t, j].
///
/// source bf16 [rows, stride], any stride; index int32 [columns], below stride; residual bf16
/// [rows, columns], may be out, or null; out bf16 [rows, columns]; columns even. Grid as
/// swiglu_gathered.
extern "C" __global__ void __launch_bounds__(BLOCK)
    gather_columns(const bf16* source, const i32* index, const bf16* residual, bf16* out, i32 rows,
                   i32 columns, i32 stride) {
    dependents_launch();
    int2 place[PAIRS];
#pragma unroll
    for (i32 q = 0; q < PAIRS; q++) {
        i32 column = pair_column(q);
        place[q] = make_int2(0, 0);
        if (column < columns) place[q] = *reinterpret_cast<const int2*>(index + column);
    }
    dependencies_wait();
    for (i32 row = blockIdx.y; row < rows; row += gridDim.y) {
        const bf16* from = source + (i64)row * stride;
        i64 target = (i64)row * columns;
        u32 picked[PAIRS], base[PAIRS];
#pragma unroll
        for (i32 q = 0; q < PAIRS; q++) {
            i32 column = pair_column(q);
            if (residual != nullptr && column < columns)
                base[q] = *reinterpret_cast<const u32*>(residual + target + column);
            picked[q] = from[place[q].x] | (u32)from[place[q].y] << 16;
        }
#pragma unroll
        for (i32 q = 0; q < PAIRS; q++) {
            i32 column = pair_column(q);
            if (column >= columns) break;
            if (residual != nullptr)
                picked[q] = to_bf16x2(low_float(base[q]) + low_float(picked[q]),
                                      high_float(base[q]) + high_float(picked[q]));
            *reinterpret_cast<u32*>(out + target + column) = picked[q];
        }
    }
}
