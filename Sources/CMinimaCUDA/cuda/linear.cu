// linear: y [T, ROWS] = x [T, COLUMNS] · W^T for few tokens, at the speed of reading W once.
//
// W is bfloat16, row-major [rows, PITCH], or codes in the layout of repack.cu. Sixteen output slots
// make a tile, the 16 rows of the tensor-core operand A; the tokens are its 8 columns B (two sets of
// them beyond 8 tokens). Work is the list of (tile, grain of GRAIN columns), tile after tile, cut into
// CTAS equal runs, one per block; a block is a producer warp and WARPS consumer warps around a ring of
// DEPTH stages in shared memory, and a finisher warp. The consumers split a stage's columns; the
// finisher adds what they have of a tile. Of a tile cut between two blocks the last to come adds both
// parts, of one cut more often all, in the order of the blocks: results depend on neither timing nor,
// with the same constants, on T. Where x does not fit into shared memory, a block goes through its run
// once for every CHUNK columns and keeps the sums of its tiles in the workspace.
//
// Nothing that precedes in the stream is touched before griddepcontrol.wait; W is, so the ring is full
// by then. Launched with programmatic dependent launch, two kernels share a multiprocessor if each
// takes at most half of its shared memory.
//
// Prologue: x as it is, or RMSNorm(x): bf16(bf16(x · rsqrt(mean(x²) + epsilon)) · norm).
// Epilogues, v the float sum, o = outputs[slot] (or the slot; -1: nothing):
//   STORE           y[t, o] = bf16(v + bias[o])
//   STORE_FLOAT     y[t, o] = v + bias[o], float
//   ADD             y[t, o] = bf16(y[t, o] + bf16(v + bias[o]))
//   SWIGLU          slots 0–7 of a tile are gates, 8–15 their ups: y[t, o] = bf16(bf16(silu(gate)) · up),
//                   o of the gate's slot; without tables tile i holds gates 8i… and their ups
//   SWIGLU_FACTORED x is p, the products with the pivot rows: tiles of kind 0 as SWIGLU; kind 1:
//                   gates whose ups are p[t, partners[slot]]; kind 2: ups whose gates are; pairs
//                   [pairCount, 3] = (gate's place in p, up's place in p, o) of which both are.
//   COMPACT         beside STORE or ADD: compact[t, slot] = bf16(v)
//
// Constants
//   WEIGHT          16: bfloat16; 8: (2c - 255) / 255; 4: LEVEL_0…LEVEL_7, the bits of the positive
//                   levels in bfloat16, and the sign
//   ROWS COLUMNS    slots, inputs. PITCH (bf16): elements from row to row, a multiple of 8
//   TOKENS          tokens, 1…16 (T in shapes)
//   STAGE DEPTH     columns of a stage of the ring, a multiple of GRAIN; stages in the ring
//   GRAIN           a multiple of 32 (bf16) or 64 columns
//   AHEAD           1: two chunks of x are held, one on its way while one is used; 0: one
//   CTAS CHUNK      blocks; columns of x held at a time, a multiple of GRAIN and of 64, or COLUMNS
//   TILES_PER_STAGE tiles of 16 slots that share a stage: 1 (bf16), 1 or 2 (codes)
//   PIECE           columns per scale: 32 or 64 (codes). FACTOR: of all levels (codes)
//   LOOKED_UP       of four words of codes, how many go through the table in shared memory (4 bits)
//   BULK            1: one bulk copy per row of a stage (2 KB or more keep up with memory) or per stage
//                   of codes; 0: 16 bytes per thread; forced below sm_90
//   WARPS           consumer warps: 8, or 16 with codes
//   PROLOGUE (0, 1) EPILOGUE (0…4 in the order above) COMPACT BIAS ROW_TABLE OUTPUT_TABLE (0, 1)
//   X_STRIDE Y_STRIDE P_STRIDE   elements from token to token; X_STRIDE a multiple of 8
// Grid CTAS, block 32 · (WARPS + 2), shared memory as in `Shared` below (DecodeLinear.swift computes it).
// Parameters
//   weights; base [1] float (codes); x [T, X_STRIDE] bf16, 16-byte aligned; norm [COLUMNS] bf16;
//   epsilon; bias bf16 by output; y; compact; rows [slots] (rows of W, -1: none; bf16 with ROW_TABLE);
//   outputs [slots]; partners [slots]; kinds [tiles]; pairs; pairCount; workspace float
//   [tiles + CTAS, SETS, SET_LANES, 4] of any content; places 64-bit [tiles, SETS, SET_LANES, 2], all
//   bits set before the first launch and after every launch; counters [tiles], zero likewise. Kernels
//   of one stream may share the last three.
// Needs W finite where a row is padded to a multiple of 8 columns; COLUMNS a multiple of 8 with
// PROLOGUE. sm_80 or newer; bulk copies from sm_90 on.
// Reference: x · W^T in float64 of the bf16 (or decoded) values. Tolerance: float sums of COLUMNS
// products of one rounding each, |error| <= 2^-23 · COLUMNS · sum |w x| at worst, plus half a unit of
// the result's last place (2^-9 · |v|) per rounding named above; codes of 4 bits add the rounding of
// a level to bfloat16, 2^-9 · |w x| per product.
// compile: WEIGHT=16 ROWS=10240 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=1024 GRAIN=512 DEPTH=3 CTAS=132 CHUNK=5120 AHEAD=0 BULK=1 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=1.0 PROLOGUE=1 EPILOGUE=0 COMPACT=1 BIAS=1 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=5120 Y_STRIDE=10240 P_STRIDE=10240
// compile: WEIGHT=16 ROWS=2330 COLUMNS=2790 PITCH=2792 TOKENS=11 STAGE=256 GRAIN=128 DEPTH=5 CTAS=132 CHUNK=1024 AHEAD=1 BULK=1 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=0 FACTOR=1.0 PROLOGUE=0 EPILOGUE=4 COMPACT=0 BIAS=0 ROW_TABLE=1 OUTPUT_TABLE=1 X_STRIDE=2792 Y_STRIDE=25600 P_STRIDE=0
// compile: WEIGHT=8 ROWS=5120 COLUMNS=8192 PITCH=8192 TOKENS=8 STAGE=512 GRAIN=512 DEPTH=3 CTAS=132 CHUNK=2048 AHEAD=0 BULK=1 WARPS=8 TILES_PER_STAGE=2 PIECE=32 LOOKED_UP=0 FACTOR=0.0078 PROLOGUE=1 EPILOGUE=2 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=8192 Y_STRIDE=5120 P_STRIDE=0
// compile: WEIGHT=4 ROWS=51200 COLUMNS=5120 PITCH=5120 TOKENS=1 STAGE=1024 GRAIN=1024 DEPTH=3 CTAS=132 CHUNK=5120 AHEAD=0 BULK=1 WARPS=8 TILES_PER_STAGE=2 PIECE=64 LOOKED_UP=4 FACTOR=1.0 PROLOGUE=1 EPILOGUE=3 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=1 X_STRIDE=5120 Y_STRIDE=25600 P_STRIDE=0 LEVEL_0=15681 LEVEL_1=15890 LEVEL_2=15991 LEVEL_3=16049 LEVEL_4=16108 LEVEL_5=16152 LEVEL_6=16195 LEVEL_7=16256
// compile: WEIGHT=4 ROWS=1001 COLUMNS=1000 PITCH=1000 TOKENS=3 STAGE=256 GRAIN=64 DEPTH=4 CTAS=7 CHUNK=1000 AHEAD=0 BULK=0 WARPS=8 TILES_PER_STAGE=1 PIECE=64 LOOKED_UP=2 FACTOR=1.0 PROLOGUE=0 EPILOGUE=1 COMPACT=0 BIAS=0 ROW_TABLE=0 OUTPUT_TABLE=0 X_STRIDE=1000 Y_STRIDE=1001 P_STRIDE=0 LEVEL_0=15681 LEVEL_1=15890 LEVEL_2=15991 LEVEL_3=16049 LEVEL_4=16108 LEVEL_5=16152 LEVEL_6=16195 LEVEL_7=16256
#include "common.cuh"

