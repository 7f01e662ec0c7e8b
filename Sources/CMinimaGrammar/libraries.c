// Opening TVM FFI's library and xgrammar's.

#include "minima_grammar.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(minima_ffi_object) == 24 && sizeof(minima_ffi_value) == 16);
static_assert(sizeof(minima_ffi_method) == 72 && sizeof(minima_ffi_type) == 72);
static_assert(sizeof(minima_ffi_tensor) == 48);

static const struct {
    const char* name;
    size_t offset;
} symbols[] = {
    {"TVMFFIGetVersion", offsetof(minima_ffi, version)},
    {"TVMFFIObjectDecRef", offsetof(minima_ffi, release)},
    {"TVMFFITypeKeyToIndex", offsetof(minima_ffi, find_kind)},
    {"TVMFFIGetTypeInfo", offsetof(minima_ffi, type)},
    {"TVMFFIFunctionGetGlobal", offsetof(minima_ffi, find_function)},
    {"TVMFFIFunctionCall", offsetof(minima_ffi, call)},
    {"TVMFFIErrorMoveFromRaised", offsetof(minima_ffi, take_error)},
    {"TVMFFIStringFromByteArray", offsetof(minima_ffi, make_string)},
    {"TVMFFIBytesFromByteArray", offsetof(minima_ffi, make_bytes)},
};

// The table is nothing but function pointers, so a missing line above shows here.
static_assert(sizeof symbols / sizeof *symbols == sizeof(minima_ffi) / sizeof(void*));

static void* open_library(const char* path, char** error) {
    // Threads of xgrammar may outlive a use, and its objects are registered in the other library.
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
        const char* reason = dlerror();
        *error = strdup(reason ? reason : "the dynamic linker gave no reason");
    }
    return library;
}

minima_ffi* minima_ffi_open(const char* interface_path, const char* grammar_path, char** error) {
    // Opened first, so that xgrammar's library finds it by name already loaded.
    void* library = open_library(interface_path, error);
    if (!library) return nullptr;
    minima_ffi* table = calloc(1, sizeof *table);
    if (!table) return nullptr;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; ++i) {
        void* address = dlsym(library, symbols[i].name);
        if (!address) {
            char text[128];
            snprintf(text, sizeof text, "it lacks %s", symbols[i].name);
            *error = strdup(text);
            free(table);
            return nullptr;
        }
        memcpy((char*)table + symbols[i].offset, &address, sizeof address);
    }
    if (!open_library(grammar_path, error)) {
        free(table);
        return nullptr;
    }
    return table;
}
