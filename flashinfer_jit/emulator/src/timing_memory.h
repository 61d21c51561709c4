// Memory as one compute unit sees it: LDS with its queues, scalar cache, vector L1, its share of L2 and HBM.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "timing_constants.h"
#include "wave.h"

namespace emu {

// What the launch knows of a piece of memory, by Interval::id.
struct TimedBuffer {
    uint64_t begin = 0;
    uint64_t bytes = 0;
    double readers = 1;   // how many compute units read each byte, on average
};

struct MemoryTiming {
    uint64_t lds_busy = 0, bank_conflict_clocks = 0, l1_busy = 0;
    uint64_t l1_hits = 0, l1_misses = 0, l2_bytes = 0, hbm_bytes = 0;
};

// A cache that forgets its oldest line. A line that is on its way is there when it arrives.
class LineCache {
public:
    explicit LineCache(uint32_t lines) : lines_(lines) {}
    const uint64_t* find(uint64_t line) const {
        const auto at = arrival_.find(line);
        return at == arrival_.end() ? nullptr : &at->second;
    }
    void insert(uint64_t line, uint64_t arrival);

private:
    uint32_t lines_;
    std::unordered_map<uint64_t, uint64_t> arrival_;
    std::deque<uint64_t> order_;
};

class MemoryModel {
public:
    // hbm_share: of the bandwidth that one of all compute units has; above 1 where a launch uses only some of them.
    MemoryModel(Arch arch, uint32_t unit, const std::vector<TimedBuffer>& buffers, double hbm_share);

    // The clock at which the pair of SIMDs has room for another LDS access.
    uint64_t lds_room(uint32_t simd, uint64_t clock);
    // LDS access of a wave on `simd`; returns when its data is back.
    uint64_t lds(uint32_t simd, uint64_t clock, uint64_t bytes, uint64_t conflicts, bool write);
    // Lines of a vector memory instruction; returns when the last one has arrived, or the stores are in L2.
    uint64_t vector(const Wave& wave, const MemoryTrace& trace, uint64_t clock, bool write, bool atomic);
    // LDS bandwidth that a direct load to LDS takes when it arrives.
    void lds_direct(uint64_t clock, uint64_t bytes);
    uint64_t scalar(const Wave& wave, uint64_t address, uint64_t clock);
    const MemoryTiming& result() const { return result_; }

private:
    // An address that is the same in every run: which buffer, and how far into it.
    uint64_t canonical(const Wave& wave, uint64_t address, const TimedBuffer*& buffer) const;
    uint64_t line_arrival(uint64_t line, const TimedBuffer* buffer, uint64_t clock, bool write);

    const TimingConstants& constants_;
    uint32_t unit_;
    const std::vector<TimedBuffer>& buffers_;
    uint64_t hbm_line_cost_, l2_line_cost_;   // sixteenths of a clock
    MemoryTiming result_;
    uint64_t lds_free_ = 0, l1_free_ = 0, beyond_free_times_16_ = 0;
    std::array<uint64_t, 4> simd_data_free_{};
    std::array<std::deque<uint64_t>, 2> lds_queue_;   // by pair of SIMDs: when each access is served
    LineCache l1_, scalar_cache_;
    std::unordered_set<uint64_t> lines_seen_;
};

}  // namespace emu
