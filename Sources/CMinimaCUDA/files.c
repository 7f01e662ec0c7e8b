// The CUDA C++ files inside the binary: the only list of them. A name that ends in .cuh is a header
// for the others, everything else a kernel, which the tests compile.

#include "minima_cuda.h"

static const minima_cuda_file files[] = {
    {"attention_geometry.cuh", (const unsigned char[]){
#embed "cuda/attention_geometry.cuh" suffix(, 0)
    }},
    {"attention_parts.cuh", (const unsigned char[]){
#embed "cuda/attention_parts.cuh" suffix(, 0)
    }},
    {"attention_plan.cuh", (const unsigned char[]){
#embed "cuda/attention_plan.cuh" suffix(, 0)
    }},
    {"attention_products.cuh", (const unsigned char[]){
#embed "cuda/attention_products.cuh" suffix(, 0)
    }},
    {"attention_rows.cuh", (const unsigned char[]){
#embed "cuda/attention_rows.cuh" suffix(, 0)
    }},
    {"attention_slices.cuh", (const unsigned char[]){
#embed "cuda/attention_slices.cuh" suffix(, 0)
    }},
    {"attention_stream.cuh", (const unsigned char[]){
#embed "cuda/attention_stream.cuh" suffix(, 0)
    }},
    {"attention_tokens.cuh", (const unsigned char[]){
#embed "cuda/attention_tokens.cuh" suffix(, 0)
    }},
    {"common.cuh", (const unsigned char[]){
#embed "cuda/common.cuh" suffix(, 0)
    }},
    {"float8.cuh", (const unsigned char[]){
#embed "cuda/float8.cuh" suffix(, 0)
    }},
    {"keyvalue.cuh", (const unsigned char[]){
#embed "cuda/keyvalue.cuh" suffix(, 0)
    }},
    {"linear_codes.cuh", (const unsigned char[]){
#embed "cuda/linear_codes.cuh" suffix(, 0)
    }},
    {"linear_epilogue.cuh", (const unsigned char[]){
#embed "cuda/linear_epilogue.cuh" suffix(, 0)
    }},
    {"linear_finisher.cuh", (const unsigned char[]){
#embed "cuda/linear_finisher.cuh" suffix(, 0)
    }},
    {"linear_geometry.cuh", (const unsigned char[]){
#embed "cuda/linear_geometry.cuh" suffix(, 0)
    }},
    {"linear_input.cuh", (const unsigned char[]){
#embed "cuda/linear_input.cuh" suffix(, 0)
    }},
    {"linear_products.cuh", (const unsigned char[]){
#embed "cuda/linear_products.cuh" suffix(, 0)
    }},
    {"linear_ring.cuh", (const unsigned char[]){
#embed "cuda/linear_ring.cuh" suffix(, 0)
    }},
    {"log_sum.cuh", (const unsigned char[]){
#embed "cuda/log_sum.cuh" suffix(, 0)
    }},
    {"sampling_arithmetic.cuh", (const unsigned char[]){
#embed "cuda/sampling_arithmetic.cuh" suffix(, 0)
    }},
    {"sampling_results.cuh", (const unsigned char[]){
#embed "cuda/sampling_results.cuh" suffix(, 0)
    }},
    {"sampling_row.cuh", (const unsigned char[]){
#embed "cuda/sampling_row.cuh" suffix(, 0)
    }},
    {"sampling_selection.cuh", (const unsigned char[]){
#embed "cuda/sampling_selection.cuh" suffix(, 0)
    }},
    {"sampling_verification.cuh", (const unsigned char[]){
#embed "cuda/sampling_verification.cuh" suffix(, 0)
    }},
    {"sampling_workspace.cuh", (const unsigned char[]){
#embed "cuda/sampling_workspace.cuh" suffix(, 0)
    }},
    {"three_bits.cuh", (const unsigned char[]){
#embed "cuda/three_bits.cuh" suffix(, 0)
    }},
    {"attention.cu", (const unsigned char[]){
#embed "cuda/attention.cu" suffix(, 0)
    }},
    {"attention_exchange.cu", (const unsigned char[]){
#embed "cuda/attention_exchange.cu" suffix(, 0)
    }},
    {"draft.cu", (const unsigned char[]){
#embed "cuda/draft.cu" suffix(, 0)
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
    {"ngram.cu", (const unsigned char[]){
#embed "cuda/ngram.cu" suffix(, 0)
    }},
    {"read.cu", (const unsigned char[]){
#embed "cuda/read.cu" suffix(, 0)
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
    {"tree.cu", (const unsigned char[]){
#embed "cuda/tree.cu" suffix(, 0)
    }},
    {"tree_path.cu", (const unsigned char[]){
#embed "cuda/tree_path.cu" suffix(, 0)
    }},
};

size_t minima_cuda_file_count(void) {
    return sizeof files / sizeof *files;
}

const minima_cuda_file* minima_cuda_file_at(size_t index) {
    return index < minima_cuda_file_count() ? &files[index] : nullptr;
}
