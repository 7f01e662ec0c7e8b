// Reading memory, and nothing else: the rate that kernels which stream weights are measured against.
//
//   sums[b] = sum of the 32-bit words of block b's tiles, modulo 2^32
//
// A tile is TILE = 16 BLOCK LOADS bytes; block b takes the tiles b, b + gridDim.x, …. The sums keep the
// loads alive, and their sum, whatever the grid, is the sum of all words.
//
// Entry read_loads: each thread has LOADS loads of 16 bytes in flight, past the first-level cache.
// Entry read_copies: each block has STAGES tiles in flight, copied to shared memory (by one bulk copy
// each from sm_90 on), as the decoding kernels read weights. Dynamic shared memory: STAGES TILE bytes.
//
// Parameters, in order: source u32 [tiles TILE / 4], aligned to 16 bytes; sums u32 [gridDim.x]; tiles
// int32. Constants: BLOCK (a multiple of 32), LOADS, STAGES. Grid: any number of blocks up to `tiles`.
// Reference: the line above; exact.
// compile: BLOCK=256 LOADS=8 STAGES=1
// compile: BLOCK=256 LOADS=4 STAGES=6
// compile: BLOCK=256 LOADS=4 STAGES=6 RACECHECK=1
#include "common.cuh"

#define TILE (16 * BLOCK * LOADS)

DEVICE uint4 load_once(const uint4* pointer) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(pointer));
    return value;
}

DEVICE u32 total(uint4 value) { return value.x + value.y + value.z + value.w; }

/// Writes the sum over the block's threads.
DEVICE void store_sum(u32 sum, u32* sums) {
    __shared__ u32 warps[BLOCK / 32];
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (i32 warp = 0; warp < BLOCK / 32; warp++) sum += warps[warp];
    sums[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    read_loads(const uint4* source, u32* sums, i32 tiles) {
    u32 sum = 0;
    for (i32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const uint4* place = source + (i64)tile * (BLOCK * LOADS) + threadIdx.x;
        uint4 values[LOADS];
#pragma unroll
        for (i32 k = 0; k < LOADS; k++) values[k] = load_once(place + k * BLOCK);
#pragma unroll
        for (i32 k = 0; k < LOADS; k++) sum += total(values[k]);
    }
    store_sum(sum, sums);
}

extern __shared__ __align__(128) uint4 ring[];

/// Starts copying a tile; called by all threads of the block.
DEVICE void start_copy(const uint4* source, i32 tile, i32 stage, u32 barrier, u64 policy) {
    const uint4* from = source + (i64)tile * (BLOCK * LOADS);
    uint4* to = ring + stage * (BLOCK * LOADS);
#if HAS_BULK_COPY
    if (threadIdx.x > 0) return;
    mbarrier_expect(barrier, TILE);
    copy_bulk(shared_address(to), from, TILE, barrier, policy);
#else
    for (i32 k = threadIdx.x; k < BLOCK * LOADS; k += BLOCK)
        copy_async(shared_address(to + k), from + k);
    mbarrier_arrive_after_copies(barrier);
#endif
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    read_copies(const uint4* source, u32* sums, i32 tiles) {
    __shared__ u64 barriers[STAGES];
    const u64 policy = evict_first_policy();
    const i32 stride = gridDim.x;
    if (threadIdx.x == 0) {
        for (i32 stage = 0; stage < STAGES; stage++)
            mbarrier_init(shared_address(barriers + stage), HAS_BULK_COPY ? 1 : BLOCK);
        mbarrier_init_fence();
    }
    __syncthreads();
    for (i32 stage = 0; stage < STAGES; stage++) {
        const i64 tile = blockIdx.x + (i64)stage * stride;
        if (tile < tiles)
            start_copy(source, (i32)tile, stage, shared_address(barriers + stage), policy);
    }
    u32 sum = 0, parity = 0;
    i32 stage = 0;
    for (i64 tile = blockIdx.x; tile < tiles; tile += stride) {
        const u32 barrier = shared_address(barriers + stage);
        mbarrier_wait(barrier, parity);
#pragma unroll
        for (i32 k = 0; k < LOADS; k++)
            sum += total(ring[stage * (BLOCK * LOADS) + k * BLOCK + threadIdx.x]);
        // All have read the tile before the next one takes its place.
        if (RACECHECK) bulk_copy_fence();
        __syncthreads();
        const i64 next = tile + (i64)STAGES * stride;
        if (next < tiles) start_copy(source, (i32)next, stage, barrier, policy);
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    store_sum(sum, sums);
}
