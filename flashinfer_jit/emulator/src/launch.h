// One kernel launch: what to run, and what came of it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "code_object.h"
#include "failure.h"
#include "registry.h"
#include "timing_report.h"
#include "wave.h"

namespace emu {

struct LaunchRequest {
    std::shared_ptr<const CodeObject> object;   // keeps the code alive while it runs and in graphs
    const Kernel* kernel = nullptr;
    int device = 0;
    Dim3 grid{1, 1, 1};    // workgroups
    Dim3 block{1, 1, 1};   // work-items
    uint32_t dynamic_lds = 0;
    bool cooperative = false;
    std::vector<uint8_t> kernarg;   // explicit arguments, as the kernel reads them
    std::vector<OwnedRange> ranges;
    std::shared_ptr<const TimingRequest> timing;   // null: run without the timing model
};

// The launch's numbers, kept for last_report().
struct LaunchResult {
    std::string kernel;
    Arch arch = Arch::gfx942;
    Dim3 grid{0, 0, 0}, block{0, 0, 0};
    uint32_t lds_bytes = 0, scratch_bytes = 0, threads = 0;
    double seconds = 0;
    Counters counters;
    Fault fault;
    Error error = hipSuccess;
    std::string error_text;
    LaunchMemory memory;   // names the buffers
    std::shared_ptr<LaunchTiming> timing;   // null where the launch was not timed
};

// Checks grid, block and LDS against the device's limits. Throws Failure.
void check_launch(const LaunchRequest& request);
// Runs the kernel to its end, or to its first fault, which the result then names.
void run_launch(const LaunchRequest& request, LaunchResult& result);

// kernarg.cpp: explicit arguments from kernelParams (one pointer an argument) or from a caller's buffer.
std::vector<uint8_t> pack_arguments(const Kernel& kernel, void* const* arguments);
std::vector<uint8_t> copy_argument_buffer(const Kernel& kernel, const void* buffer, uint64_t bytes);

// The memory of one launch that the hardware's packet processor prepares: kernarg segment (with hidden arguments), dispatch packet, queue.
struct alignas(64) DispatchBlock {
    std::vector<uint64_t> memory;
    uint64_t kernarg = 0, kernarg_bytes = 0, packet = 0, queue = 0;
};
DispatchBlock make_dispatch_block(const LaunchRequest& request);
// Sets every register a wave starts with.
void start_wave(Wave& wave, const LaunchRequest& request, const DispatchBlock& dispatch, uint64_t dispatch_id);

// pool.cpp: runs `work` on this thread and on idle helpers, and returns when all that joined have returned.
class Job {
public:
    virtual ~Job() = default;
    virtual void work() = 0;   // takes pieces until none is left
};
void run_job(Job& job, uint32_t useful_threads);
uint32_t pool_threads();
void set_pool_threads(uint32_t threads);

// Instructions a wave may execute before the launch is given up; 0 sets the default.
void set_instruction_budget(uint64_t instructions);
uint64_t instruction_budget();

// Scratch of a lane for kernels whose need the compiler cannot tell (recursion, calls through pointers).
constexpr uint32_t kLargestStack = 1u << 18;
void set_stack_limit(uint32_t bytes);
uint32_t stack_limit();

// report.cpp
Error error_of(FaultKind kind);
std::string describe_fault(const LaunchResult& result);
std::string report_json(const LaunchResult& result);
std::string kernel_json(const Kernel& kernel);

}  // namespace emu
