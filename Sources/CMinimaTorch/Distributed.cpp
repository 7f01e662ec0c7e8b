// Process groups: gloo through libtorch's c10d for tensors on the CPU, NCCL's own C interface for
// those on a CUDA device.

#include "Shared.hpp"

#include <dlfcn.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

// c10d/ProcessGroupGloo.hpp includes gloo's headers, which the torch package lacks. Below is what
// is used of its class; the rest is reached through the virtual functions of Backend.

namespace gloo::transport {
class Device;
}

namespace c10d {

class ProcessGroupGloo : public Backend {
public:
    struct Options : public Backend::Options {
        explicit Options(std::chrono::milliseconds timeout);
        std::vector<std::shared_ptr<::gloo::transport::Device>> devices;
        int threads{2};
    };

    static std::shared_ptr<::gloo::transport::Device> createDeviceForInterface(
        const std::string& interface, bool lazy);
    static std::shared_ptr<::gloo::transport::Device> createDeviceForHostname(
        const std::string& hostname, bool lazy);
    static std::shared_ptr<::gloo::transport::Device> createDefaultDevice(bool lazy);

    ProcessGroupGloo(const c10::intrusive_ptr<Store>& store, int rank, int size,
                     c10::intrusive_ptr<Options> options);
    ~ProcessGroupGloo() override;

private:
    // In place of its own fields: libtorch 2.11.0's class has 488 bytes.
    std::byte fields[488 - sizeof(Backend)];
};

// Its own destructor frees as much as it was allocated with.
static_assert(sizeof(ProcessGroupGloo) == 488 && alignof(ProcessGroupGloo) == alignof(Backend));

}  // namespace c10d

namespace minima {
namespace {

using Clock = std::chrono::steady_clock;

// NCCL's C interface by name: libtorch's class over it is in libtorch_cuda, which is opened only at
// run time, and its header needs CUDA's. The numbers below are those of nccl.h, version 2.
struct NCCL {
    using Communicator = void*;
    struct Identifier {
        char bytes[128];
    };
    static constexpr int sum = 0, in_progress = 7;

    const char* (*name)(int);
    const char* (*details)(Communicator);
    int (*get_identifier)(Identifier*);
    int (*make)(Communicator*, int, Identifier, int);
    int (*destroy)(Communicator);
    int (*abort)(Communicator);
    int (*state)(Communicator, int*);
    int (*group_start)();
    int (*group_end)();
    int (*all_reduce)(const void*, void*, size_t, int, int, Communicator, void*);
    int (*broadcast)(const void*, void*, size_t, int, int, Communicator, void*);

    NCCL() {
        // libtorch_cuda has opened it, by a path relative to itself.
        void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
        const char* reason = library ? nullptr : dlerror();
        TORCH_CHECK(library, "libnccl.so.2 did not open: ", reason ? reason : "no reason given",
                    "; it comes with the torch package for CUDA (nvidia-nccl)");
        const auto find = [&](auto& function, const char* symbol) {
            function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, symbol));
            TORCH_CHECK(function, "libnccl.so.2 has no ", symbol);
        };
        find(name, "ncclGetErrorString");
        find(details, "ncclGetLastError");
        find(get_identifier, "ncclGetUniqueId");
        find(make, "ncclCommInitRank");
        find(destroy, "ncclCommDestroy");
        find(abort, "ncclCommAbort");
        find(state, "ncclCommGetAsyncError");
        find(group_start, "ncclGroupStart");
        find(group_end, "ncclGroupEnd");
        find(all_reduce, "ncclAllReduce");
        find(broadcast, "ncclBroadcast");
    }

    void check(int code, const char* what) const {
        TORCH_CHECK(code == 0 || code == in_progress, "NCCL's ", what, ": ", name(code), " (",
                    details(nullptr), ")");
    }

    static int type(const at::Tensor& tensor) {
        switch (tensor.scalar_type()) {
            case c10::kLong: return 4;
            case c10::kHalf: return 6;
            case c10::kFloat: return 7;
            case c10::kDouble: return 8;
            case c10::kBFloat16: return 9;
            default: TORCH_CHECK(false, tensor.scalar_type(), " is not exchanged");
        }
    }
};