#define STORE 0
#define STORE_FLOAT 1
#define ADD 2
#define SWIGLU 3
#define SWIGLU_FACTORED 4

#define CONSUMERS (WARPS * 32)
#define THREADS (CONSUMERS + 64)
#define CONSUMER_BARRIER 1
#define START_BARRIER 2

#if !HAS_BULK_COPY
#undef BULK
#define BULK 0
#endif

#define ROUND_UP(a, b) (((a) + (b) - 1) / (b) * (b))
#define MINIMUM(a, b) ((a) < (b) ? (a) : (b))
#define MAXIMUM(a, b) ((a) > (b) ? (a) : (b))

// ---- geometry ----

constexpr i32 TOKEN_SETS = (TOKENS + 7) / 8;
// Of the four pairs of tokens in a set, those in use.
constexpr i32 PAIRS = TOKENS >= 8 ? 4 : (TOKENS + 1) / 2;
constexpr i32 TILE_ROWS = 16 * TILES_PER_STAGE;
constexpr i32 TILES = (ROWS + TILE_ROWS - 1) / TILE_ROWS;
constexpr i32 CHUNKS = (COLUMNS + CHUNK - 1) / CHUNK;
// Work is dealt out in grains: GRAIN columns of a chunk of a tile. The last chunk may lack some.
constexpr i32 GRAINS = (MINIMUM(CHUNK, COLUMNS) + GRAIN - 1) / GRAIN;
constexpr i32 UNITS = TILES * GRAINS;
static_assert(STAGE % GRAIN == 0 && (CHUNKS == 1 || CHUNK % GRAIN == 0), "grains do not fit");
constexpr i32 RUN = UNITS / CTAS;
constexpr i32 LONGER_RUNS = UNITS % CTAS;
// Parts of a tile's sums: one for each of its 16-slot tiles and token sets.
constexpr i32 SETS = TILES_PER_STAGE * TOKEN_SETS;
constexpr i32 SET_LANES = 8 * PAIRS;

#if WEIGHT == 16
constexpr i32 ROW_BYTES = STAGE * 2 + 16;
constexpr i32 STAGE_BYTES = 16 * ROW_BYTES;
constexpr i32 STEP = 32;
#else
constexpr i32 STEP = 64;
constexpr i32 CODE_BYTES = 128 * WEIGHT;
constexpr i32 SCALE_BYTES = 16 * (64 / PIECE);
constexpr i32 BLOCK_BYTES = TILES_PER_STAGE * (CODE_BYTES + SCALE_BYTES);
constexpr i32 BLOCKS_PER_TILE = (COLUMNS + 63) / 64;
constexpr i32 STAGE_BYTES = STAGE / 64 * BLOCK_BYTES;
#endif
constexpr i32 X_COLUMNS = ROUND_UP(MINIMUM(CHUNK, COLUMNS), 64);
constexpr i32 X_PITCH = X_COLUMNS * 2 + 16;

// Shared memory, in this order.
constexpr i32 TABLE_AT = 0;
#if WEIGHT == 4 && LOOKED_UP > 0
constexpr i32 TABLE_BYTES = 256 * 128;
#else
constexpr i32 TABLE_BYTES = 0;
#endif
constexpr i32 BARRIERS_AT = TABLE_AT + TABLE_BYTES;
constexpr i32 BARRIER_BYTES = ROUND_UP((2 * DEPTH + 5) * 8, 128);
constexpr i32 SUMS_AT = BARRIERS_AT + BARRIER_BYTES;
constexpr i32 SUM_BYTES = 2 * WARPS * SETS * SET_LANES * 16;
constexpr i32 STATISTICS_AT = SUMS_AT + SUM_BYTES;
constexpr i32 STATISTIC_BYTES = PROLOGUE ? ROUND_UP(TOKENS * WARPS * 4, 128) : 0;
constexpr i32 X_AT = STATISTICS_AT + STATISTIC_BYTES;
constexpr i32 X_BYTES = ROUND_UP(TOKENS * X_PITCH, 128);
// With AHEAD a second chunk of x is on its way while one is used.
constexpr i32 X_BUFFERS = CHUNKS > 1 && AHEAD ? 2 : 1;
constexpr i32 RING_AT = X_AT + X_BUFFERS * X_BYTES;

