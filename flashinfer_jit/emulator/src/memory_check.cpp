// The interval check of every global and scalar access against the launch's live allocations.
#include <algorithm>

#include "memory.h"

namespace emu {

alignas(64) const uint8_t kZeroBytes[64] = {};

const Interval* MemoryMap::find(uint64_t address) const {
    const auto after = std::upper_bound(intervals.begin(), intervals.end(), address, [](uint64_t a, const Interval& i) { return a < i.begin; });
    if (after == intervals.begin()) return nullptr;
    const Interval& before = *(after - 1);
    return address < before.end ? &before : nullptr;
}

namespace {

bool inside(const Interval& i, uint64_t address, uint32_t bytes) {
    return address >= i.begin && address < i.end && i.end - address >= bytes;
}

void count_bytes(Wave& w, const Interval& i, uint64_t bytes, bool write) {
    Counters& c = *w.counters;
    (write ? c.global_written : c.global_read) += bytes;
    if (i.id >= c.buffer_bytes.size()) c.buffer_bytes.resize(i.id + 1);
    (write ? c.buffer_bytes[i.id].written : c.buffer_bytes[i.id].read) += bytes;
}

// The report says what lies near the address.
void refuse(Wave& w, const Interval* i, uint64_t address, int lane, uint32_t bytes, bool write) {
    const bool read_only = write && i && inside(*i, address, bytes);
    w.fault(FaultKind::illegal_address, read_only ? "the memory is read-only" : nullptr, address, lane, bytes, write);
}

// All lanes of the mask inside [begin, end)? One sign bit a lane, or-ed: no branch in the loop.
bool all_inside(Wave& w, const Interval& i, const uint64_t* address, uint64_t mask, uint32_t bytes) {
    const uint64_t size = i.end - i.begin;
    if (size < bytes) return false;
    const uint64_t last = size - bytes, begin = i.begin;
    uint64_t outside = 0;
    if (mask == kAllLanes) {
#pragma omp simd reduction(| : outside)
        for (int l = 0; l < kLanes; ++l) outside |= (address[l] - begin) | (last - (address[l] - begin));
    } else if (mask == w.exec()) {
        const uint32_t* active = w.active_lanes();
#pragma omp simd reduction(| : outside)
        for (int l = 0; l < kLanes; ++l)
            outside |= ((address[l] - begin) | (last - (address[l] - begin))) & static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(active[l])));
    } else {
        for_each_lane(mask, [&](int l) { outside |= (address[l] - begin) | (last - (address[l] - begin)); });
    }
    return !(outside >> 63);
}

}  // namespace

bool check_access(Wave& w, const uint64_t* address, uint64_t mask, uint32_t bytes, bool write) {
    if (!mask) return true;
    const Interval* recent = w.recent;
    if (recent && (!write || recent->writable) && all_inside(w, *recent, address, mask, bytes)) {
        count_bytes(w, *recent, static_cast<uint64_t>(lane_count(mask)) * bytes, write);
        return true;
    }
    // Lanes may lie in different allocations. Nothing is counted before all of them are allowed.
    const Interval* of_lane[kLanes];
    for (uint64_t rest = mask; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        const Interval* i = recent && inside(*recent, address[l], bytes) ? recent : w.launch->memory->find(address[l]);
        if (!i || !inside(*i, address[l], bytes) || (write && !i->writable)) {
            refuse(w, i, address[l], l, bytes, write);
            return false;
        }
        of_lane[l] = recent = i;
    }
    w.recent = recent;
    for_each_lane(mask, [&](int l) { count_bytes(w, *of_lane[l], bytes, write); });
    return true;
}

bool check_scalar_access(Wave& w, uint64_t address, uint32_t bytes, bool write) {
    const Interval* i = w.launch->memory->find(address);
    if (!i || !inside(*i, address, bytes) || (write && !i->writable)) {
        refuse(w, i, address, -1, bytes, write);
        return false;
    }
    Counters& c = *w.counters;
    if (i->id >= c.buffer_bytes.size()) c.buffer_bytes.resize(i->id + 1);
    if (write) {
        c.global_written += bytes, c.buffer_bytes[i->id].written += bytes;
    } else {
        c.scalar_read += bytes, c.buffer_bytes[i->id].read += bytes;
    }
    return true;
}

}  // namespace emu
