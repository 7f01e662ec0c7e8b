// The sums of a tile: over the consumer warps, over chunks of x, and over the blocks that share it.
#pragma once
#include "linear_epilogue.cuh"
#include "linear_ring.cuh"

/// A lane's sums of a set: of slots g and g + 8 (g = lane / 4), each for two tokens.
struct alignas(16) Four {
    float v[4];

    DEVICE void add(const Four& other) {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) v[i] += other.v[i];
    }
};

/// What a place holds while it has no part; no two sums look so.
constexpr u64 EMPTY = ~0ull;

/// Two values; the NaNs that would be EMPTY become others.
DEVICE u64 packed(float low, float high) {
    const u64 both = (u64)__float_as_uint(high) << 32 | __float_as_uint(low);
    return both == EMPTY ? 0x7fffffff7fffffffull : both;
}

/// Of a tile in two parts: leaves the block's part for the other block, or takes the other's and
/// adds. One exchange a pair of values: whoever finds the other's there is the last.
DEVICE void exchange(u64* places, i32 tile, Four (&totals)[SETS], bool (&done)[SETS][2]) {
    const i32 lane = threadIdx.x & 31;
    if ((lane & 3) >= PAIRS) return;
    u64* own = places + ((i64)tile * (SETS * SET_LANES) + lane / 4 * PAIRS + (lane & 3)) * 2;
    u64 found[SETS][2];
#pragma unroll
    for (i32 set = 0; set < SETS; ++set) {
#pragma unroll
        for (i32 i = 0; i < MINIMUM(TOKENS, 2); ++i)
            found[set][i] = atomicExch(own + set * (SET_LANES * 2) + i,
                                       packed(totals[set].v[i], totals[set].v[2 + i]));
    }
#pragma unroll
    for (i32 set = 0; set < SETS; ++set) {
#pragma unroll
        for (i32 i = 0; i < MINIMUM(TOKENS, 2); ++i) {
            done[set][i] = found[set][i] != EMPTY;
            if (!done[set][i]) continue;
            own[set * (SET_LANES * 2) + i] = EMPTY;
            totals[set].v[i] += __uint_as_float((u32)found[set][i]);
            totals[set].v[2 + i] += __uint_as_float((u32)(found[set][i] >> 32));
        }
    }
}

/// Of a tile in more parts, after the block's is stored at `own`: the last to come adds all and
/// returns true.
DEVICE bool combine(float4* own, u32* counters, i32 tile, i32 parts, Four (&totals)[SETS]) {
    const i32 lane = threadIdx.x & 31;
    __threadfence();
    __syncwarp();
    u32 arrived = 0;
    if (lane == 0) arrived = atomicAdd(counters + tile, 1) + 1;
    if (__shfl_sync(0xffffffffu, arrived, 0) != parts) return false;
    __threadfence();
    if (lane == 0) counters[tile] = 0;
    const float4* part = own - (i64)((i32)blockIdx.x - owner(tile * GRAINS)) * (SETS * SET_LANES);
#pragma unroll
    for (i32 set = 0; set < SETS; ++set) totals[set] = Four{};
#pragma unroll 2
    for (i32 i = 0; i < parts; ++i, part += SETS * SET_LANES) {
#pragma unroll
        for (i32 set = 0; set < SETS; ++set) {
            if ((lane & 3) >= PAIRS) continue;
            const float4 v = __ldcg(part + set * SET_LANES);
            totals[set].add(Four{{v.x, v.y, v.z, v.w}});
        }
    }
    return true;
}

template <i32 set>
DEVICE void finish_all(const Destination& to, const Targets& targets, const Operands& with,
                       i32 tile, float factor, const Four (&totals)[SETS],
                       const bool (&done)[SETS][2]) {
    if constexpr (set < SETS) {
        const float(&v)[4] = totals[set].v;
        const float scaled[4] = {v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor};
        finish<set>(to, targets, with, tile, scaled, done[set]);
        finish_all<set + 1>(to, targets, with, tile, factor, totals, done);
    }
}