extern __shared__ __align__(128) u8 shared[];

// No stage lacks columns: one path of code.
constexpr bool ALL_FULL =
    GRAIN == STAGE && COLUMNS % STAGE == 0 && (CHUNKS == 1 || CHUNK % STAGE == 0);

DEVICE i32 columns_of(i32 chunk) { return MINIMUM(CHUNK, COLUMNS - chunk * CHUNK); }

/// A block's share of one tile and chunk: columns from `at` to `end` of the chunk.
struct Segment {
    i32 tile, at, end;
    i32 units;
    // Columns of the next stage unless the segment ends before: stages end at multiples of STAGE.
    i32 room;

    /// The segment that begins at a unit (tile · GRAINS + grain) and ends with the tile or before `stop`.
    DEVICE Segment(i32 unit, i32 stop, i32 chunk) {
        tile = unit / GRAINS;
        const i32 grain = unit - tile * GRAINS;
        units = MINIMUM(GRAINS - grain, stop - unit);
        at = grain * GRAIN;
        end = MINIMUM((grain + units) * GRAIN, columns_of(chunk));
        room = STAGE - at % STAGE;
    }

    /// Columns of the next stage.
    DEVICE i32 columns() const { return ALL_FULL ? STAGE : MINIMUM(room, end - at); }

    DEVICE void advance(i32 columns) {
        at += columns;
        room = STAGE;
    }
};

/// The first unit of a block's run, in every chunk the same.
DEVICE i32 run_start(i32 cta) { return cta * RUN + MINIMUM(cta, LONGER_RUNS); }

/// The block whose run holds a unit.
DEVICE i32 owner(i32 unit) {
    constexpr i32 longer = LONGER_RUNS * (RUN + 1);
    if (RUN == 0) return unit;
    return unit < longer ? unit / (RUN + 1) : LONGER_RUNS + (unit - longer) / (RUN > 0 ? RUN : 1);
}

// ---- the ring ----

DEVICE u32 full_barrier(i32 slot) { return shared_address(shared + BARRIERS_AT) + slot * 8; }
DEVICE u32 empty_barrier(i32 slot) {
    return shared_address(shared + BARRIERS_AT) + (DEPTH + slot) * 8;
}
DEVICE u32 summed_barrier(i32 buffer) {
    return shared_address(shared + BARRIERS_AT) + (2 * DEPTH + 1 + buffer) * 8;
}
DEVICE u32 taken_barrier(i32 buffer) {
    return shared_address(shared + BARRIERS_AT) + (2 * DEPTH + 3 + buffer) * 8;
}
DEVICE u32 x_barrier() { return shared_address(shared + BARRIERS_AT) + 2 * DEPTH * 8; }

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
/// after chunk.
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
#if BULK
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
#if BULK
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

// ---- x ----

/// Eight bfloat16 values.
struct alignas(16) Eight {
    u32 pairs[4];
};

DEVICE float squares(const Eight& values) {
    float sum = 0.0f;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
        float low = low_float(values.pairs[i]), high = high_float(values.pairs[i]);
        sum = fmaf(low, low, sum);
        sum = fmaf(high, high, sum);
    }
    return sum;
}

/// Where a chunk is, from the start of shared memory.
DEVICE i32 x_offset(i32 chunk) { return X_AT + (chunk & (X_BUFFERS - 1)) * X_BYTES; }

#if HAS_BULK_COPY
/// Starts to copy a chunk, by one thread.
DEVICE void request_x(const bf16* x, i32 chunk) {
    const u32 bytes = ROUND_UP(MINIMUM(CHUNK, COLUMNS - chunk * CHUNK), 8) * 2;
    bulk_copy_fence();
    mbarrier_expect(x_barrier(), TOKENS * bytes);
#pragma unroll 1
    for (i32 t = 0; t < TOKENS; ++t)
        copy_bulk(shared_address(shared + x_offset(chunk)) + t * X_PITCH,
                  x + (i64)t * X_STRIDE + chunk * CHUNK, bytes, x_barrier());
}
#endif

/// Once nobody waits for this chunk any more, asks for the next.
DEVICE void request_after(const bf16* x, i32 chunk) {
#if HAS_BULK_COPY
    if (AHEAD && chunk + 1 < CHUNKS && threadIdx.x == 0) request_x(x, chunk + 1);
#endif
}

/// Has a chunk of x in shared memory; by all consumers.
DEVICE void load_x(const bf16* x, i32 chunk) {
    const i32 thread = threadIdx.x;
    const i32 columns = MINIMUM(CHUNK, COLUMNS - chunk * CHUNK);
    u8* to = shared + x_offset(chunk);
    // All warps are done with the chunk before.
    if (chunk > 0) barrier_sync(CONSUMER_BARRIER, CONSUMERS);
#if HAS_BULK_COPY
    if ((!AHEAD || chunk == 0) && thread == 0) request_x(x, chunk);
    mbarrier_wait(x_barrier(), chunk & 1);
#else
    for (i32 t = 0; t < TOKENS; ++t)
        for (u32 at = thread * 16; at < columns * 2; at += CONSUMERS * 16)
            *(Eight*)(to + t * X_PITCH + at) =
                *(const Eight*)((const u8*)(x + (i64)t * X_STRIDE + chunk * CHUNK) + at);
    barrier_sync(CONSUMER_BARRIER, CONSUMERS);
#endif
    // What pads the last step's columns must not be NaN.
    const i32 padding = ROUND_UP(columns, 64) - columns;
    for (i32 i = thread; i < TOKENS * padding; i += CONSUMERS)
        *(bf16*)(to + i / padding * X_PITCH + (columns + i % padding) * 2) = 0;
}

