// Launching kernels: the calls of clang's launch stubs, of HIP's runtime API and of its module API; attributes and occupancy.
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "graph.h"
#include "module.h"

namespace emu {
namespace {

// The last launch of each thread, and of the process for threads that launched nothing.
struct ProcessResult {
    std::mutex mutex;
    std::shared_ptr<const LaunchResult> latest;
};
ProcessResult& process_result() {
    static ProcessResult* const instance = [] {
        auto* made = new ProcessResult;
        guard_innermost(made->mutex);
        return made;
    }();
    return *instance;
}
thread_local std::shared_ptr<const LaunchResult> thread_result;

constexpr uintptr_t kParamPointer = 1, kParamSize = 2, kParamEnd = 3;   // HIP_LAUNCH_PARAM_*
constexpr int kMostParams = 16;

}  // namespace

void launch_now(const LaunchRequest& request) {
    const auto result = std::make_shared<LaunchResult>();
    {
        std::shared_lock<std::shared_mutex> busy(device_busy());
        run_launch(request, *result);
    }
    thread_result = result;
    {
        std::lock_guard<std::mutex> lock(process_result().mutex);
        process_result().latest = result;
    }
    if (result->error == hipSuccess) return;
    device_state(request.device).poison(result->error, result->error_text);
    throw Failure{result->error, result->error_text};
}

std::shared_ptr<const LaunchResult> last_result() {
    if (thread_result) return thread_result;
    std::lock_guard<std::mutex> lock(process_result().mutex);
    return process_result().latest;
}

LaunchRequest make_request(const Function& function, Dim3 grid, Dim3 block, uint64_t dynamic_lds, bool cooperative) {
    if (dynamic_lds > 0xffffffffull) fail(hipErrorLaunchOutOfResources, "kernel '%s': %" PRIu64 " bytes of dynamic LDS", function.kernel->name.c_str(), dynamic_lds);
    LaunchRequest r;
    r.object = function.object;
    r.kernel = function.kernel;
    r.device = function.device;
    r.grid = grid, r.block = block;
    r.dynamic_lds = static_cast<uint32_t>(dynamic_lds);
    r.cooperative = cooperative;
    check_launch(r);
    return r;
}

std::vector<uint8_t> arguments_of(const Kernel& kernel, void* const* arguments, void* const* extra) {
    if (!extra) return pack_arguments(kernel, arguments);
    if (arguments) fail(hipErrorInvalidValue, "kernel '%s': kernelParams and extra exclude each other", kernel.name.c_str());
    const void* buffer = nullptr;
    const size_t* bytes = nullptr;
    for (int n = 0; n < kMostParams; n += 2) {
        const uintptr_t key = reinterpret_cast<uintptr_t>(extra[n]);
        if (key == kParamEnd) return copy_argument_buffer(kernel, buffer, bytes ? *bytes : 0);
        if (key == kParamPointer) buffer = extra[n + 1];
        else if (key == kParamSize) bytes = static_cast<const size_t*>(extra[n + 1]);
        else break;
    }
    fail(hipErrorInvalidValue, "kernel '%s': `extra` must be HIP_LAUNCH_PARAM_BUFFER_POINTER, HIP_LAUNCH_PARAM_BUFFER_SIZE and their values, closed by HIP_LAUNCH_PARAM_END", kernel.name.c_str());
}

namespace {

KernelOperation kernel_operation(void* handle, const Function& function, Dim3 grid, Dim3 block, void* const* arguments, void* const* extra, uint64_t dynamic_lds, bool cooperative) {
    KernelOperation op;
    op.request = make_request(function, grid, block, dynamic_lds, cooperative);
    op.request.kernarg = arguments_of(*function.kernel, arguments, extra);
    op.request.ranges = this_thread().ranges;
    op.request.timing = this_thread().timing;
    op.function = handle;
    return op;
}

void launch(void* handle, Function& function, Dim3 grid, Dim3 block, void* const* arguments, void* const* extra, uint64_t dynamic_lds, void* stream, bool cooperative) {
    const int device = find_stream(stream).device;
    if (device != function.device)
        fail(hipErrorInvalidHandle, "kernel '%s' was loaded on device %d and the stream belongs to device %d", function.kernel->name.c_str(), function.device, device);
    submit(stream, kernel_operation(handle, function, grid, block, arguments, extra, dynamic_lds, cooperative));
}

void launch_host_function(const void* symbol, Dim3 grid, Dim3 block, void** arguments, uint64_t dynamic_lds, void* stream, bool cooperative) {
    launch(const_cast<void*>(symbol), find_any_function(symbol, find_stream(stream).device), grid, block, arguments, nullptr, dynamic_lds, stream, cooperative);
}

}  // namespace

KernelOperation make_kernel(void* function, Dim3 grid, Dim3 block, void* const* arguments, void* const* extra, uint64_t dynamic_lds, int device, bool cooperative) {
    return kernel_operation(function, find_any_function(function, device), grid, block, arguments, extra, dynamic_lds, cooperative);
}
}  // namespace emu

