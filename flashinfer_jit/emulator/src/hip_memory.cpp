// Device and host memory: allocation, registration, copies, fills, pointer queries.
#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdlib>
#include <cstring>

#include "graph.h"

namespace emu {
namespace {

constexpr uint64_t kAlignment = 256, kPage = 4096;

void* allocate(size_t bytes, Allocation::Kind kind, uint32_t flags, int device = this_thread().device) {
    device_state(device).check();
    if (bytes == 0) return nullptr;
    const uint64_t limit = device_info(device).memory_bytes;
    if (bytes > limit || (kind == Allocation::device_memory && registry().device_bytes(device) + bytes > limit))
        fail(hipErrorOutOfMemory, "%zu bytes do not fit: the device has %" PRIu64 " and %" PRIu64 " are in use", bytes, limit, registry().device_bytes(device));
    // Pages of their own begin as zeros, which keeps runs repeatable, and are given back at once.
    const uint64_t mapped = (bytes + kPage - 1) & ~(kPage - 1);
    void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail(hipErrorOutOfMemory, "the host cannot give %zu bytes", bytes);
    Allocation a;
    a.begin = reinterpret_cast<uint64_t>(memory);
    a.bytes = bytes;
    a.kind = kind;
    a.device = device;
    a.flags = flags;
    registry().add(std::move(a));
    return memory;
}

void release(void* pointer, uint32_t kinds, const char* allocator) {
    if (!pointer) return;
    // Kernels of other threads may be using it.
    std::unique_lock<std::shared_mutex> idle(device_busy());
    Allocation a;
    if (!registry().remove(reinterpret_cast<uint64_t>(pointer), kinds, a)) fail(hipErrorInvalidValue, "%p was not allocated with %s, or was freed before", pointer, allocator);
    munmap(pointer, (a.bytes + kPage - 1) & ~(kPage - 1));
}

constexpr uint32_t kDeviceKinds = 1u << Allocation::device_memory | 1u << Allocation::managed, kHostKinds = 1u << Allocation::host_memory;

// A copy that a wild host pointer cannot turn into a crash: the kernel does it and reports bad addresses. Registered memory is copied directly.
void copy_bytes(uint8_t* to, const uint8_t* from, uint64_t bytes, bool known) {
    static bool guarded = true;
    while (!known && guarded && bytes) {
        const uint64_t piece = std::min<uint64_t>(bytes, 1u << 30);
        const iovec local{to, piece}, remote{const_cast<uint8_t*>(from), piece};
        const ssize_t done = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
        if (done < 0 && errno == EFAULT) fail(hipErrorInvalidValue, "the memory from %p to %p cannot be copied to %p: one of them is not mapped", static_cast<const void*>(from), static_cast<const void*>(from + bytes), static_cast<void*>(to));
        if (done <= 0) guarded = false;   // forbidden in this container
        else to += done, from += done, bytes -= static_cast<uint64_t>(done);
    }
    if (bytes) std::memmove(to, from, bytes);
}

// Whether the block lies in one known allocation. Throws where it begins in one and reaches beyond its end.
bool check_block(const void* pointer, uint64_t bytes, const char* which) {
    Allocation a;
    const uint64_t at = reinterpret_cast<uint64_t>(pointer);
    for (const OwnedRange& r : this_thread().ranges)
        if (at >= r.begin && at - r.begin < r.bytes && bytes <= r.bytes - (at - r.begin)) return true;
    if (!registry().find(at, a)) return false;
    if (bytes > a.end() - at)
        fail(hipErrorInvalidValue, "%s: %" PRIu64 " bytes at %p reach %" PRIu64 " bytes beyond the end of '%s' (%" PRIu64 " bytes)", which, bytes, pointer, at + bytes - a.end(), a.name.c_str(), a.bytes);
    return true;
}

__extension__ using Wide = unsigned __int128;

uint64_t span(uint64_t width, uint64_t rows, uint64_t slices, uint64_t pitch, uint64_t slice) {
    const Wide bytes = static_cast<Wide>(slices - 1) * slice + static_cast<Wide>(rows - 1) * pitch + width;
    if (bytes >> 62) fail(hipErrorInvalidValue, "a block of %" PRIu64 " x %" PRIu64 " x %" PRIu64 " bytes is larger than the address space", width, rows, slices);
    return static_cast<uint64_t>(bytes);
}

uint64_t block_bytes(uint64_t pitch, uint64_t rows, uint64_t slices) {
    uint64_t slice, bytes;
    if (__builtin_mul_overflow(pitch, rows, &slice) || __builtin_mul_overflow(slice, slices, &bytes)) fail(hipErrorOutOfMemory, "a block of %" PRIu64 " x %" PRIu64 " x %" PRIu64 " bytes", pitch, rows, slices);
    return bytes;
}

bool overlap(const uint8_t* a, const uint8_t* b, uint64_t bytes) { return a < b + bytes && b < a + bytes; }

}  // namespace

void CopyOperation::check() const {
    if (kind < hipMemcpyHostToHost || (kind > hipMemcpyDefault && kind != 1024)) fail(hipErrorInvalidMemcpyDirection, "%d is no copy direction", kind);
    if (width == 0 || rows == 0 || slices == 0) return;
    if (!to || !from) fail(hipErrorInvalidValue, "%s is null", to ? "src" : "dst");
    if ((rows > 1 && (to_pitch < width || from_pitch < width))) fail(hipErrorInvalidPitchValue, "rows of %" PRIu64 " bytes with pitches %" PRIu64 " and %" PRIu64, width, to_pitch, from_pitch);
}

void CopyOperation::run() {
    if (width == 0 || rows == 0 || slices == 0) return;
    const bool to_known = check_block(to, span(width, rows, slices, to_pitch, to_slice), "dst");
    const bool from_known = check_block(from, span(width, rows, slices, from_pitch, from_slice), "src");
    const bool known = to_known && from_known;
    for (uint64_t s = 0; s < slices; ++s)
        for (uint64_t r = 0; r < rows; ++r) {
            uint8_t* row_to = to + s * to_slice + r * to_pitch;
            const uint8_t* row_from = from + s * from_slice + r * from_pitch;
            copy_bytes(row_to, row_from, width, known || overlap(row_to, row_from, width));
        }
}

void FillOperation::check() const {
    if (width == 0 || rows == 0 || slices == 0) return;
    if (!to) fail(hipErrorInvalidValue, "dst is null");
    if (element_bytes != 1 && element_bytes != 2 && element_bytes != 4) fail(hipErrorInvalidValue, "elements of %u bytes: must be 1, 2 or 4", element_bytes);
    if (rows > 1 && pitch < width * element_bytes) fail(hipErrorInvalidPitchValue, "rows of %" PRIu64 " bytes with a pitch of %" PRIu64, width * element_bytes, pitch);
}

void FillOperation::run() {
    if (width == 0 || rows == 0 || slices == 0) return;
    if (!check_block(to, span(width * element_bytes, rows, slices, pitch, slice), "dst")) fail(hipErrorInvalidValue, "%p is not device memory", static_cast<void*>(to));
    for (uint64_t s = 0; s < slices; ++s)
        for (uint64_t r = 0; r < rows; ++r) {
            uint8_t* row = to + s * slice + r * pitch;
            if (element_bytes == 1) std::memset(row, static_cast<int>(value & 0xff), width);
            else
                for (uint64_t n = 0; n < width; ++n) std::memcpy(row + n * element_bytes, &value, element_bytes);
        }
}

namespace {

CopyOperation copy_1d(void* to, const void* from, uint64_t bytes, int kind) {
    CopyOperation c;
    c.to = static_cast<uint8_t*>(to);
    c.from = static_cast<const uint8_t*>(from);
    c.width = c.to_pitch = c.from_pitch = c.to_slice = c.from_slice = bytes;
    c.kind = kind;
    c.check();
    return c;
}

CopyOperation copy_2d(void* to, uint64_t to_pitch, const void* from, uint64_t from_pitch, uint64_t width, uint64_t rows, int kind) {
    CopyOperation c;
    c.to = static_cast<uint8_t*>(to);
    c.from = static_cast<const uint8_t*>(from);
    c.width = width, c.rows = rows;
    c.to_pitch = to_pitch, c.from_pitch = from_pitch;
    c.kind = kind;
    if (rows && width && (to_pitch < width || from_pitch < width)) fail(hipErrorInvalidPitchValue, "rows of %" PRIu64 " bytes with pitches %" PRIu64 " and %" PRIu64, width, to_pitch, from_pitch);
    c.check();
    return c;
}

CopyOperation copy_2d(const Memcpy2DParams& p) {
    if (p.srcMemoryType == hipMemoryTypeArray || p.dstMemoryType == hipMemoryTypeArray) fail(hipErrorNotSupported, "the emulator has no arrays (textures)");
    const uint8_t* from = static_cast<const uint8_t*>(p.srcMemoryType == hipMemoryTypeHost ? p.srcHost : p.srcDevice);
    uint8_t* to = static_cast<uint8_t*>(p.dstMemoryType == hipMemoryTypeHost ? p.dstHost : p.dstDevice);
    if (!from || !to) fail(hipErrorInvalidValue, "%s is null", to ? "src" : "dst");
    return copy_2d(to + p.dstY * p.dstPitch + p.dstXInBytes, p.dstPitch ? p.dstPitch : p.WidthInBytes, from + p.srcY * p.srcPitch + p.srcXInBytes, p.srcPitch ? p.srcPitch : p.WidthInBytes,
                   p.WidthInBytes, p.Height, hipMemcpyDefault);
}

}  // namespace

CopyOperation make_copy_3d(const Memcpy3DParams& p) {
    if (p.srcArray || p.dstArray) fail(hipErrorNotSupported, "the emulator has no arrays (textures)");
    CopyOperation c;
    c.to_pitch = p.dstPtr.pitch, c.from_pitch = p.srcPtr.pitch;
    c.to_slice = p.dstPtr.pitch * p.dstPtr.ysize, c.from_slice = p.srcPtr.pitch * p.srcPtr.ysize;
    c.to = static_cast<uint8_t*>(p.dstPtr.ptr) + p.dstPos.z * c.to_slice + p.dstPos.y * c.to_pitch + p.dstPos.x;
    c.from = static_cast<const uint8_t*>(p.srcPtr.ptr) + p.srcPos.z * c.from_slice + p.srcPos.y * c.from_pitch + p.srcPos.x;
    c.width = p.extent.width, c.rows = p.extent.height, c.slices = p.extent.depth;
    c.kind = p.kind;
    c.check();
    return c;
}

CopyOperation make_copy(void* to, const void* from, uint64_t bytes, int kind) { return copy_1d(to, from, bytes, kind); }

CopyOperation make_copy_2d(void* to, uint64_t to_pitch, const void* from, uint64_t from_pitch, uint64_t width, uint64_t rows, int kind) {
    return copy_2d(to, to_pitch, from, from_pitch, width, rows, kind);
}

void* allocate_device_memory(uint64_t bytes, int device) { return allocate(bytes, Allocation::device_memory, 0, device); }
void free_device_memory(void* pointer) { release(pointer, kDeviceKinds, "hipMalloc or hipMallocAsync"); }

FillOperation make_fill(void* to, uint32_t value, uint32_t element_bytes, uint64_t width, uint64_t rows, uint64_t pitch) {
    FillOperation f;
    f.to = static_cast<uint8_t*>(to);
    f.value = value, f.element_bytes = element_bytes;
    f.width = width, f.rows = rows, f.pitch = pitch;
    f.check();
    return f;
}

}  // namespace emu

