// Devices: 0 is an MI300X (gfx942), 1 an MI355X (gfx950). Properties, attributes, occupancy limits, sticky faults, peers.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "bundle.h"
#include "stream.h"

namespace emu {
namespace {

// Compute units, clocks, memory, LDS and L2 of one die from AMD's MI300X and MI355X data sheets and CDNA3/CDNA4 white papers.
const DeviceInfo kInfo[kDevices] = {
    {Arch::gfx942, "Emulated MI300X", "gfx942:sramecc+:xnack-", 304, 8, 2100000, 1300000, 8192, 206158430208ull, 65536, 4u << 20},
    {Arch::gfx950, "Emulated MI355X", "gfx950:sramecc+:xnack-", 256, 8, 2400000, 2000000, 8192, 309237645312ull, 163840, 4u << 20},
};
constexpr uint32_t kSimds = 4, kWavesPerSimd = 8, kVgprsPerSimd = 512, kThreadsPerCu = 2048;
constexpr int kHipVersion = 71526333;   // HIP 7.15, the version hip-python 10 was made for

}  // namespace

const DeviceInfo& device_info(int device) { return kInfo[device]; }

DeviceState& device_state(int device) {
    static DeviceState* const states = new DeviceState[kDevices];
    return states[device];
}

std::shared_mutex& device_busy() {
    static std::shared_mutex* const mutex = [] {
        auto* made = new std::shared_mutex;
        guard_for_fork(*made);
        return made;
    }();
    return *mutex;
}

void DeviceState::poison(Error code, const std::string& why) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (code_) return;
    why_ = why;
    code_ = code;
}

void DeviceState::recover() {
    std::lock_guard<std::mutex> lock(mutex_);
    code_ = 0;
    why_.clear();
}

void DeviceState::check() {
    if (!code_.load(std::memory_order_relaxed)) return;
    std::lock_guard<std::mutex> lock(mutex_);
    fail(static_cast<Error>(code_.load()), "an earlier kernel faulted and the device has not been reset since (hipDeviceReset): %s", why_.c_str());
}

int check_device_ordinal(int device) {
    if (device < 0 || device >= kDevices) fail(hipErrorInvalidDevice, "there is no device %d: the emulator has devices 0 (gfx942) and 1 (gfx950)", device);
    return device;
}

// gfx90a and later: VGPRs come in granules of 8, out of 512 for VGPRs and AccVGPRs together.
uint32_t vgprs_of(const Kernel& k) { return ((k.rsrc1 & 0x3f) + 1) * 8; }
uint32_t waves_per_simd(const Kernel& k) { return std::clamp<uint32_t>(kVgprsPerSimd / vgprs_of(k), 1, kWavesPerSimd); }

uint32_t groups_per_cu(const Kernel& k, int device, uint32_t block_size, uint32_t dynamic_lds) {
    if (block_size == 0 || block_size > 1024) return 0;
    const uint32_t waves = (block_size + kLanes - 1) / kLanes;
    uint32_t groups = std::min(kSimds * waves_per_simd(k), kThreadsPerCu / kLanes) / waves;
    const uint64_t lds = static_cast<uint64_t>(k.lds_bytes) + dynamic_lds;
    if (lds) groups = static_cast<uint32_t>(std::min<uint64_t>(groups, kInfo[device].lds_bytes / lds));
    return groups;
}

