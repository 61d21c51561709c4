// The destination side of loads that write LDS without passing through registers.
#include "memory.h"

namespace emu {
namespace {

uint32_t lane_step(uint32_t memory_bytes) { return memory_bytes > 8 ? 16 : 4; }
uint32_t written_bytes(uint32_t memory_bytes) { return memory_bytes < 4 ? 4 : memory_bytes; }

}  // namespace

uint64_t lds_direct_lanes(Wave& w, uint32_t base, uint32_t memory_bytes, uint64_t exec) {
    const uint32_t step = lane_step(memory_bytes), bytes = written_bytes(memory_bytes);
    if (lds_pointer(w, base, 63 * step + bytes)) return exec;
    uint64_t lanes = 0;
    for_each_lane(exec, [&](int l) { lanes |= lds_pointer(w, base + static_cast<uint32_t>(l) * step, bytes) ? 1ull << l : 0; });
    w.counters->out_of_range_lds_lanes += static_cast<uint64_t>(lane_count(exec & ~lanes));
    return lanes;
}

void store_lds_direct(Wave& w, uint32_t base, const uint64_t* source, uint64_t lanes, uint32_t memory_bytes, bool sign_extend) {
    const uint32_t step = lane_step(memory_bytes);
    // A negative base wraps: its first lanes are outside, and `lanes` is not whole.
    const auto to = [&](int l) { return w.group->lds + static_cast<uint32_t>(base + static_cast<uint32_t>(l) * step); };
    if (memory_bytes == 16 && lanes == kAllLanes) {
        for (int l = 0; l < kLanes; ++l)
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to(l)), _mm_loadu_si128(reinterpret_cast<const __m128i*>(source[l])));
    } else if (memory_bytes == 4 && lanes == kAllLanes) {
        for (int l = 0; l < kLanes; ++l) store_unaligned(reinterpret_cast<uint64_t>(to(l)), load_unaligned<uint32_t>(source[l]));
    } else {
        for_each_lane(lanes, [&](int l) {
            if (memory_bytes >= 4) {
                std::memcpy(to(l), reinterpret_cast<const void*>(source[l]), memory_bytes);
                return;
            }
            const uint32_t raw = memory_bytes == 1 ? load_unaligned<uint8_t>(source[l]) : load_unaligned<uint16_t>(source[l]);
            const int unused = 32 - 8 * static_cast<int>(memory_bytes);
            const uint32_t value = sign_extend ? static_cast<uint32_t>(static_cast<int32_t>(raw << unused) >> unused) : raw;
            std::memcpy(to(l), &value, 4);
        });
    }
    w.counters->lds_dma += static_cast<uint64_t>(lane_count(lanes)) * written_bytes(memory_bytes);
}

}  // namespace emu