// One chunk of few values goes through registers.
constexpr i32 VECTORS = (COLUMNS + 7) / 8;
constexpr i32 HELD = (TOKENS * VECTORS + CONSUMERS - 1) / CONSUMERS;
constexpr bool DIRECT = CHUNKS == 1 && COLUMNS % 8 == 0 && HELD <= 4 && (TOKENS == 1 || !PROLOGUE);

/// A thread's share of the norm's weights.
struct Share {
    Eight values[DIRECT ? HELD : 1];

    DEVICE void load(const bf16* norm) {
#pragma unroll
        for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
            const i32 vector = threadIdx.x + i * CONSUMERS;
            if (DIRECT && PROLOGUE && vector < VECTORS) values[i] = ((const Eight*)norm)[vector];
        }
    }
};

DEVICE Eight normalised(Eight values, const Eight& weight, float inverse) {
#pragma unroll
    for (i32 k = 0; k < 4; ++k) {
        const u32 unit = to_bf16x2(low_float(values.pairs[k]) * inverse,
                                   high_float(values.pairs[k]) * inverse);
        values.pairs[k] = to_bf16x2(low_float(unit) * low_float(weight.pairs[k]),
                                    high_float(unit) * high_float(weight.pairs[k]));
    }
    return values;
}

/// Adds a token's sums of squares over the consumers and returns 1 / root mean square.
DEVICE float inverse_of(i32 token, float epsilon) {
    const float* all = (const float*)(shared + STATISTICS_AT) + token * WARPS;
    float sum = 0.0f;
#pragma unroll
    for (i32 w = 0; w < WARPS; ++w) sum += all[w];
    return rsqrtf(sum * (1.0f / COLUMNS) + epsilon);
}

DEVICE void store_sum(i32 token, float sum) {
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0)
        ((float*)(shared + STATISTICS_AT))[token * WARPS + threadIdx.x / 32] = sum;
}

/// x, normalised if so asked, to shared memory.
DEVICE void load_directly(const bf16* x, const Share& norm, float epsilon) {
    Eight held[DIRECT ? HELD : 1];
    float sum = 0.0f;
#pragma unroll
    for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
        const i32 vector = threadIdx.x + i * CONSUMERS;
        if (vector < TOKENS * VECTORS)
            held[i] = *((const Eight*)(x + (i64)(vector / VECTORS) * X_STRIDE) + vector % VECTORS);
    }
    float inverse = 0.0f;
    if (PROLOGUE) {
#pragma unroll
        for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i)
            if ((i32)threadIdx.x + i * CONSUMERS < VECTORS) sum += squares(held[i]);
        store_sum(0, sum);
        barrier_sync(CONSUMER_BARRIER, CONSUMERS);
        inverse = inverse_of(0, epsilon);
    }
#pragma unroll
    for (i32 i = 0; i < (DIRECT ? HELD : 1); ++i) {
        const i32 vector = threadIdx.x + i * CONSUMERS;
        if (vector < TOKENS * VECTORS)
            *((Eight*)(shared + X_AT + vector / VECTORS * X_PITCH) + vector % VECTORS) =
                PROLOGUE ? normalised(held[i], norm.values[i], inverse) : held[i];
    }
    constexpr i32 padding = ROUND_UP(COLUMNS, 64) - COLUMNS;
    for (i32 i = threadIdx.x; i < TOKENS * padding; i += CONSUMERS)
        *(bf16*)(shared + X_AT + i / MAXIMUM(padding, 1) * X_PITCH
                 + (COLUMNS + i % MAXIMUM(padding, 1)) * 2) = 0;
}

#if PROLOGUE
/// 1 / root mean square of every token, from shared memory or, where only a chunk is there, from x.
DEVICE void statistics(const bf16* x, float epsilon, float (&inverse)[TOKENS]) {
    const i32 thread = threadIdx.x;
    float sums[TOKENS];
#pragma unroll
    for (i32 t = 0; t < TOKENS; ++t) sums[t] = 0.0f;
    for (i32 i = thread; i < COLUMNS / 8; i += CONSUMERS) {
#pragma unroll
        for (i32 t = 0; t < TOKENS; ++t) {
            const u8* row = CHUNKS == 1 ? shared + X_AT + t * X_PITCH : (const u8*)(x + (i64)t * X_STRIDE);
            sums[t] += squares(*(const Eight*)(row + i * 16));
        }
    }
#pragma unroll
    for (i32 t = 0; t < TOKENS; ++t) store_sum(t, sums[t]);
    barrier_sync(CONSUMER_BARRIER, CONSUMERS);
#pragma unroll
    for (i32 t = 0; t < TOKENS; ++t) inverse[t] = inverse_of(t, epsilon);
}

/// Normalises the chunk in shared memory.
DEVICE void normalise(const bf16* norm, i32 chunk, const float (&inverse)[TOKENS]) {
    const i32 columns = MINIMUM(CHUNK, COLUMNS - chunk * CHUNK);
    for (i32 i = threadIdx.x; i < columns / 8; i += CONSUMERS) {
        const Eight weight = *(const Eight*)(norm + chunk * CHUNK + i * 8);
#pragma unroll
        for (i32 t = 0; t < TOKENS; ++t) {
            Eight* place = (Eight*)(shared + x_offset(chunk) + t * X_PITCH + i * 16);
            *place = normalised(*place, weight, inverse[t]);
        }
    }
}
#endif

// ---- one stage ----

typedef float Sums[TILES_PER_STAGE][TOKEN_SETS][4];

/// The address of this lane's row of x in `load_matrices`, at column 0.
DEVICE u32 x_address() {
    const i32 lane = threadIdx.x & 31, token = lane & 7;
    // Columns of unused tokens are computed from another and dropped.
    return shared_address(shared + X_AT) + (token < TOKENS ? token : 0) * X_PITCH + lane / 8 * 16;
}