using namespace emu;

EMU_EXPORT int __hipPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared_bytes, void* stream) {
    return api("__hipPushCallConfiguration", [&] { this_thread().configurations.push_back({grid, block, shared_bytes, stream}); });
}
EMU_EXPORT int __hipPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared_bytes, void** stream) {
    return api("__hipPopCallConfiguration", [&] {
        auto& stack = this_thread().configurations;
        if (stack.empty()) fail(hipErrorInvalidValue, "no launch is being configured");
        *grid = stack.back().grid, *block = stack.back().block, *shared_bytes = stack.back().shared_bytes, *stream = stack.back().stream;
        stack.pop_back();
    });
}

EMU_EXPORT int hipLaunchKernel(const void* function, Dim3 grid, Dim3 block, void** arguments, size_t shared_bytes, void* stream) {
    return api("hipLaunchKernel", [&] { launch_host_function(function, grid, block, arguments, shared_bytes, stream, false); });
}
EMU_EXPORT int hipExtLaunchKernel(const void* function, Dim3 grid, Dim3 block, void** arguments, size_t shared_bytes, void* stream, void*, void*, int) {
    return api("hipExtLaunchKernel", [&] { launch_host_function(function, grid, block, arguments, shared_bytes, stream, false); });
}
EMU_EXPORT int hipLaunchCooperativeKernel(const void* function, Dim3 grid, Dim3 block, void** arguments, uint32_t shared_bytes, void* stream) {
    return api("hipLaunchCooperativeKernel", [&] { launch_host_function(function, grid, block, arguments, shared_bytes, stream, true); });
}
EMU_EXPORT int hipLaunchKernelExC(const RuntimeLaunchConfig* config, const void* function, void** arguments) {
    return api("hipLaunchKernelExC", [&] {
        const RuntimeLaunchConfig& c = *require(config, "config");
        if (c.attribute_count) fail(hipErrorNotSupported, "launch attributes are not supported");
        launch_host_function(function, c.gridDim, c.blockDim, arguments, c.dynamicSmemBytes, c.stream, false);
    });
}
EMU_EXPORT int hipModuleLaunchKernel(void* function, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by, uint32_t bz, uint32_t shared_bytes, void* stream, void** arguments, void** extra) {
    return api("hipModuleLaunchKernel", [&] { launch(function, find_function(function), {gx, gy, gz}, {bx, by, bz}, arguments, extra, shared_bytes, stream, false); });
}
EMU_EXPORT int hipModuleLaunchCooperativeKernel(void* function, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by, uint32_t bz, uint32_t shared_bytes, void* stream, void** arguments) {
    return api("hipModuleLaunchCooperativeKernel", [&] { launch(function, find_function(function), {gx, gy, gz}, {bx, by, bz}, arguments, nullptr, shared_bytes, stream, true); });
}
EMU_EXPORT int hipDrvLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
    return api("hipDrvLaunchKernelEx", [&] {
        const LaunchConfig& c = *require(config, "config");
        if (c.attribute_count) fail(hipErrorNotSupported, "launch attributes are not supported");
        launch(function, find_function(function), {c.grid[0], c.grid[1], c.grid[2]}, {c.block[0], c.block[1], c.block[2]}, arguments, extra, c.shared_bytes, c.stream, false);
    });
}

namespace {

void add_range(uint64_t begin, uint64_t bytes, bool writable, std::string name) {
    if (begin + bytes >= begin) this_thread().ranges.push_back({begin, bytes, writable, std::move(name)});
}

}  // namespace

