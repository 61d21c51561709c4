// Instructions that move data between lanes, or between lanes and SGPRs.
#include "crosslane.h"

namespace emu {
namespace {

// A source register's lane; hostile code may name a scalar where only a VGPR is encodable by an assembler.
uint32_t lane_of(Wave& w, const Inst& i, uint16_t code, uint32_t lane) {
    return code >= operand::vgpr && code != operand::none ? w.reg(code)[lane] : read_scalar32(w, i, code);
}
bool vector_source(Wave& w, const Inst& i) {
    if (i.src[0] >= operand::vgpr && i.src[0] != operand::none) return true;
    w.fault(FaultKind::unsupported, "a swap with a source that is no VGPR");
    return false;
}

}  // namespace

void exec_readfirstlane(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    w.s[i.dst] = lane_of(w, i, i.src[0], exec ? static_cast<uint32_t>(__builtin_ctzll(exec)) : 0u);
}

void exec_readlane(Wave& w, const Inst& i) {
    const uint32_t lane = lane_of(w, i, i.src[1], 0) & 63u;
    w.s[i.dst] = lane_of(w, i, i.src[0], lane);
}

void exec_writelane(Wave& w, const Inst& i) {
    const uint32_t value = lane_of(w, i, i.src[0], 0), lane = lane_of(w, i, i.src[1], 0) & 63u;
    w.reg(i.dst)[lane] = value;
}

void exec_swap(Wave& w, const Inst& i) {
    if (!vector_source(w, i)) return;
    const uint32_t* active = w.active_lanes();
    uint32_t *a = w.reg(i.dst), *b = w.reg(i.src[0]);
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t difference = (a[l] ^ b[l]) & active[l];
        a[l] ^= difference, b[l] ^= difference;
    }
}

// Rows of `width` lanes: the odd rows of vdst change places with the even rows of src0. A lane that is switched off is not written; what it
// would have given is its value with fetch-inactive (op_sel[0]), 0 with bound_ctrl (op_sel[1]), else the partner keeps its own.
template <int width>
void exec_permlane_swap(Wave& w, const Inst& i) {
    if (!vector_source(w, i)) return;
    const bool fetch_inactive = i.op_sel & 1, bound_control = i.op_sel & 2;
    const uint32_t* active = w.active_lanes();
    uint32_t *destination = w.reg(i.dst), *source = w.reg(i.src[0]);
    for (int low = 0; low < kLanes; ++low) {
        if (low & width) continue;
        const int high = low + width;
        const uint32_t from_source = source[low], from_destination = destination[high];
        const bool low_on = active[low] || fetch_inactive, high_on = active[high] || fetch_inactive;
        if (active[high] && (low_on || bound_control)) destination[high] = low_on ? from_source : 0u;
        if (active[low] && (high_on || bound_control)) source[low] = high_on ? from_destination : 0u;
    }
}
void exec_permlane16_swap(Wave& w, const Inst& i) { exec_permlane_swap<16>(w, i); }
void exec_permlane32_swap(Wave& w, const Inst& i) { exec_permlane_swap<32>(w, i); }

}  // namespace emu