using namespace emu;

EMU_EXPORT int hipMalloc(void** pointer, size_t bytes) {
    return api("hipMalloc", [&] {
        forbid_while_capturing("hipMalloc");
        *require(pointer, "ptr") = allocate(bytes, Allocation::device_memory, 0);
    });
}
EMU_EXPORT int hipExtMallocWithFlags(void** pointer, size_t bytes, uint32_t flags) {
    return api("hipExtMallocWithFlags", [&] { *require(pointer, "ptr") = allocate(bytes, Allocation::device_memory, flags); });
}
EMU_EXPORT int hipMallocManaged(void** pointer, size_t bytes, uint32_t flags) {
    return api("hipMallocManaged", [&] { *require(pointer, "dev_ptr") = allocate(bytes, Allocation::managed, flags); });
}
EMU_EXPORT int hipHostMalloc(void** pointer, size_t bytes, uint32_t flags) {
    return api("hipHostMalloc", [&] { *require(pointer, "ptr") = allocate(bytes, Allocation::host_memory, flags); });
}
EMU_EXPORT int hipHostAlloc(void** pointer, size_t bytes, uint32_t flags) { return hipHostMalloc(pointer, bytes, flags); }
EMU_EXPORT int hipMallocHost(void** pointer, size_t bytes) { return hipHostMalloc(pointer, bytes, 0); }
EMU_EXPORT int hipMemAllocHost(void** pointer, size_t bytes) { return hipHostMalloc(pointer, bytes, 0); }
EMU_EXPORT int hipFree(void* pointer) {
    return api("hipFree", [&] { release(pointer, kDeviceKinds, "hipMalloc"); });
}
EMU_EXPORT int hipHostFree(void* pointer) {
    return api("hipHostFree", [&] { release(pointer, kHostKinds, "hipHostMalloc"); });
}
EMU_EXPORT int hipFreeHost(void* pointer) { return hipHostFree(pointer); }
EMU_EXPORT int hipMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
    return api("hipMallocPitch", [&] {
        *require(pitch, "pitch") = (width + kAlignment - 1) & ~(kAlignment - 1);
        *require(pointer, "ptr") = allocate(block_bytes(*pitch, height, 1), Allocation::device_memory, 0);
    });
}
EMU_EXPORT int hipMemAllocPitch(void** pointer, size_t* pitch, size_t width, size_t height, uint32_t) { return hipMallocPitch(pointer, pitch, width, height); }
EMU_EXPORT int hipMalloc3D(PitchedPointer* pointer, Extent extent) {
    return api("hipMalloc3D", [&] {
        require(pointer, "pitchedDevPtr");
        pointer->pitch = (extent.width + kAlignment - 1) & ~(kAlignment - 1);
        pointer->xsize = extent.width, pointer->ysize = extent.height;
        pointer->ptr = allocate(block_bytes(pointer->pitch, extent.height, extent.depth), Allocation::device_memory, 0);
    });
}