namespace {

void fill_properties(DeviceProperties& p, int device) {
    const DeviceInfo& d = kInfo[device];
    std::memset(&p, 0, sizeof p);
    std::snprintf(p.name, sizeof p.name, "%s", d.name);
    std::snprintf(p.uuid, sizeof p.uuid, "EMU-%s-%d", arch_name(d.arch), device);
    std::snprintf(p.gcnArchName, sizeof p.gcnArchName, "%s", d.target);
    p.totalGlobalMem = d.memory_bytes;
    p.sharedMemPerBlock = p.sharedMemPerMultiprocessor = p.maxSharedMemoryPerMultiProcessor = p.sharedMemPerBlockOptin = d.lds_bytes;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = kLanes;
    p.memPitch = 0x7fffffff;
    p.maxThreadsPerBlock = 1024;
    for (int& n : p.maxThreadsDim) n = 1024;
    p.maxGridSize[0] = 0x7fffffff, p.maxGridSize[1] = p.maxGridSize[2] = 65536;
    p.clockRate = static_cast<int>(d.clock_khz);
    p.totalConstMem = 0x7fffffff;
    p.major = 9, p.minor = d.arch == Arch::gfx942 ? 4 : 5;
    p.textureAlignment = p.texturePitchAlignment = p.surfaceAlignment = 256;
    p.multiProcessorCount = static_cast<int>(d.compute_units);
    p.canMapHostMemory = p.concurrentKernels = p.ECCEnabled = p.unifiedAddressing = p.streamPrioritiesSupported = p.managedMemory = 1;
    p.asyncEngineCount = 1;
    p.pciBusID = device + 1;
    p.memoryClockRate = static_cast<int>(d.memory_clock_khz);
    p.memoryBusWidth = static_cast<int>(d.memory_bus_bits);
    p.l2CacheSize = static_cast<int>(d.l2_bytes);
    p.maxThreadsPerMultiProcessor = kThreadsPerCu;
    p.globalL1CacheSupported = p.localL1CacheSupported = 1;
    p.hostNativeAtomicSupported = p.canUseHostPointerForRegisteredMem = p.hostRegisterSupported = 1;
    p.cooperativeLaunch = p.memoryPoolsSupported = p.unifiedFunctionPointers = 1;
    p.singleToDoublePrecisionPerfRatio = 2;
    p.maxBlocksPerMultiProcessor = 32;
    p.clockInstructionRate = 100000;
    p.arch = 0x1ffff & ~(1u << 14 | 1u << 16);   // everything but surfaces and dynamic parallelism
    p.isLargeBar = 1;
    p.asicRevision = 1;
}

// hipDeviceAttribute_t; what a device does not have is 0, as HIP answers.
int attribute(int which, int device) {
    static DeviceProperties* const properties = [] {
        auto* p = new DeviceProperties[kDevices];
        for (int n = 0; n < kDevices; ++n) fill_properties(p[n], n);
        return p;
    }();
    const DeviceProperties& p = properties[device];
    const DeviceInfo& d = kInfo[device];
    switch (which) {
        case 0: return p.ECCEnabled;
        case 2: return p.asyncEngineCount;
        case 3: return p.canMapHostMemory;
        case 4: return p.canUseHostPointerForRegisteredMem;
        case 5: return p.clockRate;
        case 8: return p.concurrentKernels;
        case 10: return p.cooperativeLaunch;
        case 14: return p.globalL1CacheSupported;
        case 15: return p.hostNativeAtomicSupported;
        case 19: return p.l2CacheSize;
        case 20: return p.localL1CacheSupported;
        case 23: return p.major;
        case 24: return p.managedMemory;
        case 25: return p.maxBlocksPerMultiProcessor;
        case 26: case 27: case 28: return 1024;
        case 29: return p.maxGridSize[0];
        case 30: return p.maxGridSize[1];
        case 31: return p.maxGridSize[2];
        case 55: return 1024;
        case 56: return p.maxThreadsPerBlock;
        case 57: return p.maxThreadsPerMultiProcessor;
        case 58: return static_cast<int>(p.memPitch);
        case 59: return p.memoryBusWidth;
        case 60: return p.memoryClockRate;
        case 61: return p.minor;
        case 63: case 10015: return p.multiProcessorCount;
        case 67: return p.pciBusID;
        case 71: return p.regsPerBlock;
        case 72: return p.regsPerMultiprocessor;
        case 74: case 75: case 76: case 10002: return static_cast<int>(d.lds_bytes);
        case 77: return p.singleToDoublePrecisionPerfRatio;
        case 78: return 1;
        case 79: case 81: case 82: return 256;
        case 83: return static_cast<int>(p.totalConstMem);
        case 84: return static_cast<int>(std::min<size_t>(p.totalGlobalMem, 0x7fffffff));
        case 85: return 1;
        case 87: return p.warpSize;
        case 88: return p.memoryPoolsSupported;
        case 90: return p.hostRegisterSupported;
        case 10000: return p.clockInstructionRate;
        case 10011: return p.isLargeBar;
        case 10012: return p.asicRevision;
        case 10016: return 1;
        case 10017: return 100000;
        case 10018: return static_cast<int>(d.xccs);
        case 10019: return kVgprsPerSimd;
        default: break;
    }
    if ((which >= 0 && which <= 95) || (which >= 10000 && which <= 10022)) return 0;
    fail(hipErrorInvalidValue, "%d is no device attribute", which);
}

}  // namespace
}  // namespace emu

