// The warp that brings the tiles of keys and values into the ring.
#pragma once
#include "attention_plan.cuh"

/// Arrivals that give a buffer back: of the warps that read its tile, one of each set. RACECHECK: of all
/// threads but the last warp's, for all read the results in buffers that were kept.
#define RELEASES (RACECHECK ? 32 * WARPS : SETS)

/// Gives back a buffer whose tile the calling warp has read, with RACECHECK also for warps that do not read it.
DEVICE void release(u32 empty, u32 lane) {
#pragma unroll
    for (i32 i = 0; i < RELEASES / (SETS * WARP_ARRIVALS); i++) mbarrier_arrive_warp(empty, lane);
}

/// By one thread.
DEVICE void init_ring(u8* shared) {
    u32 full = shared_address(shared + BARRIERS_AT), empty = full + 8 * SLOTS;
    for (u32 slot = 0; slot < SLOTS; slot++) {
        mbarrier_init(full + 8 * slot, HAS_BULK_COPY ? 1 : 32);
        mbarrier_init(empty + 8 * slot, RELEASES);
    }
    mbarrier_init_fence();
}

/// The ring as the warp that fills it sees it.
struct Filler {
    u32 slot = 0, parity = 1;
    bool reused = false;

    /// Brings the tiles of a segment; `row` has the request's pages.
    __device__ void fill(u8* shared, const Segment& segment, const u8* pages, const i32* row,
                         u64 policy, u32 lane) {
        u32 full = shared_address(shared + BARRIERS_AT), empty = full + 8 * SLOTS;
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
};
