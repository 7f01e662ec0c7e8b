// The CUDA driver and NVRTC, opened at run time, and the CUDA C++ sources inside the binary.
//
// The declarations are Minima's own and name only what it calls, so that neither building nor
// starting needs CUDA. They follow the binary interface of CUDA 12.4 and newer, which every driver
// keeps. Functions return the library's own code, 0 for success.
#ifndef MINIMA_CUDA_H
#define MINIMA_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma clang assume_nonnull begin

typedef struct minima_cuda_context* minima_cuda_context;
typedef struct minima_cuda_module* minima_cuda_module;
typedef struct minima_cuda_function* minima_cuda_function;
typedef struct minima_cuda_stream* minima_cuda_stream;
typedef struct minima_cuda_event* minima_cuda_event;
typedef struct minima_cuda_graph* minima_cuda_graph;
typedef struct minima_cuda_node* minima_cuda_node;
typedef struct minima_cuda_executable* minima_cuda_executable;
typedef struct minima_nvrtc_program* minima_nvrtc_program;

/// CUdevice_attribute; what is not listed is not asked for.
typedef enum minima_cuda_device_attribute : int32_t {
    MINIMA_CUDA_MULTIPROCESSORS = 16,
    MINIMA_CUDA_CAPABILITY_MAJOR = 75,
    MINIMA_CUDA_CAPABILITY_MINOR = 76,
    MINIMA_CUDA_SHARED_PER_MULTIPROCESSOR = 81,
    MINIMA_CUDA_SHARED_PER_BLOCK = 97,  // with the opt-in
} minima_cuda_device_attribute;

/// CUfunction_attribute.
typedef enum minima_cuda_function_attribute : int32_t {
    MINIMA_CUDA_STATIC_SHARED_BYTES = 1,
    MINIMA_CUDA_LOCAL_BYTES = 3,
    MINIMA_CUDA_REGISTERS = 4,
    MINIMA_CUDA_DYNAMIC_SHARED_LIMIT = 8,
    MINIMA_CUDA_SHARED_CARVEOUT = 9,  // percent
} minima_cuda_function_attribute;

/// CUstreamCaptureMode: which calls of which threads spoil a capture.
typedef enum minima_cuda_capture_mode : int32_t {
    MINIMA_CUDA_CAPTURE_THREAD_LOCAL = 1,
} minima_cuda_capture_mode;

/// The driver's functions; a null stream is the device's default one.
typedef struct minima_cuda_driver {
    int (*_Nonnull init)(unsigned flags);
    int (*_Nonnull error_name)(int code, const char* _Nullable* _Nonnull text);
    int (*_Nonnull error_string)(int code, const char* _Nullable* _Nonnull text);

    int (*_Nonnull device_get)(int* device, int ordinal);
    int (*_Nonnull device_name)(char* name, int length, int device);
    int (*_Nonnull device_attribute)(int* value, minima_cuda_device_attribute attribute,
                                     int device);

    int (*_Nonnull primary_context_retain)(minima_cuda_context _Nullable* _Nonnull context,
                                           int device);
    int (*_Nonnull primary_context_release)(int device);
    int (*_Nonnull context_push)(minima_cuda_context context);
    int (*_Nonnull context_pop)(minima_cuda_context _Nullable* _Nonnull context);

    int (*_Nonnull module_load)(minima_cuda_module _Nullable* _Nonnull module, const void* image);
    int (*_Nonnull module_unload)(minima_cuda_module module);
    int (*_Nonnull module_function)(minima_cuda_function _Nullable* _Nonnull function,
                                    minima_cuda_module module, const char* name);

    int (*_Nonnull function_attribute)(int* value, minima_cuda_function_attribute attribute,
                                       minima_cuda_function function);
    int (*_Nonnull function_set_attribute)(minima_cuda_function function,
                                           minima_cuda_function_attribute attribute, int value);
    int (*_Nonnull function_parameter)(minima_cuda_function function, size_t index, size_t* offset,
                                       size_t* size);
    int (*_Nonnull function_load)(minima_cuda_function function);
    int (*_Nonnull occupancy)(int* blocks, minima_cuda_function function, int threads,
                              size_t shared_bytes);
    int (*_Nonnull launch)(const void* configuration, minima_cuda_function function,
                           void* _Nonnull* _Nullable parameters, void* _Nullable* _Nullable extra);

    int (*_Nonnull stream_synchronize)(minima_cuda_stream _Nullable stream);
    int (*_Nonnull stream_begin_capture)(minima_cuda_stream _Nullable stream,
                                         minima_cuda_capture_mode mode);
    int (*_Nonnull stream_end_capture)(minima_cuda_stream _Nullable stream,
                                       minima_cuda_graph _Nullable* _Nonnull graph);
    int (*_Nonnull memset_bytes)(uint64_t address, unsigned char value, size_t count,
                                 minima_cuda_stream _Nullable stream);

    int (*_Nonnull graph_nodes)(minima_cuda_graph graph,
                                minima_cuda_node _Nullable* _Nullable nodes, size_t* count);
    int (*_Nonnull graph_instantiate)(minima_cuda_executable _Nullable* _Nonnull executable,
                                      minima_cuda_graph graph, unsigned long long flags);
    int (*_Nonnull graph_destroy)(minima_cuda_graph graph);
    int (*_Nonnull executable_launch)(minima_cuda_executable executable,
                                      minima_cuda_stream _Nullable stream);
    int (*_Nonnull executable_destroy)(minima_cuda_executable executable);

    int (*_Nonnull event_create)(minima_cuda_event _Nullable* _Nonnull event, unsigned flags);
    int (*_Nonnull event_record)(minima_cuda_event event, minima_cuda_stream _Nullable stream);
    int (*_Nonnull event_synchronize)(minima_cuda_event event);
    int (*_Nonnull event_elapsed)(float* milliseconds, minima_cuda_event start,
                                  minima_cuda_event end);
    int (*_Nonnull event_destroy)(minima_cuda_event event);
} minima_cuda_driver;

