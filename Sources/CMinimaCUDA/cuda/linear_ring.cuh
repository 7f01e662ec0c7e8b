// The ring of stages through which W comes into shared memory, and the warp that fills it.
#pragma once
#include "linear_geometry.cuh"

// Barriers, in this order: of each slot full and empty; of x; of each of the two buffers of sums,
// all consumers' there and taken by the finisher.
DEVICE u32 full_barrier(i32 slot) { return shared_address(shared + BARRIERS_AT) + slot * 8; }
DEVICE u32 empty_barrier(i32 slot) {
    return shared_address(shared + BARRIERS_AT) + (DEPTH + slot) * 8;
}
DEVICE u32 x_barrier() { return shared_address(shared + BARRIERS_AT) + 2 * DEPTH * 8; }
DEVICE u32 summed_barrier(i32 buffer) {
    return shared_address(shared + BARRIERS_AT) + (2 * DEPTH + 1 + buffer) * 8;
}
DEVICE u32 taken_barrier(i32 buffer) {
    return shared_address(shared + BARRIERS_AT) + (2 * DEPTH + 3 + buffer) * 8;
}

/// By one thread.
DEVICE void init_barriers() {
    for (i32 slot = 0; slot < DEPTH; ++slot) {
        mbarrier_init(full_barrier(slot), HAS_BULK_COPY ? 1 : 32);
        mbarrier_init(empty_barrier(slot), WARPS * WARP_ARRIVALS);
    }
    for (i32 buffer = 0; buffer < 2; ++buffer) {
        mbarrier_init(summed_barrier(buffer), WARPS * WARP_ARRIVALS);
        mbarrier_init(taken_barrier(buffer), WARP_ARRIVALS);
    }
    mbarrier_init(x_barrier(), 1);
    mbarrier_init_fence();
}

#if WEIGHT == 16
/// The row of W for a slot; -1 for none.
DEVICE i32 source_row(const i32* rows, i32 slot) {
    if (slot >= ROWS) return -1;
#if ROW_TABLE
    return rows[slot];
#elif EPILOGUE == SWIGLU
    i32 inTile = slot & 15;
    return (slot >> 4) * 8 + (inTile & 7) + (inTile < 8 ? 0 : ROWS / 2);
#else
    return slot;
#endif
}
#endif

/// The producer warp: keeps the ring full from the first unit of the block's run to the last, chunk
/// after chunk. Rows of bfloat16 come by one bulk copy each (2 KB or more keep up with memory),
/// codes by one per stage.
DEVICE void produce(const u8* weights, const i32* rows, i32 begin, i32 stop) {
    const i32 lane = threadIdx.x & 31;
    const u64 policy = evict_first_policy();
    i32 slot = 0, stages = 0;
    u32 parity = 1;
    for (i32 chunk = 0; chunk < CHUNKS; ++chunk) {
#if WEIGHT == 16
        // Of the next tile, so that its latency is hidden.
        i32 next = lane < 16 ? source_row(rows, begin / GRAINS * 16 + lane) : -1;
#endif
        for (i32 unit = begin; unit < stop;) {
            Segment segment(unit, stop, chunk);
            unit += segment.units;
#if WEIGHT == 16
            const i32 row = next;
            next = lane < 16 ? source_row(rows, (segment.tile + 1) * 16 + lane) : -1;
            const u8* source = weights + ((i64)row * PITCH + chunk * CHUNK) * 2;
#else
            const i64 block = (i64)segment.tile * BLOCKS_PER_TILE + chunk * CHUNK / 64;
            const u8* source = weights + block * BLOCK_BYTES;
#endif
            while (segment.at < segment.end) {
                const i32 columns = segment.columns();
                const u32 ring = shared_address(shared + RING_AT) + slot * STAGE_BYTES;
                const u32 barrier = full_barrier(slot);
                if (stages++ >= DEPTH) mbarrier_wait(empty_barrier(slot), parity);
#if WEIGHT == 16
                const u32 bytes = ROUND_UP(columns, 8) * 2;
                const u8* from = source + segment.at * 2;
#if HAS_BULK_COPY
                const u32 present = __popc(__ballot_sync(0xffffffffu, row >= 0));
                if (lane == 0) mbarrier_expect(barrier, present * bytes);
                __syncwarp();
                if (row >= 0) copy_bulk(ring + lane * ROW_BYTES, from, bytes, barrier, policy);
#else
                for (i32 r = 0; r < 16; ++r) {
                    const u8* start = (const u8*)__shfl_sync(0xffffffffu, (u64)from, r);
                    if (__shfl_sync(0xffffffffu, row, r) < 0) continue;
                    for (u32 at = lane * 16; at < bytes; at += 512)
                        copy_async(ring + r * ROW_BYTES + at, start + at);
                }
                mbarrier_arrive_after_copies(barrier);
#endif
#else
                const u32 bytes = ROUND_UP(columns, 64) / 64 * BLOCK_BYTES;
                const u8* from = source + segment.at / 64 * BLOCK_BYTES;
#if HAS_BULK_COPY
                if (lane == 0) {
                    mbarrier_expect(barrier, bytes);
                    copy_bulk(ring, from, bytes, barrier, policy);
                }
#else
                for (u32 at = lane * 16; at < bytes; at += 512) copy_async(ring + at, from + at);
                mbarrier_arrive_after_copies(barrier);
#endif
#endif
                segment.advance(columns);
                if (++slot == DEPTH) {
                    slot = 0;
                    parity ^= 1;
                }
            }
        }
    }
}
