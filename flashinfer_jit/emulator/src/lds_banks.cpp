// LDS bank conflicts. An access is served in phases, each a fixed set of lanes; within a phase every bank serves one dword a clock, and
// lanes that read the same dword share it. The conflict cycles are the clocks beyond one a phase.
//
// Lane sets: gfx942 has 32 banks (128 bytes a clock), gfx950 64 banks (256 bytes a clock for reads, 128 for writes). The sets of
// ds_read_b128 and the 16-lane sets of ds_write_b64 are those that AMD's and HipKittens' measurements of bank conflicts show
// (facts sheet section 2.5); sets that nobody has published are taken to be consecutive lanes.
#include "memory.h"

namespace emu {
namespace {

struct Phases {
    int count;
    uint64_t lanes[8];
};

constexpr uint64_t span(int first, int last) { return ((last == 63 ? 0 : 1ull << (last + 1)) - 1) & ~((1ull << first) - 1); }

constexpr Phases consecutive(int lanes_per_phase) {
    Phases p{kLanes / lanes_per_phase, {}};
    for (int k = 0; k < p.count && k < 8; ++k) p.lanes[k] = lanes_per_phase == 64 ? ~0ull : span(k * lanes_per_phase, (k + 1) * lanes_per_phase - 1);
    return p;
}
constexpr uint64_t kEightA = span(0, 3) | span(20, 23), kEightB = span(4, 7) | span(16, 19), kEightC = span(8, 11) | span(28, 31), kEightD = span(12, 15) | span(24, 27);
constexpr Phases kReadB128Gfx942 = {8, {kEightA, kEightB, kEightC, kEightD, kEightA << 32, kEightB << 32, kEightC << 32, kEightD << 32}};
constexpr Phases kReadB128Gfx950 = {4, {kEightA | kEightD, kEightB | kEightC, (kEightA | kEightD) << 32, (kEightB | kEightC) << 32}};
constexpr Phases kEach64 = consecutive(64), kEach32 = consecutive(32), kEach16 = consecutive(16), kEach8 = consecutive(8);
static_assert((kEightA | kEightB | kEightC | kEightD) == 0xffffffffull, "the four sets cover half a wave");

const Phases& phases(Arch arch, uint32_t bytes, bool write) {
    const bool wide = arch == Arch::gfx950 && !write;   // 256 bytes a clock
    if (bytes > 8) return write ? kEach8 : wide ? kReadB128Gfx950 : kReadB128Gfx942;
    if (bytes > 4) return wide ? kEach32 : kEach16;
    return wide ? kEach64 : kEach32;
}

}  // namespace

uint32_t lds_conflict_cycles(Arch arch, const uint32_t* address, uint64_t exec, uint32_t bytes, bool write) {
    const uint32_t banks = arch == Arch::gfx950 ? 64 : 32, dwords = bytes < 4 ? 1 : bytes / 4;
    const Phases& set = phases(arch, bytes, write);
    uint32_t extra = 0;
    for (int k = 0; k < set.count; ++k) {
        // The distinct dwords that each bank is asked for in this phase.
        uint32_t asked[64][kLanes];
        uint8_t count[64] = {};
        uint32_t most = 0;
        for_each_lane(set.lanes[k] & exec, [&](int l) {
            for (uint32_t d = 0; d < dwords; ++d) {
                const uint32_t dword = address[l] / 4 + d, bank = dword % banks;
                bool known = false;
                for (uint32_t n = 0; n < count[bank]; ++n) known |= asked[bank][n] == dword;
                if (known || count[bank] == kLanes) continue;
                asked[bank][count[bank]++] = dword;
                most = count[bank] > most ? count[bank] : most;
            }
        });
        if (most > 1) extra += most - 1;
    }
    return extra;
}

}  // namespace emu
