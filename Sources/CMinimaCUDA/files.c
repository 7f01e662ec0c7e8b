// The CUDA C++ files inside the binary: the only list of them. A name that ends in .cuh is a header
// for the others, everything else a kernel, which the tests compile.

#include "minima_cuda.h"

static const minima_cuda_file files[] = {
    {"common.cuh", (const unsigned char[]){
#embed "cuda/common.cuh" suffix(, 0)
    }},
    {"keyvalue.cuh", (const unsigned char[]){
#embed "cuda/keyvalue.cuh" suffix(, 0)
    }},
    {"attention.cu", (const unsigned char[]){
#embed "cuda/attention.cu" suffix(, 0)
    }},
    {"elementwise.cu", (const unsigned char[]){
#embed "cuda/elementwise.cu" suffix(, 0)
    }},
    {"expand.cu", (const unsigned char[]){
#embed "cuda/expand.cu" suffix(, 0)
    }},
    {"keyvalue.cu", (const unsigned char[]){
#embed "cuda/keyvalue.cu" suffix(, 0)
    }},
    {"linear.cu", (const unsigned char[]){
#embed "cuda/linear.cu" suffix(, 0)
    }},
    {"repack.cu", (const unsigned char[]){
#embed "cuda/repack.cu" suffix(, 0)
    }},
    {"sampling.cu", (const unsigned char[]){
#embed "cuda/sampling.cu" suffix(, 0)
    }},
    {"step.cu", (const unsigned char[]){
#embed "cuda/step.cu" suffix(, 0)
    }},
};

size_t minima_cuda_file_count(void) {
    return sizeof files / sizeof *files;
}

const minima_cuda_file* minima_cuda_file_at(size_t index) {
    return index < minima_cuda_file_count() ? &files[index] : nullptr;
}
