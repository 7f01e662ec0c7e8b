// libtorch behind the C table of minima_torch.h: one boxed operator call through the ATen
// dispatcher, and the few services that are not operators.

#include "Shared.hpp"

#include <dlfcn.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Generator.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

static_assert(TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11 && TORCH_VERSION_PATCH == 0,
              "Minima needs the headers of torch 2.11.0; run make setup");

namespace minima {
namespace {

const c10::TensorImpl* implementation(const minima_tensor* tensor) {
    return reinterpret_cast<const c10::TensorImpl*>(tensor);
}

// Null for an undefined tensor.
minima_tensor* give(at::Tensor tensor) {
    if (!tensor.defined()) return nullptr;
    return reinterpret_cast<minima_tensor*>(tensor.unsafeReleaseTensorImpl());
}

c10::Device device(int32_t type, int32_t index) {
    return c10::Device(static_cast<c10::DeviceType>(type), static_cast<c10::DeviceIndex>(index));
}

c10::IValue value(const minima_argument& argument, const minima_arguments& pools) {
    const int64_t first = argument.offset, count = argument.count;
    switch (argument.tag) {
        case MINIMA_NONE: return {};
        case MINIMA_TENSOR: return borrow(pools.pointers[first]);
        case MINIMA_INTEGER: return pools.integers[first];
        case MINIMA_DOUBLE: return pools.doubles[first];
        case MINIMA_BOOL: return pools.integers[first] != 0;
        case MINIMA_TEXT: return std::string(pools.text + first, count);
        case MINIMA_INTEGERS:
            return std::vector<int64_t>(pools.integers + first, pools.integers + first + count);
        case MINIMA_DOUBLES:
            return std::vector<double>(pools.doubles + first, pools.doubles + first + count);
        case MINIMA_TENSORS: {
            c10::List<at::Tensor> list;
            list.reserve(count);
            for (int64_t i = 0; i < count; ++i) list.push_back(borrow(pools.pointers[first + i]));
            return list;
        }
        case MINIMA_OPTIONAL_TENSORS: {
            c10::List<std::optional<at::Tensor>> list;
            list.reserve(count);
            for (int64_t i = 0; i < count; ++i) {
                const void* handle = pools.pointers[first + i];
                list.push_back(handle ? std::optional(borrow(handle)) : std::nullopt);
            }
            return list;
        }
        case MINIMA_DEVICE: return device(pools.integers[first], pools.integers[first + 1]);
        case MINIMA_GENERATOR: return *static_cast<at::Generator*>(pools.pointers[first]);
    }
    TORCH_CHECK(false, "unknown argument kind ", static_cast<int>(argument.tag));
}

minima_result result(c10::IValue&& value) {
    minima_result result{};
    if (value.isTensor()) {
        result.tensor = give(std::move(value).toTensor());
        result.tag = result.tensor ? MINIMA_TENSOR : MINIMA_NONE;
    } else if (value.isTensorList()) {
        const auto list = value.toTensorVector();
        result.tag = MINIMA_TENSORS;
        result.count = static_cast<int64_t>(list.size());
        result.tensors = static_cast<minima_tensor**>(std::calloc(list.size() + 1, sizeof(void*)));
        TORCH_CHECK(result.tensors, "out of memory");
        for (size_t i = 0; i < list.size(); ++i) result.tensors[i] = give(list[i]);
    } else if (value.isInt()) {
        result.tag = MINIMA_INTEGER;
        result.integer = value.toInt();
    } else if (value.isDouble()) {
        result.tag = MINIMA_DOUBLE;
        result.number = value.toDouble();
    } else if (value.isBool()) {
        result.tag = MINIMA_BOOL;
        result.integer = value.toBool();
    } else if (value.isScalar()) {
        const auto scalar = value.toScalar();
        result.tag = scalar.isFloatingPoint() ? MINIMA_DOUBLE : MINIMA_INTEGER;
        if (scalar.isFloatingPoint()) {
            result.number = scalar.toDouble();
        } else {
            result.integer = scalar.toLong();
        }
    } else {
        TORCH_CHECK(value.isNone(), "a result of kind ", value.tagKind(), " is not supported");
    }
    return result;
}

void release(minima_tensor* tensor) {
    c10::raw::intrusive_ptr::decref(reinterpret_cast<c10::TensorImpl*>(tensor));
}

void discard(minima_result& result) {
    if (result.tensor) release(result.tensor);
    for (int64_t i = 0; i < result.count && result.tensors; ++i) {
        if (result.tensors[i]) release(result.tensors[i]);
    }
    std::free(result.tensors);
    result = {};
}

// Operators

struct Before {
    bool operator()(const c10::OperatorName& left, const c10::OperatorName& right) const {
        return std::tie(left.name, left.overload_name) < std::tie(right.name, right.overload_name);
    }
};

// Threads that call linear algebra on a GPU for the first time at once each load the library that
// holds it, and all but one fail ("lazy wrapper should be called at most once", libtorch 2.11). It
// is loaded here instead, as soon as there are both an operator of it and a GPU. Where it cannot be,
// libtorch says why at the call.
class LinearAlgebra {
public:
    // An operator was asked for by name.
    void find(std::string_view name) {
        if (!name.starts_with("aten::linalg_") || name == "aten::linalg_vector_norm") return;
        const std::lock_guard<std::mutex> locked(lock);
        is_used = true;
        load();
    }