/// The sums of all consumers, of one tile: four sums of every fourth warp, then their sum, in the
/// same order for every number of tokens.
DEVICE void gather(const Four* shelf, Four (&totals)[SETS]) {
    const i32 lane = threadIdx.x & 31, pair = lane & 3;
#pragma unroll
    for (i32 set = 0; set < SETS; ++set) {
        // Of the tile's warp w.
        const auto part = [&](i32 w) {
            return TILE_WARPS == WARPS ? (w * SETS + set) * SET_LANES
                                       : ((w * TILES_PER_STAGE + set / TOKEN_SETS) * TOKEN_SETS
                                          + set % TOKEN_SETS) * SET_LANES;
        };
        Four quarters[4] = {};
        if (PAIRS == 1) {
#pragma unroll
            for (i32 w = 0; w < TILE_WARPS; w += 4)
                quarters[0].add(shelf[part(w + pair) + lane / 4]);
#pragma unroll
            for (i32 offset = 1; offset < 4; offset *= 2) {
#pragma unroll
                for (i32 i = 0; i < 4; ++i)
                    quarters[0].v[i] += __shfl_xor_sync(0xffffffffu, quarters[0].v[i], offset);
            }
        } else if (pair < PAIRS) {
#pragma unroll
            for (i32 w = 0; w < TILE_WARPS; ++w)
                quarters[w % 4].add(shelf[part(w) + lane / 4 * PAIRS + pair]);
            quarters[0].add(quarters[1]);
            quarters[2].add(quarters[3]);
            quarters[0].add(quarters[2]);
        }
        totals[set] = quarters[0];
    }
}

/// The finisher warp: adds the consumers' sums of each tile of the block's run and stores them.
DEVICE void finish_run(const Destination& to, float factor, float* workspace, u64* places,
                       u32* counters, i32 begin, i32 stop) {
    const i32 lane = threadIdx.x & 31;
    const bool used = (lane & 3) < PAIRS;
    i32 buffer = 0;
    u32 parity = 0;
    Targets targets, next;
    if (CHUNKS == 1) next.load(to, begin / GRAINS);
    for (i32 chunk = 0; chunk < CHUNKS; ++chunk) {
        if (CHUNKS > 1 && chunk == CHUNKS - 1) next.load(to, begin / GRAINS);
        for (i32 unit = begin; unit < stop;) {
            const Segment segment(unit, stop, chunk);
            unit += segment.units;
            const i32 tile = segment.tile;
            const bool whole = segment.units == GRAINS;
            // Tile plus block differs along a run and from block to block: no two share a place.
            float4* own = (float4*)workspace + (i64)(tile + (i32)blockIdx.x) * (SETS * SET_LANES)
                + lane / 4 * PAIRS + (lane & 3);
            Operands with;
            if (chunk == CHUNKS - 1) {
                targets = next;
                with.load(to, targets);
                next.load(to, tile + 1);
            }
            Four before[SETS] = {};
            if (chunk > 0 && used) {
#pragma unroll
                for (i32 set = 0; set < SETS; ++set) {
                    const float4 v = __ldcg(own + set * SET_LANES);
                    before[set] = Four{{v.x, v.y, v.z, v.w}};
                }
            }
            mbarrier_wait(summed_barrier(buffer), parity);
            Four totals[SETS];
            gather((const Four*)(shared + SUMS_AT) + buffer * (WARPS * WARP_SETS * SET_LANES),
                   totals);
            mbarrier_arrive_warp(taken_barrier(buffer), lane);
            parity ^= buffer;
            buffer ^= 1;
            if (CHUNKS > 1) {
#pragma unroll
                for (i32 set = 0; set < SETS; ++set) {
                    before[set].add(totals[set]);
                    totals[set] = before[set];
                }
            }
            const i32 parts =
                whole ? 1 : owner((tile + 1) * GRAINS - 1) - owner(tile * GRAINS) + 1;
            if (used && (chunk < CHUNKS - 1 || (RUN < GRAINS && parts > 2))) {
#pragma unroll
                for (i32 set = 0; set < SETS; ++set) {
                    const float(&v)[4] = totals[set].v;
                    __stcg(own + set * SET_LANES, make_float4(v[0], v[1], v[2], v[3]));
                }
            }
            if (chunk == CHUNKS - 1) {
                bool done[SETS][2];
                bool last = true;
                if (RUN < GRAINS && parts > 2) last = combine(own, counters, tile, parts, totals);
#pragma unroll
                for (i32 set = 0; set < SETS; ++set) done[set][0] = done[set][1] = last;
                if (parts == 2) exchange(places, tile, totals, done);
                finish_all<0>(to, targets, with, tile, factor, totals, done);
            }
        }
    }
}
