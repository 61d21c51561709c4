// Addressing and accounting that all DS handlers share, and the handlers that lds_lanes.cpp implements.
#pragma once
#include "memory.h"

namespace emu {

// Each lane's offset into the group's LDS.
struct alignas(64) LdsOffsets {
    uint32_t at[kLanes];
};

// Address register plus the instruction's offset, modulo 2^32.
inline LdsOffsets lds_offsets(Wave& w, const Inst& i, uint32_t offset) {
    LdsOffsets o;
    const uint32_t* address = w.reg(i.src[0]);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) o.at[l] = address[l] + offset;
    return o;
}

// May all active lanes read or write `bytes` at their offsets?
bool lds_in_range(Wave& w, const LdsOffsets& o, uint64_t exec, uint32_t bytes);
// Byte, access and conflict counters; the trace.
void lds_account(Wave& w, const LdsOffsets& o, uint64_t exec, uint32_t bytes, bool write);
// False: nothing to do, or the instruction names the GDS, which these parts lack (a fault then).
bool lds_begin(Wave& w, const Inst& i, uint64_t& exec);

void exec_ds_swizzle(Wave& w, const Inst& i);
void exec_ds_permute(Wave& w, const Inst& i);
void exec_ds_bpermute(Wave& w, const Inst& i);
void exec_ds_read_tr_b4(Wave& w, const Inst& i);
void exec_ds_read_tr_b6(Wave& w, const Inst& i);
void exec_ds_read_tr_b8(Wave& w, const Inst& i);
void exec_ds_read_tr_b16(Wave& w, const Inst& i);

}  // namespace emu
