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
#ifdef TREE
    const i32* parents;
    i32* path;
    i32 nodes;
    i32 node = 0;
#endif

    /// Whether this launch chooses a token: the one before is finite and was proposed, and no mask ends
    /// the step with the first. No block of a row writes what this reads before all of them have read
    /// it.
    DEVICE bool is_alive(bool is_masked) {
        if (place == 0 || is_masked) return place == 0;
        i32 before = emitted[place - 1];
#ifdef TREE
        if (*count != place || before < 0) return false;
        // The first child that holds it: nodes come behind their parents.
        i32 from = path[place - 1], at = threadIdx.x % 32;
        bool is_next = at >= from && at < nodes && parents[at] == from && drafts[at] == before;
        u32 found = __ballot_sync(0xffffffffu, is_next);
        node = __ffs(found);
        return found != 0;
#else
        return *count == place && before >= 0 && before == drafts[place - 1];
#endif
    }

    /// Which of the row's rows of logits the token is chosen from.
    DEVICE i32 row_of_logits() const {
#ifdef TREE
        return node;
#else
        return place;
#endif
    }

    /// By one thread.
    DEVICE void emit(i32 token, i32 position, i32 slot) const {
        emitted[place] = token;
        *count = place + 1;
#ifdef TREE
        path[place] = node;
#endif
#ifdef ACCEPTANCE
        constexpr u32 shares[] = {ACCEPTANCE};
        constexpr i32 known = sizeof(shares) / sizeof(u32);
        if (place >= places - 1) return;
        u32 words[4] = {(u32)position, (u32)slot, 0, 0};
        philox(words, 0x5eed ^ setting[8], 0x5eed ^ setting[9]);
        const i32 right = place < known && words[0] < shares[place] ? token : -1;
#ifdef TREE
        // Of what follows the node, the first or none.
        bool is_first = true;
        for (i32 at = node; at < nodes; at++) {
            if (parents[at] != node) continue;
            drafts[at] = is_first ? right : -1;
            is_first = false;
        }
#else
        drafts[place] = right;
#endif
#endif
    }
};
