// linear: y [T, ROWS] = x [T, COLUMNS] · W^T for few tokens, at the speed of reading W once.
//
// W is bfloat16, row-major [rows, PITCH], or codes in the layout of repack.cu. Sixteen output slots
// make a tile, the 16 rows of the tensor-core operand A; the tokens are its 8 columns B (two sets
// of them beyond 8 tokens). Work is the list of (tile, grain of GRAIN columns), tile after tile,
// cut into CTAS equal runs, one per block; a block is a producer warp and WARPS consumer warps
// around a ring of DEPTH stages in shared memory, and a finisher warp. The consumers split a
// stage's columns; the finisher adds what they have of a tile. Of a tile cut between two blocks the
// last to come adds both parts, of one cut more often all, in the order of the blocks: results
// depend on neither timing nor other tokens nor, with the same constants, on T (with INTEGERS T = 1
// and T = 2 each add in an order of their own). Where x does not fit into shared memory, a block goes
// through its run once for every CHUNK columns and keeps the sums of its tiles in the workspace.
//
// With INTEGERS tensor cores multiply codes as they are: of 8 bits s + 1/2, s = c - 128; equally
// spaced ones of 4 and 3 bits c - 15/2 and c - 7/2, two rows of an operand from the same bytes; of
// other levels of 3 bits integers in their place, by one byte permutation. Of each token and
// piece of PIECE columns x becomes 16-bit multiples of its largest magnitude / 32512, a high and a
// low byte, two columns of the operand B. One or two tokens leave columns free; there B holds
// several pieces side by side, whose sums of integers are turned into floats and scaled at once.
// Others become bfloat16: equally spaced ones of 4 and 3 bits, (2c - 15) / 128 and (2c - 7) / 128, by
// one multiply-add a pair, e4m3 by moving its bits (float8.cuh) and one product a pair, all exactly;
// the rest by a table or byte permutations.
//
// Nothing that precedes in the stream is touched before griddepcontrol.wait; W is, so the ring is
// full by then. Launched with programmatic dependent launch, two kernels share a multiprocessor if
// each takes at most half of its shared memory and both fit into the registers of each of its four
// quarters, 16384: a block here has 10 warps, three of them on some quarters, of at most 96
// registers (9216), which leaves a neighbour with one warp a quarter 224.
//
// Prologue: x as it is, or RMSNorm(x): bf16(bf16(x · rsqrt(mean(x²) + epsilon)) · norm).
// Epilogues, v the float sum, o = outputs[slot] (or the slot; -1: nothing):
//   STORE           y[t, o] = bf16(v + bias[o])
//   STORE_FLOAT     y[t, o] = v + bias[o], float
//   ADD             y[t, o] = bf16(y[t, o] + bf16(v + bias[o]))
//   SWIGLU          slots 0–7 of a tile are gates, 8–15 their ups:
//                   y[t, o] = bf16(bf16(silu(gate)) · up), o of the gate's slot; without tables
//                   tile i holds gates 8i… and their ups
//   SWIGLU_FACTORED x is p, the products with the pivot rows: tiles of kind 0 as SWIGLU; kind 1:
//                   gates whose ups are p[t, partners[slot]]; kind 2: ups whose gates are; pairs
//                   [pairCount, 3] = (gate's place in p, up's place in p, o) of which both are.
//   COMPACT         beside STORE or ADD: compact[t, slot] = bf16(v)
//
// Constants
//   WEIGHT          16: bfloat16; 8: with UNIFORM (2c - 255) · FACTOR, else e4m3 · FACTOR; 4: with
//                   UNIFORM (2c - 15) · FACTOR, else LEVEL_0…LEVEL_7, the bits of the positive levels
//                   in bfloat16, and the sign; 3: with UNIFORM (2c - 7) · FACTOR, else
//                   LEVEL_0…LEVEL_3, the positive levels as integers up to 127
//   UNIFORM         1: levels equally spaced; 0: others, and bfloat16
//   INTEGERS        1: codes are multiplied as integers (3 bits, UNIFORM; 8 bits with it: always);
//                   0: not
//   ROWS COLUMNS    slots, inputs. PITCH (bf16): elements from row to row, a multiple of 8
//   TOKENS          tokens, 1…16 (T in shapes)
//   STAGE DEPTH     columns of a stage of the ring, a multiple of GRAIN; stages in the ring
//   GRAIN           a multiple of 32 (bf16) or 64 columns
//   AHEAD           1: two chunks of x are held, one on its way while one is used; 0: one
//   CTAS CHUNK      blocks; columns of x held at a time, a multiple of GRAIN and of 64, or COLUMNS
//   TILES_PER_STAGE tiles of 16 slots that share a stage: 1 (bf16), 1 or 2 (codes)
//   PIECE           columns per scale: 32 or 64 (codes)
//   FACTOR          of all levels (codes); UNIFORM: 1/255, 1/15, 1/7, 1/3 for codes of 8, 4, 3, 2
//                   bits (these are the middle ones of 3); e4m3: 1/448
//   LOOKED_UP       of four words of codes, how many go through the table in shared memory (4 bits
//                   without UNIFORM; else 0)
//   WARPS           consumer warps: 8, or 16 with codes; a multiple of 4 for each tile of a stage
//   PROLOGUE (0, 1) EPILOGUE (0…4 in the order above) COMPACT BIAS ROW_TABLE OUTPUT_TABLE (0, 1)
//   X_STRIDE Y_STRIDE P_STRIDE   elements from token to token; X_STRIDE a multiple of 8
// Grid CTAS, block 32 · (WARPS + 2), dynamic shared memory as in linear_geometry.cuh
// (LinearProblem.sharedBytes computes it).
// Parameters
//   weights; base [1] float (codes); x [T, X_STRIDE] bf16, 16-byte aligned; norm [COLUMNS] bf16;
//   epsilon; bias bf16 by output; y; compact; rows [slots] (rows of W, -1: none; bf16 with
//   ROW_TABLE); outputs [slots]; partners [slots]; kinds [tiles]; pairs; pairCount; workspace float
//   [tiles + CTAS, SETS, SET_LANES, 4] of any content; places 64-bit [tiles, SETS, SET_LANES, 2],
//   all bits set before the first launch and after every launch; counters [tiles], zero likewise.
//   Kernels of one stream may share the last three.
// Needs W finite where a row is padded to a multiple of 8 columns; COLUMNS a multiple of 8 with
// PROLOGUE. sm_80 or newer; bulk copies from sm_90 on.
// Reference: x · W^T in float64 of the bf16 (or decoded) values. Tolerance: float sums of COLUMNS
// products of one rounding each, |error| <= 2^-23 · COLUMNS · sum |w x| at worst, plus half a unit
// of the result's last place (at most 2^-8 · |v|) per rounding named above. Levels that are not
// equally spaced add their rounding to bfloat16 or, of 3 bits, to integers, at most 2^-8 · |w x| per
// product; INTEGERS that of x to an integer, |w| · (largest |x| of the piece) / 65024 · (1 + 2^-6) per
// product, and nothing else: sums of a piece are exact. (2c - 15) / 128, (2c - 7) / 128 and numbers of
// e4m3 are exact in bfloat16.
// compile: WEIGHT=16 ROWS=10240 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=1024 GRAIN=512 DEPTH=3 CTAS=132 CHUNK=5120 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=1.0 PROLOGUE=1 EPILOGUE=0 COMPACT=1 BIAS=1 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=5120 Y_STRIDE=10240 P_STRIDE=10240 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=16 ROWS=2330 COLUMNS=2790 PITCH=2792 TOKENS=11 STAGE=256 GRAIN=128 DEPTH=5 CTAS=132 CHUNK=1024 AHEAD=1 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=1.0 PROLOGUE=0 EPILOGUE=4 COMPACT=0 BIAS=0 ROW_TABLE=1 OUTPUT_TABLE=1 X_STRIDE=2792 Y_STRIDE=25600 P_STRIDE=0 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=8 ROWS=5120 COLUMNS=8192 PITCH=8192 TOKENS=8 STAGE=512 GRAIN=512 DEPTH=3 CTAS=132 CHUNK=2048 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=32 LOOKED_UP=0 FACTOR=0.0039215686 PROLOGUE=1 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=8192 Y_STRIDE=5120 P_STRIDE=0 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=8 ROWS=2944 COLUMNS=25600 PITCH=25600 TOKENS=1 STAGE=1024 GRAIN=256 DEPTH=3 CTAS=132 CHUNK=25600 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=0.0039215686 PROLOGUE=0 EPILOGUE=2 COMPACT=1 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=25600 Y_STRIDE=5120 P_STRIDE=2944 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=8 ROWS=1001 COLUMNS=1005 PITCH=1008 TOKENS=2 STAGE=512 GRAIN=256 DEPTH=4 CTAS=7 CHUNK=1005 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=32 LOOKED_UP=0 FACTOR=0.0039215686 PROLOGUE=0 EPILOGUE=0 COMPACT=0 BIAS=1 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=1008 Y_STRIDE=1001 P_STRIDE=0 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=8 ROWS=51200 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=512 GRAIN=512 DEPTH=5 CTAS=132 CHUNK=5120 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.00223214286 PROLOGUE=1 EPILOGUE=3 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=5120 Y_STRIDE=25600 P_STRIDE=0 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=8 ROWS=1001 COLUMNS=1005 PITCH=1008 TOKENS=3 STAGE=1024 GRAIN=256 DEPTH=3 CTAS=7 CHUNK=1005 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=32 LOOKED_UP=0 FACTOR=0.00223214286 PROLOGUE=0 EPILOGUE=2 COMPACT=1 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=1008 Y_STRIDE=1001 P_STRIDE=1001 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=8 ROWS=5120 COLUMNS=8192 PITCH=8192 TOKENS=16 STAGE=512 GRAIN=512 DEPTH=3 CTAS=132 CHUNK=2048 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=32 LOOKED_UP=0 FACTOR=0.00223214286 PROLOGUE=1 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=8192 Y_STRIDE=5120 P_STRIDE=0 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=4 ROWS=51200 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=3 CTAS=132 CHUNK=5120 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=4 FACTOR=1.0 PROLOGUE=1 EPILOGUE=3 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=5120 Y_STRIDE=25600 P_STRIDE=0 LEVEL_0=15681 LEVEL_1=15890 LEVEL_2=15991 LEVEL_3=16049 LEVEL_4=16108 LEVEL_5=16152 LEVEL_6=16195 LEVEL_7=16256 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=4 ROWS=1001 COLUMNS=1000 PITCH=1000 TOKENS=3 STAGE=256 GRAIN=64 DEPTH=4 CTAS=7 CHUNK=1000 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=2 FACTOR=1.0 PROLOGUE=0 EPILOGUE=1 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=1000 Y_STRIDE=1001 P_STRIDE=0 LEVEL_0=15681 LEVEL_1=15890 LEVEL_2=15991 LEVEL_3=16049 LEVEL_4=16108 LEVEL_5=16152 LEVEL_6=16195 LEVEL_7=16256 UNIFORM=0 INTEGERS=0
// compile: WEIGHT=4 ROWS=51200 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=5 CTAS=132 CHUNK=5120 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.0666666667 PROLOGUE=1 EPILOGUE=3 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=5120 Y_STRIDE=25600 P_STRIDE=0 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=4 ROWS=5120 COLUMNS=25600 PITCH=25600 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=3 CTAS=132 CHUNK=25600 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.0666666667 PROLOGUE=0 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=25600 Y_STRIDE=5120 P_STRIDE=0 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=3 ROWS=1001 COLUMNS=1005 PITCH=1008 TOKENS=2 STAGE=512 GRAIN=256 DEPTH=4 CTAS=7 CHUNK=1005 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=32 LOOKED_UP=0 FACTOR=0.1428571429 PROLOGUE=0 EPILOGUE=0 COMPACT=0 BIAS=1 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=1008 Y_STRIDE=1001 P_STRIDE=0 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=4 ROWS=2432 COLUMNS=25600 PITCH=25600 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=7 CTAS=132 CHUNK=25600 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=0.0666666667 PROLOGUE=0 EPILOGUE=2 COMPACT=1 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=25600 Y_STRIDE=5120 P_STRIDE=2432 UNIFORM=1 INTEGERS=0
// compile: WEIGHT=4 ROWS=5120 COLUMNS=8192 PITCH=8192 TOKENS=8 STAGE=512 GRAIN=512 DEPTH=7 CTAS=132 CHUNK=2048 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.0666666667 PROLOGUE=1 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=8192 Y_STRIDE=5120 P_STRIDE=0 UNIFORM=1 INTEGERS=0
// compile: WEIGHT=3 ROWS=51200 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=7 CTAS=132 CHUNK=5120 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.1428571429 PROLOGUE=1 EPILOGUE=3 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=5120 Y_STRIDE=25600 P_STRIDE=0 UNIFORM=1 INTEGERS=1
// compile: WEIGHT=3 ROWS=5120 COLUMNS=25600 PITCH=25600 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=4 CTAS=132 CHUNK=25600 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.00878328 PROLOGUE=0 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=25600 Y_STRIDE=5120 P_STRIDE=0 UNIFORM=0 INTEGERS=1 LEVEL_0=13 LEVEL_1=40 LEVEL_2=71 LEVEL_3=114
// compile: WEIGHT=3 ROWS=2432 COLUMNS=25600 PITCH=25600 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=8 CTAS=132 CHUNK=25600 AHEAD=0 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=0.00878328 PROLOGUE=0 EPILOGUE=2 COMPACT=1 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=25600 Y_STRIDE=5120 P_STRIDE=2432 UNIFORM=0 INTEGERS=0 LEVEL_0=13 LEVEL_1=40 LEVEL_2=71 LEVEL_3=114
// compile: WEIGHT=3 ROWS=5120 COLUMNS=8192 PITCH=8192 TOKENS=8 STAGE=512 GRAIN=512 DEPTH=9 CTAS=132 CHUNK=2048 AHEAD=0 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=0 FACTOR=0.1428571429 PROLOGUE=1 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=8192 Y_STRIDE=5120 P_STRIDE=0 UNIFORM=1 INTEGERS=0
// compile: WEIGHT=16 ROWS=2330 COLUMNS=2790 PITCH=2792 TOKENS=11 STAGE=256 GRAIN=128 DEPTH=5 CTAS=132 CHUNK=1024 AHEAD=1 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=1.0 PROLOGUE=0 EPILOGUE=4 COMPACT=0 BIAS=0 ROW_TABLE=1 OUTPUT_TABLE=1 X_STRIDE=2792 Y_STRIDE=25600 P_STRIDE=0 UNIFORM=0 INTEGERS=0 RACECHECK=1
#include "linear_geometry.cuh"
#include "linear_ring.cuh"
#include "linear_input.cuh"
#include "linear_products.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 2)
linear(const u8* weights, const float* base, const bf16* x, const bf16* norm, float epsilon,
       const bf16* bias, void* y, bf16* compact, const i32* rows, const i32* outputs,
       const i32* partners, const i32* kinds, const i32* pairs, i32 pairCount, float* workspace,
       u64* places, u32* counters) {
    dependents_launch();
    const i32 thread = threadIdx.x, lane = thread & 31, warp = thread / 32;
    const i32 begin = run_start(blockIdx.x), stop = run_start(blockIdx.x + 1);

    if (warp == WARPS) {
        if (lane == 0) init_barriers();
        __syncwarp();
        barrier_arrive(START_BARRIER, CONSUMERS + 32);
        barrier_arrive(FINISHER_START_BARRIER, 64);
        produce(weights, rows, begin, stop);
        return;
    }
    if (warp == WARPS + 1) {
#if WEIGHT == 16
        const float factor = 1.0f;
#else
        const float factor = *base * ((float)FACTOR * (SPACED ? 128.0f : 1.0f));
#endif
        barrier_sync(FINISHER_START_BARRIER, 64);
        dependencies_wait();
        finish_run(Destination{x, bias, y, compact, outputs, partners, kinds}, factor, workspace,
                   places, counters, begin, stop);
        return;
    }

#if LOOKED_UP > 0
    fill_table();
#endif
    Share share;
    share.load(norm);
    barrier_sync(START_BARRIER, CONSUMERS + 32);
    dependencies_wait();
    if (begin == stop) return;

#if PROLOGUE
    float inverse[TOKENS];
#endif
#if PROGRESSIVE
    Progress progress(x, begin % GRAINS * GRAIN);
#else
    if (DIRECT) {
        load_directly(x, share, epsilon);
    } else {
        load_x(x, 0);
#if PROLOGUE
        statistics(x, epsilon, inverse);
        normalise(norm, 0, inverse);
#elif INTEGERS
        convert(0);
#endif
    }
    barrier_sync(CONSUMER_BARRIER, CONSUMERS);
    request_after(x, 0);
#endif

#if EPILOGUE == SWIGLU_FACTORED
    store_pairs(x, (bf16*)y, pairs, pairCount);
#endif

#if INTEGERS
    Place place;
#else
    const i32 place = lane;
#endif
    Sums sums = {};
    // An uneven stage begins with warp `turn`, the one after the last of the uneven stage before.
    const i32 member = warp / (WARPS / TILE_WARPS);
    i32 slot = 0, tiles = 0, turn = 0;
    u32 parity = 0;
    for (i32 chunk = 0; chunk < CHUNKS; ++chunk) {
        if (chunk > 0) {
            load_x(x, chunk);
#if PROLOGUE
            normalise(norm, chunk, inverse);
#elif INTEGERS
            convert(chunk);
#endif
            barrier_sync(CONSUMER_BARRIER, CONSUMERS);
            request_after(x, chunk);
        }
#if INTEGERS
        const u32 xStart = place.start(chunk);
#else
        const u32 xStart = x_address() + (x_offset(chunk) - X_AT);
#endif
        for (i32 unit = begin; unit < stop;) {
            Segment segment(unit, stop, chunk);
            unit += segment.units;
            while (segment.at < segment.end) {
                const i32 columns = segment.columns();
                const u32 at = xStart + segment.at * 2;
                // Rows are read by their address, codes by their offset.
                const u32 ring = WEIGHT == 16 ? shared_address(shared + RING_AT) : RING_AT;
                const u32 from = ring + slot * STAGE_BYTES;
#if PROGRESSIVE
                progress.advance(x, columns);
#endif
                mbarrier_wait(full_barrier(slot), parity);
                if (EVEN && (ALL_FULL || columns == STAGE)) {
                    accumulate<true>(sums, from, at, STAGE, member, place, empty_barrier(slot));
                } else {
                    const i32 first = (member - turn) & (TILE_WARPS - 1);
                    accumulate<false>(sums, from, at, columns, first, place, empty_barrier(slot));
                    turn += (columns + STEP - 1) / STEP;
                }
                segment.advance(columns);
                if (++slot == DEPTH) {
                    slot = 0;
                    parity ^= 1;
                }
            }
            const i32 buffer = tiles & 1;
            if (tiles >= 2) mbarrier_wait(taken_barrier(buffer), (tiles / 2 - 1) & 1);
#if INTEGERS
            shelve(sums, (Four*)(shared + SUMS_AT)
                             + (buffer * WARPS + warp) * (WARP_SETS * SET_LANES));
#else
            Four* shelf = (Four*)(shared + SUMS_AT) + (buffer * WARPS + warp) * (SETS * SET_LANES)
                + lane / 4 * PAIRS + (lane & 3);
#pragma unroll
            for (i32 set = 0; set < SETS; ++set) {
                float(&own)[4] = sums[set / TOKEN_SETS][set % TOKEN_SETS];
                if ((lane & 3) < PAIRS)
                    shelf[set * SET_LANES] = Four{{own[0], own[1], own[2], own[3]}};
                own[0] = own[1] = own[2] = own[3] = 0.0f;
            }
#endif
            mbarrier_arrive_warp(summed_barrier(buffer), lane);
            tiles += 1;
        }
    }
}
