// The two emulated devices, the state of a host thread, and the frame around every exported call.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <string>
#include <vector>

#include "failure.h"
#include "fork.h"
#include "launch.h"

namespace emu {

// What a device reports about itself. Sources: AMD's data sheets of MI300X and MI355X; ROCm's rocminfo for the rest.
struct DeviceInfo {
    Arch arch;
    const char* name;
    const char* target;      // gcnArchName
    uint32_t compute_units, xccs, clock_khz, memory_clock_khz, memory_bus_bits;
    uint64_t memory_bytes;
    uint32_t lds_bytes, l2_bytes;
};
constexpr int kDevices = 2;
const DeviceInfo& device_info(int device);
// Waves of one SIMD that fit, and workgroups of one compute unit.
uint32_t waves_per_simd(const Kernel& kernel);
uint32_t groups_per_cu(const Kernel& kernel, int device, uint32_t block_size, uint32_t dynamic_lds);
uint32_t vgprs_of(const Kernel& kernel);

// A device whose kernel faulted returns that error from every later piece of work until it is reset, as on hardware.
class DeviceState {
public:
    void poison(Error code, const std::string& why);
    void recover();
    void check();   // throws Failure
private:
    std::mutex mutex_;
    std::atomic<int> code_{0};
    std::string why_;
};
DeviceState& device_state(int device);

// Held shared while kernels run and exclusively while memory goes away: hipFree waits for the device.
std::shared_mutex& device_busy();
// Makes a mutex that no other is taken under safe in forked children.
inline void guard_innermost(std::mutex& mutex) {
    device_busy();   // guarded first: launches hold it while they take the others
    guard_for_fork(mutex);
}

struct CallConfiguration { Dim3 grid, block; size_t shared_bytes; void* stream; };

struct ThreadState {
    int device = 0;
    int last_error = hipSuccess;      // until hipGetLastError takes it
    int last_call_error = hipSuccess; // of the call before (hipExtGetLastError)
    std::string last_text;            // the sentence behind last_error
    std::vector<CallConfiguration> configurations;
    std::vector<OwnedRange> ranges;   // for this thread's next launch
    std::shared_ptr<const TimingRequest> timing;   // its launches are timed, where set
    int capture_mode = 0;
};
ThreadState& this_thread();
int check_device_ordinal(int device);

// Runs the body of an exported call; a Failure becomes its return value and the thread's last error.
void remember_failure(const char* call, int code, const std::string& text);
template <typename Body>
int api(const char* call, Body&& body) {
    this_thread().last_call_error = hipSuccess;
    try {
        body();
        return hipSuccess;
    } catch (const Failure& f) {
        // "Not ready" is an answer, not an error.
        if (f.code != hipErrorNotReady) remember_failure(call, f.code, f.message);
        return f.code;
    } catch (const std::bad_alloc&) {
        remember_failure(call, hipErrorOutOfMemory, "the host has no memory left");
        return hipErrorOutOfMemory;
    } catch (const std::exception& e) {
        remember_failure(call, hipErrorUnknown, e.what());
        return hipErrorUnknown;
    }
}
template <typename T>
T* require(T* pointer, const char* name) {
    if (!pointer) fail(hipErrorInvalidValue, "%s is null", name);
    return pointer;
}

// Launches `request`; a fault poisons the device and is thrown as Failure. Keeps the result for last_report().
void launch_now(const LaunchRequest& request);
std::shared_ptr<const LaunchResult> last_result();

}  // namespace emu