    // There is a GPU; the library has this path.
    void open(const std::string& library) {
        const std::lock_guard<std::mutex> locked(lock);
        path = library;
        load();
    }

private:
    void load() {
        if (is_loaded || !is_used || path.empty()) return;
        is_loaded = true;
        dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    }

    std::mutex lock;
    std::string path;
    bool is_used = false, is_loaded = false;
};

LinearAlgebra& linear_algebra() {
    static auto& only = *new LinearAlgebra;
    return only;
}

int find(const char* name, const char* overload, const minima_operator** out, char** error) {
    return guarded(error, [&] {
        const auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
        TORCH_CHECK(handle, "libtorch has no operator ", name, ".", overload);
        linear_algebra().find(name);
        // One small object per distinct operator, valid until exit: nodes of a map stay in place.
        static auto& handles = *new std::map<c10::OperatorName, c10::OperatorHandle, Before>;
        static std::mutex lock;
        const std::lock_guard<std::mutex> locked(lock);
        const auto& kept = handles.emplace(handle->operator_name(), *handle).first->second;
        *out = reinterpret_cast<const minima_operator*>(&kept);
    });
}

int call(const minima_operator* op, const minima_arguments* arguments, minima_result* results,
         int64_t capacity, int64_t* count, char** error) {
    *count = 0;
    const int failed = guarded(error, [&] {
        const auto& handle = *reinterpret_cast<const c10::OperatorHandle*>(op);
        const auto& parameters = handle.schema().arguments();
        const auto given = static_cast<size_t>(arguments->count);
        TORCH_CHECK(given <= parameters.size(), "takes at most ", parameters.size(), " arguments, ",
                    given, " were given");
        torch::jit::Stack stack;
        stack.reserve(std::max(parameters.size(), handle.schema().returns().size()));
        for (size_t i = 0; i < given; ++i)
            stack.push_back(value(arguments->arguments[i], *arguments));
        for (size_t i = given; i < parameters.size(); ++i) {
            TORCH_CHECK(parameters[i].default_value(), "needs the argument ", parameters[i].name());
            stack.push_back(*parameters[i].default_value());
        }
        handle.callBoxed(stack);
        TORCH_CHECK(static_cast<int64_t>(stack.size()) <= capacity, "has ", stack.size(),
                    " results, room is for ", capacity);
        for (auto& item : stack) {
            results[*count] = result(std::move(item));
            ++*count;
        }
    });
    if (failed) {
        for (int64_t i = 0; i < *count; ++i) discard(results[i]);
        *count = 0;
    }
    return failed;
}

// Tensors

int data(const minima_tensor* tensor, void** address, char** error) {
    return guarded(error, [&] { *address = borrow(tensor).data_ptr(); });
}

int set_requires_grad(minima_tensor* tensor, bool requires_grad, char** error) {
    return guarded(error, [&] { borrow(tensor).set_requires_grad(requires_grad); });
}

int gradients(minima_tensor* const* outputs, int64_t output_count,
              minima_tensor* const* output_gradients, minima_tensor* const* inputs,
              int64_t input_count, bool retain_graph, bool create_graph, minima_tensor** results,
              char** error) {
    return guarded(error, [&] {
        torch::autograd::variable_list from, along, to;
        for (int64_t i = 0; i < output_count; ++i) {
            from.push_back(borrow(outputs[i]));
            if (output_gradients) along.push_back(borrow(output_gradients[i]));
        }
        for (int64_t i = 0; i < input_count; ++i) to.push_back(borrow(inputs[i]));
        auto found = torch::autograd::grad(from, to, along, retain_graph, create_graph, true);
        for (int64_t i = 0; i < input_count; ++i) results[i] = give(std::move(found[i]));
    });
}

int make_generator(int32_t type, int32_t index, uint64_t seed, minima_generator** out,
                   char** error) {
    return guarded(error, [&] {
        auto generator = static_cast<c10::DeviceType>(type) == c10::kCPU
                             ? at::detail::createCPUGenerator(seed)
                             : at::globalContext()
                                   .getAcceleratorHooksInterface(static_cast<c10::DeviceType>(type))
                                   .getNewGenerator(static_cast<c10::DeviceIndex>(index));
        generator.set_current_seed(seed);
        *out = reinterpret_cast<minima_generator*>(new at::Generator(std::move(generator)));
    });
}

// Devices

// Empty when the dynamic linker does not know.
std::string library_folder() {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void*>(&aoti_torch_abi_version), &info) || !info.dli_fname) return {};
    const std::string loaded = info.dli_fname;
    const auto slash = loaded.rfind('/');
    return slash == std::string::npos ? std::string() : loaded.substr(0, slash);
}

