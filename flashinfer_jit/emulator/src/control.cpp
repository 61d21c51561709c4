// Programme flow and wave control: SOPP and SOPK, hardware registers included.
#include "wave.h"

namespace emu {

void fork_branch(Wave& w, uint64_t condition, uint64_t target);   // salu.cpp

namespace {

// ---- SOPP ----------------------------------------------------------------------------------------------------------
void nothing(Wave&, const Inst&) {}
void endpgm(Wave& w, const Inst&) { w.status = Status::ended; }
void barrier(Wave& w, const Inst&) { w.status = Status::at_barrier; }

uint64_t target_of(const Wave& w, const Inst& i) { return w.next_pc + static_cast<uint64_t>(static_cast<int64_t>(i.offset) * 4); }
void branch(Wave& w, const Inst& i) { w.next_pc = target_of(w, i); }
template <bool (*condition)(const Wave&)>
void cbranch(Wave& w, const Inst& i) {
    if (condition(w)) w.next_pc = target_of(w, i);
}
bool scc0(const Wave& w) { return !w.scc; }
bool scc1(const Wave& w) { return w.scc; }
bool vccz(const Wave& w) { return w.vcc() == 0; }
bool vccnz(const Wave& w) { return w.vcc() != 0; }
bool execz(const Wave& w) { return w.exec() == 0; }
bool execnz(const Wave& w) { return w.exec() != 0; }

void setkill(Wave& w, const Inst& i) {
    if (i.offset & 1) w.status = Status::ended;
}
void sethalt(Wave& w, const Inst& i) {
    if (i.offset & 1) w.fault(FaultKind::unsupported, "a wave that halts itself waits for a debugger");
}
void sendmsghalt(Wave& w, const Inst&) { w.fault(FaultKind::unsupported, "a wave that halts itself waits for a debugger"); }

void trap(Wave& w, const Inst& i) {
    // 3 is llvm.debugtrap: without a debugger the program goes on. 2 is llvm.trap (abort, assert); 0 ends hand-written programs.
    constexpr int kDebugTrap = 3;
    const int id = i.offset & 0xff;
    if (id == kDebugTrap) return;
    w.fault(FaultKind::trap, id == 2 ? "s_trap 2: abort, or a failed assertion" : "s_trap");
}

// VGPR indexing: MODE bit 27 enables it, M0[15:12] says for which operands.
constexpr uint32_t kIndexEnable = 1u << 27;
void refresh_index_mode(Wave& w) { w.gpr_index_mode = w.mode & kIndexEnable ? w.s[operand::m0] >> 12 & 15u : 0u; }
void set_gpr_idx_off(Wave& w, const Inst&) {
    w.mode &= ~kIndexEnable;
    w.gpr_index_mode = 0;
}
void set_gpr_idx_mode(Wave& w, const Inst& i) {
    uint32_t& m0 = w.s[operand::m0];
    m0 = (m0 & ~0xf000u) | (static_cast<uint32_t>(i.offset) & 15u) << 12;
    refresh_index_mode(w);
}

// ---- SOPK ----------------------------------------------------------------------------------------------------------
void movk(Wave& w, const Inst& i) { w.s[i.dst] = static_cast<uint32_t>(i.offset); }
void cmovk(Wave& w, const Inst& i) {
    if (w.scc) movk(w, i);
}
template <bool (*f)(int32_t, int32_t)>
void cmpk_i32(Wave& w, const Inst& i) { w.scc = f(static_cast<int32_t>(w.s[i.dst]), i.offset); }
template <bool (*f)(uint32_t, uint32_t)>
void cmpk_u32(Wave& w, const Inst& i) { w.scc = f(w.s[i.dst], static_cast<uint32_t>(i.offset) & 0xffffu); }
template <class T> bool eq(T a, T b) { return a == b; }
template <class T> bool lg(T a, T b) { return a != b; }
template <class T> bool gt(T a, T b) { return a > b; }
template <class T> bool ge(T a, T b) { return a >= b; }
template <class T> bool lt(T a, T b) { return a < b; }
template <class T> bool le(T a, T b) { return a <= b; }

void addk(Wave& w, const Inst& i) {
    const uint32_t a = w.s[i.dst], b = static_cast<uint32_t>(i.offset), r = a + b;
    w.scc = (~(a ^ b) & (a ^ r)) >> 31;
    w.s[i.dst] = r;
}
void mulk(Wave& w, const Inst& i) { w.s[i.dst] *= static_cast<uint32_t>(i.offset); }
void call(Wave& w, const Inst& i) {
    const uint64_t target = target_of(w, i);
    w.set_pair(i.dst, w.next_pc);
    w.next_pc = target;
}
void cbranch_i_fork(Wave& w, const Inst& i) { fork_branch(w, w.pair(i.dst), target_of(w, i)); }

// Hardware registers that user code can see (CDNA3 ISA manual, table of S_GETREG_B32).
enum HardwareRegister : uint32_t { kMode = 1, kStatus = 2, kTrapStatus = 3, kHardwareId = 4, kGprAlloc = 5, kLdsAlloc = 6, kIbStatus = 7, kShMemBases = 15, kXccId = 20 };

uint32_t group_number(const Wave& w) {
    const Workgroup& g = *w.group;
    const uint32_t* n = w.launch->grid;
    return g.id[0] + n[0] * (g.id[1] + n[1] * g.id[2]);
}

bool read_hardware_register(Wave& w, uint32_t id, uint32_t& value) {
    constexpr uint32_t kXccs = 8, kCusOfXcc = 38, kSimds = 4;
    switch (id) {
        case kMode: value = w.mode; return true;
        case kStatus: {
            const uint32_t in_group = w.group && w.group->waves.size() > 1, valid = 1;
            value = (w.scc & 1u) | static_cast<uint32_t>(execz(w)) << 9 | static_cast<uint32_t>(vccz(w)) << 10 | in_group << 11 | valid << 16;
            return true;
        }
        case kTrapStatus: value = w.trap_status; return true;
        // Workgroups go round the XCCs of a device in turn; the rest of the placement is the emulator's.
        case kHardwareId: value = w.index / kSimds % 10 | w.index % kSimds << 4 | (group_number(w) / kXccs % kCusOfXcc & 15u) << 8; return true;
        case kXccId: value = group_number(w) % kXccs; return true;
        case kLdsAlloc: value = (w.group->lds_bytes + 255) / 256 << 12; return true;
        case kShMemBases: value = static_cast<uint32_t>(kSharedAperture >> 48) << 16 | static_cast<uint32_t>(kPrivateAperture >> 48); return true;
        case kGprAlloc: case kIbStatus: value = 0; return true;
        default: return false;
    }
}

struct Field {
    uint32_t id, offset, mask;
    explicit Field(const Inst& i) {
        const uint32_t simm = static_cast<uint32_t>(i.offset) & 0xffffu, size = (simm >> 11) + 1;
        id = simm & 63u, offset = simm >> 6 & 31u, mask = size == 32 ? ~0u : (1u << size) - 1u;
    }
};
void getreg(Wave& w, const Inst& i) {
    const Field field(i);
    uint32_t value = 0;
    if (!read_hardware_register(w, field.id, value)) {
        w.fault(FaultKind::unsupported, "s_getreg of a hardware register that is not emulated");
        return;
    }
    w.s[i.dst] = value >> field.offset & field.mask;
}

void write_hardware_register(Wave& w, const Inst& i, uint32_t value) {
    const Field field(i);
    const uint32_t mask = field.mask << field.offset, placed = value << field.offset & mask;
    if (field.id == kMode) {
        constexpr uint32_t kSkipVector = 1u << 28;
        if (placed & kSkipVector) w.fault(FaultKind::unsupported, "skipping of vector instructions (VSKIP)");
        w.mode = (w.mode & ~mask) | placed;
        refresh_index_mode(w);
    } else if (field.id == kTrapStatus) {
        w.trap_status = (w.trap_status & ~mask) | placed;
    } else {
        uint32_t ignored;
        // Unprivileged code cannot change the others; the hardware drops the write.
        if (!read_hardware_register(w, field.id, ignored)) w.fault(FaultKind::unsupported, "s_setreg of a hardware register that is not emulated");
    }
}
void setreg(Wave& w, const Inst& i) { write_hardware_register(w, i, w.s[i.dst]); }
void setreg_imm32(Wave& w, const Inst& i) { write_hardware_register(w, i, i.literal); }

constexpr Type I32 = Type::i32, B32 = Type::b32, B64 = Type::b64, NO = Type::none;
constexpr Class S = Class::SALU, BR = Class::BRANCH, MSG = Class::MESSAGE, WAIT = Class::WAIT;

const OpInfo kSoppRows[] = {
    {0, "s_nop", kBoth, WAIT, nothing},
    {1, "s_endpgm", kBoth, BR, endpgm},
    {2, "s_branch", kBoth, BR, branch},
    {3, "s_wakeup", kBoth, MSG, nothing},
    {4, "s_cbranch_scc0", kBoth, BR, cbranch<scc0>},
    {5, "s_cbranch_scc1", kBoth, BR, cbranch<scc1>},
    {6, "s_cbranch_vccz", kBoth, BR, cbranch<vccz>},
    {7, "s_cbranch_vccnz", kBoth, BR, cbranch<vccnz>},
    {8, "s_cbranch_execz", kBoth, BR, cbranch<execz>},
    {9, "s_cbranch_execnz", kBoth, BR, cbranch<execnz>},
    {10, "s_barrier", kBoth, Class::BARRIER, barrier},
    {11, "s_setkill", kBoth, MSG, setkill},
    {12, "s_waitcnt", kBoth, WAIT, nothing},
    {13, "s_sethalt", kBoth, MSG, sethalt},
    {14, "s_sleep", kBoth, WAIT, nothing},
    {15, "s_setprio", kBoth, MSG, nothing},
    {16, "s_sendmsg", kBoth, MSG, nothing},
    {17, "s_sendmsghalt", kBoth, MSG, sendmsghalt, nullptr, Type::none, {}, kRefused},
    {18, "s_trap", kBoth, MSG, trap},
    {19, "s_icache_inv", kBoth, MSG, nothing},
    {20, "s_incperflevel", kBoth, MSG, nothing},
    {21, "s_decperflevel", kBoth, MSG, nothing},
    {22, "s_ttracedata", kBoth, MSG, nothing},
    // The debugger's condition bits are never set.
    {23, "s_cbranch_cdbgsys", kBoth, BR, nothing},
    {24, "s_cbranch_cdbguser", kBoth, BR, nothing},
    {25, "s_cbranch_cdbgsys_or_user", kBoth, BR, nothing},
    {26, "s_cbranch_cdbgsys_and_user", kBoth, BR, nothing},
    {27, "s_endpgm_saved", kBoth, BR, endpgm},
    {28, "s_set_gpr_idx_off", kBoth, S, set_gpr_idx_off},
    {29, "s_set_gpr_idx_mode", kBoth, S, set_gpr_idx_mode},
    {30, "s_endpgm_ordered_ps_done", kBoth, BR, endpgm},
};

const OpInfo kSopkRows[] = {
    {0, "s_movk_i32", kBoth, S, movk, nullptr, I32},
    {1, "s_cmovk_i32", kBoth, S, cmovk, nullptr, I32},
    {2, "s_cmpk_eq_i32", kBoth, S, cmpk_i32<eq<int32_t>>, nullptr, NO},
    {3, "s_cmpk_lg_i32", kBoth, S, cmpk_i32<lg<int32_t>>, nullptr, NO},
    {4, "s_cmpk_gt_i32", kBoth, S, cmpk_i32<gt<int32_t>>, nullptr, NO},
    {5, "s_cmpk_ge_i32", kBoth, S, cmpk_i32<ge<int32_t>>, nullptr, NO},
    {6, "s_cmpk_lt_i32", kBoth, S, cmpk_i32<lt<int32_t>>, nullptr, NO},
    {7, "s_cmpk_le_i32", kBoth, S, cmpk_i32<le<int32_t>>, nullptr, NO},
    {8, "s_cmpk_eq_u32", kBoth, S, cmpk_u32<eq<uint32_t>>, nullptr, NO},
    {9, "s_cmpk_lg_u32", kBoth, S, cmpk_u32<lg<uint32_t>>, nullptr, NO},
    {10, "s_cmpk_gt_u32", kBoth, S, cmpk_u32<gt<uint32_t>>, nullptr, NO},
    {11, "s_cmpk_ge_u32", kBoth, S, cmpk_u32<ge<uint32_t>>, nullptr, NO},
    {12, "s_cmpk_lt_u32", kBoth, S, cmpk_u32<lt<uint32_t>>, nullptr, NO},
    {13, "s_cmpk_le_u32", kBoth, S, cmpk_u32<le<uint32_t>>, nullptr, NO},
    {14, "s_addk_i32", kBoth, S, addk, nullptr, I32},
    {15, "s_mulk_i32", kBoth, S, mulk, nullptr, I32},
    {16, "s_cbranch_i_fork", kBoth, BR, cbranch_i_fork, nullptr, B64},
    {17, "s_getreg_b32", kBoth, S, getreg, nullptr, B32},
    {18, "s_setreg_b32", kBoth, S, setreg, nullptr, B32},
    {20, "s_setreg_imm32_b32", kBoth, S, setreg_imm32, nullptr, NO},
    {21, "s_call_b64", kBoth, BR, call, nullptr, B64},
};

}  // namespace

const OpTable kSoppTable = {Enc::SOPP, kSoppRows, sizeof kSoppRows / sizeof kSoppRows[0]};
const OpTable kSopkTable = {Enc::SOPK, kSopkRows, sizeof kSopkRows / sizeof kSopkRows[0]};

}  // namespace emu