EMU_EXPORT int hipHostRegister(void* pointer, size_t bytes, uint32_t flags) {
    return api("hipHostRegister", [&] {
        require(pointer, "hostPtr");
        if (bytes == 0) fail(hipErrorInvalidValue, "sizeBytes is 0");
        const uint64_t begin = reinterpret_cast<uint64_t>(pointer);
        if (begin + bytes < begin) fail(hipErrorInvalidValue, "%zu bytes at %p reach beyond the address space", bytes, pointer);
        if (registry().overlaps(begin, bytes)) fail(hipErrorHostMemoryAlreadyRegistered, "%zu bytes at %p overlap memory that is registered or allocated", bytes, pointer);
        Allocation a;
        a.begin = begin, a.bytes = bytes, a.kind = Allocation::registered, a.flags = flags, a.device = this_thread().device;
        registry().add(std::move(a));
    });
}
EMU_EXPORT int hipHostUnregister(void* pointer) {
    return api("hipHostUnregister", [&] {
        std::unique_lock<std::shared_mutex> idle(device_busy());
        Allocation a;
        if (!registry().remove(reinterpret_cast<uint64_t>(pointer), 1u << Allocation::registered, a)) fail(hipErrorHostMemoryNotRegistered, "%p was not registered with hipHostRegister", pointer);
    });
}
EMU_EXPORT int hipHostGetDevicePointer(void** device, void* host, uint32_t flags) {
    return api("hipHostGetDevicePointer", [&] {
        if (flags) fail(hipErrorInvalidValue, "flags must be 0, not %u", flags);
        Allocation a;
        if (!registry().find(reinterpret_cast<uint64_t>(host), a)) fail(hipErrorInvalidValue, "%p is neither registered nor from hipHostMalloc", host);
        *require(device, "devPtr") = host;
    });
}
EMU_EXPORT int hipHostGetFlags(uint32_t* flags, void* host) {
    return api("hipHostGetFlags", [&] {
        Allocation a;
        if (!registry().find(reinterpret_cast<uint64_t>(host), a) || (a.kind != Allocation::host_memory && a.kind != Allocation::registered)) fail(hipErrorInvalidValue, "%p is neither registered nor from hipHostMalloc", host);
        *require(flags, "flagsPtr") = a.flags;
    });
}