// A full stage has as many steps for every warp.
constexpr bool EVEN = STAGE % (STEP * WARPS) == 0;

#if WEIGHT == 16
/// Adds a stage's products; the warp takes every WARPS-th step from `first` on.
template <bool full>
DEVICE void accumulate(Sums& sums, u32 stage, u32 x, i32 columns, i32 first, i32 lane, u32 empty) {
    stage += ((lane & 7) + (lane & 8)) * ROW_BYTES + (lane & 16);
#pragma unroll
    for (i32 i = 0; i < ((STAGE / STEP + WARPS - 1) / WARPS); ++i) {
        const i32 step = first + i * WARPS;
        if (full || step * STEP < columns) {
            u32 a[2][4];
            load_matrices(a[0], stage + step * 64);
            load_matrices(a[1], stage + step * 64 + 32);
            if (!full && PITCH % 32 != 0 && (step + 1) * STEP > columns) {
                // Columns that were not copied.
                const i32 left = ROUND_UP(columns, 8) - step * STEP;
#pragma unroll
                for (i32 k = 0; k < 4; ++k) {
                    if (k * 8 >= left) a[k / 2][k % 2 * 2] = a[k / 2][k % 2 * 2 + 1] = 0;
                }
            }
#pragma unroll
            for (i32 set = 0; set < TOKEN_SETS; ++set) {
                u32 b[4];
                load_matrices(b, x + set * (8 * X_PITCH) + step * 64);
                multiply_add(sums[0][set], a[0], b[0], b[1]);
                multiply_add(sums[0][set], a[1], b[2], b[3]);
            }
        }
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty);
}
#else

DEVICE u32 permute(u32 low, u32 high, u32 selector) {
    u32 bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

/// 2^(-code / 16) for a byte of `codes`; 0 for 255.
DEVICE float scale_of(u32 codes, i32 byte) {
    // 2^23 + code, exactly.
    const float shifted = __uint_as_float(permute(codes, 0x4b000000u, 0x7440 + byte));
    const float exponent = fmaf(shifted, -0.0625f, 524288.0f);
    return exp2_fast(exponent < -15.9f ? -200.0f : exponent);
}

#if WEIGHT == 4
/// Bytes of four levels for `permute`: the lower or the upper ones.
#define LEVEL_BYTES(a, b, c, d, shift)                                            \
    ((u32)(((a) >> shift) & 255) | (u32)(((b) >> shift) & 255) << 8 |             \
     (u32)(((c) >> shift) & 255) << 16 | (u32)(((d) >> shift) & 255) << 24)

/// One word of codes to the operand A of 16 columns.
///
/// Looked up: byte j holds the codes of the pair a[j], each a sign over three bits of a level's place.
/// Permuted: nibble i holds in three bits the place of value i, of a[i / 2]; the signs of the lower
/// and the upper value of a[j] are the bits 3 + 4j and 19 + 4j.
template <bool lookedUp>
DEVICE void decode(u32 (&a)[4], u32 word) {
    if (lookedUp) {
        const u32 lane = (threadIdx.x & 31) * 4;
        a[0] = *(const u32*)(shared + TABLE_AT + (((word << 7) & 0x7f80) | lane));
        a[1] = *(const u32*)(shared + TABLE_AT + (((word >> 1) & 0x7f80) | lane));
        a[2] = *(const u32*)(shared + TABLE_AT + (((word >> 9) & 0x7f80) | lane));
        a[3] = *(const u32*)(shared + TABLE_AT + (((word >> 17) & 0x7f80) | lane));
    } else {
        constexpr u32 low0 = LEVEL_BYTES(LEVEL_0, LEVEL_1, LEVEL_2, LEVEL_3, 0);
        constexpr u32 low1 = LEVEL_BYTES(LEVEL_4, LEVEL_5, LEVEL_6, LEVEL_7, 0);
        constexpr u32 high0 = LEVEL_BYTES(LEVEL_0, LEVEL_1, LEVEL_2, LEVEL_3, 8);
        constexpr u32 high1 = LEVEL_BYTES(LEVEL_4, LEVEL_5, LEVEL_6, LEVEL_7, 8);
        const u32 places = word & 0x77777777;
        const u32 upper = places >> 16;
        const u32 low = permute(low0, low1, places), high = permute(high0, high1, places);
        const u32 low2 = permute(low0, low1, upper), high2 = permute(high0, high1, upper);
        a[0] = permute(low, high, 0x5140) ^ ((word << 12) & 0x80008000);
        a[1] = permute(low, high, 0x7362) ^ ((word << 8) & 0x80008000);
        a[2] = permute(low2, high2, 0x5140) ^ ((word << 4) & 0x80008000);
        a[3] = permute(low2, high2, 0x7362) ^ (word & 0x80008000);
    }
}

#if LOOKED_UP > 0
/// The pairs that a byte of two codes stands for, once per lane so that no two lanes share a bank.
DEVICE void fill_table() {
    const i32 thread = threadIdx.x;
    if (thread >= 256) return;
    // The byte `thread`, permuted as by `decode`: its nibbles' signs go to the bits 3 and 19.
    u32 a[4];
    decode<false>(a, (thread & 0x77) | (thread & 8) | (thread & 128) << 12);
#pragma unroll
    for (i32 k = 0; k < 8; ++k)
        *(Eight*)(shared + TABLE_AT + thread * 128 + ((k + thread) & 7) * 16) =
            Eight{{a[0], a[0], a[0], a[0]}};
}
#endif
#else
/// Two signed bytes, at the bits 0 and 16, as bfloat16: (128 + low bits) - (128 or 256).
DEVICE u32 integers(u32 word) {
    const u32 low = (word & 0x007f007f) | 0x43004300;
    const u32 sign = (word & 0x00800080) | 0x43004300;
    u32 difference;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(sign), "r"(0xbf80bf80), "r"(low));
    return difference;
}
#endif

