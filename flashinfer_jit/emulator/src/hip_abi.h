// The part of the HIP runtime's binary interface that the emulated device implements: error codes, enumerations and structs with
// the layout that clang's launch stubs and hip-python 10 (HIP 7) expect. Only the interface is taken from HIP; the text is ours.
#pragma once
#include <cstddef>
#include <cstdint>

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

namespace emu {

enum Error : int {
    hipSuccess = 0,
    hipErrorInvalidValue = 1,
    hipErrorOutOfMemory = 2,
    hipErrorNotInitialized = 3,
    hipErrorInvalidConfiguration = 9,
    hipErrorInvalidPitchValue = 12,
    hipErrorInvalidSymbol = 13,
    hipErrorInvalidDevicePointer = 17,
    hipErrorInvalidMemcpyDirection = 21,
    hipErrorInvalidDeviceFunction = 98,
    hipErrorNoDevice = 100,
    hipErrorInvalidDevice = 101,
    hipErrorInvalidImage = 200,
    hipErrorInvalidContext = 201,
    hipErrorNoBinaryForGpu = 209,
    hipErrorUnsupportedLimit = 215,
    hipErrorPeerAccessUnsupported = 217,
    hipErrorInvalidKernelFile = 218,
    hipErrorFileNotFound = 301,
    hipErrorSharedObjectSymbolNotFound = 302,
    hipErrorOperatingSystem = 304,
    hipErrorInvalidHandle = 400,
    hipErrorIllegalState = 401,
    hipErrorNotFound = 500,
    hipErrorNotReady = 600,
    hipErrorIllegalAddress = 700,
    hipErrorLaunchOutOfResources = 701,
    hipErrorLaunchTimeOut = 702,
    hipErrorPeerAccessNotEnabled = 705,
    hipErrorHostMemoryAlreadyRegistered = 712,
    hipErrorHostMemoryNotRegistered = 713,
    hipErrorLaunchFailure = 719,
    hipErrorCooperativeLaunchTooLarge = 720,
    hipErrorNotSupported = 801,
    hipErrorStreamCaptureUnsupported = 900,
    hipErrorStreamCaptureInvalidated = 901,
    hipErrorStreamCaptureMerge = 902,
    hipErrorStreamCaptureUnmatched = 903,
    hipErrorStreamCaptureUnjoined = 904,
    hipErrorStreamCaptureIsolation = 905,
    hipErrorStreamCaptureImplicit = 906,
    hipErrorCapturedEvent = 907,
    hipErrorStreamCaptureWrongThread = 908,
    hipErrorGraphExecUpdateFailure = 910,
    hipErrorUnknown = 999,
};
const char* error_name(int code);

struct Dim3 { uint32_t x, y, z; };
struct Extent { size_t width, height, depth; };
struct Position { size_t x, y, z; };
struct PitchedPointer { void* ptr; size_t pitch, xsize, ysize; };

enum MemcpyKind : int { hipMemcpyHostToHost, hipMemcpyHostToDevice, hipMemcpyDeviceToHost, hipMemcpyDeviceToDevice, hipMemcpyDefault };
enum MemoryType : int { hipMemoryTypeUnregistered = 0, hipMemoryTypeHost = 1, hipMemoryTypeDevice = 2, hipMemoryTypeManaged = 3, hipMemoryTypeArray = 10, hipMemoryTypeUnified = 11 };

struct PointerAttributes {
    int type, device;
    void* devicePointer;
    void* hostPointer;
    int isManaged;
    uint32_t allocationFlags;
};

struct FuncAttributes {
    int binaryVersion, cacheModeCA;
    size_t constSizeBytes, localSizeBytes;
    int maxDynamicSharedSizeBytes, maxThreadsPerBlock, numRegs, preferredShmemCarveout, ptxVersion;
    size_t sharedSizeBytes;
};

struct Memcpy2DParams {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void* srcHost;
    void* srcDevice;
    void* srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    int dstMemoryType;
    void* dstHost;
    void* dstDevice;
    void* dstArray;
    size_t dstPitch;
    size_t WidthInBytes, Height;
};

struct Memcpy3DParams {
    void* srcArray;
    Position srcPos;
    PitchedPointer srcPtr;
    void* dstArray;
    Position dstPos;
    PitchedPointer dstPtr;
    Extent extent;
    int kind;
};

struct KernelNodeParams {
    Dim3 blockDim;
    void** extra;
    void* func;
    Dim3 gridDim;
    void** kernelParams;
    uint32_t sharedMemBytes;
};

struct MemsetParams {
    void* dst;
    uint32_t elementSize;
    size_t height, pitch;
    uint32_t value;
    size_t width;
};

using HostFunction = void (*)(void*);
struct HostNodeParams { HostFunction fn; void* userData; };

struct LaunchConfig { uint32_t grid[3], block[3]; uint32_t shared_bytes; void* stream; void* attributes; uint32_t attribute_count; };
struct RuntimeLaunchConfig { Dim3 gridDim, blockDim; size_t dynamicSmemBytes; void* stream; void* attributes; uint32_t attribute_count; };
struct LaunchParams { void* func; Dim3 gridDim, blockDim; void** args; size_t sharedMem; void* stream; };

// hipDeviceProp_tR0600: 1472 bytes.
struct DeviceProperties {
    char name[256];
    char uuid[16];
    char luid[8];
    uint32_t luidDeviceNodeMask;
    size_t totalGlobalMem, sharedMemPerBlock;
    int regsPerBlock, warpSize;
    size_t memPitch;
    int maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3], clockRate;
    size_t totalConstMem;
    int major, minor;
    size_t textureAlignment, texturePitchAlignment;
    int deviceOverlap, multiProcessorCount, kernelExecTimeoutEnabled, integrated, canMapHostMemory, computeMode;
    int maxTexture1D, maxTexture1DMipmap, maxTexture1DLinear, maxTexture2D[2], maxTexture2DMipmap[2], maxTexture2DLinear[3], maxTexture2DGather[2];
    int maxTexture3D[3], maxTexture3DAlt[3], maxTextureCubemap, maxTexture1DLayered[2], maxTexture2DLayered[3], maxTextureCubemapLayered[2];
    int maxSurface1D, maxSurface2D[2], maxSurface3D[3], maxSurface1DLayered[2], maxSurface2DLayered[3], maxSurfaceCubemap, maxSurfaceCubemapLayered[2];
    size_t surfaceAlignment;
    int concurrentKernels, ECCEnabled, pciBusID, pciDeviceID, pciDomainID, tccDriver, asyncEngineCount, unifiedAddressing;
    int memoryClockRate, memoryBusWidth, l2CacheSize, persistingL2CacheMaxSize, maxThreadsPerMultiProcessor, streamPrioritiesSupported;
    int globalL1CacheSupported, localL1CacheSupported;
    size_t sharedMemPerMultiprocessor;
    int regsPerMultiprocessor, managedMemory, isMultiGpuBoard, multiGpuBoardGroupID, hostNativeAtomicSupported, singleToDoublePrecisionPerfRatio;
    int pageableMemoryAccess, concurrentManagedAccess, computePreemptionSupported, canUseHostPointerForRegisteredMem;
    int cooperativeLaunch, cooperativeMultiDeviceLaunch;
    size_t sharedMemPerBlockOptin;
    int pageableMemoryAccessUsesHostPageTables, directManagedMemAccessFromHost, maxBlocksPerMultiProcessor, accessPolicyMaxWindowSize;
    size_t reservedSharedMemPerBlock;
    int hostRegisterSupported, sparseHipArraySupported, hostRegisterReadOnlySupported, timelineSemaphoreInteropSupported, memoryPoolsSupported;
    int gpuDirectRDMASupported;
    uint32_t gpuDirectRDMAFlushWritesOptions;
    int gpuDirectRDMAWritesOrdering;
    uint32_t memoryPoolSupportedHandleTypes;
    int deferredMappingHipArraySupported, ipcEventSupported, clusterLaunch, unifiedFunctionPointers;
    int reserved[63], hipReserved[32];
    char gcnArchName[256];
    size_t maxSharedMemoryPerMultiProcessor;
    int clockInstructionRate;
    uint32_t arch;   // 17 feature bits
    void* hdpMemFlushCntl;
    void* hdpRegFlushCntl;
    int cooperativeMultiDeviceUnmatchedFunc, cooperativeMultiDeviceUnmatchedGridDim, cooperativeMultiDeviceUnmatchedBlockDim;
    int cooperativeMultiDeviceUnmatchedSharedMem, isLargeBar, asicRevision;
};
static_assert(sizeof(DeviceProperties) == 1472 && offsetof(DeviceProperties, gcnArchName) == 1160 && offsetof(DeviceProperties, totalGlobalMem) == 288 &&
              offsetof(DeviceProperties, multiProcessorCount) == 388 && offsetof(DeviceProperties, l2CacheSize) == 616 &&
              offsetof(DeviceProperties, asicRevision) == 1468, "hipDeviceProp_tR0600 must have HIP 7's layout");

}  // namespace emu
