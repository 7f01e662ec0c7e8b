// What the parts of attention.cu share: tiles and warps, and the layout of shared memory.
// Constants: attention.cu.
#pragma once
#include "keyvalue.cuh"

// Columns of S^T, pairs of a query and a head: WARP_TILES tiles of eight to a warp, SETS warps.
#define WARP_TILES (GROUP * QUERIES > 8 && DIM <= 128 ? 2 : 1)
#define ROWS (GROUP * QUERIES)
#define SETS ((ROWS + 8 * WARP_TILES - 1) / (8 * WARP_TILES))
#define PADDED_ROWS (SETS * WARP_TILES * 8)
#define WARPS (SETS * PAGE_WARPS)
#define THREADS (32 * (WARPS + 1))
#define QUERY_ROW (DIM + 8)
#define MAX_REQUESTS 256
#define SLACK 12  // attention.cu
#define DIM_TILES (DIM / 16)
#define KEY_TILES (BLOCK / 16)
// A part of the result: for each tile of eight columns 2 DIM_TILES rows of a float2 a lane
// (outputs), then a row of a float4 a lane (maxima and sums).
#define TILE_FLOATS (32 * (4 * DIM_TILES + 4))
#define PART_FLOATS (SETS * WARP_TILES * TILE_FLOATS)
// Where warps leave their results: in their own last buffers if these suffice.
#define MERGE_IN_RING (PART_FLOATS * 4 <= 2 * TILE_BYTES)
static_assert(SLOTS % (2 * PAGE_WARPS) == 0, "a buffer must stay one warp's");
// Registers of a thread: attention.cu.
#if SETS * WARP_TILES == 1
#define REGISTERS_AT_MOST __maxnreg__(224)
#else
#define REGISTERS_AT_MOST __launch_bounds__(THREADS, 1)
#endif
#define INFINITE __uint_as_float(0x7f800000u)
// Words of a query's mask of the places of a tree; 0: tokens follow each other. See attention.cu.
#ifndef MASK_WORDS
#define MASK_WORDS 0
#endif
#if MASK_WORDS > 0
#define TREE_PARAMETERS , const u32 *seen, i32 older
#else
#define TREE_PARAMETERS
#endif

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

DEVICE uint4 load_piece(const u8* address) { return *(const uint4*)address; }

/// What the queries of a request see of its last places.
struct Sight {
    const u32* seen;  // [QUERIES, MASK_WORDS]
    i32 trunk;        // the first place that masks tell of; all before are seen

    /// Whether `query` sees the token that stands `place` places behind the first that masks tell of.
    DEVICE bool holds(i32 query, i32 place) const {
        if (place < 0) return true;
        const u32* own = seen + min(query, QUERIES - 1) * MASK_WORDS;
        return place < 32 * MASK_WORDS && (own[place / 32] >> place % 32 & 1) != 0;
    }

    /// Where a query's token stands in its sequence: behind as many of its branch.
    DEVICE i32 position(i32 query) const {
        i32 count = 0;
#pragma unroll
        for (i32 word = 0; word < MASK_WORDS; word++)
            count += __popc(seen[query * MASK_WORDS + word]);
        return trunk + count - 1;
    }
};