/// NVRTC's functions.
typedef struct minima_nvrtc {
    int (*_Nonnull version)(int* major, int* minor);
    const char* _Nullable (*_Nonnull error_string)(int code);
    int (*_Nonnull architecture_count)(int* count);
    int (*_Nonnull architectures)(int* architectures);
    int (*_Nonnull create)(minima_nvrtc_program _Nullable* _Nonnull program, const char* source,
                           const char* name, int header_count,
                           const char* _Nullable const* _Nullable headers,
                           const char* _Nullable const* _Nullable header_names);
    int (*_Nonnull destroy)(minima_nvrtc_program _Nullable* _Nonnull program);
    int (*_Nonnull compile)(minima_nvrtc_program program, int option_count,
                            const char* _Nullable const* _Nullable options);
    int (*_Nonnull log_size)(minima_nvrtc_program program, size_t* size);
    int (*_Nonnull log)(minima_nvrtc_program program, char* log);
    int (*_Nonnull cubin_size)(minima_nvrtc_program program, size_t* size);
    int (*_Nonnull cubin)(minima_nvrtc_program program, char* cubin);
} minima_nvrtc;

/// Opens the driver at `path`, or NVRTC. The library stays open until the process ends; the table
/// ends with `free`.
///
/// @return Null on failure, with a message in `*error` to be released with `free`.
minima_cuda_driver* _Nullable minima_cuda_open_driver(const char* path,
                                                      char* _Nullable* _Nonnull error);
minima_nvrtc* _Nullable minima_cuda_open_nvrtc(const char* path, char* _Nullable* _Nonnull error);

/// Queues a kernel, or adds it to the graph that `stream` is captured into.
///
/// @param overlapping Lets the kernel start before the one ahead of it ends (programmatic dependent
///   launch): it must execute griddepcontrol.wait before it touches what others write.
/// @param parameters One pointer per parameter, each to its value.
int minima_cuda_launch(const minima_cuda_driver* driver, minima_cuda_function function,
                       const unsigned grid[_Nonnull 3], unsigned block, unsigned shared_bytes,
                       minima_cuda_stream _Nullable stream, bool overlapping,
                       void* _Nonnull* _Nullable parameters);

/// A file of CUDA C++ inside the binary.
typedef struct minima_cuda_file {
    const char* name;
    const unsigned char* text;  // UTF-8, ends with a zero
} minima_cuda_file;

/// How many files there are, and one of them by its place; null past the end.
size_t minima_cuda_file_count(void);
const minima_cuda_file* _Nullable minima_cuda_file_at(size_t index);

#pragma clang assume_nonnull end

#ifdef __cplusplus
}
#endif

#endif