/// What a warp reads of one step of 64 columns.
struct Step {
    u32 b[TOKEN_SETS][2][4];
    u32 words[TILES_PER_STAGE][WEIGHT];
    u32 scales[TILES_PER_STAGE];

    DEVICE void load(u32 stage, u32 x, i32 step, i32 lane) {
#pragma unroll
        for (i32 set = 0; set < TOKEN_SETS; ++set) {
            load_matrices(b[set][0], x + set * (8 * X_PITCH) + step * 128);
            load_matrices(b[set][1], x + set * (8 * X_PITCH) + step * 128 + 64);
        }
        const u8* block = shared + stage + step * BLOCK_BYTES;
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
            const Eight* codes = (const Eight*)(block + m * CODE_BYTES) + lane;
#pragma unroll
            for (i32 k = 0; k < WEIGHT / 4; ++k) {
                const Eight four = codes[k * 32];
#pragma unroll
                for (i32 j = 0; j < 4; ++j) words[m][k * 4 + j] = four.pairs[j];
            }
            const u8* from =
                block + TILES_PER_STAGE * CODE_BYTES + m * SCALE_BYTES + lane / 4 * (128 / PIECE);
            scales[m] = PIECE == 64 ? *(const u16*)from : *(const u32*)from;
        }
    }

    DEVICE void operand(u32 (&a)[4], i32 m, i32 k) const {
#if WEIGHT == 4
        if (k < LOOKED_UP)
            decode<true>(a, words[m][k]);
        else
            decode<false>(a, words[m][k]);
#else
        a[0] = integers(words[m][2 * k]);
        a[1] = integers(words[m][2 * k] >> 8);
        a[2] = integers(words[m][2 * k + 1]);
        a[3] = integers(words[m][2 * k + 1] >> 8);
#endif
    }

    DEVICE void accumulate(Sums& sums) const {
        constexpr i32 steps = PIECE / 16;
#pragma unroll
        for (i32 piece = 0; piece < 64 / PIECE; ++piece) {
            float part[TILES_PER_STAGE][TOKEN_SETS][4] = {};
#if WEIGHT == 8
            // Half the sum of x: the codes stand for odd multiples of 1/255.
            const u32 halves[4] = {0x3f003f00, 0x3f003f00, 0x3f003f00, 0x3f003f00};
            float half[TOKEN_SETS][4] = {};
#endif
#pragma unroll
            for (i32 s = 0; s < steps; ++s) {
                const i32 k = piece * steps + s;
#pragma unroll
                for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
                    u32 a[4];
                    operand(a, m, k);
#pragma unroll
                    for (i32 set = 0; set < TOKEN_SETS; ++set)
                        multiply_add(part[m][set], a, b[set][k / 2][k % 2 * 2],
                                     b[set][k / 2][k % 2 * 2 + 1]);
                }
#if WEIGHT == 8
#pragma unroll
                for (i32 set = 0; set < TOKEN_SETS; ++set)
                    multiply_add(half[set], halves, b[set][k / 2][k % 2 * 2],
                                 b[set][k / 2][k % 2 * 2 + 1]);
#endif
            }
#pragma unroll
            for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
                const float first = scale_of(scales[m], 2 * piece);
                const float second = scale_of(scales[m], 2 * piece + 1);
#pragma unroll
                for (i32 set = 0; set < TOKEN_SETS; ++set) {
#if WEIGHT == 8
#pragma unroll
                    for (i32 i = 0; i < 4; ++i)
                        if (TOKENS > 1 || i % 2 == 0) part[m][set][i] += half[set][i];
#endif
#pragma unroll
                    for (i32 i = 0; i < 4; ++i) {
                        // One token is the first of its pair.
                        if (TOKENS > 1 || i % 2 == 0)
                            sums[m][set][i] =
                                fmaf(i < 2 ? first : second, part[m][set][i], sums[m][set][i]);
                    }
                }
            }
        }
    }
};

template <bool full>
DEVICE void accumulate(Sums& sums, u32 stage, u32 x, i32 columns, i32 first, i32 lane, u32 empty) {
#if STAGE <= 64 * WARPS
    // The stage is free before the arithmetic.
    const bool some = full || first * STEP < columns;
    Step step;
    if (some) step.load(stage, x, first, lane);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty);
    if (some) step.accumulate(sums);
#else
    if (full) {
#pragma unroll
        for (i32 i = 0; i < STAGE / STEP / WARPS; ++i) {
            Step step;
            step.load(stage, x, first + i * WARPS, lane);
            step.accumulate(sums);
        }
    } else {
#pragma unroll 1
        for (i32 place = first; place * STEP < columns; place += WARPS) {
            Step step;
            step.load(stage, x, place, lane);
            step.accumulate(sums);
        }
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty);
#endif
}
#endif

// ---- the finisher ----

struct Destination {
    const bf16* x;
    const bf16* bias;
    void* y;
    bf16* compact;
    const i32* outputs;
    const i32* partners;
    const i32* kinds;
};

/// Where this lane's values of a stage's tiles go: slots g and g + 8, g = lane / 4.
struct Targets {
    i32 output[TILES_PER_STAGE][2];
    i32 partner[TILES_PER_STAGE][2];
    i32 kind[TILES_PER_STAGE];

    DEVICE void load(const Destination& to, i32 tile) {
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
            const i32 first = (tile * TILES_PER_STAGE + m) * 16 + (threadIdx.x & 31) / 4;
#if EPILOGUE == SWIGLU_FACTORED
            kind[m] = first - (threadIdx.x & 31) / 4 < ROWS ? to.kinds[tile * TILES_PER_STAGE + m] : 0;
#endif
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const i32 slot = first + half * 8;
#if OUTPUT_TABLE
                output[m][half] = slot < ROWS ? to.outputs[slot] : -1;
#elif EPILOGUE == SWIGLU
                output[m][half] = slot < ROWS ? slot / 16 * 8 + (slot & 7) : -1;
#else
                output[m][half] = slot < ROWS ? slot : -1;
#endif
#if EPILOGUE == SWIGLU_FACTORED
                partner[m][half] = slot < ROWS ? to.partners[slot] : 0;
#endif
            }
        }
    }
};

