// What the files behind minima_torch.h share.
#pragma once

#include "CMinimaTorch.h"

#include <cstdlib>
#include <cstring>
#include <exception>

#include <ATen/core/Tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

namespace minima {

inline char* copy(const char* text) {
    char* result = strdup(text);
    return result ? result : static_cast<char*>(std::calloc(1, 1));
}

// Runs `body`; an exception becomes a message and the result 1.
template <typename Body>
int guarded(char** error, Body&& body) noexcept {
    try {
        body();
        return 0;
    } catch (const c10::Error& failure) {
        *error = copy(failure.what_without_backtrace());
    } catch (const std::exception& failure) {
        *error = copy(failure.what());
    } catch (...) {
        *error = copy("an unknown C++ exception");
    }
    return 1;
}

// A handle is a c10::TensorImpl with one reference of its own.

inline at::Tensor borrow(const void* handle) {
    auto* impl = static_cast<c10::TensorImpl*>(const_cast<void*>(handle));
    return at::Tensor(c10::intrusive_ptr<c10::TensorImpl>::reclaim_copy(impl));
}

inline c10::impl::VirtualGuardImpl guard(int32_t type) {
    return c10::impl::VirtualGuardImpl(static_cast<c10::DeviceType>(type));
}

// Distributed.cpp

int make_group(const minima_group_options* options, minima_group** out, char** error);
void group_release(minima_group* group);
int all_reduce(minima_group* group, minima_tensor* const* tensors, int64_t count, char** error);
int broadcast(minima_group* group, minima_tensor* const* tensors, int64_t count, int32_t root,
              char** error);
int group_wait(minima_group* group, char** error);

}  // namespace minima