// The memory that this thread's launches may touch beside what the HIP API knows, until the next call; a null pointer takes it back.
// A captured launch keeps the ranges that were set when it was captured.
EMU_EXPORT void fij_emu_set_launch_ranges(const Range* ranges, uint32_t count) {
    this_thread().ranges.clear();
    for (uint32_t n = 0; ranges && n < count; ++n) add_range(ranges[n].begin, ranges[n].bytes, true, "tensor " + std::to_string(n));
}
EMU_EXPORT void fij_emu_set_named_launch_ranges(const NamedRange* ranges, uint32_t count) {
    this_thread().ranges.clear();
    for (uint32_t n = 0; ranges && n < count; ++n) add_range(ranges[n].begin, ranges[n].bytes, ranges[n].writable != 0, ranges[n].name ? ranges[n].name : "tensor " + std::to_string(n));
}
// Times this thread's launches on up to `units` compute units from now on; 0 ends that. If `sample` is not 0, only so many of the other workgroups run.
EMU_EXPORT void fij_emu_set_timing(uint32_t units, uint64_t instruction_limit, uint64_t timeline_limit, uint32_t sample) {
    this_thread().timing.reset();
    if (!units) return;
    auto request = std::make_shared<TimingRequest>();
    request->most_units = units;
    request->sample = sample;
    if (instruction_limit) request->options.instruction_limit = instruction_limit;
    request->options.timeline_limit = static_cast<size_t>(timeline_limit);
    this_thread().timing = std::move(request);
}
EMU_EXPORT const char* fij_emu_last_report() {
    static thread_local std::string text;
    const auto result = last_result();
    text = result ? report_json(*result) : "";
    return text.c_str();
}
EMU_EXPORT void fij_emu_set_budget(uint64_t instructions) { set_instruction_budget(instructions); }
EMU_EXPORT void fij_emu_set_threads(uint32_t threads) { set_pool_threads(threads); }

namespace {

int vgprs_per_lane(const Kernel& k) { return static_cast<int>(vgprs_of(k)); }

void check_dynamic_lds(const Function& f, int bytes) {
    const uint32_t limit = device_info(f.device).lds_bytes;
    if (bytes < 0 || static_cast<uint32_t>(bytes) + static_cast<uint64_t>(f.kernel->lds_bytes) > limit)
        fail(hipErrorInvalidValue, "kernel '%s': %d bytes of dynamic LDS beside %u static ones; the device has %u", f.kernel->name.c_str(), bytes, f.kernel->lds_bytes, limit);
}

int function_attribute(const Function& f, int which) {
    const Kernel& k = *f.kernel;
    switch (which) {
        case 0: return static_cast<int>(k.max_workgroup_size);
        case 1: return static_cast<int>(k.lds_bytes);
        case 2: return 0;
        case 3: return static_cast<int>(k.scratch_bytes);
        case 4: return vgprs_per_lane(k);
        case 5: case 6: return f.object->arch == Arch::gfx942 ? 94 : 95;
        case 7: return 0;
        case 8: return static_cast<int>(f.max_dynamic_lds ? f.max_dynamic_lds : device_info(f.device).lds_bytes - k.lds_bytes);
        case 9: return 0;
        default: fail(hipErrorInvalidValue, "%d is no attribute of a function", which);
    }
}

int active_groups(const Function& f, int block_size, size_t dynamic_lds) {
    if (block_size <= 0) fail(hipErrorInvalidValue, "blockSize must be positive, not %d", block_size);
    if (static_cast<uint32_t>(block_size) > f.kernel->max_workgroup_size) return 0;
    return static_cast<int>(groups_per_cu(*f.kernel, f.device, static_cast<uint32_t>(block_size), static_cast<uint32_t>(std::min<size_t>(dynamic_lds, 0xffffffffu))));
}

// The block size with the most waves in flight, the largest among equals.
void best_block(const Function& f, size_t dynamic_lds, int limit, int* grid, int* block) {
    require(grid, "gridSize"), require(block, "blockSize");
    const int largest = static_cast<int>(std::min<uint32_t>(f.kernel->max_workgroup_size, 1024));
    const int most = limit > 0 ? std::min(limit, largest) : largest;
    int best_threads = 0;
    *grid = 0, *block = 0;
    for (int size = kLanes; size <= most; size += kLanes) {
        const int groups = active_groups(f, size, dynamic_lds);
        if (groups * size < best_threads || groups == 0) continue;
        best_threads = groups * size;
        *block = size;
        *grid = groups * static_cast<int>(device_info(f.device).compute_units);
    }
}

}  // namespace

