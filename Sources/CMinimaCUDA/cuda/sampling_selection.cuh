// Radix selection: the smallest weight that top-k and top-p leave.
#pragma once
#include "sampling_arithmetic.cuh"
#include "sampling_row.cuh"

/// Adds the row's weights of at least `least` whose bits begin with `prefix` to the histogram of
/// their next digit in `area`, and waits for all blocks.
DEVICE void build(const Row& row, Workspace& workspace, Shared& shared, u32& meetings, i32 area,
                  i32 level, u32 prefix, u32 least, float largest, float inverse) {
    i32 shift = DIGIT_BITS * (2 - level);
    __syncthreads();
    for (i32 bin = threadIdx.x; bin < BINS; bin += BLOCK) {
        shared.counts[bin] = 0;
        shared.low_masses[bin] = 0;
        shared.high_masses[bin] = 0;
    }
    __syncthreads();
    row.each([&](i32 group, float (&x)[4]) {
        row.adjust(shared, group, x);
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            float weight = exact_exp(__fmul_rn(__fsub_rn(x[i], largest), inverse));
            u32 key = __float_as_uint(weight);
            if (key < least || key >> shift >> DIGIT_BITS != prefix || !exists(group, i)) continue;
            u32 bin = key >> shift & (BINS - 1);
            atomicAdd(&shared.counts[bin], 1u);
            u64 mass = __float2ull_rz(__fmul_rn(weight, 0x1p44f));
            u32 low = (u32)mass, high = (u32)(mass >> 32);
            if (low > 0) high += atomicAdd(&shared.low_masses[bin], low) > ~low;  // the carry
            if (high > 0) atomicAdd(&shared.high_masses[bin], high);
        }
    });
    __syncthreads();
    for (i32 bin = threadIdx.x; bin < BINS; bin += BLOCK) {
        if (shared.counts[bin] == 0) continue;
        atomicAdd(&workspace.counts[area][bin], shared.counts[bin]);
        atomicAdd(&workspace.masses[area][bin],
                  (u64)shared.high_masses[bin] << 32 | shared.low_masses[bin]);
    }
    meet(workspace, meetings);
}

/// Finds the bin of `area` at which, from the highest down, the counts reach `count` or the masses
/// `mass`; what is not asked for is given its largest value. Results in `shared`; false when the
/// bins together do not reach it.
DEVICE bool search(const Workspace& workspace, Shared& shared, i32 area, u32 count, u64 mass) {
    constexpr i32 PER_THREAD = BINS / BLOCK;
    i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 counts[PER_THREAD], count_sum = 0;
    u64 masses[PER_THREAD], mass_sum = 0;
#pragma unroll
    for (i32 i = 0; i < PER_THREAD; i++) {
        i32 bin = BINS - 1 - ((i32)threadIdx.x * PER_THREAD + i);
        counts[i] = load_fresh(&workspace.counts[area][bin]);
        masses[i] = load_fresh(&workspace.masses[area][bin]);
        count_sum += counts[i];
        mass_sum += masses[i];
    }
    __syncthreads();  // everyone has read the last search's results
    if (threadIdx.x == 0) shared.bin = BINS;
    u32 count_above = count_sum;
    u64 mass_above = mass_sum;
#pragma unroll
    for (i32 offset = 1; offset < 32; offset *= 2) {
        u32 other_count = __shfl_up_sync(0xffffffffu, count_above, offset);
        u64 other_mass = __shfl_up_sync(0xffffffffu, mass_above, offset);
        if (lane >= offset) {
            count_above += other_count;
            mass_above += other_mass;
        }
    }
    if (lane == 31) {
        shared.scan_counts[warp] = count_above;
        shared.scan_masses[warp] = mass_above;
    }
    __syncthreads();
    u32 count_total = 0;
    u64 mass_total = 0;
    for (i32 other = 0; other < WARPS; other++) {
        if (other == warp) {
            count_above += count_total;
            mass_above += mass_total;
        }
        count_total += shared.scan_counts[other];
        mass_total += shared.scan_masses[other];
    }
    count_above -= count_sum;
    mass_above -= mass_sum;
#pragma unroll
    for (i32 i = 0; i < PER_THREAD; i++) {
        bool was_reached = count_above >= count || mass_above >= mass;
        bool is_reached = count_above + counts[i] >= count || mass_above + masses[i] >= mass;
        if (is_reached && !was_reached) {
            shared.bin = BINS - 1 - ((i32)threadIdx.x * PER_THREAD + i);
            shared.count_above = count_above;
            shared.mass_above = mass_above;
            shared.mass_within = masses[i];
        }
        count_above += counts[i];
        mass_above += masses[i];
    }
    if (threadIdx.x == 0) shared.mass_total = mass_total;
    __syncthreads();
    return shared.bin < BINS;
}

/// The bits of the smallest weight that top-k and top-p leave of those of at least `least`; `areas`
/// becomes the number of histograms used.
DEVICE u32 threshold(const Row& row, Workspace& workspace, Shared& shared, u32& meetings,
                     u32& areas, u32 top_k, u32 top_p, u32 least, float largest, float inverse) {
    u32 built[3] = {0, 0, 0};
    i32 where[3] = {-1, -1, -1};
    auto histogram = [&](i32 level, u32 prefix) {
        if (where[level] >= 0 && built[level] == prefix) return;
        where[level] = (i32)areas++;
        built[level] = prefix;
        build(row, workspace, shared, meetings, where[level], level, prefix, least, largest,
              inverse);
    };
    u32 result = least;
    u64 total = 0;
    bool is_limited = top_k > 0;
    if (is_limited) {
        u32 prefix = 0, above = 0;
#pragma unroll 1
        for (i32 level = 0; level < 3; level++) {
            histogram(level, prefix);
            // Fewer tokens than k: all stay.
            is_limited = search(workspace, shared, where[level], top_k - above, ~0ull);
            if (!is_limited) break;
            above += shared.count_above;
            total += shared.mass_above;
            prefix = prefix << DIGIT_BITS | shared.bin;
        }
        if (is_limited) {
            total += shared.mass_within;
            result = prefix;
        }
    }
    if (top_p == WHOLE) return result;
    if (!is_limited) {
        histogram(0, 0);
        search(workspace, shared, where[0], ~0u, ~0ull);
        total = shared.mass_total;
    }
    // top-p of the total in two halves of 31 bits: their product would pass 64 bits.
    u64 target = (total >> 31) * top_p + ((total & 0x7fffffffu) * top_p >> 31);
    target = target == 0 ? 1 : target;
    u32 prefix = 0;
    u64 above = 0;
#pragma unroll 1
    for (i32 level = 0; level < 3; level++) {
        histogram(level, prefix);
        search(workspace, shared, where[level], ~0u, target - above);
        above += shared.mass_above;
        prefix = prefix << DIGIT_BITS | shared.bin;
    }
    return prefix;
}
