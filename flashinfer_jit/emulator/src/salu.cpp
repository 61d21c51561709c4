// Scalar ALU: SOP1, SOP2 and SOPC. Programme flow, SOPK and SOPP are in control.cpp.
#include "wave.h"

namespace emu {
namespace {

template <class T>
T read(Wave& w, const Inst& i, int k) {
    if constexpr (sizeof(T) == 8) return static_cast<T>(read_scalar64(w, i, i.src[k], i.op->src[k]));
    else return static_cast<T>(read_scalar32(w, i, i.src[k]));
}
template <class T>
void write(Wave& w, const Inst& i, T x) {
    if constexpr (sizeof(T) == 8) w.set_pair(i.dst, static_cast<uint64_t>(x));
    else w.s[i.dst] = static_cast<uint32_t>(x);
}

// scalar<f>: f(sources..., scc) returns what goes to sdst; scc is the condition code, read or written by f.
template <class F, F f>
struct Scalar;
template <class R, class A, R (*f)(A, uint32_t&)>
struct Scalar<R (*)(A, uint32_t&), f> {
    static void run(Wave& w, const Inst& i) {
        const A a = read<A>(w, i, 0);
        write(w, i, f(a, w.scc));
    }
};
template <class R, class A, class B, R (*f)(A, B, uint32_t&)>
struct Scalar<R (*)(A, B, uint32_t&), f> {
    static void run(Wave& w, const Inst& i) {
        const A a = read<A>(w, i, 0);
        const B b = read<B>(w, i, 1);
        write(w, i, f(a, b, w.scc));
    }
};
template <auto f>
constexpr ExecFn scalar = Scalar<decltype(f), f>::run;

template <class F, F f>
struct Compare;
template <class A, class B, bool (*f)(A, B)>
struct Compare<bool (*)(A, B), f> {
    static void run(Wave& w, const Inst& i) {
        const A a = read<A>(w, i, 0);
        w.scc = f(a, read<B>(w, i, 1));
    }
};
template <auto f>
constexpr ExecFn compare = Compare<decltype(f), f>::run;

using u32 = uint32_t;
using u64 = uint64_t;
using i32 = int32_t;
using i64 = int64_t;

template <class T>
T nonzero(T x, u32& scc) {
    scc = x != 0;
    return x;
}

// ---- SOP1 ----------------------------------------------------------------------------------------------------------
template <class T> T mov(T a, u32&) { return a; }
template <class T> T invert(T a, u32& scc) { return nonzero<T>(~a, scc); }
template <class T> T brev(T a, u32&) {
    T r = 0;
    for (unsigned n = 0; n < sizeof(T) * 8; ++n) r |= (a >> n & 1) << (sizeof(T) * 8 - 1 - n);
    return r;
}
// Each group of four bits becomes four bits (wqm) or one bit (quadmask), set where any was set.
template <class T> T quad_any(T a) { return (a | a >> 1 | a >> 2 | a >> 3) & static_cast<T>(0x1111111111111111ull); }
template <class T> T wqm(T a, u32& scc) { return nonzero<T>(quad_any(a) * 15, scc); }
template <class T> T quadmask(T a, u32& scc) {
    const T any = quad_any(a);
    T r = 0;
    for (unsigned q = 0; q < sizeof(T) * 2; ++q) r |= (any >> (4 * q) & 1) << q;
    return nonzero<T>(r, scc);
}
template <class T> u32 bcnt1(T a, u32& scc) { return nonzero<u32>(static_cast<u32>(__builtin_popcountll(a)), scc); }
template <class T> u32 bcnt0(T a, u32& scc) { return bcnt1<T>(static_cast<T>(~a), scc); }
template <class T> u32 ff1(T a, u32&) { return a ? static_cast<u32>(__builtin_ctzll(a)) : ~0u; }
template <class T> u32 ff0(T a, u32& scc) { return ff1<T>(static_cast<T>(~a), scc); }
template <class T> u32 flbit(T a, u32&) { return a ? static_cast<u32>(__builtin_clzll(a)) - (64 - 8 * sizeof(T)) : ~0u; }
// The first bit that differs from the sign.
template <class T> u32 flbit_signed(T a, u32& scc) { return flbit<T>(a >> (sizeof(T) * 8 - 1) ? static_cast<T>(~a) : a, scc); }
u32 sext_i8(u32 a, u32&) { return static_cast<u32>(static_cast<int8_t>(a)); }
u32 sext_i16(u32 a, u32&) { return static_cast<u32>(static_cast<int16_t>(a)); }
u32 abs_i32(u32 a, u32& scc) { return nonzero<u32>(a >> 31 ? 0u - a : a, scc); }
u64 bitreplicate(u32 a, u32&) {
    u64 r = 0;
    for (int n = 0; n < 32; ++n) r |= (a >> n & 1 ? u64{3} : u64{0}) << (2 * n);
    return r;
}

template <class T>
void cmov(Wave& w, const Inst& i) {
    if (w.scc) write(w, i, read<T>(w, i, 0));
}
template <class T, bool set>
void bitset(Wave& w, const Inst& i) {
    const T bit = T{1} << (read<u32>(w, i, 0) & (sizeof(T) * 8 - 1));
    T old;
    std::memcpy(&old, &w.s[i.dst], sizeof old);
    write<T>(w, i, set ? old | bit : old & ~bit);
}

// D = EXEC before, EXEC = f(S0, EXEC).
template <u64 (*f)(u64, u64)>
void saveexec(Wave& w, const Inst& i) {
    const u64 old = w.exec(), result = f(read<u64>(w, i, 0), old);
    w.set_pair(i.dst, old);
    w.set_pair(operand::exec_lo, result);
    w.scc = result != 0;
}
// EXEC = D = f(S0, EXEC).
template <u64 (*f)(u64, u64)>
void wrexec(Wave& w, const Inst& i) {
    const u64 result = f(read<u64>(w, i, 0), w.exec());
    w.set_pair(i.dst, result);
    w.set_pair(operand::exec_lo, result);
    w.scc = result != 0;
}
u64 exec_and(u64 s, u64 e) { return s & e; }
u64 exec_or(u64 s, u64 e) { return s | e; }
u64 exec_xor(u64 s, u64 e) { return s ^ e; }
u64 exec_andn2(u64 s, u64 e) { return s & ~e; }
u64 exec_orn2(u64 s, u64 e) { return s | ~e; }
u64 exec_nand(u64 s, u64 e) { return ~(s & e); }
u64 exec_nor(u64 s, u64 e) { return ~(s | e); }
u64 exec_xnor(u64 s, u64 e) { return ~(s ^ e); }
u64 exec_andn1(u64 s, u64 e) { return ~s & e; }
u64 exec_orn1(u64 s, u64 e) { return ~s | e; }

// A register number displaced by M0; the hardware reads s0 where it leaves the SGPRs.
uint16_t displaced(const Wave& w, uint16_t code, int dwords) {
    constexpr u64 kSgprs = 102;
    const u64 n = u64{code} + w.s[operand::m0];
    return n + static_cast<u64>(dwords) <= kSgprs ? static_cast<uint16_t>(n) : uint16_t{0};
}
template <class T>
void movrels(Wave& w, const Inst& i) {
    T x;
    std::memcpy(&x, &w.s[displaced(w, i.src[0], sizeof(T) / 4)], sizeof x);
    write(w, i, x);
}
template <class T>
void movreld(Wave& w, const Inst& i) {
    const T x = read<T>(w, i, 0);
    std::memcpy(&w.s[displaced(w, i.dst, sizeof(T) / 4)], &x, sizeof x);
}

void getpc(Wave& w, const Inst& i) { w.set_pair(i.dst, w.next_pc); }
void setpc(Wave& w, const Inst& i) { w.next_pc = read<u64>(w, i, 0); }
void swappc(Wave& w, const Inst& i) {
    const u64 target = read<u64>(w, i, 0);
    w.set_pair(i.dst, w.next_pc);
    w.next_pc = target;
}
void rfe(Wave& w, const Inst&) { w.fault(FaultKind::unsupported, "return from a trap handler"); }
void set_gpr_idx_idx(Wave& w, const Inst& i) {
    u32& m0 = w.s[operand::m0];
    m0 = (m0 & ~0xffu) | (read<u32>(w, i, 0) & 0xffu);
}

// Divergent control flow with the fork stack in SGPRs: MODE[31:29] is the stack pointer, four SGPRs an entry {target, EXEC}.
constexpr int kForkShift = 29;
u32 fork_depth(const Wave& w) { return w.mode >> kForkShift; }
void set_fork_depth(Wave& w, u32 depth) { w.mode = (w.mode & ~(7u << kForkShift)) | (depth & 7u) << kForkShift; }

void push_fork(Wave& w, u64 target, u64 mask) {
    const auto entry = static_cast<uint16_t>(fork_depth(w) * 4);
    w.set_pair(entry, target);
    w.set_pair(static_cast<uint16_t>(entry + 2), mask);
    set_fork_depth(w, fork_depth(w) + 1);
}
void cbranch_join(Wave& w, const Inst& i) {
    if (fork_depth(w) == read<u32>(w, i, 0)) return;
    set_fork_depth(w, fork_depth(w) - 1);
    const auto entry = static_cast<uint16_t>(fork_depth(w) * 4);
    w.next_pc = w.pair(entry);
    w.set_pair(operand::exec_lo, w.pair(static_cast<uint16_t>(entry + 2)));
}

// ---- SOP2 ----------------------------------------------------------------------------------------------------------
u32 add_u32(u32 a, u32 b, u32& scc) { return scc = a + b < a, a + b; }
u32 sub_u32(u32 a, u32 b, u32& scc) { return scc = b > a, a - b; }
u32 add_i32(u32 a, u32 b, u32& scc) {
    const u32 r = a + b;
    scc = (~(a ^ b) & (a ^ r)) >> 31;
    return r;
}
u32 sub_i32(u32 a, u32 b, u32& scc) {
    const u32 r = a - b;
    scc = ((a ^ b) & (a ^ r)) >> 31;
    return r;
}
u32 addc_u32(u32 a, u32 b, u32& scc) {
    const u64 r = u64{a} + b + scc;
    scc = static_cast<u32>(r >> 32);
    return static_cast<u32>(r);
}
u32 subb_u32(u32 a, u32 b, u32& scc) {
    const u64 taken = u64{b} + scc;
    scc = taken > a;
    return static_cast<u32>(a - taken);
}
template <class T> T min(T a, T b, u32& scc) { return scc = a < b, scc ? a : b; }
template <class T> T max(T a, T b, u32& scc) { return scc = a >= b, scc ? a : b; }
template <class T> T cselect(T a, T b, u32& scc) { return scc ? a : b; }
template <class T> T and_(T a, T b, u32& scc) { return nonzero<T>(a & b, scc); }
template <class T> T or_(T a, T b, u32& scc) { return nonzero<T>(a | b, scc); }
template <class T> T xor_(T a, T b, u32& scc) { return nonzero<T>(a ^ b, scc); }
template <class T> T andn2(T a, T b, u32& scc) { return nonzero<T>(a & ~b, scc); }
template <class T> T orn2(T a, T b, u32& scc) { return nonzero<T>(a | ~b, scc); }
template <class T> T nand(T a, T b, u32& scc) { return nonzero<T>(~(a & b), scc); }
template <class T> T nor(T a, T b, u32& scc) { return nonzero<T>(~(a | b), scc); }
template <class T> T xnor(T a, T b, u32& scc) { return nonzero<T>(~(a ^ b), scc); }
template <class T> constexpr u32 shift_mask = sizeof(T) * 8 - 1;
template <class T> T lshl(T a, u32 b, u32& scc) { return nonzero<T>(a << (b & shift_mask<T>), scc); }
template <class T> T lshr(T a, u32 b, u32& scc) { return nonzero<T>(a >> (b & shift_mask<T>), scc); }
template <class T> T bfm(u32 a, u32 b, u32&) { return ((T{1} << (a & shift_mask<T>)) - 1) << (b & shift_mask<T>); }
u32 mul_i32(u32 a, u32 b, u32&) { return a * b; }
// Bit-field extract: offset in the low bits of S1, width in S1[22:16]. T unsigned zero-extends, signed sign-extends.
template <class T> T bfe(T a, u32 b, u32& scc) {
    constexpr u32 bits = sizeof(T) * 8;
    const u32 width = b >> 16 & 0x7f;
    const T shifted = a >> (b & shift_mask<T>);
    if (width == 0) return nonzero<T>(0, scc);
    if (width >= bits) return nonzero<T>(shifted, scc);
    using U = std::make_unsigned_t<T>;
    return nonzero<T>(static_cast<T>(static_cast<U>(shifted) << (bits - width)) >> (bits - width), scc);
}
u32 absdiff(u32 a, u32 b, u32& scc) {
    const u32 d = a - b;
    return nonzero<u32>(d >> 31 ? 0u - d : d, scc);
}
u32 mul_hi_u32(u32 a, u32 b, u32&) { return static_cast<u32>(u64{a} * b >> 32); }
u32 mul_hi_i32(i32 a, i32 b, u32&) { return static_cast<u32>(static_cast<u64>(i64{a} * b) >> 32); }
template <int n> u32 lshl_add(u32 a, u32 b, u32& scc) {
    const u64 r = (u64{a} << n) + b;
    scc = r >> 32 != 0;
    return static_cast<u32>(r);
}
u32 pack_ll(u32 a, u32 b, u32&) { return (a & 0xffffu) | b << 16; }
u32 pack_lh(u32 a, u32 b, u32&) { return (a & 0xffffu) | (b & 0xffff0000u); }
u32 pack_hh(u32 a, u32 b, u32&) { return a >> 16 | (b & 0xffff0000u); }

void cbranch_g_fork(Wave& w, const Inst& i);

// ---- SOPC ----------------------------------------------------------------------------------------------------------
template <class T> bool eq(T a, T b) { return a == b; }
template <class T> bool lg(T a, T b) { return a != b; }
template <class T> bool gt(T a, T b) { return a > b; }
template <class T> bool ge(T a, T b) { return a >= b; }
template <class T> bool lt(T a, T b) { return a < b; }
template <class T> bool le(T a, T b) { return a <= b; }
template <class T> bool bitcmp0(T a, u32 b) { return !(a >> (b & shift_mask<T>) & 1); }
template <class T> bool bitcmp1(T a, u32 b) { return a >> (b & shift_mask<T>) & 1; }

void setvskip(Wave& w, const Inst& i) {
    if (read<u32>(w, i, 0) >> (read<u32>(w, i, 1) & 31) & 1) w.fault(FaultKind::unsupported, "skipping of vector instructions (VSKIP)");
}
void set_gpr_idx_on(Wave& w, const Inst& i) {
    // The second operand field is itself the four mode bits.
    const u32 index = read<u32>(w, i, 0) & 0xffu, mode = i.src[1] & 15u;
    u32& m0 = w.s[operand::m0];
    m0 = (m0 & ~0xf0ffu) | index | mode << 12;
    w.mode |= 1u << 27;
    w.gpr_index_mode = mode;
}

constexpr Type B32 = Type::b32, U32 = Type::u32, I32 = Type::i32, B64 = Type::b64, U64 = Type::u64, I64 = Type::i64, NO = Type::none;
constexpr Class S = Class::SALU, BR = Class::BRANCH;

const OpInfo kSop1Rows[] = {
    {0, "s_mov_b32", kBoth, S, scalar<mov<u32>>, nullptr, B32, {B32}},
    {1, "s_mov_b64", kBoth, S, scalar<mov<u64>>, nullptr, B64, {B64}},
    {2, "s_cmov_b32", kBoth, S, cmov<u32>, nullptr, B32, {B32}},
    {3, "s_cmov_b64", kBoth, S, cmov<u64>, nullptr, B64, {B64}},
    {4, "s_not_b32", kBoth, S, scalar<invert<u32>>, nullptr, B32, {B32}},
    {5, "s_not_b64", kBoth, S, scalar<invert<u64>>, nullptr, B64, {B64}},
    {6, "s_wqm_b32", kBoth, S, scalar<wqm<u32>>, nullptr, B32, {B32}},
    {7, "s_wqm_b64", kBoth, S, scalar<wqm<u64>>, nullptr, B64, {B64}},
    {8, "s_brev_b32", kBoth, S, scalar<brev<u32>>, nullptr, B32, {B32}},
    {9, "s_brev_b64", kBoth, S, scalar<brev<u64>>, nullptr, B64, {B64}},
    {10, "s_bcnt0_i32_b32", kBoth, S, scalar<bcnt0<u32>>, nullptr, I32, {B32}},
    {11, "s_bcnt0_i32_b64", kBoth, S, scalar<bcnt0<u64>>, nullptr, I32, {B64}},
    {12, "s_bcnt1_i32_b32", kBoth, S, scalar<bcnt1<u32>>, nullptr, I32, {B32}},
    {13, "s_bcnt1_i32_b64", kBoth, S, scalar<bcnt1<u64>>, nullptr, I32, {B64}},
    {14, "s_ff0_i32_b32", kBoth, S, scalar<ff0<u32>>, nullptr, I32, {B32}},
    {15, "s_ff0_i32_b64", kBoth, S, scalar<ff0<u64>>, nullptr, I32, {B64}},
    {16, "s_ff1_i32_b32", kBoth, S, scalar<ff1<u32>>, nullptr, I32, {B32}},
    {17, "s_ff1_i32_b64", kBoth, S, scalar<ff1<u64>>, nullptr, I32, {B64}},
    {18, "s_flbit_i32_b32", kBoth, S, scalar<flbit<u32>>, nullptr, I32, {B32}},
    {19, "s_flbit_i32_b64", kBoth, S, scalar<flbit<u64>>, nullptr, I32, {B64}},
    {20, "s_flbit_i32", kBoth, S, scalar<flbit_signed<u32>>, nullptr, I32, {I32}},
    {21, "s_flbit_i32_i64", kBoth, S, scalar<flbit_signed<u64>>, nullptr, I32, {I64}},
    {22, "s_sext_i32_i8", kBoth, S, scalar<sext_i8>, nullptr, I32, {B32}},
    {23, "s_sext_i32_i16", kBoth, S, scalar<sext_i16>, nullptr, I32, {B32}},
    {24, "s_bitset0_b32", kBoth, S, bitset<u32, false>, nullptr, B32, {U32}},
    {25, "s_bitset0_b64", kBoth, S, bitset<u64, false>, nullptr, B64, {U32}},
    {26, "s_bitset1_b32", kBoth, S, bitset<u32, true>, nullptr, B32, {U32}},
    {27, "s_bitset1_b64", kBoth, S, bitset<u64, true>, nullptr, B64, {U32}},
    {28, "s_getpc_b64", kBoth, S, getpc, nullptr, B64, {}},
    {29, "s_setpc_b64", kBoth, BR, setpc, nullptr, NO, {B64}},
    {30, "s_swappc_b64", kBoth, BR, swappc, nullptr, B64, {B64}},
    {31, "s_rfe_b64", kBoth, BR, rfe, nullptr, NO, {B64}, kRefused},
    {32, "s_and_saveexec_b64", kBoth, S, saveexec<exec_and>, nullptr, B64, {B64}},
    {33, "s_or_saveexec_b64", kBoth, S, saveexec<exec_or>, nullptr, B64, {B64}},
    {34, "s_xor_saveexec_b64", kBoth, S, saveexec<exec_xor>, nullptr, B64, {B64}},
    {35, "s_andn2_saveexec_b64", kBoth, S, saveexec<exec_andn2>, nullptr, B64, {B64}},
    {36, "s_orn2_saveexec_b64", kBoth, S, saveexec<exec_orn2>, nullptr, B64, {B64}},
    {37, "s_nand_saveexec_b64", kBoth, S, saveexec<exec_nand>, nullptr, B64, {B64}},
    {38, "s_nor_saveexec_b64", kBoth, S, saveexec<exec_nor>, nullptr, B64, {B64}},
    {39, "s_xnor_saveexec_b64", kBoth, S, saveexec<exec_xnor>, nullptr, B64, {B64}},
    {40, "s_quadmask_b32", kBoth, S, scalar<quadmask<u32>>, nullptr, B32, {B32}},
    {41, "s_quadmask_b64", kBoth, S, scalar<quadmask<u64>>, nullptr, B64, {B64}},
    {42, "s_movrels_b32", kBoth, S, movrels<u32>, nullptr, B32, {B32}},
    {43, "s_movrels_b64", kBoth, S, movrels<u64>, nullptr, B64, {B64}},
    {44, "s_movreld_b32", kBoth, S, movreld<u32>, nullptr, B32, {B32}},
    {45, "s_movreld_b64", kBoth, S, movreld<u64>, nullptr, B64, {B64}},
    {46, "s_cbranch_join", kBoth, BR, cbranch_join, nullptr, NO, {B32}},
    {48, "s_abs_i32", kBoth, S, scalar<abs_i32>, nullptr, I32, {I32}},
    {50, "s_set_gpr_idx_idx", kBoth, S, set_gpr_idx_idx, nullptr, NO, {B32}},
    {51, "s_andn1_saveexec_b64", kBoth, S, saveexec<exec_andn1>, nullptr, B64, {B64}},
    {52, "s_orn1_saveexec_b64", kBoth, S, saveexec<exec_orn1>, nullptr, B64, {B64}},
    {53, "s_andn1_wrexec_b64", kBoth, S, wrexec<exec_andn1>, nullptr, B64, {B64}},
    {54, "s_andn2_wrexec_b64", kBoth, S, wrexec<exec_andn2>, nullptr, B64, {B64}},
    {55, "s_bitreplicate_b64_b32", kBoth, S, scalar<bitreplicate>, nullptr, B64, {B32}},
};

const OpInfo kSop2Rows[] = {
    {0, "s_add_u32", kBoth, S, scalar<add_u32>, nullptr, U32, {U32, U32}},
    {1, "s_sub_u32", kBoth, S, scalar<sub_u32>, nullptr, U32, {U32, U32}},
    {2, "s_add_i32", kBoth, S, scalar<add_i32>, nullptr, I32, {I32, I32}},
    {3, "s_sub_i32", kBoth, S, scalar<sub_i32>, nullptr, I32, {I32, I32}},
    {4, "s_addc_u32", kBoth, S, scalar<addc_u32>, nullptr, U32, {U32, U32}},
    {5, "s_subb_u32", kBoth, S, scalar<subb_u32>, nullptr, U32, {U32, U32}},
    {6, "s_min_i32", kBoth, S, scalar<min<i32>>, nullptr, I32, {I32, I32}},
    {7, "s_min_u32", kBoth, S, scalar<min<u32>>, nullptr, U32, {U32, U32}},
    {8, "s_max_i32", kBoth, S, scalar<max<i32>>, nullptr, I32, {I32, I32}},
    {9, "s_max_u32", kBoth, S, scalar<max<u32>>, nullptr, U32, {U32, U32}},
    {10, "s_cselect_b32", kBoth, S, scalar<cselect<u32>>, nullptr, B32, {B32, B32}},
    {11, "s_cselect_b64", kBoth, S, scalar<cselect<u64>>, nullptr, B64, {B64, B64}},
    {12, "s_and_b32", kBoth, S, scalar<and_<u32>>, nullptr, B32, {B32, B32}},
    {13, "s_and_b64", kBoth, S, scalar<and_<u64>>, nullptr, B64, {B64, B64}},
    {14, "s_or_b32", kBoth, S, scalar<or_<u32>>, nullptr, B32, {B32, B32}},
    {15, "s_or_b64", kBoth, S, scalar<or_<u64>>, nullptr, B64, {B64, B64}},
    {16, "s_xor_b32", kBoth, S, scalar<xor_<u32>>, nullptr, B32, {B32, B32}},
    {17, "s_xor_b64", kBoth, S, scalar<xor_<u64>>, nullptr, B64, {B64, B64}},
    {18, "s_andn2_b32", kBoth, S, scalar<andn2<u32>>, nullptr, B32, {B32, B32}},
    {19, "s_andn2_b64", kBoth, S, scalar<andn2<u64>>, nullptr, B64, {B64, B64}},
    {20, "s_orn2_b32", kBoth, S, scalar<orn2<u32>>, nullptr, B32, {B32, B32}},
    {21, "s_orn2_b64", kBoth, S, scalar<orn2<u64>>, nullptr, B64, {B64, B64}},
    {22, "s_nand_b32", kBoth, S, scalar<nand<u32>>, nullptr, B32, {B32, B32}},
    {23, "s_nand_b64", kBoth, S, scalar<nand<u64>>, nullptr, B64, {B64, B64}},
    {24, "s_nor_b32", kBoth, S, scalar<nor<u32>>, nullptr, B32, {B32, B32}},
    {25, "s_nor_b64", kBoth, S, scalar<nor<u64>>, nullptr, B64, {B64, B64}},
    {26, "s_xnor_b32", kBoth, S, scalar<xnor<u32>>, nullptr, B32, {B32, B32}},
    {27, "s_xnor_b64", kBoth, S, scalar<xnor<u64>>, nullptr, B64, {B64, B64}},
    {28, "s_lshl_b32", kBoth, S, scalar<lshl<u32>>, nullptr, B32, {B32, U32}},
    {29, "s_lshl_b64", kBoth, S, scalar<lshl<u64>>, nullptr, B64, {B64, U32}},
    {30, "s_lshr_b32", kBoth, S, scalar<lshr<u32>>, nullptr, B32, {B32, U32}},
    {31, "s_lshr_b64", kBoth, S, scalar<lshr<u64>>, nullptr, B64, {B64, U32}},
    {32, "s_ashr_i32", kBoth, S, scalar<lshr<i32>>, nullptr, I32, {I32, U32}},
    {33, "s_ashr_i64", kBoth, S, scalar<lshr<i64>>, nullptr, I64, {I64, U32}},
    {34, "s_bfm_b32", kBoth, S, scalar<bfm<u32>>, nullptr, B32, {U32, U32}},
    {35, "s_bfm_b64", kBoth, S, scalar<bfm<u64>>, nullptr, B64, {U32, U32}},
    {36, "s_mul_i32", kBoth, S, scalar<mul_i32>, nullptr, I32, {I32, I32}},
    {37, "s_bfe_u32", kBoth, S, scalar<bfe<u32>>, nullptr, U32, {U32, U32}},
    {38, "s_bfe_i32", kBoth, S, scalar<bfe<i32>>, nullptr, I32, {I32, U32}},
    {39, "s_bfe_u64", kBoth, S, scalar<bfe<u64>>, nullptr, U64, {U64, U32}},
    {40, "s_bfe_i64", kBoth, S, scalar<bfe<i64>>, nullptr, I64, {I64, U32}},
    {41, "s_cbranch_g_fork", kBoth, BR, cbranch_g_fork, nullptr, NO, {B64, B64}},
    {42, "s_absdiff_i32", kBoth, S, scalar<absdiff>, nullptr, I32, {I32, I32}},
    {43, "s_rfe_restore_b64", kBoth, BR, rfe, nullptr, NO, {B64, B32}, kRefused},
    {44, "s_mul_hi_u32", kBoth, S, scalar<mul_hi_u32>, nullptr, U32, {U32, U32}},
    {45, "s_mul_hi_i32", kBoth, S, scalar<mul_hi_i32>, nullptr, I32, {I32, I32}},
    {46, "s_lshl1_add_u32", kBoth, S, scalar<lshl_add<1>>, nullptr, U32, {U32, U32}},
    {47, "s_lshl2_add_u32", kBoth, S, scalar<lshl_add<2>>, nullptr, U32, {U32, U32}},
    {48, "s_lshl3_add_u32", kBoth, S, scalar<lshl_add<3>>, nullptr, U32, {U32, U32}},
    {49, "s_lshl4_add_u32", kBoth, S, scalar<lshl_add<4>>, nullptr, U32, {U32, U32}},
    {50, "s_pack_ll_b32_b16", kBoth, S, scalar<pack_ll>, nullptr, B32, {B32, B32}},
    {51, "s_pack_lh_b32_b16", kBoth, S, scalar<pack_lh>, nullptr, B32, {B32, B32}},
    {52, "s_pack_hh_b32_b16", kBoth, S, scalar<pack_hh>, nullptr, B32, {B32, B32}},
};

const OpInfo kSopcRows[] = {
    {0, "s_cmp_eq_i32", kBoth, S, compare<eq<u32>>, nullptr, NO, {I32, I32}},
    {1, "s_cmp_lg_i32", kBoth, S, compare<lg<u32>>, nullptr, NO, {I32, I32}},
    {2, "s_cmp_gt_i32", kBoth, S, compare<gt<i32>>, nullptr, NO, {I32, I32}},
    {3, "s_cmp_ge_i32", kBoth, S, compare<ge<i32>>, nullptr, NO, {I32, I32}},
    {4, "s_cmp_lt_i32", kBoth, S, compare<lt<i32>>, nullptr, NO, {I32, I32}},
    {5, "s_cmp_le_i32", kBoth, S, compare<le<i32>>, nullptr, NO, {I32, I32}},
    {6, "s_cmp_eq_u32", kBoth, S, compare<eq<u32>>, nullptr, NO, {U32, U32}},
    {7, "s_cmp_lg_u32", kBoth, S, compare<lg<u32>>, nullptr, NO, {U32, U32}},
    {8, "s_cmp_gt_u32", kBoth, S, compare<gt<u32>>, nullptr, NO, {U32, U32}},
    {9, "s_cmp_ge_u32", kBoth, S, compare<ge<u32>>, nullptr, NO, {U32, U32}},
    {10, "s_cmp_lt_u32", kBoth, S, compare<lt<u32>>, nullptr, NO, {U32, U32}},
    {11, "s_cmp_le_u32", kBoth, S, compare<le<u32>>, nullptr, NO, {U32, U32}},
    {12, "s_bitcmp0_b32", kBoth, S, compare<bitcmp0<u32>>, nullptr, NO, {B32, U32}},
    {13, "s_bitcmp1_b32", kBoth, S, compare<bitcmp1<u32>>, nullptr, NO, {B32, U32}},
    {14, "s_bitcmp0_b64", kBoth, S, compare<bitcmp0<u64>>, nullptr, NO, {B64, U32}},
    {15, "s_bitcmp1_b64", kBoth, S, compare<bitcmp1<u64>>, nullptr, NO, {B64, U32}},
    {16, "s_setvskip", kBoth, S, setvskip, nullptr, NO, {B32, U32}},
    {17, "s_set_gpr_idx_on", kBoth, S, set_gpr_idx_on, nullptr, NO, {B32, NO}},
    {18, "s_cmp_eq_u64", kBoth, S, compare<eq<u64>>, nullptr, NO, {U64, U64}},
    {19, "s_cmp_lg_u64", kBoth, S, compare<lg<u64>>, nullptr, NO, {U64, U64}},
};

}  // namespace

// Runs the smaller side of a divergent branch first and pushes the other one; control.cpp uses it for s_cbranch_i_fork.
void fork_branch(Wave& w, uint64_t condition, uint64_t target) {
    const u64 exec = w.exec(), pass = condition & exec, fail = ~condition & exec;
    if (pass == exec) {
        w.next_pc = target;
    } else if (fail != exec) {
        const bool fail_first = __builtin_popcountll(fail) < __builtin_popcountll(pass);
        push_fork(w, fail_first ? target : w.next_pc, fail_first ? pass : fail);
        w.set_pair(operand::exec_lo, fail_first ? fail : pass);
        if (!fail_first) w.next_pc = target;
    }
}
namespace {
void cbranch_g_fork(Wave& w, const Inst& i) {
    const u64 condition = read<u64>(w, i, 0);
    fork_branch(w, condition, read<u64>(w, i, 1));
}
}  // namespace

const OpTable kSop1Table = {Enc::SOP1, kSop1Rows, sizeof kSop1Rows / sizeof kSop1Rows[0]};
const OpTable kSop2Table = {Enc::SOP2, kSop2Rows, sizeof kSop2Rows / sizeof kSop2Rows[0]};
const OpTable kSopcTable = {Enc::SOPC, kSopcRows, sizeof kSopcRows / sizeof kSopcRows[0]};

}  // namespace emu