EMU_EXPORT int hipFuncGetAttributes(FuncAttributes* out, const void* symbol) {
    return api("hipFuncGetAttributes", [&] {
        const Function& f = find_any_function(symbol, this_thread().device);
        FuncAttributes& a = *require(out, "attr");
        a = FuncAttributes{};
        a.binaryVersion = a.ptxVersion = function_attribute(f, 6);
        a.localSizeBytes = f.kernel->scratch_bytes;
        a.maxDynamicSharedSizeBytes = function_attribute(f, 8);
        a.maxThreadsPerBlock = static_cast<int>(f.kernel->max_workgroup_size);
        a.numRegs = vgprs_per_lane(*f.kernel);
        a.sharedSizeBytes = f.kernel->lds_bytes;
    });
}
EMU_EXPORT int hipFuncGetAttribute(int* value, int which, void* function) {
    return api("hipFuncGetAttribute", [&] { *require(value, "value") = function_attribute(find_function(function), which); });
}
EMU_EXPORT int hipFuncSetAttribute(const void* symbol, int which, int value) {
    return api("hipFuncSetAttribute", [&] {
        Function& f = find_any_function(symbol, this_thread().device);
        if (which == 8) {
            check_dynamic_lds(f, value);
            f.max_dynamic_lds = static_cast<uint32_t>(value);
        } else if (which != 9) {
            fail(hipErrorInvalidValue, "attribute %d of a function cannot be set", which);
        }
    });
}
EMU_EXPORT int hipFuncSetCacheConfig(const void* symbol, int) {
    return api("hipFuncSetCacheConfig", [&] { find_any_function(symbol, this_thread().device); });
}
EMU_EXPORT int hipFuncSetSharedMemConfig(const void* symbol, int) {
    return api("hipFuncSetSharedMemConfig", [&] { find_any_function(symbol, this_thread().device); });
}

EMU_EXPORT int hipOccupancyMaxActiveBlocksPerMultiprocessor(int* groups, const void* symbol, int block_size, size_t dynamic_lds) {
    return api("hipOccupancyMaxActiveBlocksPerMultiprocessor", [&] { *require(groups, "numBlocks") = active_groups(find_any_function(symbol, this_thread().device), block_size, dynamic_lds); });
}
EMU_EXPORT int hipOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* groups, const void* symbol, int block_size, size_t dynamic_lds, uint32_t) {
    return hipOccupancyMaxActiveBlocksPerMultiprocessor(groups, symbol, block_size, dynamic_lds);
}
EMU_EXPORT int hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(int* groups, void* function, int block_size, size_t dynamic_lds) {
    return api("hipModuleOccupancyMaxActiveBlocksPerMultiprocessor", [&] { *require(groups, "numBlocks") = active_groups(find_function(function), block_size, dynamic_lds); });
}
EMU_EXPORT int hipModuleOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* groups, void* function, int block_size, size_t dynamic_lds, uint32_t) {
    return hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(groups, function, block_size, dynamic_lds);
}
EMU_EXPORT int hipOccupancyMaxPotentialBlockSize(int* grid, int* block, const void* symbol, size_t dynamic_lds, int limit) {
    return api("hipOccupancyMaxPotentialBlockSize", [&] { best_block(find_any_function(symbol, this_thread().device), dynamic_lds, limit, grid, block); });
}
EMU_EXPORT int hipModuleOccupancyMaxPotentialBlockSize(int* grid, int* block, void* function, size_t dynamic_lds, int limit) {
    return api("hipModuleOccupancyMaxPotentialBlockSize", [&] { best_block(find_function(function), dynamic_lds, limit, grid, block); });
}
EMU_EXPORT int hipModuleOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, void* function, size_t dynamic_lds, int limit, uint32_t) {
    return hipModuleOccupancyMaxPotentialBlockSize(grid, block, function, dynamic_lds, limit);
}
EMU_EXPORT int hipOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, const void* symbol, int groups, int block_size) {
    return api("hipOccupancyAvailableDynamicSMemPerBlock", [&] {
        const Function& f = find_any_function(symbol, this_thread().device);
        if (groups <= 0 || block_size <= 0) fail(hipErrorInvalidValue, "numBlocks %d and blockSize %d must be positive", groups, block_size);
        const uint32_t share = device_info(f.device).lds_bytes / static_cast<uint32_t>(groups);
        *require(bytes, "dynamicSmemSize") = share > f.kernel->lds_bytes ? share - f.kernel->lds_bytes : 0;
    });
}