/// What the epilogue combines the sums with, by set, half and token of the pair.
struct Operands {
    float other[SETS][2][2];
    float bias[TILES_PER_STAGE][2];

    DEVICE void load(const Destination& to, const Targets& targets) {
#if BIAS || EPILOGUE == ADD || EPILOGUE == SWIGLU_FACTORED
#pragma unroll
        for (i32 m = 0; m < TILES_PER_STAGE; ++m) {
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const i32 output = targets.output[m][half];
#if BIAS
                bias[m][half] = output < 0 ? 0.0f : to_float(to.bias[output]);
#endif
#pragma unroll
                for (i32 i = 0; i < 2 * TOKEN_SETS; ++i) {
                    const i32 token = i / 2 * 8 + (threadIdx.x & 3) * 2 + i % 2;
                    [[maybe_unused]] const bool used = output >= 0 && token < TOKENS;
#if EPILOGUE == ADD
                    other[m * TOKEN_SETS + i / 2][half][i % 2] =
                        used ? to_float(((const bf16*)to.y)[(i64)token * Y_STRIDE + output]) : 0.0f;
#elif EPILOGUE == SWIGLU_FACTORED
                    other[m * TOKEN_SETS + i / 2][half][i % 2] = used && targets.kind[m] != 0
                        ? to_float(to.x[(i64)token * X_STRIDE + targets.partner[m][half]])
                        : 0.0f;
#endif
                }
            }
        }
#endif
    }
};

DEVICE bf16 gated(float gate, float up) {
    return to_bf16(rounded_to_bf16(silu(rounded_to_bf16(gate))) * rounded_to_bf16(up));
}

/// Stores this lane's sums of a set: of slots g and g + 8, each for the two tokens that are done.
template <i32 set>
DEVICE void finish(const Destination& to, const Targets& targets, const Operands& with, i32 tile,
                   const float (&sums)[4], const bool (&done)[2]) {
    constexpr i32 m = set / TOKEN_SETS;
#pragma unroll
    for (i32 i = 0; i < 2; ++i) {
        const i32 token = set % TOKEN_SETS * 8 + (threadIdx.x & 3) * 2 + i;
        if (token >= TOKENS || !done[i]) continue;
        const i64 row = (i64)token * Y_STRIDE;
#if EPILOGUE == SWIGLU || EPILOGUE == SWIGLU_FACTORED
        bf16* y = (bf16*)to.y + row;
#if EPILOGUE == SWIGLU_FACTORED
        if (targets.kind[m] != 0) {
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const float own = sums[2 * half + i], other = with.other[set][half][i];
                if (targets.output[m][half] >= 0)
                    y[targets.output[m][half]] =
                        targets.kind[m] == 1 ? gated(own, other) : gated(other, own);
            }
            continue;
        }
#endif
        if (targets.output[m][0] >= 0) y[targets.output[m][0]] = gated(sums[i], sums[2 + i]);
#else
#pragma unroll
        for (i32 half = 0; half < 2; ++half) {
            const i32 output = targets.output[m][half];
            float value = sums[2 * half + i];
#if COMPACT
            const i32 slot =
                (tile * TILES_PER_STAGE + m) * 16 + (threadIdx.x & 31) / 4 + half * 8;
            if (slot < ROWS) to.compact[(i64)token * P_STRIDE + slot] = to_bf16(value);
#endif
            if (output < 0) continue;
#if BIAS
            value += with.bias[m][half];
#endif
#if EPILOGUE == STORE_FLOAT
            ((float*)to.y)[row + output] = value;
#elif EPILOGUE == ADD
            ((bf16*)to.y)[row + output] = to_bf16(with.other[set][half][i] + rounded_to_bf16(value));
#else
            ((bf16*)to.y)[row + output] = to_bf16(value);
#endif
        }
#endif
    }
}

struct alignas(16) Four {
    float v[4];

    DEVICE void add(const Four& other) {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) v[i] += other.v[i];
    }
};

/// What no part of a sum looks like.
constexpr u64 EMPTY = ~0ull;

DEVICE u64 packed(float low, float high) {
    const u64 both = (u64)__float_as_uint(high) << 32 | __float_as_uint(low);
    return both == EMPTY ? 0x7fffffff7fffffffull : both;
}

/// Of a tile in two parts: leaves the block's part for the other block, or takes the other's and adds.
/// One exchange a value: whoever finds the other's value there is the last.
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

/// Of a tile in more parts: stores the block's; the last to come adds all and returns true.
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
DEVICE void finish_all(const Destination& to, const Targets& targets, const Operands& with, i32 tile,
                       float factor, const Four (&totals)[SETS], const bool (&done)[SETS][2]) {
    if constexpr (set < SETS) {
        const float(&v)[4] = totals[set].v;
        const float scaled[4] = {v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor};
        finish<set>(to, targets, with, tile, scaled, done[set]);
        finish_all<set + 1>(to, targets, with, tile, factor, totals, done);
    }
}

/// The sums of all consumers, of one tile: four sums of every fourth warp, then their sum, in the same
/// order for every number of tokens.
DEVICE void gather(const Four* shelf, Four (&totals)[SETS]) {
    const i32 lane = threadIdx.x & 31, pair = lane & 3;
#pragma unroll
    for (i32 set = 0; set < SETS; ++set) {
        Four quarters[4] = {};
        if (PAIRS == 1) {
#pragma unroll
            for (i32 w = 0; w < WARPS; w += 4)
                quarters[0].add(shelf[((w + pair) * SETS + set) * SET_LANES + lane / 4]);
#pragma unroll
            for (i32 offset = 1; offset < 4; offset *= 2) {
#pragma unroll
                for (i32 i = 0; i < 4; ++i)
                    quarters[0].v[i] += __shfl_xor_sync(0xffffffffu, quarters[0].v[i], offset);
            }
        } else if (pair < PAIRS) {
#pragma unroll
            for (i32 w = 0; w < WARPS; ++w)
                quarters[w % 4].add(shelf[(w * SETS + set) * SET_LANES + lane / 4 * PAIRS + pair]);
            quarters[0].add(quarters[1]);
            quarters[2].add(quarters[3]);
            quarters[0].add(quarters[2]);
        }
        totals[set] = quarters[0];
    }
}

