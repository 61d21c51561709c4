// Stream-ordered allocation, symbols, pointer attributes of the driver API, hints, and look-up of functions by name.
#include <dlfcn.h>

#include <cinttypes>
#include <cstring>
#include <unordered_map>

#include "graph.h"
#include "module.h"

namespace emu {
namespace {

struct MemoryPool {
    int device = 0;
    bool is_default = false;
    uint64_t release_threshold = 0, used = 0, used_high = 0;
    int reuse[3] = {1, 1, 1};
};

struct Pools {
    std::mutex mutex;
    MemoryPool defaults[kDevices];
    MemoryPool* current[kDevices];
    std::unordered_map<void*, std::unique_ptr<MemoryPool>> made;
    std::unordered_map<void*, std::pair<MemoryPool*, uint64_t>> blocks;
};
Pools& pools() {
    static Pools* const instance = [] {
        Pools* p = new Pools;
        for (int n = 0; n < kDevices; ++n) p->defaults[n].device = n, p->defaults[n].is_default = true, p->current[n] = &p->defaults[n];
        guard_innermost(p->mutex);
        return p;
    }();
    return *instance;
}

MemoryPool& find_pool(void* handle) {
    std::lock_guard<std::mutex> lock(pools().mutex);
    for (MemoryPool& p : pools().defaults)
        if (&p == handle) return p;
    if (!pools().made.count(handle)) fail(hipErrorInvalidValue, "%p is no memory pool, or was destroyed", handle);
    return *static_cast<MemoryPool*>(handle);
}

void* allocate_from(MemoryPool& pool, uint64_t bytes, Stream& stream) {
    void* const pointer = allocate_device_memory(bytes, stream.device);
    if (is_capturing(stream)) {
        auto op = std::make_shared<MemoryOperation>();
        op->memory = std::make_shared<GraphMemory>();
        op->memory->pointer = pointer;
        record(stream, op);
        return pointer;
    }
    std::lock_guard<std::mutex> lock(pools().mutex);
    pools().blocks[pointer] = {&pool, bytes};
    pool.used += bytes;
    pool.used_high = std::max(pool.used_high, pool.used);
    return pointer;
}

void free_to_pool(void* pointer, Stream& stream) {
    if (is_capturing(stream)) {
        // The block belongs to the graph and goes with it.
        auto op = std::make_shared<MemoryOperation>();
        op->frees = true;
        record(stream, op);
        return;
    }
    free_device_memory(pointer);
    std::lock_guard<std::mutex> lock(pools().mutex);
    const auto block = pools().blocks.find(pointer);
    if (block == pools().blocks.end()) return;
    block->second.first->used -= block->second.second;
    pools().blocks.erase(block);
}

enum PoolAttribute { kFollowEvents = 1, kOpportunistic, kInternal, kReleaseThreshold, kReservedCurrent, kReservedHigh, kUsedCurrent, kUsedHigh };

CopyOperation symbol_copy(const void* symbol, void* host, const void* source, size_t bytes, size_t offset, int kind, int device) {
    const Variable v = find_host_variable(symbol, device);
    if (offset > v.bytes || bytes > v.bytes - offset) fail(hipErrorInvalidValue, "%zu bytes at offset %zu do not fit into a variable of %" PRIu64 " bytes", bytes, offset, v.bytes);
    uint8_t* const at = static_cast<uint8_t*>(v.address) + offset;
    return host ? make_copy(host, at, bytes, kind) : make_copy(at, source, bytes, kind);
}

}  // namespace
}  // namespace emu

using namespace emu;

