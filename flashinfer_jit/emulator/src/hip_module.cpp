// Modules and kernels: loading code objects, finding kernels and variables, and the registration calls that clang puts into host programs.
#include "module.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "stream.h"

namespace emu {
namespace {

// What `__hipRegisterFatBinary` was given, with the module of each device made at first use.
struct FatBinary {
    const void* bundle = nullptr;
    std::mutex mutex;
    std::unique_ptr<Module> modules[kDevices];

    Module& module(int device) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!modules[device]) modules[device].reset(new Module({static_cast<const uint8_t*>(bundle), readable_bytes(bundle)}, device));
        return *modules[device];
    }
};

struct HostFunctionEntry { FatBinary* binary; std::string name; Function* resolved[kDevices] = {nullptr, nullptr}; };
struct HostVariableEntry { FatBinary* binary; std::string name; uint64_t bytes; void** managed; };

struct Programs {
    std::shared_mutex mutex;
    std::unordered_map<const void*, HostFunctionEntry> functions;
    std::unordered_map<const void*, HostVariableEntry> variables;
    std::unordered_set<const void*> live_functions, live_modules;
};
Programs& programs() {
    static Programs* const instance = [] {
        auto* made = new Programs;
        device_busy();
        guard_for_fork(made->mutex);
        return made;
    }();
    return *instance;
}

constexpr uint32_t kWrapperMagic = 0x48495046;   // "FPIH" in memory

}  // namespace

Module::Module(Bytes image, int on_device) : device(on_device) {
    std::vector<uint8_t> storage;
    const Arch arch = device_info(device).arch;
    object = std::shared_ptr<const CodeObject>(load_code_object(select_code_object(image, arch, storage), arch));
    Allocation a;
    a.begin = reinterpret_cast<uint64_t>(object->image.get());
    a.bytes = object->image_bytes;
    a.kind = Allocation::code;
    a.device = device;
    a.writable_pages = object->writable_pages;
    registry().add(std::move(a));
}

Module::~Module() {
    std::unique_lock<std::shared_mutex> idle(device_busy());
    Allocation a;
    registry().remove(reinterpret_cast<uint64_t>(object->image.get()), 1u << Allocation::code, a);
    std::unique_lock<std::shared_mutex> lock(programs().mutex);
    for (const auto& f : functions_) programs().live_functions.erase(f.second.get());
}

Function* Module::function(const std::string& name) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto known = functions_.find(name);
    if (known != functions_.end()) return known->second.get();
    for (const Kernel& k : object->kernels) {
        if (k.name != name && k.symbol != name + ".kd") continue;
        std::unique_ptr<Function> made(new Function{&k, object, device, 0});
        Function* const raw = made.get();
        functions_[name] = std::move(made);
        std::unique_lock<std::shared_mutex> live(programs().mutex);
        programs().live_functions.insert(raw);
        return raw;
    }
    return nullptr;
}

Function& find_function(void* handle) {
    std::shared_lock<std::shared_mutex> lock(programs().mutex);
    if (!programs().live_functions.count(handle)) fail(hipErrorInvalidHandle, "%p is no kernel of a loaded module", handle);
    return *static_cast<Function*>(handle);
}

Function& find_host_function(const void* symbol, int device) {
    FatBinary* binary;
    std::string name;
    {
        std::shared_lock<std::shared_mutex> lock(programs().mutex);
        const auto at = programs().functions.find(symbol);
        if (at == programs().functions.end()) fail(hipErrorInvalidDeviceFunction, "%p is no kernel that a host program registered", symbol);
        if (at->second.resolved[device]) return *at->second.resolved[device];
        binary = at->second.binary;
        name = at->second.name;
    }
    Function* const f = binary->module(device).function(name);
    if (!f) fail(hipErrorInvalidDeviceFunction, "the code object for %s has no kernel '%s'", arch_name(device_info(device).arch), name.c_str());
    std::unique_lock<std::shared_mutex> lock(programs().mutex);
    const auto at = programs().functions.find(symbol);
    if (at != programs().functions.end()) at->second.resolved[device] = f;
    return *f;
}

Function& find_any_function(const void* handle, int device) {
    {
        std::shared_lock<std::shared_mutex> lock(programs().mutex);
        if (programs().live_functions.count(handle)) return *static_cast<Function*>(const_cast<void*>(handle));
    }
    return find_host_function(handle, device);
}

namespace {

Variable find_variable(const CodeObject& object, const std::string& name) {
    for (const CodeObject::Symbol& s : object.variables)
        if (s.name == name) return {reinterpret_cast<void*>(s.address), s.size};
    return {nullptr, 0};
}

}  // namespace