using namespace emu;

EMU_EXPORT int hipInit(uint32_t flags) {
    return api("hipInit", [&] {
        if (flags) fail(hipErrorInvalidValue, "flags must be 0, not %u", flags);
    });
}
EMU_EXPORT int hipDriverGetVersion(int* version) {
    return api("hipDriverGetVersion", [&] { *require(version, "driverVersion") = kHipVersion; });
}
EMU_EXPORT int hipRuntimeGetVersion(int* version) {
    return api("hipRuntimeGetVersion", [&] { *require(version, "runtimeVersion") = kHipVersion; });
}
EMU_EXPORT int hipGetDeviceCount(int* count) {
    return api("hipGetDeviceCount", [&] { *require(count, "count") = kDevices; });
}
EMU_EXPORT int hipGetDevice(int* device) {
    return api("hipGetDevice", [&] { *require(device, "deviceId") = this_thread().device; });
}
EMU_EXPORT int hipSetDevice(int device) {
    return api("hipSetDevice", [&] { this_thread().device = check_device_ordinal(device); });
}
EMU_EXPORT int hipDeviceGet(int* device, int ordinal) {
    return api("hipDeviceGet", [&] { *require(device, "device") = check_device_ordinal(ordinal); });
}
EMU_EXPORT int hipGetDevicePropertiesR0600(DeviceProperties* properties, int device) {
    return api("hipGetDeviceProperties", [&] { fill_properties(*require(properties, "prop"), check_device_ordinal(device)); });
}
EMU_EXPORT int hipDeviceGetAttribute(int* value, int which, int device) {
    return api("hipDeviceGetAttribute", [&] { *require(value, "pi") = attribute(which, check_device_ordinal(device)); });
}
EMU_EXPORT int hipDeviceGetName(char* name, int bytes, int device) {
    return api("hipDeviceGetName", [&] {
        check_device_ordinal(device);
        if (bytes <= 0) fail(hipErrorInvalidValue, "len must be positive, not %d", bytes);
        std::snprintf(require(name, "name"), static_cast<size_t>(bytes), "%s", kInfo[device].name);
    });
}
EMU_EXPORT int hipDeviceGetUuid(char* uuid, int device) {
    return api("hipDeviceGetUuid", [&] {
        DeviceProperties p;
        fill_properties(p, check_device_ordinal(device));
        std::memcpy(require(uuid, "uuid"), p.uuid, sizeof p.uuid);
    });
}
EMU_EXPORT int hipDeviceComputeCapability(int* major, int* minor, int device) {
    return api("hipDeviceComputeCapability", [&] {
        *require(major, "major") = attribute(23, check_device_ordinal(device));
        *require(minor, "minor") = attribute(61, device);
    });
}
EMU_EXPORT int hipDeviceTotalMem(size_t* bytes, int device) {
    return api("hipDeviceTotalMem", [&] { *require(bytes, "bytes") = kInfo[check_device_ordinal(device)].memory_bytes; });
}
EMU_EXPORT int hipDeviceGetPCIBusId(char* text, int bytes, int device) {
    return api("hipDeviceGetPCIBusId", [&] {
        check_device_ordinal(device);
        if (bytes < 13) fail(hipErrorInvalidValue, "len must be at least 13, not %d", bytes);
        std::snprintf(require(text, "pciBusId"), static_cast<size_t>(bytes), "0000:%02x:00.0", device + 1);
    });
}
EMU_EXPORT int hipDeviceGetByPCIBusId(int* device, const char* text) {
    return api("hipDeviceGetByPCIBusId", [&] {
        uint32_t domain, bus;
        if (std::sscanf(require(text, "pciBusId"), "%x:%x", &domain, &bus) != 2 || domain != 0 || bus < 1 || bus > kDevices) fail(hipErrorInvalidDevice, "there is no device at %s", text);
        *require(device, "device") = static_cast<int>(bus) - 1;
    });
}
EMU_EXPORT int hipDeviceSynchronize() {
    return api("hipDeviceSynchronize", [&] {
        forbid_while_capturing("hipDeviceSynchronize");
        device_state(this_thread().device).check();
    });
}
// Unlike HIP this keeps memory and modules: only the fault is forgotten, so that other owners in the process can go on.
EMU_EXPORT int hipDeviceReset() {
    return api("hipDeviceReset", [&] { device_state(this_thread().device).recover(); });
}
// Forgets faults on both devices and this thread's last error; nothing was damaged, since a fault stops a kernel before it touches anything.
EMU_EXPORT void fij_emu_recover() {
    for (int n = 0; n < kDevices; ++n) device_state(n).recover();
    this_thread().last_error = hipSuccess;
}

