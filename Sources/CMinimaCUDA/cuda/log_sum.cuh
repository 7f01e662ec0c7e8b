// Logarithms of sums of exponentials.
#pragma once
#include "common.cuh"

/// A sum of e^(x - largest) beside its largest x.
struct LogSum {
    float largest = -__int_as_float(0x7f800000), sum = 0.0f;

    DEVICE void add(float other, float part) {
        float larger = fmaxf(largest, other);
        sum = sum * exp_fast(largest - larger) + part * exp_fast(other - larger);
        largest = larger;
    }

    /// The sums of a warp's lanes, in each of them.
    DEVICE void add_lanes() {
        float larger = warp_max(largest);
        sum = warp_sum(largest == larger ? sum : sum * exp_fast(largest - larger));
        largest = larger;
    }
};