// One process's end of NCCL's connections between the devices of a group.
class Devices {
public:
    Devices(c10d::Store& store, const minima_group_options& options)
        : device(c10::kCUDA, static_cast<c10::DeviceIndex>(options.cuda_index)),
          timeout(options.timeout) {
        NCCL::Identifier identifier;
        const auto* first = reinterpret_cast<const uint8_t*>(identifier.bytes);
        if (options.rank == 0) {
            nccl.check(nccl.get_identifier(&identifier), "identifier");
            store.set("nccl", std::vector<uint8_t>(first, first + sizeof identifier));
        } else {
            const auto bytes = store.get("nccl");
            TORCH_CHECK(bytes.size() == sizeof identifier, "the store holds ", bytes.size(),
                        " bytes for NCCL instead of ", sizeof identifier);
            std::memcpy(&identifier, bytes.data(), sizeof identifier);
        }
        const c10::DeviceGuard current(device);
        nccl.check(nccl.make(&communicator, options.size, identifier, options.rank), "connection");
    }

    Devices(const Devices&) = delete;

    ~Devices() {
        try {
            const c10::DeviceGuard current(device);
            wait();
            nccl.destroy(communicator);
        } catch (...) {
            // A peer is gone, and `wait` has given the communicator up; or the device has failed,
            // and the communicator with it.
        }
        if (event) implementation().destroyEvent(event, device.index());
    }

    // Queues `each(tensor's address, elements, type, stream)` for all tensors as one launch.
    template <typename Each>
    void queue(const std::vector<at::Tensor>& tensors, Each&& each) {
        check_connection();
        for (const auto& tensor : tensors) {
            TORCH_CHECK(tensor.device() == device, "a tensor is on ", tensor.device(),
                        ", this process exchanges those on ", device);
            NCCL::type(tensor);
        }
        const c10::DeviceGuard current(device);
        const auto stream = implementation().getStream(device);
        void* native = implementation().getStreamNativeHandle(stream);
        nccl.check(nccl.group_start(), "start");
        int failure = 0;
        for (const auto& tensor : tensors) {
            if (!failure)
                failure = each(tensor.data_ptr(), tensor.numel(), NCCL::type(tensor), native);
        }
        const int ended = nccl.group_end();
        nccl.check(failure ? failure : ended, "exchange");
        implementation().record(&event, stream, device.index(),
                                c10::EventFlag::PYTORCH_DEFAULT);
    }

    void wait() {
        check_connection();
        const auto start = Clock::now();
        while (event && !implementation().queryEvent(event)) {
            int state = 0;
            const int asked = nccl.state(communicator, &state);
            if (state == NCCL::in_progress) state = 0;
            const bool late = Clock::now() - start > timeout;
            if (asked || state || late) {
                // Ends the kernels that wait for the peer; what they wrote is worth nothing.
                nccl.abort(communicator);
                communicator = nullptr;
                TORCH_CHECK(false, "NCCL's exchange: ",
                            late ? "the other processes did not come in time"
                                 : nccl.name(asked ? asked : state));
            }
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }

    NCCL nccl;
    NCCL::Communicator communicator = nullptr;

private:
    void check_connection() const {
        TORCH_CHECK(communicator, "the group was given up after an earlier error");
    }

    c10::impl::VirtualGuardImpl implementation() const {
        return c10::impl::VirtualGuardImpl(c10::kCUDA);
    }

    c10::Device device;
    std::chrono::milliseconds timeout;
    // What was queued last.
    void* event = nullptr;
};

struct Group {
    c10::intrusive_ptr<c10d::Backend> gloo;
    std::unique_ptr<Devices> devices;