EMU_EXPORT int hipDeviceCanAccessPeer(int* can, int device, int peer) {
    return api("hipDeviceCanAccessPeer", [&] {
        check_device_ordinal(device), check_device_ordinal(peer);
        *require(can, "canAccessPeer") = 0;
    });
}
EMU_EXPORT int hipDeviceEnablePeerAccess(int peer, uint32_t) {
    return api("hipDeviceEnablePeerAccess", [&] { fail(hipErrorPeerAccessUnsupported, "device %d cannot reach device %d", this_thread().device, check_device_ordinal(peer)); });
}
EMU_EXPORT int hipDeviceDisablePeerAccess(int peer) {
    return api("hipDeviceDisablePeerAccess", [&] { fail(hipErrorPeerAccessNotEnabled, "access to device %d was never enabled", check_device_ordinal(peer)); });
}
EMU_EXPORT int hipDeviceGetP2PAttribute(int* value, int which, int device, int peer) {
    return api("hipDeviceGetP2PAttribute", [&] {
        check_device_ordinal(device), check_device_ordinal(peer);
        if (which < 0 || which > 3 || device == peer) fail(hipErrorInvalidValue, "no peer attribute %d between devices %d and %d", which, device, peer);
        *require(value, "value") = 0;
    });
}

EMU_EXPORT int hipDeviceSetCacheConfig(int) { return hipSuccess; }
EMU_EXPORT int hipDeviceGetCacheConfig(int* config) {
    return api("hipDeviceGetCacheConfig", [&] { *require(config, "cacheConfig") = 0; });
}
EMU_EXPORT int hipDeviceSetSharedMemConfig(int) { return hipSuccess; }
EMU_EXPORT int hipDeviceGetSharedMemConfig(int* config) {
    return api("hipDeviceGetSharedMemConfig", [&] { *require(config, "pConfig") = 0; });
}
EMU_EXPORT int hipSetDeviceFlags(uint32_t) { return hipSuccess; }
EMU_EXPORT int hipGetDeviceFlags(uint32_t* flags) {
    return api("hipGetDeviceFlags", [&] { *require(flags, "flags") = 0; });
}
constexpr int kLimitStack = 0;
EMU_EXPORT int hipDeviceGetLimit(size_t* value, int limit) {
    return api("hipDeviceGetLimit", [&] {
        if (limit != kLimitStack) fail(hipErrorUnsupportedLimit, "limit %d is not supported: the emulator knows hipLimitStackSize (0)", limit);
        *require(value, "pValue") = stack_limit();
    });
}
EMU_EXPORT int hipDeviceSetLimit(int limit, size_t value) {
    return api("hipDeviceSetLimit", [&] {
        if (limit != kLimitStack) fail(hipErrorUnsupportedLimit, "limit %d is not supported: the emulator knows hipLimitStackSize (0)", limit);
        if (value > kLargestStack) fail(hipErrorInvalidValue, "a stack of %zu bytes a lane; at most %u are possible", value, kLargestStack);
        set_stack_limit(static_cast<uint32_t>(value));
    });
}
EMU_EXPORT int hipDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return api("hipDeviceGetStreamPriorityRange", [&] {
        if (least) *least = 1;
        if (greatest) *greatest = -1;
    });
}
EMU_EXPORT int hipDevicePrimaryCtxGetState(int device, uint32_t* flags, int* active) {
    return api("hipDevicePrimaryCtxGetState", [&] {
        check_device_ordinal(device);
        if (flags) *flags = 0;
        if (active) *active = 1;
    });
}
