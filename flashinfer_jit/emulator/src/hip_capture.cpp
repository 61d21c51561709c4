// Stream capture: from hipStreamBeginCapture to hipStreamEndCapture a stream's work becomes the nodes of a graph.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "graph.h"

namespace emu {
namespace {

enum Mode { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };
enum Status_ { kNone = 0, kActive = 1, kInvalidated = 2 };

struct Captures {
    std::mutex mutex;
    std::vector<std::shared_ptr<Capture>> active;
    std::atomic<size_t> count{0};
    uint64_t ids = 0;
};
Captures& captures() {
    static Captures* const instance = [] {
        auto* made = new Captures;
        guard_innermost(made->mutex);
        return made;
    }();
    return *instance;
}

void begin(void* handle, int mode, Graph* into, std::vector<GraphNode*> tips) {
    if (mode < kGlobal || mode > kRelaxed) fail(hipErrorInvalidValue, "%d is no capture mode", mode);
    Stream& s = find_stream(handle);
    if (s.is_legacy) fail(hipErrorStreamCaptureUnsupported, "the legacy stream cannot be captured");
    if (is_capturing(s)) fail(hipErrorIllegalState, "the stream is being captured already");
    auto c = std::make_shared<Capture>();
    c->owned.reset(into ? nullptr : new Graph);
    c->graph = into ? into : c->owned.get();
    c->origin = &s;
    c->mode = mode;
    c->thread = std::this_thread::get_id();
    c->blocking = !(s.flags & 1);
    c->device = s.device;
    s.capture = c;
    s.tips = std::move(tips);
    std::lock_guard<std::mutex> lock(captures().mutex);
    c->id = ++captures().ids;
    captures().active.push_back(c);
    ++captures().count;
}

void end(Capture& c) {
    c.ended = true;
    std::lock_guard<std::mutex> lock(captures().mutex);
    auto& active = captures().active;
    active.erase(std::remove_if(active.begin(), active.end(), [&](const auto& other) { return other.get() == &c; }), active.end());
    captures().count = active.size();
}

bool has_unjoined_work(const Capture& c, const std::vector<GraphNode*>& tips) {
    std::vector<GraphNode*> leaves;
    for (const auto& n : c.graph->nodes) leaves.push_back(n.get());
    for (const auto& n : c.graph->nodes)
        for (GraphNode* d : n->dependencies) leaves.erase(std::remove(leaves.begin(), leaves.end(), d), leaves.end());
    return std::any_of(leaves.begin(), leaves.end(), [&](GraphNode* n) { return std::find(tips.begin(), tips.end(), n) == tips.end(); });
}

int status_of(const Stream& s) { return !is_capturing(s) ? kNone : s.capture->invalid ? kInvalidated : kActive; }

}  // namespace

bool is_capturing(const Stream& stream) { return stream.capture && !stream.capture->ended; }

void record(Stream& stream, std::shared_ptr<Operation> operation) {
    Capture& c = *stream.capture;
    if (c.invalid) fail(hipErrorStreamCaptureInvalidated, "the capture was broken by an earlier call");
    stream.tips = {c.graph->add(std::move(operation), stream.tips)};
}

void forbid_while_capturing(const char* what) {
    if (captures().count == 0) return;
    const int mode = this_thread().capture_mode;
    if (mode == kRelaxed) return;
    std::lock_guard<std::mutex> lock(captures().mutex);
    for (const auto& c : captures().active) {
        const bool own = c->thread == std::this_thread::get_id();
        if (c->mode == kRelaxed || (!own && (c->mode == kThreadLocal || mode == kThreadLocal))) continue;
        c->invalid = true;
        fail(hipErrorStreamCaptureUnsupported, "%s is not allowed while a stream is being captured (capture mode %s)", what, c->mode == kGlobal ? "global" : "thread-local");
    }
}

void check_legacy_use(const Stream& stream) {
    if (!stream.is_legacy || captures().count == 0) return;
    std::lock_guard<std::mutex> lock(captures().mutex);
    for (const auto& c : captures().active) {
        if (!c->blocking || c->device != stream.device || c->mode == kRelaxed) continue;
        c->invalid = true;
        fail(hipErrorStreamCaptureImplicit, "work on the legacy stream would wait for a stream that is being captured: use another stream, or capture one made with hipStreamNonBlocking");
    }
}

}  // namespace emu

using namespace emu;

