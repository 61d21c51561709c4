// Memory of one compute unit in modelled time.
#include "timing_memory.h"

#include <algorithm>

#include "memory.h"

namespace emu {
namespace {

constexpr uint64_t kLineBytes = 128, kScalarLineBytes = 64;
uint64_t clocks_for(uint64_t bytes, uint64_t bytes_per_clock) { return (bytes + bytes_per_clock - 1) / bytes_per_clock; }

}  // namespace

void LineCache::insert(uint64_t line, uint64_t arrival) {
    if (!arrival_.emplace(line, arrival).second) return;
    order_.push_back(line);
    if (order_.size() > lines_) arrival_.erase(order_.front()), order_.pop_front();
}

MemoryModel::MemoryModel(Arch arch, uint32_t unit, const std::vector<TimedBuffer>& buffers, double hbm_share)
    : constants_(timing_constants(arch)), unit_(unit), buffers_(buffers), l1_(constants_.l1_lines), scalar_cache_(constants_.smem_lines) {
    const double hbm = std::min(constants_.hbm_bytes_per_clock_times_16 / 16.0 * constants_.hbm_achievable_percent / 100.0 * hbm_share, static_cast<double>(constants_.l2_bytes_per_clock));
    hbm_line_cost_ = static_cast<uint64_t>(16.0 * kLineBytes / hbm);
    l2_line_cost_ = 16 * kLineBytes / constants_.l2_bytes_per_clock;
}

uint64_t MemoryModel::lds_room(uint32_t simd, uint64_t clock) {
    std::deque<uint64_t>& queue = lds_queue_[simd / 2];
    while (!queue.empty() && queue.front() <= clock) queue.pop_front();
    return queue.size() < constants_.lds_queue_entries ? clock : queue[queue.size() - constants_.lds_queue_entries];
}

uint64_t MemoryModel::lds(uint32_t simd, uint64_t clock, uint64_t bytes, uint64_t conflicts, bool write) {
    const TimingConstants& c = constants_;
    const uint64_t busy = std::max<uint64_t>(clocks_for(bytes, write ? c.lds_write_bytes_per_clock : c.lds_read_bytes_per_clock), 1) + conflicts;
    result_.lds_busy += busy, result_.bank_conflict_clocks += conflicts;
    // The banks serve all SIMDs; the way to and from each SIMD's registers is its own.
    lds_free_ = std::max(lds_free_, clock) + busy;
    simd_data_free_[simd] = std::max(simd_data_free_[simd], clock) + std::max(clocks_for(bytes, c.lds_simd_bytes_per_clock), busy);
    const uint64_t served = std::max(lds_free_, simd_data_free_[simd]);
    std::deque<uint64_t>& queue = lds_queue_[simd / 2];
    queue.insert(std::upper_bound(queue.begin(), queue.end(), served), served);
    return served + c.lds_latency;
}

void MemoryModel::lds_direct(uint64_t clock, uint64_t bytes) {
    const uint64_t busy = clocks_for(bytes, constants_.lds_write_bytes_per_clock);
    result_.lds_busy += busy;
    lds_free_ = std::max(lds_free_, clock) + busy;
}

uint64_t MemoryModel::canonical(const Wave& wave, uint64_t address, const TimedBuffer*& buffer) const {
    const Interval* i = wave.launch->memory->find(address);
    buffer = i && i->id < buffers_.size() ? &buffers_[i->id] : nullptr;
    if (buffer) return (static_cast<uint64_t>(i->id) + 1) << 44 | (address - buffer->begin);
    // Scratch: the wave's own, as far as it can be told from anything else.
    const uint64_t group = wave.group->id[0] + wave.launch->grid[0] * (wave.group->id[1] + static_cast<uint64_t>(wave.launch->grid[1]) * wave.group->id[2]);
    return (0xfffffull << 44 | (group & 0xfffff) << 28 | static_cast<uint64_t>(wave.index) << 24) + ((address - reinterpret_cast<uint64_t>(wave.scratch)) & 0xffffff);
}

// A line from beyond L1. Of the compute units that read it one fetches it from HBM and the others find it in L2; which one is decided
// by a hash of where it lies, so that no unit is always the unlucky one and every run decides alike.
uint64_t MemoryModel::line_arrival(uint64_t line, const TimedBuffer* buffer, uint64_t clock, bool write) {
    const TimingConstants& c = constants_;
    bool from_hbm = lines_seen_.insert(line).second;
    if (from_hbm && !write && buffer && buffer->readers > 1.0) {
        uint64_t hash = (line & ((1ull << 37) - 1)) * 0x9e3779b97f4a7c15ull + unit_ * 0xd1b54a32d192ed03ull + buffer->bytes;
        hash ^= hash >> 29;
        hash *= 0xbf58476d1ce4e5b9ull;
        from_hbm = static_cast<double>(hash >> 40) < static_cast<double>(1ull << 24) / buffer->readers;
    }
    (from_hbm ? result_.hbm_bytes : result_.l2_bytes) += kLineBytes;
    beyond_free_times_16_ = std::max(beyond_free_times_16_, 16 * clock) + (from_hbm ? hbm_line_cost_ : l2_line_cost_);
    return beyond_free_times_16_ / 16 + (from_hbm && !write ? c.hbm_latency : c.l2_latency);
}

uint64_t MemoryModel::vector(const Wave& wave, const MemoryTrace& trace, uint64_t clock, bool write, bool atomic) {
    const TimingConstants& c = constants_;
    struct Line {
        uint64_t number;
        const TimedBuffer* buffer;
    };
    Line lines[2 * kLanes];
    size_t count = 0;
    uint64_t bytes = 0;
    for (int l = 0; l < kLanes; ++l) {
        if (!(trace.exec >> l & 1)) continue;
        bytes += trace.bytes;
        const TimedBuffer* buffer;
        const uint64_t at = canonical(wave, trace.address[l], buffer), first = at / kLineBytes, last = (at + trace.bytes - 1) / kLineBytes;
        if (!count || lines[count - 1].number != first) lines[count++] = {first, buffer};
        if (last != first) lines[count++] = {last, buffer};
    }
    std::sort(lines, lines + count, [](const Line& a, const Line& b) { return a.number < b.number; });
    count = static_cast<size_t>(std::unique(lines, lines + count, [](const Line& a, const Line& b) { return a.number == b.number; }) - lines);
    const uint64_t busy = std::max<uint64_t>({clocks_for(bytes, c.l1_bytes_per_clock), count, c.issue_clocks});
    result_.l1_busy += busy;
    l1_free_ = std::max(l1_free_, clock) + busy;
    uint64_t done = l1_free_ + (write ? 0 : c.l1_latency);
    for (size_t n = 0; n < count; ++n) {
        const uint64_t* there = write || atomic ? nullptr : l1_.find(lines[n].number);
        if (there) {
            ++result_.l1_hits;
            done = std::max(done, *there);
            continue;
        }
        ++result_.l1_misses;
        const uint64_t arrival = line_arrival(lines[n].number, lines[n].buffer, clock, write);
        if (!write && !atomic) l1_.insert(lines[n].number, arrival);
        done = std::max(done, arrival);
    }
    return done;
}

uint64_t MemoryModel::scalar(const Wave& wave, uint64_t address, uint64_t clock) {
    const TimedBuffer* buffer;
    const uint64_t line = canonical(wave, address, buffer) / kScalarLineBytes;
    const uint64_t hit = clock + constants_.smem_latency;
    if (const uint64_t* there = scalar_cache_.find(line)) return std::max(hit, *there);
    const uint64_t arrival = hit + constants_.l2_latency;
    scalar_cache_.insert(line, arrival);
    return arrival;
}

}  // namespace emu
