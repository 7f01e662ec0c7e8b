// The tokens of a step: which launches choose one, and what they leave. Parameters: sampling.cu.
#pragma once
#include "sampling_arithmetic.cuh"

/// A slot's part of what a step emits.
struct Verification {
    i32* emitted;
    i32* count;
    i32* drafts;
    const u32* setting;
    i32 place, places;

    /// Whether this launch chooses a token: the one before is finite and was proposed, and no mask ends
    /// the step with the first. No block of a row writes what this reads before all of them have read
    /// it.
    DEVICE bool is_alive(bool is_masked) const {
        if (place == 0 || is_masked) return place == 0;
        i32 before = emitted[place - 1];
        return *count == place && before >= 0 && before == drafts[place - 1];
    }

    /// By one thread.
    DEVICE void emit(i32 token, i32 position, i32 slot) const {
        emitted[place] = token;
        *count = place + 1;
#ifdef ACCEPTANCE
        constexpr u32 shares[] = {ACCEPTANCE};
        constexpr i32 known = sizeof(shares) / sizeof(u32);
        if (place >= places - 1) return;
        u32 words[4] = {(u32)position, (u32)slot, 0, 0};
        philox(words, 0x5eed ^ setting[8], 0x5eed ^ setting[9]);
        drafts[place] = place < known && words[0] < shares[place] ? token : -1;
#endif
    }
};