Variable find_host_variable(const void* symbol, int device) {
    FatBinary* binary;
    std::string name;
    {
        std::shared_lock<std::shared_mutex> lock(programs().mutex);
        const auto at = programs().variables.find(symbol);
        if (at == programs().variables.end()) fail(hipErrorInvalidSymbol, "%p is no device variable that a host program registered", symbol);
        binary = at->second.binary;
        name = at->second.name;
    }
    const Variable v = find_variable(*binary->module(device).object, name);
    if (!v.address) fail(hipErrorInvalidSymbol, "the code object for %s has no variable '%s'", arch_name(device_info(device).arch), name.c_str());
    return v;
}

namespace {

void load_module(void** module, Bytes image) {
    require(module, "module");
    require(image.data, "image");
    Module* const made = new Module(image, this_thread().device);
    std::unique_lock<std::shared_mutex> lock(programs().mutex);
    programs().live_modules.insert(made);
    *module = made;
}

Module& find_module(void* handle) {
    std::shared_lock<std::shared_mutex> lock(programs().mutex);
    if (!programs().live_modules.count(handle)) fail(hipErrorInvalidHandle, "%p is no loaded module", handle);
    return *static_cast<Module*>(handle);
}

Bytes unsized(const void* image) { return {static_cast<const uint8_t*>(image), image ? readable_bytes(image) : 0}; }

std::vector<uint8_t> read_file(const char* path) {
    std::FILE* file = std::fopen(path, "rbe");
    if (!file) fail(hipErrorFileNotFound, "cannot open '%s'", path);
    std::vector<uint8_t> bytes;
    uint8_t piece[65536];
    for (size_t got; (got = std::fread(piece, 1, sizeof piece, file)) > 0;) bytes.insert(bytes.end(), piece, piece + got);
    std::fclose(file);
    return bytes;
}

}  // namespace
}  // namespace emu

using namespace emu;

EMU_EXPORT int hipModuleLoadData(void** module, const void* image) {
    return api("hipModuleLoadData", [&] { load_module(module, unsized(image)); });
}
EMU_EXPORT int hipModuleLoadDataEx(void** module, const void* image, uint32_t, int*, void**) {
    return api("hipModuleLoadDataEx", [&] { load_module(module, unsized(image)); });
}
EMU_EXPORT int hipModuleLoadFatBinary(void** module, const void* image) {
    return api("hipModuleLoadFatBinary", [&] { load_module(module, unsized(image)); });
}
// As hipModuleLoadData, for callers that know how many bytes they have.
EMU_EXPORT int fij_emu_module_load(void** module, const void* image, uint64_t bytes) {
    return api("loading a code object", [&] { load_module(module, {static_cast<const uint8_t*>(image), bytes}); });
}
EMU_EXPORT int hipModuleLoad(void** module, const char* path) {
    return api("hipModuleLoad", [&] {
        const std::vector<uint8_t> bytes = read_file(require(path, "fname"));
        load_module(module, {bytes.data(), bytes.size()});
    });
}
EMU_EXPORT int hipModuleUnload(void* handle) {
    return api("hipModuleUnload", [&] {
        Module* const module = &find_module(handle);
        {
            std::unique_lock<std::shared_mutex> lock(programs().mutex);
            programs().live_modules.erase(handle);
        }
        delete module;
    });
}
EMU_EXPORT int hipModuleGetFunction(void** function, void* handle, const char* name) {
    return api("hipModuleGetFunction", [&] {
        require(function, "function");
        require(name, "kname");
        Module& module = find_module(handle);
        *function = module.function(name);
        if (*function) return;
        std::string present;
        for (const Kernel& k : module.object->kernels)
            if (present.size() < 400) present += (present.empty() ? "" : ", ") + k.name;
        fail(hipErrorNotFound, "the module has no kernel '%s'; it has: %s", name, present.empty() ? "none" : present.c_str());
    });
}
EMU_EXPORT int hipModuleGetFunctionCount(uint32_t* count, void* handle) {
    return api("hipModuleGetFunctionCount", [&] { *require(count, "count") = static_cast<uint32_t>(find_module(handle).object->kernels.size()); });
}
EMU_EXPORT int hipModuleGetGlobal(void** address, size_t* bytes, void* handle, const char* name) {
    return api("hipModuleGetGlobal", [&] {
        const Variable v = find_variable(*find_module(handle).object, require(name, "name"));
        if (!v.address) fail(hipErrorNotFound, "the module has no variable '%s'", name);
        if (address) *address = v.address;
        if (bytes) *bytes = v.bytes;
    });
}
// Names of a module's kernels, one a line. The text stays valid until the thread asks again.
EMU_EXPORT const char* fij_emu_kernel_names(void* handle) {
    static thread_local std::string names;
    names.clear();
    api("listing kernels", [&] {
        for (const Kernel& k : find_module(handle).object->kernels) names += k.name + "\n";
    });
    return names.c_str();
}
EMU_EXPORT const char* fij_emu_describe_kernel(void* function) {
    static thread_local std::string text;
    text.clear();
    api("describing a kernel", [&] { text = kernel_json(*find_function(function).kernel); });
    return text.c_str();
}

