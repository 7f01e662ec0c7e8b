// What a step that verifies trees needs beside attention and sampling: who sees whom, and moving what
// the tokens that it made have left to where they stand. Trees: tree.cu.
//
// Entry tree_masks. Grid: a block of 32 per row. Parameters: rows int32 [gridDim.x], slots, negative for
// padding; parents int32 [slots, most]; seen u32 [gridDim.x (count + 1)]; count, most int32: bit j of
// seen[r (count + 1) + i] is set where row j is row i of the step or before it in its branch, up to one
// whose parent is none that comes before it. At most 31 nodes.
//
// Entry move_path: keys and values of all layers. For row r with slot s = rows[r] and p = positions[s] -
// counts[s]: place p + path[s, j] is copied to place p + j for j = 1 ... counts[s] - 1 in ascending order.
// Path ascends, path[s, j] >= j, so that what is read lies behind everything written before; each thread
// moves its bytes of all places in that order.
// Parameters: layers u64 [layers]: addresses of each layer's pages (keyvalue.cuh); table int32
// [gridDim.z, max_pages]: the rows' pages; rows; positions and counts int32 [slots], path int32 [slots,
// places], as sampling.cu leaves them; max_pages, places int32. Grid (KV_HEADS, layers, rows), block 256.
//
// Entry keep_path: the same of a head's features, in the ring of draft.cu. Parameters: ring bf16 [slots,
// RING, stride], stride a multiple of 8; rows, positions, counts, path, places, stride int32. Grid (blocks
// over stride / 8, rows), block 256.
//
// References: the definitions above; exact. Constants: those of keyvalue.cuh, RING. Needs sm_80.
//
// compile: HEADS=64 KV_HEADS=8 HEAD_DIM=128 ROTARY_DIM=128 QK_NORM=1 KV_FP8=0 RING=32
// compile: HEADS=3 KV_HEADS=1 HEAD_DIM=72 ROTARY_DIM=32 QK_NORM=0 KV_FP8=1 RING=32
#include "keyvalue.cuh"

#define THREADS 256
#define PIECES (KEY_ROW / 16)
// A token's key in pieces of 16 bytes, its value by dimensions and, of e4m3, the scales of both.
#define UNITS (PIECES + DIM + (KV_FP8 ? 2 : 0))

extern "C" __global__ void __launch_bounds__(32)
    tree_masks(const i32* rows, const i32* parents, u32* seen, i32 count, i32 most) {
    dependents_launch();
    dependencies_wait();
    const i32 slot = rows[blockIdx.x], row = threadIdx.x;
    if (row > count) return;
    u32 mask = 1u << row;
    for (i32 at = row; slot >= 0 && at > 0;) {
        i32 parent = parents[(i64)slot * most + at - 1];
        if (parent < 0 || parent >= at) break;
        mask |= 1u << parent;
        at = parent;
    }
    seen[blockIdx.x * (count + 1) + row] = mask;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    move_path(const u64* layers, const i32* table, const i32* rows, const i32* positions,
              const i32* counts, const i32* path, i32 max_pages, i32 places) {
    dependents_launch();
    dependencies_wait();
    const i32 row = blockIdx.z, slot = rows[row], head = blockIdx.x;
    if (slot < 0) return;
    const i32 count = min(counts[slot], places), first = positions[slot] - counts[slot];
    u8* pages = (u8*)layers[blockIdx.y];
    const i32* own = table + (i64)row * max_pages;
    for (i32 unit = threadIdx.x; unit < UNITS; unit += THREADS) {
        const i32 kind = unit < PIECES || unit == PIECES + DIM ? 0 : 1;
        for (i32 place = 1; place < count; place++) {
            i32 from = path[(i64)slot * places + place];
            if (from <= place || (first + from) / PAGE >= max_pages) continue;
            u8* tiles[2];
            i32 tokens[2] = {first + from, first + place};
#pragma unroll
            for (i32 i = 0; i < 2; i++)
                tiles[i] = tile_at(pages, own[tokens[i] / PAGE], head, tokens[i] / BLOCK, kind);
            i32 source = tokens[0] % BLOCK, target = tokens[1] % BLOCK;
            if (unit < PIECES) {
                *(uint4*)(tiles[1] + piece_offset(target, unit, KEY_ROW)) =
                    *(const uint4*)(tiles[0] + piece_offset(source, unit, KEY_ROW));
            } else if (unit < PIECES + DIM) {
                u32 to = value_offset(target, unit - PIECES);
                u32 at = value_offset(source, unit - PIECES);
#if KV_FP8
                tiles[1][to] = tiles[0][at];
#else
                *(u16*)(tiles[1] + to) = *(const u16*)(tiles[0] + at);
#endif
            } else {
                tiles[1][SCALES_AT + target] = tiles[0][SCALES_AT + source];
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    keep_path(bf16* ring, const i32* rows, const i32* positions, const i32* counts,
              const i32* path, i32 places, i32 stride) {
    dependents_launch();
    dependencies_wait();
    const i32 slot = rows[blockIdx.y];
    if (slot < 0) return;
    const i32 count = min(counts[slot], places), first = positions[slot] - counts[slot];
    ring += (i64)slot * RING * stride;
    for (i32 i = 8 * (blockIdx.x * THREADS + threadIdx.x); i < stride; i += 8 * THREADS * gridDim.x) {
        // What is read lies behind everything written before.
        for (i32 place = 1; place < count; place++) {
            i32 from = path[(i64)slot * places + place];
            if (from <= place) continue;
            *reinterpret_cast<uint4*>(ring + (i64)((first + place) % RING) * stride + i) =
                *reinterpret_cast<const uint4*>(ring + (i64)((first + from) % RING) * stride + i);
        }
    }
}