int library_folder(char** out, char** error) {
    return guarded(error, [&] {
        const auto folder = library_folder();
        TORCH_CHECK(!folder.empty(), "the dynamic linker does not say where libtorch_cpu lies");
        *out = copy(folder.c_str());
    });
}

struct Silence final : c10::WarningHandler {
    void process(const c10::Warning&) override {}
};

// libtorch_cuda of the very libtorch_cpu that is loaded: it lies in the same folder, which need not
// be on any search path.
int open_cuda(int32_t* device_count, char** error) {
    return guarded(error, [&] {
        auto folder = library_folder();
        if (!folder.empty()) folder += '/';
        const auto path = folder + "libtorch_cuda.so";
        if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
            const char* reason = dlerror();
            TORCH_CHECK(false, reason ? reason : "libtorch_cuda.so did not open");
        }
        *device_count = guard(static_cast<int32_t>(c10::kCUDA)).deviceCount();
        // cuDNN's attention builds a plan for every new key length, 9 ms each (H200): decoding,
        // where each token brings a new length, ran at a tenth of the speed of flash attention.
        at::globalContext().setSDPUseCuDNN(false);
        {
            // MAGMA prints warnings to standard output, among results. libtorch warns that the choice
            // is experimental, once and in this call.
            Silence silence;
            const c10::WarningUtils::WarningHandlerGuard silenced(&silence);
            at::globalContext().setLinalgPreferredBackend(at::LinalgBackend::Cusolver);
        }
        if (*device_count == 0) return;
        linear_algebra().open(folder + "libtorch_cuda_linalg.so");
        // The allocator knows no device, not even for statistics, before this.
        at::globalContext().lazyInitDevice(c10::kCUDA);
    });
}

int memory(int32_t type, int32_t index, minima_memory* out, char** error) {
    return guarded(error, [&] {
        auto* allocator = at::getDeviceAllocator(static_cast<c10::DeviceType>(type));
        const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index));
        const auto [free, total] = allocator->getMemoryInfo(static_cast<c10::DeviceIndex>(index));
        *out = {stats.allocated_bytes[0].current, stats.allocated_bytes[0].peak,
                stats.reserved_bytes[0].current,  stats.reserved_bytes[0].peak,
                static_cast<int64_t>(free),       static_cast<int64_t>(total)};
    });
}

int reset_peak_memory(int32_t type, int32_t index, char** error) {
    return guarded(error, [&] {
        at::getDeviceAllocator(static_cast<c10::DeviceType>(type))
            ->resetPeakStats(static_cast<c10::DeviceIndex>(index));
    });
}