EMU_EXPORT int hipMemGetInfo(size_t* free_bytes, size_t* total) {
    return api("hipMemGetInfo", [&] {
        const int device = this_thread().device;
        if (total) *total = device_info(device).memory_bytes;
        if (free_bytes) *free_bytes = device_info(device).memory_bytes - registry().device_bytes(device);
    });
}
EMU_EXPORT int hipMemPtrGetInfo(void* pointer, size_t* bytes) {
    return api("hipMemPtrGetInfo", [&] {
        Allocation a;
        if (!registry().find(reinterpret_cast<uint64_t>(pointer), a)) fail(hipErrorInvalidValue, "%p is not allocated memory", pointer);
        *require(bytes, "size") = a.bytes;
    });
}
EMU_EXPORT int hipMemGetAddressRange(void** base, size_t* bytes, void* pointer) {
    return api("hipMemGetAddressRange", [&] {
        Allocation a;
        if (!registry().find(reinterpret_cast<uint64_t>(pointer), a)) fail(hipErrorNotFound, "%p is not device memory", pointer);
        if (base) *base = reinterpret_cast<void*>(a.begin);
        if (bytes) *bytes = a.bytes;
    });
}
EMU_EXPORT int hipPointerGetAttributes(PointerAttributes* out, const void* pointer) {
    return api("hipPointerGetAttributes", [&] {
        require(out, "attributes");
        require(pointer, "ptr");
        Allocation a;
        *out = PointerAttributes{hipMemoryTypeUnregistered, -2, nullptr, nullptr, 0, 0};
        if (!registry().find(reinterpret_cast<uint64_t>(pointer), a)) return;
        const bool host = a.kind == Allocation::host_memory || a.kind == Allocation::registered || a.kind == Allocation::managed;
        out->type = a.kind == Allocation::managed ? hipMemoryTypeManaged : host ? hipMemoryTypeHost : hipMemoryTypeDevice;
        out->device = a.device;
        out->devicePointer = const_cast<void*>(pointer);
        out->hostPointer = host ? const_cast<void*>(pointer) : nullptr;
        out->isManaged = a.kind == Allocation::managed;
        out->allocationFlags = a.flags;
    });
}