    explicit Group(const minima_group_options& options) {
        c10d::TCPStoreOptions place;
        place.port = static_cast<uint16_t>(options.port);
        place.isServer = options.hosts_store;
        place.waitWorkers = false;
        place.timeout = std::chrono::milliseconds(options.timeout);
        const std::string address = options.address;
        // A launcher's own store has keys of others.
        const c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::PrefixStore>(
            "minima", c10::make_intrusive<c10d::TCPStore>(address, place));

        using Gloo = c10d::ProcessGroupGloo;
        const bool is_local = address == "127.0.0.1" || address == "localhost";
        auto settings = c10::make_intrusive<Gloo::Options>(place.timeout);
        settings->devices.push_back(*options.interface
                                        ? Gloo::createDeviceForInterface(options.interface, false)
                                    : is_local ? Gloo::createDeviceForHostname(address, false)
                                               : Gloo::createDefaultDevice(false));
        gloo = c10::make_intrusive<Gloo>(store, options.rank, options.size, settings);
        // Connected is who was met by all; a process that left before would look dead to the rest.
        begin([&] { return gloo->barrier(); })->wait();
        if (options.cuda_index >= 0) devices = std::make_unique<Devices>(*store, options);
    }

    // Starts an exchange, `start()`, and gives what waits for it.
    //
    // One at a time in this process, whatever the group: gloo's exchanges are noted in a recorder
    // that all groups share, and libtorch 2.11.0 looks a group up there, and adds a new one, before
    // it locks (FlightRecorder::recordWithResetEnabled).
    template <typename Start>
    static c10::intrusive_ptr<c10d::Work> begin(Start&& start) {
        const std::lock_guard<std::mutex> locked(recorder);
        return start();
    }

private:
    static inline std::mutex recorder;
};

Group& open(minima_group* group) { return *reinterpret_cast<Group*>(group); }

// Runs `on_cpu(tensor)`, which gives a c10d::Work, and `on_devices(tensors)` with contiguous
// tensors, and brings the results back to those that are not.
template <typename OnCPU, typename OnDevices>
void exchange(Group& group, minima_tensor* const* handles, int64_t count, OnCPU&& on_cpu,
              OnDevices&& on_devices) {
    const c10::AutoGradMode no_gradients(false);
    std::vector<std::pair<at::Tensor, at::Tensor>> scattered;
    std::vector<at::Tensor> there;
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (int64_t i = 0; i < count; ++i) {
        const auto tensor = borrow(handles[i]).detach();
        const auto dense = tensor.contiguous();
        if (!dense.is_same(tensor)) scattered.emplace_back(tensor, dense);
        if (dense.numel() == 0) continue;
        if (dense.is_cpu()) {
            std::vector<at::Tensor> one{dense};
            works.push_back(Group::begin([&] { return on_cpu(one); }));
        } else {
            there.push_back(dense);
        }
    }
    if (!there.empty()) {
        TORCH_CHECK(group.devices, "a tensor is on ", there[0].device(),
                    ", the group was made for the CPU");
        on_devices(there);
    }
    for (const auto& work : works) work->wait();
    for (auto& [tensor, dense] : scattered) tensor.copy_(dense);
}

}  // namespace

int make_group(const minima_group_options* options, minima_group** out, char** error) {
    return guarded(error, [&] { *out = reinterpret_cast<minima_group*>(new Group(*options)); });
}

void group_release(minima_group* group) { delete reinterpret_cast<Group*>(group); }

int all_reduce(minima_group* group, minima_tensor* const* tensors, int64_t count, char** error) {
    return guarded(error, [&] {
        auto& [gloo, devices] = open(group);
        exchange(
            open(group), tensors, count, [&](auto& tensor) { return gloo->allreduce(tensor); },
            [&](auto& there) {
                devices->queue(there, [&](void* data, size_t size, int type, void* stream) {
                    return devices->nccl.all_reduce(data, data, size, type, NCCL::sum,
                                                    devices->communicator, stream);
                });
            });
    });
}

int broadcast(minima_group* group, minima_tensor* const* tensors, int64_t count, int32_t root,
              char** error) {
    return guarded(error, [&] {
        auto& [gloo, devices] = open(group);
        c10d::BroadcastOptions options;
        options.rootRank = root;
        exchange(
            open(group), tensors, count,
            [&](auto& tensor) { return gloo->broadcast(tensor, options); },
            [&](auto& there) {
                devices->queue(there, [&](void* data, size_t size, int type, void* stream) {
                    return devices->nccl.broadcast(data, data, size, type, root,
                                                   devices->communicator, stream);
                });
            });
    });
}

int group_wait(minima_group* group, char** error) {
    return guarded(error, [&] {
        if (open(group).devices) open(group).devices->wait();
    });
}

}  // namespace minima
