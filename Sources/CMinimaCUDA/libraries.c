// Opening libcuda and NVRTC, and the one call whose structures are built here.

#include "minima_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct symbol {
    const char* name;
    size_t offset;
} symbol;

static const symbol driver_symbols[] = {
    {"cuInit", offsetof(minima_cuda_driver, init)},
    {"cuGetErrorName", offsetof(minima_cuda_driver, error_name)},
    {"cuGetErrorString", offsetof(minima_cuda_driver, error_string)},
    {"cuDeviceGet", offsetof(minima_cuda_driver, device_get)},
    {"cuDeviceGetName", offsetof(minima_cuda_driver, device_name)},
    {"cuDeviceGetAttribute", offsetof(minima_cuda_driver, device_attribute)},
    {"cuDevicePrimaryCtxRetain", offsetof(minima_cuda_driver, primary_context_retain)},
    {"cuDevicePrimaryCtxRelease_v2", offsetof(minima_cuda_driver, primary_context_release)},
    {"cuCtxPushCurrent_v2", offsetof(minima_cuda_driver, context_push)},
    {"cuCtxPopCurrent_v2", offsetof(minima_cuda_driver, context_pop)},
    {"cuModuleLoadData", offsetof(minima_cuda_driver, module_load)},
    {"cuModuleUnload", offsetof(minima_cuda_driver, module_unload)},
    {"cuModuleGetFunction", offsetof(minima_cuda_driver, module_function)},
    {"cuFuncGetAttribute", offsetof(minima_cuda_driver, function_attribute)},
    {"cuFuncSetAttribute", offsetof(minima_cuda_driver, function_set_attribute)},
    {"cuFuncGetParamInfo", offsetof(minima_cuda_driver, function_parameter)},
    {"cuFuncLoad", offsetof(minima_cuda_driver, function_load)},
    {"cuOccupancyMaxActiveBlocksPerMultiprocessor", offsetof(minima_cuda_driver, occupancy)},
    {"cuLaunchKernelEx", offsetof(minima_cuda_driver, launch)},
    {"cuStreamSynchronize", offsetof(minima_cuda_driver, stream_synchronize)},
    {"cuStreamBeginCapture_v2", offsetof(minima_cuda_driver, stream_begin_capture)},
    {"cuStreamEndCapture", offsetof(minima_cuda_driver, stream_end_capture)},
    {"cuMemsetD8Async", offsetof(minima_cuda_driver, memset_bytes)},
    {"cuGraphGetNodes", offsetof(minima_cuda_driver, graph_nodes)},
    {"cuGraphInstantiateWithFlags", offsetof(minima_cuda_driver, graph_instantiate)},
    {"cuGraphDestroy", offsetof(minima_cuda_driver, graph_destroy)},
    {"cuGraphLaunch", offsetof(minima_cuda_driver, executable_launch)},
    {"cuGraphExecDestroy", offsetof(minima_cuda_driver, executable_destroy)},
    {"cuEventCreate", offsetof(minima_cuda_driver, event_create)},
    {"cuEventRecord", offsetof(minima_cuda_driver, event_record)},
    {"cuEventSynchronize", offsetof(minima_cuda_driver, event_synchronize)},
    {"cuEventElapsedTime", offsetof(minima_cuda_driver, event_elapsed)},
    {"cuEventDestroy_v2", offsetof(minima_cuda_driver, event_destroy)},
};

static const symbol nvrtc_symbols[] = {
    {"nvrtcVersion", offsetof(minima_nvrtc, version)},
    {"nvrtcGetErrorString", offsetof(minima_nvrtc, error_string)},
    {"nvrtcGetNumSupportedArchs", offsetof(minima_nvrtc, architecture_count)},
    {"nvrtcGetSupportedArchs", offsetof(minima_nvrtc, architectures)},
    {"nvrtcCreateProgram", offsetof(minima_nvrtc, create)},
    {"nvrtcDestroyProgram", offsetof(minima_nvrtc, destroy)},
    {"nvrtcCompileProgram", offsetof(minima_nvrtc, compile)},
    {"nvrtcGetProgramLogSize", offsetof(minima_nvrtc, log_size)},
    {"nvrtcGetProgramLog", offsetof(minima_nvrtc, log)},
    {"nvrtcGetCUBINSize", offsetof(minima_nvrtc, cubin_size)},
    {"nvrtcGetCUBIN", offsetof(minima_nvrtc, cubin)},
};

// Both tables are nothing but function pointers, so a missing line above shows here.
static_assert(sizeof driver_symbols / sizeof *driver_symbols ==
              sizeof(minima_cuda_driver) / sizeof(void*));
static_assert(sizeof nvrtc_symbols / sizeof *nvrtc_symbols == sizeof(minima_nvrtc) / sizeof(void*));

static char* message(const char* text, const char* name) {
    const size_t size = strlen(text) + strlen(name) + 1;
    char* result = malloc(size);
    if (result) snprintf(result, size, "%s%s", text, name);
    return result;
}

static void* open_table(const char* path, const symbol* symbols, size_t count, char** error) {
    // Neither library survives being unloaded while the CUDA runtime of the process uses it.
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
        const char* reason = dlerror();
        *error = message(reason ? reason : "the dynamic linker gave no reason", "");
        return nullptr;
    }
    char* table = calloc(count, sizeof(void*));
    for (size_t i = 0; table && i < count; ++i) {
        void* address = dlsym(library, symbols[i].name);
        if (!address) {
            *error = message("it is too old, for it lacks ", symbols[i].name);
            free(table);
            table = nullptr;
            break;
        }
        memcpy(table + symbols[i].offset, &address, sizeof address);
    }
    dlclose(library);
    return table;
}

minima_cuda_driver* minima_cuda_open_driver(const char* path, char** error) {
    return open_table(path, driver_symbols, sizeof driver_symbols / sizeof *driver_symbols, error);
}

minima_nvrtc* minima_cuda_open_nvrtc(const char* path, char** error) {
    return open_table(path, nvrtc_symbols, sizeof nvrtc_symbols / sizeof *nvrtc_symbols, error);
}

// CUlaunchAttribute and CUlaunchConfig.

typedef struct launch_attribute {
    int32_t id;
    int32_t padding;
    union {
        int32_t flag;
        char bytes[64];
    } value;
} launch_attribute;

typedef struct launch_configuration {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared_bytes;
    minima_cuda_stream stream;
    launch_attribute* attributes;
    unsigned attribute_count;
} launch_configuration;

static_assert(sizeof(launch_attribute) == 72 && sizeof(launch_configuration) == 56);

int minima_cuda_launch(const minima_cuda_driver* driver, minima_cuda_function function,
                       const unsigned grid[3], unsigned block, unsigned shared_bytes,
                       minima_cuda_stream stream, bool overlapping, void** parameters) {
    const int32_t programmatic_stream_serialization = 6;
    launch_attribute attribute = {.id = programmatic_stream_serialization, .value.flag = 1};
    const launch_configuration configuration = {
        .grid = {grid[0], grid[1], grid[2]},
        .block = {block, 1, 1},
        .shared_bytes = shared_bytes,
        .stream = stream,
        .attributes = &attribute,
        .attribute_count = overlapping ? 1 : 0,
    };
    return driver->launch(&configuration, function, parameters, nullptr);
}