EMU_EXPORT int hipMemcpy(void* to, const void* from, size_t bytes, int kind) {
    return api("hipMemcpy", [&] {
        forbid_while_capturing("hipMemcpy");
        submit(nullptr, copy_1d(to, from, bytes, kind));
    });
}
EMU_EXPORT int hipMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
    return api("hipMemcpyAsync", [&] { submit(stream, copy_1d(to, from, bytes, kind)); });
}
EMU_EXPORT int hipMemcpyWithStream(void* to, const void* from, size_t bytes, int kind, void* stream) { return hipMemcpyAsync(to, from, bytes, kind, stream); }
EMU_EXPORT int hipMemcpyHtoD(void* to, const void* from, size_t bytes) { return hipMemcpy(to, from, bytes, hipMemcpyHostToDevice); }
EMU_EXPORT int hipMemcpyDtoH(void* to, void* from, size_t bytes) { return hipMemcpy(to, from, bytes, hipMemcpyDeviceToHost); }
EMU_EXPORT int hipMemcpyDtoD(void* to, void* from, size_t bytes) { return hipMemcpy(to, from, bytes, hipMemcpyDeviceToDevice); }
EMU_EXPORT int hipMemcpyHtoDAsync(void* to, const void* from, size_t bytes, void* stream) { return hipMemcpyAsync(to, from, bytes, hipMemcpyHostToDevice, stream); }
EMU_EXPORT int hipMemcpyDtoHAsync(void* to, void* from, size_t bytes, void* stream) { return hipMemcpyAsync(to, from, bytes, hipMemcpyDeviceToHost, stream); }
EMU_EXPORT int hipMemcpyDtoDAsync(void* to, void* from, size_t bytes, void* stream) { return hipMemcpyAsync(to, from, bytes, hipMemcpyDeviceToDevice, stream); }
EMU_EXPORT int hipMemcpyPeer(void* to, int to_device, const void* from, int from_device, size_t bytes) {
    return api("hipMemcpyPeer", [&] {
        check_device_ordinal(to_device), check_device_ordinal(from_device);
        submit(nullptr, copy_1d(to, from, bytes, hipMemcpyDefault));
    });
}
EMU_EXPORT int hipMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes, void* stream) {
    return api("hipMemcpyPeerAsync", [&] {
        check_device_ordinal(to_device), check_device_ordinal(from_device);
        submit(stream, copy_1d(to, from, bytes, hipMemcpyDefault));
    });
}
EMU_EXPORT int hipMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, int kind) {
    return api("hipMemcpy2D", [&] {
        forbid_while_capturing("hipMemcpy2D");
        submit(nullptr, copy_2d(to, to_pitch, from, from_pitch, width, height, kind));
    });
}
EMU_EXPORT int hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, int kind, void* stream) {
    return api("hipMemcpy2DAsync", [&] { submit(stream, copy_2d(to, to_pitch, from, from_pitch, width, height, kind)); });
}
EMU_EXPORT int hipMemcpyParam2D(const Memcpy2DParams* params) {
    return api("hipMemcpyParam2D", [&] { submit(nullptr, copy_2d(*require(params, "pCopy"))); });
}
EMU_EXPORT int hipMemcpyParam2DAsync(const Memcpy2DParams* params, void* stream) {
    return api("hipMemcpyParam2DAsync", [&] { submit(stream, copy_2d(*require(params, "pCopy"))); });
}
EMU_EXPORT int hipMemcpy3D(const Memcpy3DParams* params) {
    return api("hipMemcpy3D", [&] { submit(nullptr, make_copy_3d(*require(params, "p"))); });
}
EMU_EXPORT int hipMemcpy3DAsync(const Memcpy3DParams* params, void* stream) {
    return api("hipMemcpy3DAsync", [&] { submit(stream, make_copy_3d(*require(params, "p"))); });
}

