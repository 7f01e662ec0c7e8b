// The warp that brings the tiles of keys and values into the ring.
#pragma once
#include "attention_plan.cuh"

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
