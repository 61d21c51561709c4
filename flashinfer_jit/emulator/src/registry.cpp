// The registry of live memory and the memory map of a launch.
#include "registry.h"

#include <algorithm>

#include "device.h"

namespace emu {

Registry& registry() {
    // Never destroyed: kernels' host objects unregister themselves while the process exits.
    static Registry* const instance = [] {
        auto* made = new Registry;
        guard_innermost(made->mutex_);
        return made;
    }();
    return *instance;
}

void Registry::add(Allocation allocation) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (allocation.name.empty()) {
        static const char* const kinds[] = {"hipMalloc", "hipHostMalloc", "hipMallocManaged", "hipHostRegister", "code object"};
        allocation.name = format("%s #%llu", kinds[allocation.kind], static_cast<unsigned long long>(++serial_));
    }
    if (allocation.kind == Allocation::device_memory) device_bytes_[allocation.device] += allocation.bytes;
    const uint64_t begin = allocation.begin;
    allocations_[begin] = std::move(allocation);
    snapshots_[0].reset(), snapshots_[1].reset();
}

bool Registry::remove(uint64_t begin, uint32_t kinds, Allocation& removed) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto at = allocations_.find(begin);
    if (at == allocations_.end() || !(kinds >> at->second.kind & 1)) return false;
    removed = std::move(at->second);
    if (removed.kind == Allocation::device_memory) device_bytes_[removed.device] -= removed.bytes;
    allocations_.erase(at);
    snapshots_[0].reset(), snapshots_[1].reset();
    return true;
}

bool Registry::find(uint64_t address, Allocation& found) const {
    std::lock_guard<std::mutex> lock(mutex_);
    auto after = allocations_.upper_bound(address);
    if (after == allocations_.begin()) return false;
    --after;
    if (address >= after->second.end()) return false;
    found = after->second;
    return true;
}

bool Registry::overlaps(uint64_t begin, uint64_t bytes) const {
    std::lock_guard<std::mutex> lock(mutex_);
    auto after = allocations_.lower_bound(begin + bytes);
    return after != allocations_.begin() && std::prev(after)->second.end() > begin;
}

uint64_t Registry::device_bytes(int device) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return device_bytes_[device];
}

namespace {

void append_code_object(const Allocation& a, uint32_t id, std::vector<Interval>& to) {
    constexpr uint64_t page = 4096;
    for (size_t n = 0; n < a.writable_pages.size();) {
        size_t next = n + 1;
        while (next < a.writable_pages.size() && a.writable_pages[next] == a.writable_pages[n]) ++next;
        to.push_back({a.begin + n * page, std::min(a.begin + next * page, a.end()), id, a.writable_pages[n]});
        n = next;
    }
}

}  // namespace

std::shared_ptr<const Snapshot> Registry::snapshot(int device) const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (snapshots_[device]) return snapshots_[device];
    auto made = std::make_shared<Snapshot>();
    for (const auto& entry : allocations_) {
        const Allocation& a = entry.second;
        if (a.device != device && (a.kind == Allocation::device_memory || a.kind == Allocation::code)) continue;
        const uint32_t id = static_cast<uint32_t>(made->names.size());
        made->names.push_back({a.name, a.begin, a.bytes});
        if (a.writable_pages.empty()) made->intervals.push_back({a.begin, a.end(), id, true});
        else append_code_object(a, id, made->intervals);
    }
    snapshots_[device] = made;
    return made;
}

namespace {

// Ranges by address, made disjoint: the lowest id wins.
std::vector<Interval> disjoint(std::vector<Interval> ranges) {
    std::sort(ranges.begin(), ranges.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin || (a.begin == b.begin && a.id < b.id); });
    bool overlap = false;
    for (size_t n = 1; n < ranges.size(); ++n) overlap |= ranges[n].begin < ranges[n - 1].end;
    if (!overlap) return ranges;
    std::vector<uint64_t> edges;
    for (const Interval& r : ranges) edges.push_back(r.begin), edges.push_back(r.end);
    std::sort(edges.begin(), edges.end());
    std::vector<Interval> out;
    for (size_t n = 0; n + 1 < edges.size(); ++n) {
        if (edges[n] == edges[n + 1]) continue;
        const Interval* owner = nullptr;
        bool writable = false;
        for (const Interval& r : ranges) {
            if (r.begin > edges[n] || r.end < edges[n + 1]) continue;
            writable |= r.writable;
            if (!owner || r.id < owner->id) owner = &r;
        }
        if (!owner) continue;
        if (!out.empty() && out.back().end == edges[n] && out.back().id == owner->id && out.back().writable == writable) out.back().end = edges[n + 1];
        else out.push_back({edges[n], edges[n + 1], owner->id, writable});
    }
    return out;
}

}  // namespace

LaunchMemory launch_memory(int device, const std::vector<OwnedRange>& ranges) {
    LaunchMemory memory;
    memory.base = registry().snapshot(device);
    const std::vector<Interval>& base = memory.base->intervals;
    std::vector<Interval>& out = memory.map.intervals;
    if (ranges.empty()) {
        out = base;
        return memory;
    }
    std::vector<Interval> extra;
    extra.reserve(ranges.size());
    memory.names.reserve(ranges.size());
    for (const OwnedRange& r : ranges) {
        const uint32_t id = memory.name_count();
        memory.names.push_back({r.name, r.begin, r.bytes});
        if (r.bytes) extra.push_back({r.begin, r.begin + r.bytes, id, r.writable});
    }
    extra = disjoint(std::move(extra));
    out.reserve(base.size() + 2 * extra.size());
    size_t next = 0;
    for (Interval b : base) {
        while (next < extra.size() && extra[next].end <= b.begin) out.push_back(extra[next++]);
        // Cut away what the launch's own ranges cover.
        while (next < extra.size() && extra[next].begin < b.end) {
            if (extra[next].begin > b.begin) out.push_back({b.begin, extra[next].begin, b.id, b.writable});
            b.begin = extra[next].end;
            if (b.begin >= b.end) break;
            out.push_back(extra[next++]);
        }
        if (b.begin < b.end) out.push_back(b);
    }
    while (next < extra.size()) out.push_back(extra[next++]);
    return memory;
}

}  // namespace emu
