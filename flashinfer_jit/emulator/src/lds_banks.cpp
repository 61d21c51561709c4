// LDS bank conflicts. An access is served in phases, each a fixed set of lanes; within a phase every bank serves one dword a clock, and
// lanes that want the same dword share it. The conflict cycles are the clocks beyond one a phase.
//
// Lane sets: gfx942 has 32 banks and moves 128 bytes a clock, gfx950 has 64 banks and reads 256 bytes a clock, writes 128. The sets of
// ds_read_b128 and the 16 lanes of a ds_write_b64 phase are those that measurements of bank conflicts have shown (AMD's blog on the CK
// Tile layouts for gfx942, the HipKittens phase solver for gfx950); sets that nobody has published are taken to be consecutive lanes.
#include "memory.h"

namespace emu {
namespace {

constexpr int kQuad = 4, kQuads = kLanes / kQuad;   // every known set is made of aligned groups of four lanes

struct Phases {
    int count;
    uint8_t of_quad[kQuads];   // phase in which lanes 4 q ... 4 q + 3 are served
};
constexpr Phases consecutive(int lanes) {
    Phases p{kLanes / lanes, {}};
    for (int q = 0; q < kQuads; ++q) p.of_quad[q] = static_cast<uint8_t>(q * kQuad / lanes);
    return p;
}
constexpr Phases kEach64 = consecutive(64), kEach32 = consecutive(32), kEach16 = consecutive(16), kEach8 = consecutive(8);
constexpr Phases kReadB128Gfx942 = {8, {0, 1, 2, 3, 1, 0, 3, 2, 4, 5, 6, 7, 5, 4, 7, 6}};   // {0-3,20-23} {4-7,16-19} {8-11,28-31} {12-15,24-27} and 32 on
constexpr Phases kReadB128Gfx950 = {4, {0, 1, 1, 0, 1, 0, 0, 1, 2, 3, 3, 2, 3, 2, 2, 3}};   // {0-3,12-15,20-27} {4-11,16-19,28-31} and 32 on

const Phases& phases(Arch arch, uint32_t bytes, bool write) {
    const bool wide = arch == Arch::gfx950 && !write;
    if (bytes > 8) return write ? kEach8 : wide ? kReadB128Gfx950 : kReadB128Gfx942;
    if (bytes > 4) return wide ? kEach32 : kEach16;
    return wide ? kEach64 : kEach32;
}

// One phase the long way: distinct units (dwords, or whole elements) that the busiest bank, or group of banks, is asked for.
uint32_t busiest_bank(const uint32_t* address, uint64_t lanes, uint32_t shift, uint32_t units, uint32_t last_group) {
    uint32_t asked[64][kLanes];
    uint8_t count[64] = {};
    uint32_t most = 0;
    for_each_lane(lanes, [&](int l) {
        for (uint32_t k = 0; k < units; ++k) {
            const uint32_t unit = (address[l] >> shift) + k, group = unit & last_group;
            uint32_t n = 0;
            while (n < count[group] && asked[group][n] != unit) ++n;
            if (n < count[group] || n == kLanes) continue;
            asked[group][n] = unit, count[group] = static_cast<uint8_t>(n + 1);
            most = n + 1 > most ? n + 1 : most;
        }
    });
    return most;
}

// Aligned elements of 4, 8 or 16 bytes fall into groups of whole banks: a phase is free of conflicts if its lanes fill distinct groups.
template <class Bits> uint32_t conflict_cycles(const Phases& p, const uint32_t* address, uint64_t exec, const uint32_t* active, uint32_t shift, uint32_t banks) {
    const uint32_t last_group = (banks * 4 >> shift) - 1;
    alignas(64) Bits group[kLanes];
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) group[l] = static_cast<Bits>(active[l] & 1) << (address[l] >> shift & last_group);
    alignas(64) Bits filled[8][kQuad] = {};
    uint64_t lanes[8] = {};
    for (int q = 0; q < kQuads; ++q) {
        const int phase = p.of_quad[q];
        for (int k = 0; k < kQuad; ++k) filled[phase][k] |= group[q * kQuad + k];
        lanes[phase] |= exec & (0xfull << (q * kQuad));
    }
    uint32_t extra = 0;
    for (int phase = 0; phase < p.count; ++phase) {
        const Bits all = filled[phase][0] | filled[phase][1] | filled[phase][2] | filled[phase][3];
        if (__builtin_popcountll(all) == lane_count(lanes[phase])) continue;
        const uint32_t most = busiest_bank(address, lanes[phase], shift, 1, last_group);
        extra += most > 1 ? most - 1 : 0;
    }
    return extra;
}

}  // namespace

uint32_t lds_conflict_cycles(Wave& w, const uint32_t* address, uint64_t exec, uint32_t bytes, bool write) {
    const Arch arch = w.launch->arch;
    const uint32_t banks = arch == Arch::gfx950 ? 64 : 32, *active = w.active_lanes();
    const Phases& p = phases(arch, bytes, write);
    const uint32_t size = bytes < 4 ? 4 : bytes;
    uint32_t low_bits = size == 12 ? 1 : 0;
#pragma omp simd reduction(| : low_bits)
    for (int l = 0; l < kLanes; ++l) low_bits |= address[l] & active[l] & (size - 1) & (bytes < 4 ? 0u : ~0u);
    if (!low_bits) {
        const uint32_t shift = size == 16 ? 4 : size == 8 ? 3 : 2;
        if (banks * 4 >> shift > 32) return conflict_cycles<uint64_t>(p, address, exec, active, shift, banks);
        return conflict_cycles<uint32_t>(p, address, exec, active, shift, banks);
    }
    uint32_t extra = 0;
    for (int phase = 0; phase < p.count; ++phase) {
        uint64_t lanes = 0;
        for (int q = 0; q < kQuads; ++q) lanes |= p.of_quad[q] == phase ? 0xfull << (q * kQuad) : 0;
        const uint32_t most = busiest_bank(address, lanes & exec, 2, size / 4, banks - 1);
        extra += most > 1 ? most - 1 : 0;
    }
    return extra;
}

}  // namespace emu