namespace {

int fill(const char* call, void* to, uint32_t value, uint32_t element_bytes, size_t width, size_t rows, size_t pitch, void* stream, bool async) {
    return api(call, [&] {
        if (!async) forbid_while_capturing(call);
        submit(stream, make_fill(to, value, element_bytes, width, rows, pitch));
    });
}

}  // namespace

EMU_EXPORT int hipMemset(void* to, int value, size_t bytes) { return fill("hipMemset", to, static_cast<uint32_t>(value), 1, bytes, 1, bytes, nullptr, false); }
EMU_EXPORT int hipMemsetAsync(void* to, int value, size_t bytes, void* stream) { return fill("hipMemsetAsync", to, static_cast<uint32_t>(value), 1, bytes, 1, bytes, stream, true); }
EMU_EXPORT int hipMemsetD8(void* to, unsigned char value, size_t count) { return fill("hipMemsetD8", to, value, 1, count, 1, count, nullptr, false); }
EMU_EXPORT int hipMemsetD8Async(void* to, unsigned char value, size_t count, void* stream) { return fill("hipMemsetD8Async", to, value, 1, count, 1, count, stream, true); }
EMU_EXPORT int hipMemsetD16(void* to, unsigned short value, size_t count) { return fill("hipMemsetD16", to, value, 2, count, 1, 2 * count, nullptr, false); }
EMU_EXPORT int hipMemsetD16Async(void* to, unsigned short value, size_t count, void* stream) { return fill("hipMemsetD16Async", to, value, 2, count, 1, 2 * count, stream, true); }
EMU_EXPORT int hipMemsetD32(void* to, int value, size_t count) { return fill("hipMemsetD32", to, static_cast<uint32_t>(value), 4, count, 1, 4 * count, nullptr, false); }
EMU_EXPORT int hipMemsetD32Async(void* to, int value, size_t count, void* stream) { return fill("hipMemsetD32Async", to, static_cast<uint32_t>(value), 4, count, 1, 4 * count, stream, true); }
EMU_EXPORT int hipMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) { return fill("hipMemset2D", to, static_cast<uint32_t>(value), 1, width, height, pitch, nullptr, false); }
EMU_EXPORT int hipMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, void* stream) {
    return fill("hipMemset2DAsync", to, static_cast<uint32_t>(value), 1, width, height, pitch, stream, true);
}
EMU_EXPORT int hipMemset3DAsync(PitchedPointer to, int value, Extent extent, void* stream) {
    return api("hipMemset3DAsync", [&] {
        FillOperation f = make_fill(to.ptr, static_cast<uint32_t>(value), 1, extent.width, extent.height, to.pitch);
        f.slices = extent.depth, f.slice = to.pitch * to.ysize;
        submit(stream, f);
    });
}
EMU_EXPORT int hipMemset3D(PitchedPointer to, int value, Extent extent) { return hipMemset3DAsync(to, value, extent, nullptr); }