EMU_EXPORT int hipMallocAsync(void** pointer, size_t bytes, void* stream) {
    return api("hipMallocAsync", [&] {
        Stream& s = find_stream(stream);
        *require(pointer, "dev_ptr") = allocate_from(*pools().current[s.device], bytes, s);
    });
}
EMU_EXPORT int hipMallocFromPoolAsync(void** pointer, size_t bytes, void* pool, void* stream) {
    return api("hipMallocFromPoolAsync", [&] { *require(pointer, "dev_ptr") = allocate_from(find_pool(pool), bytes, find_stream(stream)); });
}
EMU_EXPORT int hipFreeAsync(void* pointer, void* stream) {
    return api("hipFreeAsync", [&] { free_to_pool(require(pointer, "dev_ptr"), find_stream(stream)); });
}
EMU_EXPORT int hipDeviceGetDefaultMemPool(void** pool, int device) {
    return api("hipDeviceGetDefaultMemPool", [&] { *require(pool, "mem_pool") = &pools().defaults[check_device_ordinal(device)]; });
}
EMU_EXPORT int hipDeviceGetMemPool(void** pool, int device) {
    return api("hipDeviceGetMemPool", [&] { *require(pool, "mem_pool") = pools().current[check_device_ordinal(device)]; });
}
EMU_EXPORT int hipDeviceSetMemPool(int device, void* pool) {
    return api("hipDeviceSetMemPool", [&] { pools().current[check_device_ordinal(device)] = &find_pool(pool); });
}
EMU_EXPORT int hipMemPoolCreate(void** pool, const void*) {
    return api("hipMemPoolCreate", [&] {
        auto made = std::make_unique<MemoryPool>();
        made->device = this_thread().device;
        *require(pool, "mem_pool") = made.get();
        std::lock_guard<std::mutex> lock(pools().mutex);
        pools().made[*pool] = std::move(made);
    });
}
EMU_EXPORT int hipMemPoolDestroy(void* handle) {
    return api("hipMemPoolDestroy", [&] {
        MemoryPool& pool = find_pool(handle);
        if (pool.is_default) fail(hipErrorInvalidValue, "a default pool cannot be destroyed");
        std::lock_guard<std::mutex> lock(pools().mutex);
        MemoryPool& heir = pools().defaults[pool.device];
        if (pools().current[pool.device] == &pool) pools().current[pool.device] = &heir;
        for (auto& block : pools().blocks)
            if (block.second.first == &pool) block.second.first = &heir, heir.used += block.second.second;
        pools().made.erase(handle);
    });
}
EMU_EXPORT int hipMemPoolTrimTo(void* pool, size_t) {
    return api("hipMemPoolTrimTo", [&] { find_pool(pool); });   // freed blocks are given back at once
}
EMU_EXPORT int hipMemPoolSetAttribute(void* handle, int which, void* value) {
    return api("hipMemPoolSetAttribute", [&] {
        MemoryPool& pool = find_pool(handle);
        require(value, "value");
        std::lock_guard<std::mutex> lock(pools().mutex);
        if (which >= kFollowEvents && which <= kInternal) std::memcpy(&pool.reuse[which - kFollowEvents], value, sizeof(int));
        else if (which == kReleaseThreshold) std::memcpy(&pool.release_threshold, value, 8);
        else if (which == kReservedHigh || which == kUsedHigh) pool.used_high = pool.used;
        else fail(hipErrorInvalidValue, "attribute %d of a pool cannot be set", which);
    });
}
EMU_EXPORT int hipMemPoolGetAttribute(void* handle, int which, void* value) {
    return api("hipMemPoolGetAttribute", [&] {
        const MemoryPool& pool = find_pool(handle);
        require(value, "value");
        std::lock_guard<std::mutex> lock(pools().mutex);
        if (which >= kFollowEvents && which <= kInternal) std::memcpy(value, &pool.reuse[which - kFollowEvents], sizeof(int));
        else if (which == kReleaseThreshold) std::memcpy(value, &pool.release_threshold, 8);
        else if (which == kReservedCurrent || which == kUsedCurrent) std::memcpy(value, &pool.used, 8);
        else if (which == kReservedHigh || which == kUsedHigh) std::memcpy(value, &pool.used_high, 8);
        else fail(hipErrorInvalidValue, "%d is no attribute of a pool", which);
    });
}

EMU_EXPORT int hipMemcpyToSymbolAsync(const void* symbol, const void* from, size_t bytes, size_t offset, int kind, void* stream) {
    return api("hipMemcpyToSymbolAsync", [&] { submit(stream, symbol_copy(symbol, nullptr, from, bytes, offset, kind, find_stream(stream).device)); });
}
EMU_EXPORT int hipMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset, int kind) { return hipMemcpyToSymbolAsync(symbol, from, bytes, offset, kind, nullptr); }
EMU_EXPORT int hipMemcpyFromSymbolAsync(void* to, const void* symbol, size_t bytes, size_t offset, int kind, void* stream) {
    return api("hipMemcpyFromSymbolAsync", [&] { submit(stream, symbol_copy(symbol, require(to, "dst"), nullptr, bytes, offset, kind, find_stream(stream).device)); });
}
EMU_EXPORT int hipMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset, int kind) { return hipMemcpyFromSymbolAsync(to, symbol, bytes, offset, kind, nullptr); }

