// Modules, and the kernels and variables that a host program's fat binaries registered.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "device.h"
#include "loader.h"

namespace emu {

struct Function {
    const Kernel* kernel = nullptr;
    std::shared_ptr<const CodeObject> object;
    int device = 0;
    uint32_t max_dynamic_lds = 0;   // hipFuncSetAttribute
};

// A loaded code object on one device.
struct Module {
    Module(Bytes image, int device);
    ~Module();
    Module(const Module&) = delete;
    Module& operator=(const Module&) = delete;
    Function* function(const std::string& name);   // null: no such kernel
    std::shared_ptr<const CodeObject> object;
    int device;

private:
    std::mutex mutex_;
    std::map<std::string, std::unique_ptr<Function>> functions_;
};

// A hipFunction_t; throws Failure where it is none.
Function& find_function(void* handle);
// A __global__ function's host address on a device: loads its fat binary's code object at first use.
Function& find_host_function(const void* symbol, int device);
// Either of them, as hipGraph kernel nodes take.
Function& find_any_function(const void* handle, int device);
struct Variable { void* address; uint64_t bytes; };
Variable find_host_variable(const void* symbol, int device);

LaunchRequest make_request(const Function& function, Dim3 grid, Dim3 block, uint64_t dynamic_lds, bool cooperative);
// Explicit arguments from kernelParams or from `extra`; exactly one of them may be given.
std::vector<uint8_t> arguments_of(const Kernel& kernel, void* const* arguments, void* const* extra);

}  // namespace emu
