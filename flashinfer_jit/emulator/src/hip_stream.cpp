// Streams and events. Work runs when it is given, so that synchronising has nothing to wait for and order is program order.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_set>

#include "stream.h"

namespace emu {
namespace {

constexpr uintptr_t kLegacyStream = 1, kPerThreadStream = 2;

struct Handles {
    std::mutex mutex;
    std::unordered_set<void*> streams, events;
};
Handles& handles() {
    static Handles* const instance = new Handles;
    return *instance;
}
std::atomic<uint64_t> stream_ids{0};

Stream& default_stream(bool per_thread) {
    static Stream* const legacy = [] {
        Stream* s = new Stream[kDevices];
        for (int n = 0; n < kDevices; ++n) s[n].device = n, s[n].id = ++stream_ids;
        return s;
    }();
    static thread_local Stream own[kDevices];
    const int device = this_thread().device;
    if (!per_thread) return legacy[device];
    own[device].device = device;
    return own[device];
}

}  // namespace

Stream& find_stream(void* handle) {
    const auto value = reinterpret_cast<uintptr_t>(handle);
    if (value == 0 || value == kLegacyStream) return default_stream(false);
    if (value == kPerThreadStream) return default_stream(true);
    std::lock_guard<std::mutex> lock(handles().mutex);
    if (!handles().streams.count(handle)) fail(hipErrorInvalidHandle, "%p is no stream, or was destroyed", handle);
    return *static_cast<Stream*>(handle);
}

Event& find_event(void* handle) {
    std::lock_guard<std::mutex> lock(handles().mutex);
    if (!handles().events.count(handle)) fail(hipErrorInvalidHandle, "%p is no event, or was destroyed", handle);
    return *static_cast<Event*>(handle);
}

int stream_device(void* handle) {
    const int device = find_stream(handle).device;
    device_state(device).check();
    return device;
}

}  // namespace emu
