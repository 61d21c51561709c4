// Which memory kernels may touch: hipMalloc'ed, registered and code-object memory, and the ranges given with one launch.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hip_abi.h"
#include "wave.h"

namespace emu {

struct Allocation {
    enum Kind : uint8_t { device_memory, host_memory, managed, registered, code };
    uint64_t begin = 0, bytes = 0;
    Kind kind = device_memory;
    int device = 0;
    uint32_t flags = 0;
    std::string name;
    std::vector<bool> writable_pages;   // code objects; empty: all writable
    uint64_t end() const { return begin + bytes; }
};

// What an interval's id stands for in messages and reports.
struct BufferName { std::string name; uint64_t begin = 0, bytes = 0; };

// Memory given by the caller for its next launches (the exported interface of fij_emu_set_launch_ranges).
struct Range { uint64_t begin, bytes; };
struct NamedRange { uint64_t begin, bytes; const char* name; uint64_t writable; };
struct OwnedRange { uint64_t begin, bytes; bool writable; std::string name; };

// The registry's content as one device sees it; immutable.
struct Snapshot {
    std::vector<Interval> intervals;
    std::vector<BufferName> names;   // by id
};

struct LaunchMemory {
    MemoryMap map;
    std::shared_ptr<const Snapshot> base;
    std::vector<BufferName> names;   // ids from base->names.size() on
    const BufferName& name(uint32_t id) const { return id < base->names.size() ? base->names[id] : names[id - base->names.size()]; }
    uint32_t name_count() const { return static_cast<uint32_t>(base->names.size() + names.size()); }
};

class Registry {
public:
    void add(Allocation allocation);
    // Removes the allocation that begins at `begin` and is of one of the kinds (a bit each); false where there is none.
    bool remove(uint64_t begin, uint32_t kinds, Allocation& removed);
    bool find(uint64_t address, Allocation& found) const;
    bool overlaps(uint64_t begin, uint64_t bytes) const;
    uint64_t device_bytes(int device) const;
    // Peers cannot reach each other: device memory is seen by its own device, host and managed memory by both.
    std::shared_ptr<const Snapshot> snapshot(int device) const;

private:
    friend Registry& registry();
    mutable std::mutex mutex_;
    std::map<uint64_t, Allocation> allocations_;
    mutable std::shared_ptr<const Snapshot> snapshots_[2];
    uint64_t device_bytes_[2] = {0, 0};
    uint64_t serial_ = 0;
};
Registry& registry();

// The sorted, disjoint map of one launch. Ranges given earlier win where ranges overlap, and all of them over the registry.
LaunchMemory launch_memory(int device, const std::vector<OwnedRange>& ranges);

}  // namespace emu