// Called by every HIP program as it is loaded: wrapper = {magic "HIPF", version, bundle}. Code objects are loaded at first use.
EMU_EXPORT void** __hipRegisterFatBinary(const void* wrapper) {
    struct Wrapper { uint32_t magic, version; const void* bundle; const void* unused; };
    const auto* w = static_cast<const Wrapper*>(wrapper);
    FatBinary* binary = new FatBinary;
    if (w && w->magic == kWrapperMagic) binary->bundle = w->bundle;
    else remember_failure("__hipRegisterFatBinary", hipErrorInvalidImage, "not a fat binary wrapper");
    return reinterpret_cast<void**>(binary);
}
EMU_EXPORT void __hipRegisterFunction(void** handle, const void* host, const char*, const char* name, int, void*, void*, void*, void*, int*) {
    std::unique_lock<std::shared_mutex> lock(programs().mutex);
    HostFunctionEntry entry;
    entry.binary = reinterpret_cast<FatBinary*>(handle);
    entry.name = name ? name : "";
    programs().functions[host] = entry;
}
EMU_EXPORT void __hipRegisterVar(void** handle, void* host, const char*, const char* name, int, size_t bytes, int, int) {
    std::unique_lock<std::shared_mutex> lock(programs().mutex);
    programs().variables[host] = {reinterpret_cast<FatBinary*>(handle), name ? name : "", bytes, nullptr};
}
EMU_EXPORT void __hipRegisterManagedVar(void** handle, void** pointer, void* initial, const char* name, size_t bytes, uint32_t) {
    std::unique_lock<std::shared_mutex> lock(programs().mutex);
    programs().variables[pointer] = {reinterpret_cast<FatBinary*>(handle), name ? name : "", bytes, pointer};
    *pointer = initial;
}
EMU_EXPORT void __hipRegisterTexture(void**, const void*, const char*, const char*, int, int, int) {}
EMU_EXPORT void __hipRegisterSurface(void**, const void*, const char*, const char*, int, int) {}
EMU_EXPORT void __hipUnregisterFatBinary(void** handle) {
    FatBinary* binary = reinterpret_cast<FatBinary*>(handle);
    {
        std::unique_lock<std::shared_mutex> lock(programs().mutex);
        auto& functions = programs().functions;
        for (auto at = functions.begin(); at != functions.end();) at = at->second.binary == binary ? functions.erase(at) : std::next(at);
        auto& variables = programs().variables;
        for (auto at = variables.begin(); at != variables.end();) at = at->second.binary == binary ? variables.erase(at) : std::next(at);
    }
    delete binary;
}

EMU_EXPORT int hipGetSymbolAddress(void** address, const void* symbol) {
    return api("hipGetSymbolAddress", [&] { *require(address, "devPtr") = find_host_variable(symbol, this_thread().device).address; });
}
EMU_EXPORT int hipGetSymbolSize(size_t* bytes, const void* symbol) {
    return api("hipGetSymbolSize", [&] { *require(bytes, "size") = find_host_variable(symbol, this_thread().device).bytes; });
}
EMU_EXPORT int hipGetFuncBySymbol(void** function, const void* symbol) {
    return api("hipGetFuncBySymbol", [&] { *require(function, "functionPtr") = &find_host_function(symbol, this_thread().device); });
}

// Calls that cannot report an error must exist all the same: hip-python calls through a null pointer otherwise.
EMU_EXPORT const char* hipKernelNameRef(void* function) {
    const char* name = nullptr;
    api("hipKernelNameRef", [&] { name = find_function(function).kernel->name.c_str(); });
    return name;
}
EMU_EXPORT const char* hipKernelNameRefByPtr(const void* symbol, void*) {
    const char* name = nullptr;
    api("hipKernelNameRefByPtr", [&] { name = find_any_function(symbol, this_thread().device).kernel->name.c_str(); });
    return name;
}
EMU_EXPORT const char* hipApiName(uint32_t) { return "unknown"; }
EMU_EXPORT int hipGetStreamDeviceId(void* stream) {
    int device = -1;
    api("hipGetStreamDeviceId", [&] { device = find_stream(stream).device; });
    return device;
}
struct ChannelFormat { int x, y, z, w, kind; };
EMU_EXPORT ChannelFormat hipCreateChannelDesc(int x, int y, int z, int w, int kind) { return {x, y, z, w, kind}; }