int empty_cache(int32_t type, char** error) {
    return guarded(
        error, [&] { at::getDeviceAllocator(static_cast<c10::DeviceType>(type))->emptyCache(); });
}

int synchronize(int32_t type, int32_t index, char** error) {
    return guarded(error,
                   [&] { guard(type).synchronizeDevice(static_cast<c10::DeviceIndex>(index)); });
}

minima_stream pack(const c10::Stream& stream) {
    const auto packed = stream.pack3();
    return {packed.stream_id, packed.device_index, static_cast<int64_t>(packed.device_type)};
}

int current_stream(int32_t type, int32_t index, minima_stream* out, char** error) {
    return guarded(error, [&] { *out = pack(guard(type).getStream(device(type, index))); });
}

int new_stream(int32_t type, int32_t index, minima_stream* out, char** error) {
    return guarded(error, [&] { *out = pack(guard(type).getNewStream(device(type, index))); });
}

c10::Stream unpack(const minima_stream& stream) {
    return c10::Stream::unpack3(stream.identifier,
                                static_cast<c10::DeviceIndex>(stream.device_index),
                                static_cast<c10::DeviceType>(stream.device_type));
}

int exchange_stream(minima_stream stream, minima_stream* previous, char** error) {
    return guarded(error, [&] {
        const auto implementation = guard(static_cast<int32_t>(stream.device_type));
        *previous = pack(implementation.exchangeStream(unpack(stream)));
    });
}

int native_stream(minima_stream stream, void** out, char** error) {
    return guarded(error, [&] {
        const auto implementation = guard(static_cast<int32_t>(stream.device_type));
        *out = implementation.getStreamNativeHandle(unpack(stream));
    });
}

const minima_torch_table table = {
    .library_folder = library_folder,
    .open_cuda = open_cuda,
    .find = find,
    .call = call,
    .release = release,
    .rank = [](const minima_tensor* tensor) { return implementation(tensor)->dim(); },
    .count = [](const minima_tensor* tensor) { return implementation(tensor)->numel(); },
    .sizes = [](const minima_tensor* tensor) { return implementation(tensor)->sizes().data(); },
    .strides = [](const minima_tensor* tensor) { return implementation(tensor)->strides().data(); },
    .scalar_type =
        [](const minima_tensor* tensor) {
            return static_cast<int32_t>(c10::typeMetaToScalarType(implementation(tensor)->dtype()));
        },
    .device_type =
        [](const minima_tensor* tensor) {
            return static_cast<int32_t>(implementation(tensor)->device().type());
        },
    .device_index =
        [](const minima_tensor* tensor) {
            return static_cast<int32_t>(implementation(tensor)->device().index());
        },
    .data = data,
    .set_requires_grad = set_requires_grad,
    .requires_grad = [](const minima_tensor* tensor) { return borrow(tensor).requires_grad(); },
    .gradients = gradients,
    .grad_enabled = [] { return c10::GradMode::is_enabled(); },
    .set_grad_enabled = [](bool enabled) { c10::GradMode::set_enabled(enabled); },
    .make_generator = make_generator,
    .generator_release =
        [](minima_generator* generator) { delete reinterpret_cast<at::Generator*>(generator); },
    .memory = memory,
    .reset_peak_memory = reset_peak_memory,
    .empty_cache = empty_cache,
    .synchronize = synchronize,
    .current_stream = current_stream,
    .new_stream = new_stream,
    .exchange_stream = exchange_stream,
    .native_stream = native_stream,
    .tune_allocator =
        [] {
            // 32 MiB is the largest threshold that glibc accepts.
            mallopt(M_MMAP_THRESHOLD, 32 << 20);
            mallopt(M_TRIM_THRESHOLD, 1 << 30);
            // Read by libtorch at its first allocation.
            setenv("THP_MEM_ALLOC_ENABLE", "1", 0);
        },
    .threads = [] { return at::get_num_threads(); },
    .set_threads = [](int32_t count,
                      char** error) { return guarded(error, [&] { at::set_num_threads(count); }); },
    .make_group = make_group,
    .group_release = group_release,
    .all_reduce = all_reduce,
    .broadcast = broadcast,
    .group_wait = group_wait,
};

}  // namespace
}  // namespace minima

const minima_torch_table* minima_torch_api(void) { return &minima::table; }
