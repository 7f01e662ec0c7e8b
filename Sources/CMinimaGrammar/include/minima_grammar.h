// What Minima calls of TVM FFI's C interface, through which xgrammar's library is used.
//
// The declarations are Minima's own and follow the binary interface of tvm-ffi 0.1, which stays the
// same between its patch versions: https://tvm.apache.org/ffi. Neither building nor starting needs
// the libraries.
#ifndef MINIMA_GRAMMAR_H
#define MINIMA_GRAMMAR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma clang assume_nonnull begin

/// Kinds of values; those from `MINIMA_FFI_OBJECT` on are objects with counted references.
typedef enum minima_ffi_kind : int32_t {
    MINIMA_FFI_NONE = 0,
    MINIMA_FFI_INTEGER = 1,
    MINIMA_FFI_BOOLEAN = 2,
    MINIMA_FFI_TENSOR_POINTER = 7,
    MINIMA_FFI_SMALL_STRING = 11,
    MINIMA_FFI_SMALL_BYTES = 12,
    MINIMA_FFI_OBJECT = 64,
    MINIMA_FFI_STRING = 65,
    MINIMA_FFI_BYTES = 66,
    MINIMA_FFI_ERROR = 67,
} minima_ffi_kind;

/// What every object begins with; its own members follow.
typedef struct minima_ffi_object {
    uint64_t references;
    int32_t kind;
    uint32_t padding;
    void* _Nullable deleter;
} minima_ffi_object;

/// TVMFFIAny: a value, or a view of one.
typedef struct minima_ffi_value {
    int32_t kind;
    uint32_t small_size;
    union {
        int64_t integer;
        const void* _Nullable pointer;
        minima_ffi_object* _Nullable object;
        char bytes[8];
    };
} minima_ffi_value;

/// TVMFFIByteArray; also the members of strings and bytes.
typedef struct minima_ffi_bytes {
    const char* _Nullable data;
    size_t size;
} minima_ffi_bytes;

/// The members of an error that are read here.
typedef struct minima_ffi_error {
    minima_ffi_bytes kind;
    minima_ffi_bytes message;
} minima_ffi_error;

/// TVMFFIMethodInfo.
typedef struct minima_ffi_method {
    minima_ffi_bytes name;
    minima_ffi_bytes doc;
    minima_ffi_bytes metadata;
    int64_t flags;
    minima_ffi_value function;
} minima_ffi_method;

/// TVMFFITypeInfo.
typedef struct minima_ffi_type {
    int32_t kind;
    int32_t depth;
    minima_ffi_bytes key;
    const void* _Nullable ancestors;
    uint64_t key_hash;
    int32_t field_count;
    int32_t method_count;
    const void* _Nullable fields;
    const minima_ffi_method* _Nullable methods;
    const void* _Nullable metadata;
} minima_ffi_type;

/// DLTensor.
typedef struct minima_ffi_tensor {
    void* data;
    int32_t device_type;
    int32_t device;
    int32_t dimensions;
    uint8_t type_code;
    uint8_t type_bits;
    uint16_t type_lanes;
    const int64_t* shape;
    const int64_t* _Nullable strides;
    uint64_t byte_offset;
} minima_ffi_tensor;

/// DLPack's kDLCPU and kDLInt.
enum { MINIMA_FFI_CPU = 1, MINIMA_FFI_SIGNED = 0 };

/// TVMFFIVersion.
typedef struct minima_ffi_version {
    uint32_t major;
    uint32_t minor;
    uint32_t patch;
} minima_ffi_version;

/// The interface's functions; those that return a code return 0 for success, and otherwise the
/// calling thread's error waits in `take_error`.
typedef struct minima_ffi {
    void (*_Nonnull version)(minima_ffi_version* version);
    int (*_Nonnull release)(minima_ffi_object* object);
    int (*_Nonnull find_kind)(const minima_ffi_bytes* name, int32_t* kind);
    const minima_ffi_type* _Nullable (*_Nonnull type)(int32_t kind);
    int (*_Nonnull find_function)(const minima_ffi_bytes* name,
                                  minima_ffi_object* _Nullable* _Nonnull function);
    int (*_Nonnull call)(minima_ffi_object* function, const minima_ffi_value* _Nullable arguments,
                         int32_t count, minima_ffi_value* result);
    void (*_Nonnull take_error)(minima_ffi_object* _Nullable* _Nonnull error);
    int (*_Nonnull make_string)(const minima_ffi_bytes* text, minima_ffi_value* value);
    int (*_Nonnull make_bytes)(const minima_ffi_bytes* bytes, minima_ffi_value* value);
} minima_ffi;

/// Opens the interface's library, then xgrammar's, which registers itself there. Neither is closed
/// again. Fails with a message that the caller frees.
minima_ffi* _Nullable minima_ffi_open(const char* interface_path, const char* grammar_path,
                                      char* _Nullable* _Nonnull error);

#pragma clang assume_nonnull end

#ifdef __cplusplus
}
#endif

#endif
