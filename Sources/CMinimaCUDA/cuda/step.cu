// begin_step: what a decode step's rows are, from the state of the slots that they stand for.
//
//   lengths[r] = positions[rows[r]] + 1       tokens with the one that goes in; 0: padding
//   row_tables[r] = tables[rows[r]]           pages of the row
//
// Parameters, in order: rows int32 [gridDim.x], the slot of each row, negative for padding;
// positions int32 [slots], tokens already in the cache; tables int32 [slots, max_pages]; lengths
// int32 [gridDim.x]; row_tables int32 [gridDim.x, max_pages]; max_pages int32.
// Grid: one block per row, of BLOCK threads. Reference: the two lines above; exact.
// compile: BLOCK=128
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    begin_step(const i32* rows, const i32* positions, const i32* tables, i32* lengths,
               i32* row_tables, i32 max_pages) {
    dependents_launch();
    dependencies_wait();
    const i32 row = blockIdx.x, slot = rows[row];
    if (threadIdx.x == 0) lengths[row] = slot < 0 ? 0 : positions[slot] + 1;
    for (i32 i = threadIdx.x; i < max_pages; i += BLOCK)
        row_tables[(i64)row * max_pages + i] = slot < 0 ? 0 : tables[(i64)slot * max_pages + i];
}
