// The C interface between Swift and libtorch.
//
// Every function that can fail returns 0 on success; otherwise it returns 1 and stores a message in
// `*error`, to be released with `free`. No C++ exception crosses this interface. The implementation
// is a shared library of its own, opened with dlopen, so a program that never computes needs no
// libtorch.
#ifndef MINIMA_TORCH_H
#define MINIMA_TORCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma clang assume_nonnull begin

/// Where a failing function stores its message.
typedef char* _Nullable* _Nonnull minima_error;

/// A counted reference to a tensor. Every handle that a function gives out is owned by the caller
/// and ends with `release`.
typedef struct minima_tensor minima_tensor;

/// An operator of the ATen dispatcher. Handles live as long as the process.
typedef struct minima_operator minima_operator;

/// A source of random numbers on one device; ends with `generator_release`.
typedef struct minima_generator minima_generator;

/// Processes that compute together, as one of them sees it; ends with `group_release`.
typedef struct minima_group minima_group;

/// Where a group meets and which of its processes this is.
typedef struct minima_group_options {
    const char* address;    // of the machine with the store that tells them of each other
    const char* interface;  // the network to use; empty for the one of this host's name
    int32_t port;           // of the store
    int32_t rank;
    int32_t size;
    int32_t cuda_index;  // the device of this process; negative for a group on the CPU
    int64_t timeout;     // milliseconds that a call may wait for the others
    bool hosts_store;    // whether this process runs the store
} minima_group_options;

/// Kinds of operator arguments and results.
typedef enum minima_tag : int32_t {
    MINIMA_NONE,
    MINIMA_TENSOR,            // pointers[offset]
    MINIMA_INTEGER,           // integers[offset]; also bool schema fields, dtypes and enums
    MINIMA_DOUBLE,            // doubles[offset]
    MINIMA_BOOL,              // integers[offset] != 0
    MINIMA_TEXT,              // text[offset ..< offset + count], UTF-8
    MINIMA_INTEGERS,          // integers[offset ..< offset + count]
    MINIMA_DOUBLES,           // doubles[offset ..< offset + count]
    MINIMA_TENSORS,           // pointers[offset ..< offset + count]
    MINIMA_OPTIONAL_TENSORS,  // the same; a null pointer is None
    MINIMA_DEVICE,            // integers[offset]: device type, integers[offset + 1]: index
    MINIMA_GENERATOR,         // pointers[offset]
} minima_tag;

/// One argument: its kind, and where its payload lies in the pools of `minima_arguments`.
typedef struct minima_argument {
    minima_tag tag;
    int64_t offset;
    int64_t count;
} minima_argument;

/// The arguments of one call. Handles are borrowed for the length of the call.
typedef struct minima_arguments {
    const minima_argument* arguments;
    int64_t count;
    const int64_t* integers;
    const double* doubles;
    void* _Nullable const* _Nonnull pointers;
    const char* text;
} minima_arguments;

/// One result. `tensors` is released with `free` after its handles were taken.
typedef struct minima_result {
    minima_tag tag;
    int64_t count;
    int64_t integer;
    double number;
    minima_tensor* _Nullable tensor;
    minima_tensor* _Nullable* _Nullable tensors;
} minima_result;

/// Bytes a device's caching allocator holds, and what the device reports.
typedef struct minima_memory {
    int64_t allocated;
    int64_t peak_allocated;
    int64_t reserved;
    int64_t peak_reserved;
    int64_t free;
    int64_t total;
} minima_memory;

/// A CUDA stream in the form that libtorch packs it.
typedef struct minima_stream {
    int64_t identifier;
    int64_t device_index;
    int64_t device_type;
} minima_stream;

