// Which tokens of which heads a thread block takes, and how many parts that makes of each head.
#pragma once
#include "attention_geometry.cuh"

/// Blocks first ..< last of a key-value head of a request: a part of its keys.
struct Segment {
    i32 request, head, first, last;
    /// Parts of this request and head, and this one's slot in the workspace.
    i32 parts, slot;
    /// The slot of the first part, and that of part p > 0: base + p step.
    i32 first_slot, base, step;
};

/// The work: units of one block of tokens (or of `split`), ordered by request, head, place. Thread
/// blocks have as many units as each other, the first `rest` one more.
struct Plan {
    const i32* starts;
    i32 requests, split, share, rest;

    __device__ i32 start(i32 block) const { return block * share + min(block, rest); }
    __device__ i32 owner(i32 unit) const {
        i32 longer = rest * (share + 1);
        return unit < longer ? unit / (share + 1) : rest + (unit - longer) / share;
    }

    /// The segment that starts with `unit` of a thread block whose units end at `end`, and the unit
    /// after it.
    __device__ i32 segment(i32 unit, i32 end, const i32* lengths, Segment& segment) const {
        i32 low = 0, high = requests;
        while (high - low > 1) {
            i32 middle = (low + high) / 2;
            if (starts[middle] * KV_HEADS <= unit) low = middle; else high = middle;
        }
        i32 per_head = starts[low + 1] - starts[low];
        i32 offset = unit - starts[low] * KV_HEADS;
        segment.request = low;
        segment.head = offset / per_head;
        i32 head_start = unit - offset % per_head, head_end = head_start + per_head;
        if (split > 0) {
            segment.first = (unit - head_start) * split;
            segment.last = min(segment.first + split, (lengths[low] + BLOCK - 1) / BLOCK);
            segment.parts = per_head;
            segment.slot = unit;
            segment.first_slot = segment.base = head_start;
            segment.step = 1;
            return unit + 1;
        }
        i32 next = min(end, head_end);
        segment.first = unit - head_start;
        segment.last = next - head_start;
        // A thread block leaves at most two parts: one of the head that it starts in, if not at
        // its start, and one of the head that it ends in.
        i32 block = owner(unit), first = owner(head_start);
        segment.parts = owner(head_end - 1) - first + 1;
        segment.base = 2 * first;
        segment.step = 2;
        segment.first_slot = 2 * first + (start(first) < head_start);
        segment.slot = block == first ? segment.first_slot : 2 * block;
        return next;
    }
};

/// Units of a head of a request.
DEVICE i32 units_of(i32 length, i32 split) {
    i32 blocks = (length + BLOCK - 1) / BLOCK;
    return split > 0 ? (blocks + split - 1) / split : blocks;
}

/// The blocks of a part: `split`, or the fewest for which there are no more parts than thread
/// blocks; 0 if blocks are better dealt out evenly. By one warp.
DEVICE i32 chosen_split(i32 split, const i32* lengths, i32 requests, u32 lane) {
    i32 blocks = gridDim.x;
    if (split > 0 || requests * KV_HEADS > blocks) return split;
    auto units = [&](i32 trial) {
        i32 sum = 0;
        for (i32 request = lane; request < requests; request += 32)
            sum += units_of(lengths[request], trial);
        return (i32)__reduce_add_sync(ALL_LANES, sum) * KV_HEADS;
    };
    i32 mean = (units(0) + blocks - 1) / blocks;
    for (i32 trial = max(mean, 1); trial <= mean + SLACK; trial++)
        if (units(trial) <= blocks) return trial;
    return 0;
}

/// Units before each request and, in starts[requests], of all, per head. By one warp.
DEVICE void find_starts(i32* starts, i32 split, const i32* lengths, i32 requests, u32 lane) {
    i32 total = 0;
    for (i32 base = 0; base < requests; base += 32) {
        i32 request = base + lane;
        i32 units = request < requests ? units_of(lengths[request], split) : 0;
#pragma unroll
        for (i32 offset = 1; offset < 32; offset *= 2) {
            i32 before = __shfl_up_sync(ALL_LANES, units, offset);
            if (lane >= offset) units += before;
        }
        if (request < requests) starts[request + 1] = total + units;
        total += __shfl_sync(ALL_LANES, units, 31);
    }
    if (lane == 0) starts[0] = 0;
}
