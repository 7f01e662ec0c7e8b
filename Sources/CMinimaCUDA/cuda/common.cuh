// What the kernels share: types, bfloat16, warp reductions, programmatic dependent launch, barriers
// in shared memory, bulk copies, and the tensor-core instruction of sm_80 and newer.
//
// NVRTC compiles without header search paths: nothing of the standard library is here. Where an
// architecture lacks an instruction, the function of the same name does without.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
/// The bits of a bfloat16.
typedef u16 bf16;

#define DEVICE __device__ __forceinline__

#if __CUDA_ARCH__ >= 900
#define HAS_BULK_COPY 1
#else
#define HAS_BULK_COPY 0
#endif

// ---- bfloat16 ----

DEVICE float to_float(bf16 value) { return __uint_as_float((u32)value << 16); }

/// The value in the lower half of two.
DEVICE float low_float(u32 pair) { return __uint_as_float(pair << 16); }

/// The value in the upper half of two.
DEVICE float high_float(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

/// Two floats rounded to nearest, ties to even; `low` in the lower half.
DEVICE u32 to_bf16x2(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE bf16 to_bf16(float value) { return (bf16)to_bf16x2(value, 0.0f); }

/// The float that `value` becomes as a bfloat16.
DEVICE float rounded_to_bf16(float value) { return low_float(to_bf16x2(value, 0.0f)); }

// ---- arithmetic ----

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// e^x; relative error below 2^-21 for |x| < 16.
DEVICE float exp_fast(float x) { return exp2_fast(x * 1.4426950408889634f); }

/// x / (1 + e^-x).
DEVICE float silu(float x) { return __fdividef(x, 1.0f + exp_fast(-x)); }

DEVICE float warp_sum(float value) {
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
    for (i32 offset = 16; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

// ---- programmatic dependent launch ----

/// Lets the next kernel of the stream start as soon as every block has come here or has ended.
DEVICE void dependents_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Waits until the kernels ahead have ended and what they wrote is visible. Every thread that
/// touches such data calls it, and at least one thread of every block even if none does: so a
/// kernel never ends before the one ahead of it.
DEVICE void dependencies_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- barriers ----

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

/// Waits for `threads` threads of the block at barrier `name` (1 to 15; 0 is __syncthreads).
DEVICE void barrier_sync(i32 name, i32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

/// Counts towards `barrier_sync` without waiting.
DEVICE void barrier_arrive(i32 name, i32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

/// A barrier at an address in shared memory whose phase ends after `arrivals` arrivals.
DEVICE void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// Makes new barriers visible to bulk copies.
DEVICE void mbarrier_init_fence() {
#if HAS_BULK_COPY
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

DEVICE void mbarrier_arrive(u32 barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier)
                 : "memory");
}

// RACECHECK (1; else 0): for compute-sanitizer's racecheck, which takes an arrival to order what the
// arriving thread itself did, not what that thread had waited for, and wants a fence between reads and a
// bulk copy to their place. With it every thread arrives for itself, and fences what it read. Without,
// the arrival alone orders reads; NOTES-linear.md has what the fence costs.
#ifndef RACECHECK
#define RACECHECK 0
#endif

/// What a barrier counts for one `mbarrier_arrive_warp`.
#define WARP_ARRIVALS (RACECHECK ? 32 : 1)

/// Orders ordinary accesses of shared memory before bulk copies that follow a barrier.
DEVICE void bulk_copy_fence() {
#if HAS_BULK_COPY
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// Arrives for all lanes of the calling warp, once what they read and wrote is done.
DEVICE void mbarrier_arrive_warp(u32 barrier, i32 lane) {
    if (RACECHECK) bulk_copy_fence();
    __syncwarp();
    if (RACECHECK || lane == 0) mbarrier_arrive(barrier);
}

/// Arrives, and lets the phase wait for `bytes` bytes of bulk copies.
DEVICE void mbarrier_expect(u32 barrier, u32 bytes) {
#if HAS_BULK_COPY
    asm volatile(
        "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1; }" ::"r"(barrier),
        "r"(bytes)
        : "memory");
#endif
}

/// Arrives once the calling thread's copies of `copy_async` so far are there; the arrival is one of
/// those the barrier was made for.
DEVICE void mbarrier_arrive_after_copies(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

/// Whether the phase of parity `parity` has ended, perhaps after waiting for a while.
DEVICE bool mbarrier_try_wait(u32 barrier, u32 parity) {
    u32 done;
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; "
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; "
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#endif
    return done;
}

/// Waits for the end of the phase of parity `parity`. RACECHECK, which records each try: one thread of a
/// warp tries, with pauses of 1 µs that double up to 0.5 ms, before the others do. These pauses are a guess.
DEVICE void mbarrier_wait(u32 barrier, u32 parity) {
#if RACECHECK
    u32 active = __activemask(), lane = threadIdx.x % 32;
    if (lane == __ffs(active) - 1)
        for (u32 pause = 1000; !mbarrier_try_wait(barrier, parity); pause = min(2 * pause, 500000u))
            __nanosleep(pause);
    __syncwarp(active);
#endif
    while (!mbarrier_try_wait(barrier, parity)) {}
}

// ---- copies from device to shared memory ----

/// A policy for data that is read once.
DEVICE u64 evict_first_policy() {
    u64 policy = 0;
#if HAS_BULK_COPY
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
    return policy;
}

#if HAS_BULK_COPY
/// Starts a copy of `bytes` bytes that counts on `barrier`; addresses and size are multiples of 16.
DEVICE void copy_bulk(u32 destination, const void* source, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(destination),
        "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier)
        : "memory");
}

DEVICE void copy_bulk(u32 destination, const void* source, u32 bytes, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1], %2, [%3], %4;" ::"r"(destination),
        "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}
#endif

/// Starts a copy of 16 bytes.
DEVICE void copy_async(u32 destination, const void* source) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(destination),
                 "l"(__cvta_generic_to_global(source))
                 : "memory");
}

// ---- tensor cores ----

/// Four 8x8 matrices of 16-bit values; lane l passes the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&m)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address));
}

/// c [16, 8] += a [16, 16] · b [16, 8], bfloat16 into float.
///
/// With g = lane / 4 and q = lane % 4: a = rows g, g + 8, g, g + 8 at columns 2q, 2q + 1 (and 8
/// more for the last two); b = rows 2q, 2q + 1 (and 8 more) of column g; c = row g at columns 2q,
/// 2q + 1, then row g + 8.
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