EMU_EXPORT int hipStreamBeginCapture(void* stream, int mode) {
    return api("hipStreamBeginCapture", [&] { begin(stream, mode, nullptr, {}); });
}
EMU_EXPORT int hipStreamBeginCaptureToGraph(void* stream, void* graph, void* const* dependencies, const void*, size_t count, int mode) {
    return api("hipStreamBeginCaptureToGraph", [&] {
        std::vector<GraphNode*> tips;
        for (size_t n = 0; n < count; ++n) tips.push_back(&find_node(require(dependencies, "dependencies")[n]));
        begin(stream, mode, &find_graph(graph), std::move(tips));
    });
}
EMU_EXPORT int hipStreamEndCapture(void* handle, void** graph) {
    return api("hipStreamEndCapture", [&] {
        *require(graph, "pGraph") = nullptr;
        Stream& s = find_stream(handle);
        if (!is_capturing(s)) fail(hipErrorIllegalState, "the stream is not being captured");
        const std::shared_ptr<Capture> c = s.capture;
        if (c->origin != &s) {
            c->invalid = true;
            fail(hipErrorStreamCaptureUnmatched, "the capture must be ended on the stream on which it began");
        }
        if (c->mode != kRelaxed && c->thread != std::this_thread::get_id()) fail(hipErrorStreamCaptureWrongThread, "the capture was begun by another thread");
        const bool unjoined = has_unjoined_work(*c, s.tips);
        end(*c);
        s.capture.reset();
        s.tips.clear();
        if (c->invalid) fail(hipErrorStreamCaptureInvalidated, "the capture was broken by an earlier call");
        if (unjoined) fail(hipErrorStreamCaptureUnjoined, "another stream took part in the capture and was not joined: record an event there and wait for it on the first stream");
        *graph = c->owned ? publish(std::move(c->owned)) : c->graph;
    });
}
EMU_EXPORT int hipStreamIsCapturing(void* stream, int* status) {
    return api("hipStreamIsCapturing", [&] { *require(status, "pCaptureStatus") = status_of(find_stream(stream)); });
}
EMU_EXPORT int hipStreamGetCaptureInfo(void* stream, int* status, unsigned long long* id) {
    return api("hipStreamGetCaptureInfo", [&] {
        const Stream& s = find_stream(stream);
        *require(status, "pCaptureStatus") = status_of(s);
        if (id) *id = is_capturing(s) ? s.capture->id : 0;
    });
}
EMU_EXPORT int hipStreamGetCaptureInfo_v2(void* stream, int* status, unsigned long long* id, void** graph, void*** dependencies, size_t* count) {
    return api("hipStreamGetCaptureInfo_v2", [&] {
        Stream& s = find_stream(stream);
        const bool active = is_capturing(s);
        *require(status, "captureStatus_out") = status_of(s);
        if (id) *id = active ? s.capture->id : 0;
        if (graph) *graph = active ? s.capture->graph : nullptr;
        if (dependencies) *dependencies = active ? reinterpret_cast<void**>(s.tips.data()) : nullptr;
        if (count) *count = active ? s.tips.size() : 0;
    });
}
EMU_EXPORT int hipStreamUpdateCaptureDependencies(void* stream, void** dependencies, size_t count, uint32_t flags) {
    return api("hipStreamUpdateCaptureDependencies", [&] {
        Stream& s = find_stream(stream);
        if (!is_capturing(s)) fail(hipErrorIllegalState, "the stream is not being captured");
        if (flags > 1) fail(hipErrorInvalidValue, "flags must be 0 (add) or 1 (replace), not %u", flags);
        if (flags == 1) s.tips.clear();
        for (size_t n = 0; n < count; ++n) {
            GraphNode* const node = static_cast<GraphNode*>(require(dependencies, "dependencies")[n]);
            if (node->graph != s.capture->graph) fail(hipErrorInvalidValue, "a dependency belongs to another graph");
            s.tips.push_back(node);
        }
    });
}
EMU_EXPORT int hipThreadExchangeStreamCaptureMode(int* mode) {
    return api("hipThreadExchangeStreamCaptureMode", [&] {
        const int wanted = *require(mode, "mode");
        if (wanted < kGlobal || wanted > kRelaxed) fail(hipErrorInvalidValue, "%d is no capture mode", wanted);
        *mode = this_thread().capture_mode;
        this_thread().capture_mode = wanted;
    });
}