// Hints about placement: all memory is host memory, so that there is nothing to move; the range must exist all the same.
EMU_EXPORT int hipMemPrefetchAsync(const void* pointer, size_t bytes, int, void* stream) {
    return api("hipMemPrefetchAsync", [&] {
        find_stream(stream);
        Allocation a;
        const uint64_t at = reinterpret_cast<uint64_t>(pointer);
        if (!registry().find(at, a) || bytes > a.end() - at) fail(hipErrorInvalidValue, "%zu bytes at %p are not managed memory", bytes, pointer);
    });
}
EMU_EXPORT int hipMemAdvise(const void* pointer, size_t bytes, int, int) { return hipMemPrefetchAsync(pointer, bytes, 0, nullptr); }

EMU_EXPORT int hipPointerGetAttribute(void* out, int which, void* pointer) {
    return api("hipPointerGetAttribute", [&] {
        require(out, "data");
        Allocation a;
        if (!registry().find(reinterpret_cast<uint64_t>(pointer), a)) fail(hipErrorInvalidValue, "%p is not known to HIP", pointer);
        const bool device_only = a.kind == Allocation::device_memory || a.kind == Allocation::code;
        switch (which) {
            case 2: *static_cast<int*>(out) = a.kind == Allocation::managed ? hipMemoryTypeManaged : device_only ? hipMemoryTypeDevice : hipMemoryTypeHost; return;
            case 3: *static_cast<void**>(out) = pointer; return;
            case 4:
                if (device_only) fail(hipErrorInvalidValue, "device memory has no host pointer");
                *static_cast<void**>(out) = pointer;
                return;
            case 7: *static_cast<uint64_t*>(out) = a.begin; return;   // a buffer's id: its address serves
            case 8: *static_cast<bool*>(out) = a.kind == Allocation::managed; return;
            case 9: *static_cast<int*>(out) = a.device; return;
            case 11: *static_cast<void**>(out) = reinterpret_cast<void*>(a.begin); return;
            case 12: *static_cast<size_t*>(out) = a.bytes; return;
            case 13: *static_cast<bool*>(out) = true; return;
            default: fail(hipErrorNotSupported, "pointer attribute %d is not supported", which);
        }
    });
}

EMU_EXPORT int hipGetProcAddress(const char* name, void** function, int, uint64_t, int* status) {
    return api("hipGetProcAddress", [&] {
        require(function, "pfn");
        Dl_info self;
        void* const library = dladdr(reinterpret_cast<void*>(&hipGetProcAddress), &self) ? dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
        *function = library ? dlsym(library, require(name, "symbol")) : nullptr;
        if (library) dlclose(library);
        if (status) *status = *function ? 0 : 1;
        if (!*function) fail(hipErrorNotFound, "the emulator has no function '%s'", name);
    });
}

EMU_EXPORT int hipProfilerStart() { return hipSuccess; }
EMU_EXPORT int hipProfilerStop() { return hipSuccess; }

// Programs compiled with -fgpu-default-stream=per-thread call these: the null stream is the thread's own.
extern "C" int hipLaunchKernel(const void*, Dim3, Dim3, void**, size_t, void*);
extern "C" int hipMemcpyAsync(void*, const void*, size_t, int, void*);
extern "C" int hipMemsetAsync(void*, int, size_t, void*);
extern "C" int hipStreamSynchronize(void*);
extern "C" int hipEventRecord(void*, void*);
namespace {
void* own_stream(void* stream) { return stream ? stream : reinterpret_cast<void*>(2); }
}  // namespace
EMU_EXPORT int hipLaunchKernel_spt(const void* function, Dim3 grid, Dim3 block, void** arguments, size_t shared_bytes, void* stream) {
    return hipLaunchKernel(function, grid, block, arguments, shared_bytes, own_stream(stream));
}
EMU_EXPORT int hipMemcpy_spt(void* to, const void* from, size_t bytes, int kind) { return hipMemcpyAsync(to, from, bytes, kind, own_stream(nullptr)); }
EMU_EXPORT int hipMemcpyAsync_spt(void* to, const void* from, size_t bytes, int kind, void* stream) { return hipMemcpyAsync(to, from, bytes, kind, own_stream(stream)); }
EMU_EXPORT int hipMemset_spt(void* to, int value, size_t bytes) { return hipMemsetAsync(to, value, bytes, own_stream(nullptr)); }
EMU_EXPORT int hipMemsetAsync_spt(void* to, int value, size_t bytes, void* stream) { return hipMemsetAsync(to, value, bytes, own_stream(stream)); }
EMU_EXPORT int hipStreamSynchronize_spt(void* stream) { return hipStreamSynchronize(own_stream(stream)); }
EMU_EXPORT int hipEventRecord_spt(void* event, void* stream) { return hipEventRecord(event, own_stream(stream)); }