/// The finisher warp: adds the consumers' sums of each tile of the block's run and stores them.
DEVICE void finish_run(const Destination& to, float factor, float* workspace, u64* places, u32* counters,
                       i32 begin, i32 stop) {
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
            // Along a run and from block to block, the tile or the block differs: no two share a place.
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
            gather((const Four*)(shared + SUMS_AT) + buffer * (WARPS * SETS * SET_LANES), totals);
            __syncwarp();
            if (lane == 0) mbarrier_arrive(taken_barrier(buffer));
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

// ---- the kernel ----

extern "C" __global__ void __launch_bounds__(THREADS, 2)
linear(const u8* weights, const float* base, const bf16* x, const bf16* norm, float epsilon,
       const bf16* bias, void* y, bf16* compact, const i32* rows, const i32* outputs,
       const i32* partners, const i32* kinds, const i32* pairs, i32 pairCount, float* workspace,
       u64* places, u32* counters) {
    dependents_launch();
    const i32 thread = threadIdx.x, lane = thread & 31, warp = thread / 32;
    const i32 begin = run_start(blockIdx.x), stop = run_start(blockIdx.x + 1);

    if (warp == WARPS) {
        if (lane == 0) {
            for (i32 slot = 0; slot < DEPTH; ++slot) {
                mbarrier_init(full_barrier(slot), BULK ? 1 : 32);
                mbarrier_init(empty_barrier(slot), WARPS);
            }
            for (i32 buffer = 0; buffer < 2; ++buffer) {
                mbarrier_init(summed_barrier(buffer), WARPS);
                mbarrier_init(taken_barrier(buffer), 1);
            }
            mbarrier_init(x_barrier(), 1);
            mbarrier_init_fence();
        }
        __syncwarp();
        barrier_arrive(START_BARRIER, THREADS);
        produce(weights, rows, begin, stop);
        return;
    }
    if (warp == WARPS + 1) {
#if WEIGHT == 16
        const float factor = 1.0f;
#else
        const float factor = *base * (float)FACTOR;
#endif
        barrier_sync(START_BARRIER, THREADS);
        dependencies_wait();
        finish_run(Destination{x, bias, y, compact, outputs, partners, kinds}, factor, workspace, places,
                   counters, begin, stop);
        return;
    }

#if WEIGHT == 4 && LOOKED_UP > 0
    fill_table();
#endif
    Share share;
    share.load(norm);
    barrier_sync(START_BARRIER, THREADS);
    dependencies_wait();
    if (begin == stop) return;

#if PROLOGUE
    float inverse[TOKENS];
#endif
    if (DIRECT) {
        load_directly(x, share, epsilon);
    } else {
        load_x(x, 0);
#if PROLOGUE
        statistics(x, epsilon, inverse);
        normalise(norm, 0, inverse);
#endif
    }
    barrier_sync(CONSUMER_BARRIER, CONSUMERS);
    request_after(x, 0);

#if EPILOGUE == SWIGLU_FACTORED
    for (i32 i = blockIdx.x * CONSUMERS + thread; i < pairCount * TOKENS; i += CTAS * CONSUMERS) {
        const i32 pair = i / TOKENS, token = i % TOKENS;
        const bf16* p = x + (i64)token * X_STRIDE;
        ((bf16*)y)[(i64)token * Y_STRIDE + pairs[3 * pair + 2]] =
            gated(to_float(p[pairs[3 * pair]]), to_float(p[pairs[3 * pair + 1]]));
    }
#endif

    Sums sums = {};
    // An uneven stage begins with warp `turn`, the one after the last of the uneven stage before.
    i32 slot = 0, tiles = 0, turn = 0;
    u32 parity = 0;
    for (i32 chunk = 0; chunk < CHUNKS; ++chunk) {
        if (chunk > 0) {
            load_x(x, chunk);
#if PROLOGUE
            normalise(norm, chunk, inverse);
#endif
            barrier_sync(CONSUMER_BARRIER, CONSUMERS);
            request_after(x, chunk);
        }
        const u32 xStart = x_address() + (x_offset(chunk) - X_AT);
        for (i32 unit = begin; unit < stop;) {
            Segment segment(unit, stop, chunk);
            unit += segment.units;
            while (segment.at < segment.end) {
                const i32 columns = segment.columns();
                const u32 at = xStart + segment.at * 2;
                const u32 from =
                    (WEIGHT == 16 ? shared_address(shared + RING_AT) : RING_AT) + slot * STAGE_BYTES;
                mbarrier_wait(full_barrier(slot), parity);
                if (EVEN && (ALL_FULL || columns == STAGE)) {
                    accumulate<true>(sums, from, at, STAGE, warp, lane, empty_barrier(slot));
                } else {
                    const i32 first = (warp - turn) & (WARPS - 1);
                    accumulate<false>(sums, from, at, columns, first, lane, empty_barrier(slot));
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
            Four* shelf = (Four*)(shared + SUMS_AT) + (buffer * WARPS + warp) * (SETS * SET_LANES)
                + lane / 4 * PAIRS + (lane & 3);
#pragma unroll
            for (i32 set = 0; set < SETS; ++set) {
                float(&own)[4] = sums[set / TOKEN_SETS][set % TOKEN_SETS];
                if ((lane & 3) < PAIRS)
                    shelf[set * SET_LANES] = Four{{own[0], own[1], own[2], own[3]}};
                own[0] = own[1] = own[2] = own[3] = 0.0f;
            }
            __syncwarp();
            if (lane == 0) mbarrier_arrive(summed_barrier(buffer));
            tiles += 1;
        }
    }
}
