// begin_step: what a decode step's rows are, from the state of the slots that they stand for.
//
//   lengths[r] = positions[rows[r]] + 1 + count     tokens with those that go in, at most as many as
//                                                   a row of pages holds; 0: padding
//   row_tables[r] = tables[rows[r]]                 pages of the row
//   inputs[r (count + 1) + i] = tokens[rows[r]] for i = 0, drafts[rows[r], i - 1] after it; 0 for a
//       proposal that is no token, which nothing the sampler chooses can equal; -1: padding
//
// Parameters, in order: rows int32 [gridDim.x], the slot of each row, negative for padding;
// positions int32 [slots], tokens already in the cache; tables int32 [slots, max_pages]; lengths
// int32 [gridDim.x]; row_tables int32 [gridDim.x, max_pages]; tokens int32 [slots], each slot's last
// token; drafts int32 [slots, most]; inputs int32 [gridDim.x (count + 1)]; max_pages, count, most,
// vocabulary int32, count at most `most`.
// Grid: one block per row, of BLOCK threads. Reference: the lines above; exact.
// compile: BLOCK=128
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    begin_step(const i32* rows, const i32* positions, const i32* tables, i32* lengths,
               i32* row_tables, const i32* tokens, const i32* drafts, i32* inputs, i32 max_pages,
               i32 count, i32 most, i32 vocabulary) {
    dependents_launch();
    dependencies_wait();
    const i32 row = blockIdx.x, slot = rows[row];
    if (threadIdx.x == 0)
        lengths[row] = slot < 0 ? 0 : min(positions[slot] + 1 + count, 64 * max_pages);
    for (i32 i = threadIdx.x; i <= count; i += BLOCK) {
        i32 token = slot < 0 ? -1 : i == 0 ? tokens[slot] : drafts[(i64)slot * most + i - 1];
        if (i > 0 && slot >= 0 && (token < 0 || token >= vocabulary)) token = 0;
        inputs[row * (count + 1) + i] = token;
    }
    for (i32 i = threadIdx.x; i < max_pages; i += BLOCK)
        row_tables[(i64)row * max_pages + i] = slot < 0 ? 0 : tables[(i64)slot * max_pages + i];
}
