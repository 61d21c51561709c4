// Streams and events. Work runs when it is given, so that synchronising has nothing to wait for and order is program order.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_set>

#include "graph.h"

namespace emu {
namespace {

constexpr uintptr_t kLegacyStream = 1, kPerThreadStream = 2;
constexpr uint32_t kNonBlocking = 1, kDisableTiming = 2;

struct Handles {
    std::mutex mutex;
    std::unordered_set<void*> streams, events;
};
Handles& handles() {
    static Handles* const instance = [] {
        auto* made = new Handles;
        guard_innermost(made->mutex);
        return made;
    }();
    return *instance;
}
std::atomic<uint64_t> stream_ids{0};

Stream& default_stream(bool per_thread) {
    static Stream* const legacy = [] {
        Stream* s = new Stream[kDevices];
        for (int n = 0; n < kDevices; ++n) s[n].device = n, s[n].id = ++stream_ids, s[n].is_legacy = true;
        return s;
    }();
    static thread_local Stream own[kDevices];
    const int device = this_thread().device;
    if (!per_thread) return legacy[device];
    own[device].device = device;
    return own[device];
}

void create_stream(void** out, uint32_t flags, int priority) {
    require(out, "stream");
    if (flags & ~kNonBlocking) fail(hipErrorInvalidValue, "flags 0x%x: only hipStreamNonBlocking (1) is known", flags);
    Stream* const s = new Stream;
    s->device = this_thread().device;
    s->flags = flags;
    s->priority = std::clamp(priority, -1, 1);
    s->id = ++stream_ids;
    std::lock_guard<std::mutex> lock(handles().mutex);
    handles().streams.insert(s);
    *out = s;
}

// Waiting for a capturing stream makes no sense and breaks the capture.
Stream& stream_to_wait_for(void* handle, const char* call) {
    Stream& s = find_stream(handle);
    if (is_capturing(s)) {
        s.capture->invalid = true;
        fail(hipErrorStreamCaptureUnsupported, "%s: the stream is being captured", call);
    }
    device_state(s.device).check();
    return s;
}

void record_event(Event& e, Stream& s) {
    if (is_capturing(s)) {
        if (s.capture->invalid) fail(hipErrorStreamCaptureInvalidated, "the capture was broken by an earlier call");
        e.capture = s.capture;
        e.tips = s.tips;
        return;
    }
    device_state(s.device).check();
    e.capture.reset();
    e.tips.clear();
    e.recorded = true;
    e.time = std::chrono::steady_clock::now();
}

void wait_for_event(Stream& s, Event& e) {
    const bool captured = e.capture && !e.capture->ended;
    if (!captured) {
        if (!is_capturing(s)) return;   // the event has happened already
        if (!e.recorded) return;
        s.capture->invalid = true;
        fail(hipErrorStreamCaptureIsolation, "a capturing stream cannot wait for an event that was recorded outside the capture");
    }
    if (is_capturing(s) && s.capture != e.capture) {
        s.capture->invalid = e.capture->invalid = true;
        fail(hipErrorStreamCaptureMerge, "the event belongs to another capture");
    }
    if (!is_capturing(s)) {
        if (s.is_legacy) fail(hipErrorStreamCaptureImplicit, "the legacy stream cannot join a capture");
        s.capture = e.capture;
        s.tips.clear();
    }
    for (GraphNode* n : e.tips)
        if (std::find(s.tips.begin(), s.tips.end(), n) == s.tips.end()) s.tips.push_back(n);
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

void EventOperation::run() {
    if (!records) return;
    Event& e = find_event(event);
    e.recorded = true;
    e.time = std::chrono::steady_clock::now();
}

}  // namespace emu

using namespace emu;

EMU_EXPORT int hipStreamCreate(void** stream) {
    return api("hipStreamCreate", [&] { create_stream(stream, 0, 0); });
}
EMU_EXPORT int hipStreamCreateWithFlags(void** stream, uint32_t flags) {
    return api("hipStreamCreateWithFlags", [&] { create_stream(stream, flags, 0); });
}
EMU_EXPORT int hipStreamCreateWithPriority(void** stream, uint32_t flags, int priority) {
    return api("hipStreamCreateWithPriority", [&] { create_stream(stream, flags, priority); });
}
EMU_EXPORT int hipExtStreamCreateWithCUMask(void** stream, uint32_t words, const uint32_t* mask) {
    return api("hipExtStreamCreateWithCUMask", [&] {
        if (!words || !mask) fail(hipErrorInvalidValue, "the mask is empty");
        create_stream(stream, 0, 0);
    });
}
EMU_EXPORT int hipStreamDestroy(void* handle) {
    return api("hipStreamDestroy", [&] {
        if (reinterpret_cast<uintptr_t>(handle) <= kPerThreadStream) fail(hipErrorInvalidHandle, "a default stream cannot be destroyed");
        Stream& s = find_stream(handle);
        if (is_capturing(s)) s.capture->invalid = true;
        {
            std::lock_guard<std::mutex> lock(handles().mutex);
            handles().streams.erase(handle);
        }
        delete &s;
    });
}
EMU_EXPORT int hipStreamSynchronize(void* handle) {
    return api("hipStreamSynchronize", [&] { stream_to_wait_for(handle, "hipStreamSynchronize"); });
}
EMU_EXPORT int hipStreamQuery(void* handle) {
    return api("hipStreamQuery", [&] { stream_to_wait_for(handle, "hipStreamQuery"); });
}
EMU_EXPORT int hipStreamWaitEvent(void* stream, void* event, uint32_t) {
    return api("hipStreamWaitEvent", [&] { wait_for_event(find_stream(stream), find_event(event)); });
}
EMU_EXPORT int hipStreamGetFlags(void* handle, uint32_t* flags) {
    return api("hipStreamGetFlags", [&] { *require(flags, "flags") = find_stream(handle).flags; });
}
EMU_EXPORT int hipStreamGetPriority(void* handle, int* priority) {
    return api("hipStreamGetPriority", [&] { *require(priority, "priority") = find_stream(handle).priority; });
}
EMU_EXPORT int hipStreamGetDevice(void* handle, int* device) {
    return api("hipStreamGetDevice", [&] { *require(device, "device") = find_stream(handle).device; });
}
EMU_EXPORT int hipStreamGetId(void* handle, unsigned long long* id) {
    return api("hipStreamGetId", [&] { *require(id, "streamId") = find_stream(handle).id; });
}
EMU_EXPORT int hipLaunchHostFunc(void* stream, HostFunction function, void* data) {
    return api("hipLaunchHostFunc", [&] {
        require(reinterpret_cast<void*>(function), "fn");
        HostOperation op;
        op.function = function, op.data = data;
        submit(stream, op);
    });
}
EMU_EXPORT int hipStreamAddCallback(void* stream, void (*callback)(void*, int, void*), void* data, uint32_t flags) {
    return api("hipStreamAddCallback", [&] {
        require(reinterpret_cast<void*>(callback), "callback");
        if (flags) fail(hipErrorInvalidValue, "flags must be 0, not %u", flags);
        stream_to_wait_for(stream, "hipStreamAddCallback");
        callback(stream, hipSuccess, data);
    });
}

EMU_EXPORT int hipEventCreateWithFlags(void** event, uint32_t flags) {
    return api("hipEventCreateWithFlags", [&] {
        require(event, "event");
        Event* const e = new Event;
        e->device = this_thread().device;
        e->flags = flags;
        std::lock_guard<std::mutex> lock(handles().mutex);
        handles().events.insert(e);
        *event = e;
    });
}
EMU_EXPORT int hipEventCreate(void** event) { return hipEventCreateWithFlags(event, 0); }
EMU_EXPORT int hipEventDestroy(void* event) {
    return api("hipEventDestroy", [&] {
        Event& e = find_event(event);
        {
            std::lock_guard<std::mutex> lock(handles().mutex);
            handles().events.erase(event);
        }
        delete &e;
    });
}
EMU_EXPORT int hipEventRecord(void* event, void* stream) {
    return api("hipEventRecord", [&] { record_event(find_event(event), find_stream(stream)); });
}
EMU_EXPORT int hipEventRecordWithFlags(void* event, void* stream, uint32_t) { return hipEventRecord(event, stream); }
EMU_EXPORT int hipEventQuery(void* event) {
    return api("hipEventQuery", [&] {
        const Event& e = find_event(event);
        if (e.capture && !e.capture->ended) fail(hipErrorCapturedEvent, "the event was recorded in a capturing stream");
        device_state(e.device).check();
    });
}
EMU_EXPORT int hipEventSynchronize(void* event) { return hipEventQuery(event); }
EMU_EXPORT int hipEventElapsedTime(float* milliseconds, void* start, void* stop) {
    return api("hipEventElapsedTime", [&] {
        const Event &a = find_event(start), &b = find_event(stop);
        if ((a.flags | b.flags) & kDisableTiming) fail(hipErrorInvalidHandle, "an event was created with hipEventDisableTiming");
        if (!a.recorded || !b.recorded) fail(hipErrorInvalidHandle, "the %s event was never recorded", a.recorded ? "stop" : "start");
        *require(milliseconds, "ms") = std::chrono::duration<float, std::milli>(b.time - a.time).count();
    });
}