/// The interface as a table; `minima_torch_api` returns the only instance.
typedef struct minima_torch_table {
    /// The folder of the libtorch_cpu that is loaded, to be released with `free`.
    int (*_Nonnull library_folder)(char* _Nullable* _Nonnull result, minima_error error);
    /// Opens libtorch_cuda and counts its devices; an error when it cannot be opened.
    int (*_Nonnull open_cuda)(int32_t* device_count, minima_error error);

    int (*_Nonnull find)(const char* name, const char* overload,
                         const minima_operator* _Nullable* _Nonnull result, minima_error error);
    /// Calls an operator; arguments past the given ones take the schema's defaults.
    int (*_Nonnull call)(const minima_operator* op, const minima_arguments* arguments,
                         minima_result* results, int64_t capacity, int64_t* count,
                         minima_error error);

    void (*_Nonnull release)(minima_tensor* tensor);
    int64_t (*_Nonnull rank)(const minima_tensor* tensor);
    /// The number of elements.
    int64_t (*_Nonnull count)(const minima_tensor* tensor);
    /// `rank` sizes, in elements.
    const int64_t* _Nonnull (*_Nonnull sizes)(const minima_tensor* tensor);
    const int64_t* _Nonnull (*_Nonnull strides)(const minima_tensor* tensor);
    /// A c10::ScalarType.
    int32_t (*_Nonnull scalar_type)(const minima_tensor* tensor);
    /// A c10::DeviceType.
    int32_t (*_Nonnull device_type)(const minima_tensor* tensor);
    int32_t (*_Nonnull device_index)(const minima_tensor* tensor);
    /// The address of the first element, on the tensor's device.
    int (*_Nonnull data)(const minima_tensor* tensor, void* _Nullable* _Nonnull address,
                         minima_error error);

    int (*_Nonnull set_requires_grad)(minima_tensor* tensor, bool requires_grad,
                                      minima_error error);
    bool (*_Nonnull requires_grad)(const minima_tensor* tensor);
    /// Gradients of Σ⟨outputs, output_gradients⟩ with respect to `inputs`; null where there is none.
    /// Without `output_gradients` every output has one element, whose gradient is 1.
    int (*_Nonnull gradients)(minima_tensor* _Nonnull const* _Nonnull outputs, int64_t output_count,
                              minima_tensor* _Nonnull const* _Nullable output_gradients,
                              minima_tensor* _Nonnull const* _Nonnull inputs, int64_t input_count,
                              bool retain_graph, bool create_graph,
                              minima_tensor* _Nullable* _Nonnull results, minima_error error);
    /// Grad mode of the calling thread.
    bool (*_Nonnull grad_enabled)(void);
    void (*_Nonnull set_grad_enabled)(bool enabled);

    int (*_Nonnull make_generator)(int32_t device_type, int32_t device_index, uint64_t seed,
                                   minima_generator* _Nullable* _Nonnull result,
                                   minima_error error);
    void (*_Nonnull generator_release)(minima_generator* generator);

    int (*_Nonnull memory)(int32_t device_type, int32_t device_index, minima_memory* result,
                           minima_error error);
    int (*_Nonnull reset_peak_memory)(int32_t device_type, int32_t device_index,
                                      minima_error error);
    int (*_Nonnull empty_cache)(int32_t device_type, minima_error error);
    int (*_Nonnull synchronize)(int32_t device_type, int32_t device_index, minima_error error);
    int (*_Nonnull current_stream)(int32_t device_type, int32_t device_index, minima_stream* result,
                                   minima_error error);
    int (*_Nonnull new_stream)(int32_t device_type, int32_t device_index, minima_stream* result,
                               minima_error error);
    /// Makes `stream` the calling thread's current one on its device and returns the previous one.
    int (*_Nonnull exchange_stream)(minima_stream stream, minima_stream* previous,
                                    minima_error error);
    /// The CUDA runtime's stream behind it; null for the default stream of its device.
    int (*_Nonnull native_stream)(minima_stream stream, void* _Nullable* _Nonnull result,
                                  minima_error error);

    /// Makes malloc keep freed blocks, and libtorch ask for huge pages.
    void (*_Nonnull tune_allocator)(void);
    int32_t (*_Nonnull threads)(void);
    int (*_Nonnull set_threads)(int32_t count, minima_error error);

    /// Waits for all processes of a group and connects them: gloo for tensors on the CPU, and NCCL
    /// where the group has a CUDA device.
    int (*_Nonnull make_group)(const minima_group_options* options,
                               minima_group* _Nullable* _Nonnull result, minima_error error);
    void (*_Nonnull group_release)(minima_group* group);
    /// Sums every tensor over the group, in place; on a CUDA device that is queued on the current
    /// stream.
    int (*_Nonnull all_reduce)(minima_group* group,
                               minima_tensor* _Nonnull const* _Nonnull tensors, int64_t count,
                               minima_error error);
    /// Overwrites every tensor with that of the process `root`; queued like `all_reduce`.
    int (*_Nonnull broadcast)(minima_group* group,
                              minima_tensor* _Nonnull const* _Nonnull tensors, int64_t count,
                              int32_t root, minima_error error);
    /// Waits for what was queued on the CUDA device, no longer than the group's time limit.
    int (*_Nonnull group_wait)(minima_group* group, minima_error error);
} minima_torch_table;

/// The name under which the shared library exports its table.
#define MINIMA_TORCH_ENTRY "minima_torch_api"

typedef const minima_torch_table* _Nonnull (*minima_torch_entry)(void);

/// The function of libtorch_cpu that says its version, the same in every version since 2.4.
#define MINIMA_TORCH_VERSION "aoti_torch_abi_version"

/// Returns `major << 56 | minor << 48 | patch << 40` and flags below.
typedef uint64_t (*minima_torch_version)(void);

#pragma clang assume_nonnull end

#ifdef __cplusplus
}
#endif

#endif
