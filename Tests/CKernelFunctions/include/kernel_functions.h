// Functions of the kernels that need no GPU, as they stand there, for the tests.
#pragma once

typedef unsigned int u32;
typedef int i32;
#define DEVICE static inline
#include "../../../Sources/CMinimaCUDA/cuda/float8.cuh"
#undef DEVICE
