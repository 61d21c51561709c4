// Streams, events and captured work. A stream runs what it is given at once; a capturing stream records it in a graph instead.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device.h"

namespace emu {

// hipGraphNodeType
enum class NodeType : int { kernel = 0, memcpy = 1, memset = 2, host = 3, child = 4, empty = 5, wait_event = 6, record_event = 7, mem_alloc = 10, mem_free = 11 };

// A piece of work, run now or kept in a graph.
struct Operation {
    virtual ~Operation() = default;
    virtual void run() = 0;
    virtual NodeType type() const = 0;
    virtual std::shared_ptr<Operation> clone() const = 0;
};

struct KernelOperation : Operation {
    LaunchRequest request;
    void* function = nullptr;   // as the caller named it
    void run() override { launch_now(request); }
    NodeType type() const override { return NodeType::kernel; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<KernelOperation>(*this); }
};

// rows x slices of `width` bytes between pitched blocks.
struct CopyOperation : Operation {
    uint8_t* to = nullptr;
    const uint8_t* from = nullptr;
    uint64_t width = 0, rows = 1, slices = 1, to_pitch = 0, from_pitch = 0, to_slice = 0, from_slice = 0;
    int kind = hipMemcpyDefault;
    void check() const;
    void run() override;
    NodeType type() const override { return NodeType::memcpy; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<CopyOperation>(*this); }
};

struct FillOperation : Operation {
    uint8_t* to = nullptr;
    uint32_t value = 0, element_bytes = 1;
    uint64_t width = 0, rows = 1, slices = 1, pitch = 0, slice = 0;   // width in elements
    void check() const;
    void run() override;
    NodeType type() const override { return NodeType::memset; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<FillOperation>(*this); }
};

struct HostOperation : Operation {
    HostFunction function = nullptr;
    void* data = nullptr;
    void run() override { function(data); }
    NodeType type() const override { return NodeType::host; }
    std::shared_ptr<Operation> clone() const override { return std::make_shared<HostOperation>(*this); }
};

struct GraphNode;
struct Graph;

// One capture sequence; streams join it through events.
struct Capture {
    std::unique_ptr<Graph> owned;   // handed to the caller at the end
    Graph* graph = nullptr;
    const void* origin = nullptr;
    uint64_t id = 0;
    int mode = 0, device = 0;
    bool blocking = true;           // the origin waits for the legacy stream
    bool invalid = false, ended = false;
    std::thread::id thread;
    Capture();
    ~Capture();
};

struct Stream {
    int device = 0;
    uint32_t flags = 0;
    int priority = 0;
    uint64_t id = 0;
    bool is_legacy = false;
    std::shared_ptr<Capture> capture;
    std::vector<GraphNode*> tips;   // what the next captured node depends on
};

struct Event {
    int device = 0;
    uint32_t flags = 0;
    bool recorded = false;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<Capture> capture;   // set when last recorded in a capturing stream
    std::vector<GraphNode*> tips;
};

// The stream behind a handle: null and 1 are the legacy stream, 2 the thread's own. Throws Failure for a handle that is not alive.
Stream& find_stream(void* handle);
Event& find_event(void* handle);
bool is_capturing(const Stream& stream);
// Adds a node to the stream's capture.
void record(Stream& stream, std::shared_ptr<Operation> operation);
// For calls that cannot be captured. Throws, and invalidates a capture that they would break.
void forbid_while_capturing(const char* what);
// Work on the legacy stream waits for all blocking streams, which must then not be capturing.
void check_legacy_use(const Stream& stream);

// Runs the operation, or records it where the stream is capturing.
template <typename Op>
void submit(void* handle, Op&& operation) {
    Stream& stream = find_stream(handle);
    if (is_capturing(stream)) {
        record(stream, std::make_shared<std::decay_t<Op>>(std::forward<Op>(operation)));
    } else {
        check_legacy_use(stream);
        device_state(stream.device).check();
        operation.run();
    }
}

}  // namespace emu
