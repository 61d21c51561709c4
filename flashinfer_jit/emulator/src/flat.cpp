// GLOBAL, FLAT and SCRATCH: loads, stores, atomics and the global and scratch loads into LDS.
#include "atomics.h"
#include "memory.h"

namespace emu {
namespace {

// VGPR pair + offset, or SGPR pair + 32-bit VGPR + offset.
void global_addresses(Wave& w, const Inst& i, LaneAddresses& a) {
    const uint32_t* low = w.reg(i.src[0]);
    const uint64_t offset = static_cast<uint64_t>(static_cast<int64_t>(i.offset));
    if (i.src[2] == operand::none) {
        const uint32_t* high = low + kLanes;
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) a.at[l] = (low[l] | static_cast<uint64_t>(high[l]) << 32) + offset;
    } else {
        const uint64_t base = w.pair(i.src[2]) + offset;
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) a.at[l] = base + low[l];
    }
}

// Scratch: offsets into each lane's private memory (manual table 56: ST, SS, SV, SVS).
struct ScratchOffsets {
    alignas(64) uint32_t at[kLanes];
    bool uniform;   // the same for all lanes
};
void scratch_offsets(Wave& w, const Inst& i, ScratchOffsets& o) {
    const uint32_t base = static_cast<uint32_t>(i.offset) + (i.src[2] == operand::none ? 0 : read_scalar32(w, i, i.src[2]));
    o.uniform = i.src[0] == operand::none;
    if (o.uniform) {
        for (int l = 0; l < kLanes; ++l) o.at[l] = base;
    } else {
        const uint32_t* v = w.reg(i.src[0]);
        for (int l = 0; l < kLanes; ++l) o.at[l] = base + v[l];
    }
}

// Private memory is swizzled: dword d of lane l lies at [d][l]. Bytes of one dword stay together.
uint8_t* scratch_byte(const Wave& w, uint32_t offset, int lane) {
    return w.scratch + static_cast<size_t>(offset / 4) * (4 * kLanes) + static_cast<uint32_t>(lane) * 4 + offset % 4;
}
bool check_scratch(Wave& w, uint32_t offset, int lane, uint32_t bytes, bool write) {
    if (offset < w.scratch_bytes && w.scratch_bytes - offset >= bytes) return true;
    w.fault(FaultKind::scratch_out_of_range, "outside the scratch memory that the kernel's descriptor asks for", offset, lane, bytes, write);
    return false;
}
bool check_scratch(Wave& w, const ScratchOffsets& o, uint64_t exec, uint32_t bytes, bool write) {
    if (o.uniform) return check_scratch(w, o.at[0], __builtin_ctzll(exec), bytes, write);
    for (uint64_t rest = exec; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        if (!check_scratch(w, o.at[l], l, bytes, write)) return false;
    }
    return true;
}

void scratch_copy_out(const Wave& w, uint32_t offset, int lane, uint8_t* to, uint32_t bytes) {
    for (uint32_t b = 0; b < bytes; ++b) to[b] = *scratch_byte(w, offset + b, lane);
}
void scratch_copy_in(const Wave& w, uint32_t offset, int lane, const uint8_t* from, uint32_t bytes) {
    for (uint32_t b = 0; b < bytes; ++b) *scratch_byte(w, offset + b, lane) = from[b];
}

void count_scratch(Wave& w, const ScratchOffsets& o, uint64_t exec, uint32_t bytes, bool write) {
    (write ? w.counters->scratch_written : w.counters->scratch_read) += static_cast<uint64_t>(lane_count(exec)) * bytes;
    if (!w.trace) return;
    LaneAddresses a;
    for (int l = 0; l < kLanes; ++l) a.at[l] = o.at[l];
    trace_access(w, a.at, exec, bytes);
}

template <Element kElement> void scratch_load(Wave& w, const Inst& i) {
    constexpr uint32_t bytes = element_bytes(kElement);
    const uint64_t exec = w.exec();
    if (!exec) return;
    ScratchOffsets o;
    scratch_offsets(w, i, o);
    if (!check_scratch(w, o, exec, bytes, false)) return;
    count_scratch(w, o, exec, bytes, false);
    if constexpr (bytes >= 4) {
        if (o.uniform && o.at[0] % 4 == 0) {   // spills: whole rows
            for (uint32_t k = 0; k < bytes / 4; ++k) {
                const uint32_t* row = reinterpret_cast<const uint32_t*>(scratch_byte(w, o.at[0] + 4 * k, 0));
                if (exec == kAllLanes) std::memcpy(w.reg(i.dst) + k * kLanes, row, 4 * kLanes);
                else blend_row(w.reg(i.dst) + k * kLanes, row, w.active_lanes());
            }
            return;
        }
    }
    alignas(16) uint8_t data[kLanes][16];
    LaneAddresses a;
    for (int l = 0; l < kLanes; ++l) {
        if (exec >> l & 1) scratch_copy_out(w, o.at[l], l, data[l], bytes);
        a.at[l] = exec >> l & 1 ? reinterpret_cast<uint64_t>(data[l]) : zero_address();
    }
    load_lanes<kElement>(w, i.dst, AtPointers{a.at}, exec);
}

template <Element kElement> void scratch_store(Wave& w, const Inst& i) {
    constexpr uint32_t bytes = element_bytes(kElement);
    const uint64_t exec = w.exec();
    if (!exec) return;
    ScratchOffsets o;
    scratch_offsets(w, i, o);
    if (!check_scratch(w, o, exec, bytes, true)) return;
    count_scratch(w, o, exec, bytes, true);
    if constexpr (bytes >= 4) {
        if (o.uniform && o.at[0] % 4 == 0) {
            for (uint32_t k = 0; k < bytes / 4; ++k)
                blend_row(reinterpret_cast<uint32_t*>(scratch_byte(w, o.at[0] + 4 * k, 0)), w.reg(i.src[1]) + k * kLanes, w.active_lanes());
            return;
        }
    }
    alignas(16) uint8_t data[kLanes][16];
    LaneAddresses a;
    for (int l = 0; l < kLanes; ++l) a.at[l] = reinterpret_cast<uint64_t>(data[l]);
    store_lanes<kElement>(w, i.src[1], AtPointers{a.at}, exec);
    for_each_lane(exec, [&](int l) { scratch_copy_in(w, o.at[l], l, data[l], bytes); });
}

template <Element kElement> void global_load(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    LaneAddresses a;
    global_addresses(w, i, a);
    if (!check_access(w, a.at, exec, element_bytes(kElement), false)) return;
    trace_access(w, a.at, exec, element_bytes(kElement));
    mask_addresses(w, a, exec);
    load_lanes<kElement>(w, i.dst, AtPointers{a.at}, exec);
}

template <Element kElement> void global_store(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    LaneAddresses a;
    global_addresses(w, i, a);
    if (!check_access(w, a.at, exec, element_bytes(kElement), true)) return;
    trace_access(w, a.at, exec, element_bytes(kElement));
    store_lanes<kElement>(w, i.src[1], AtPointers{a.at}, exec);
}

// Which memory each lane of a FLAT instruction means, by the upper half of its address (manual 10.3).
struct FlatLanes {
    LaneAddresses a;
    uint64_t global = 0, shared = 0, scratch = 0;
};
void flat_lanes(Wave& w, const Inst& i, uint64_t exec, FlatLanes& f) {
    global_addresses(w, i, f.a);
    uint64_t above = 0;
#pragma omp simd reduction(| : above)
    for (int l = 0; l < kLanes; ++l) above |= f.a.at[l] >> 48;
    if (!above) {
        f.global = exec;
        return;
    }
    for_each_lane(exec, [&](int l) {
        const uint64_t high = f.a.at[l] >> 32;
        (high == kSharedAperture >> 32 ? f.shared : high == kPrivateAperture >> 32 ? f.scratch : f.global) |= 1ull << l;
    });
}
uint32_t aperture_offset(const FlatLanes& f, int l) { return static_cast<uint32_t>(f.a.at[l]); }

// Everything a FLAT access needs to be allowed; lanes of the LDS beyond its end read zero and drop stores, as DS instructions do.
bool check_flat(Wave& w, const FlatLanes& f, uint32_t bytes, bool write) {
    if (!check_access(w, f.a.at, f.global, bytes, write)) return false;
    for (uint64_t rest = f.scratch; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        if (!check_scratch(w, aperture_offset(f, l), l, bytes, write)) return false;
    }
    Counters& c = *w.counters;
    (write ? c.scratch_written : c.scratch_read) += static_cast<uint64_t>(lane_count(f.scratch)) * bytes;
    (write ? c.lds_written : c.lds_read) += static_cast<uint64_t>(lane_count(f.shared)) * bytes;
    c.lds_accesses += f.shared != 0;
    trace_access(w, f.a.at, f.global | f.shared | f.scratch, bytes);
    return true;
}

template <Element kElement> void flat_load(Wave& w, const Inst& i) {
    constexpr uint32_t bytes = element_bytes(kElement);
    const uint64_t exec = w.exec();
    if (!exec) return;
    FlatLanes f;
    flat_lanes(w, i, exec, f);
    if (!check_flat(w, f, bytes, false)) return;
    if (f.global == exec) {
        mask_addresses(w, f.a, exec);
        return load_lanes<kElement>(w, i.dst, AtPointers{f.a.at}, exec);
    }
    alignas(16) uint8_t data[kLanes][16] = {};
    for_each_lane(f.scratch, [&](int l) { scratch_copy_out(w, aperture_offset(f, l), l, data[l], bytes); });
    for_each_lane(f.shared, [&](int l) {
        for (uint32_t b = 0; b < bytes; ++b) {
            const uint64_t p = lds_pointer(w, aperture_offset(f, l) + b, 1);
            if (p) data[l][b] = load_unaligned<uint8_t>(p);
            else if (b + 1 == bytes) ++w.counters->out_of_range_lds_lanes;
        }
    });
    for (int l = 0; l < kLanes; ++l)
        if (!(f.global >> l & 1)) f.a.at[l] = reinterpret_cast<uint64_t>(data[l]);
    load_lanes<kElement>(w, i.dst, AtPointers{f.a.at}, exec);
}

template <Element kElement> void flat_store(Wave& w, const Inst& i) {
    constexpr uint32_t bytes = element_bytes(kElement);
    const uint64_t exec = w.exec();
    if (!exec) return;
    FlatLanes f;
    flat_lanes(w, i, exec, f);
    if (!check_flat(w, f, bytes, true)) return;
    if (f.global) store_lanes<kElement>(w, i.src[1], AtPointers{f.a.at}, f.global);
    if (f.global == exec) return;
    alignas(16) uint8_t data[kLanes][16];
    for (int l = 0; l < kLanes; ++l) f.a.at[l] = f.a.at[l] & 0xffffffffu;
    LaneAddresses staged;
    for (int l = 0; l < kLanes; ++l) staged.at[l] = reinterpret_cast<uint64_t>(data[l]);
    store_lanes<kElement>(w, i.src[1], AtPointers{staged.at}, f.shared | f.scratch);
    for_each_lane(f.scratch, [&](int l) { scratch_copy_in(w, aperture_offset(f, l), l, data[l], bytes); });
    for_each_lane(f.shared, [&](int l) {
        for (uint32_t b = 0; b < bytes; ++b) {
            const uint64_t p = lds_pointer(w, aperture_offset(f, l) + b, 1);
            if (p) store_unaligned(p, data[l][b]);
            else if (b + 1 == bytes) ++w.counters->out_of_range_lds_lanes;
        }
    });
}

// The data operands are in consecutive registers: (data) or (source, compare).
template <class F> typename F::type second_operand(Wave& w, const Inst& i, int l) {
    using T = typename F::type;
    if constexpr (F::kOperands == 2) return register_value<T>(w, static_cast<uint16_t>(i.src[1] + sizeof(T) / 4), l);
    else return T{};
}
template <class T> bool check_alignment(Wave& w, const LaneAddresses& a, uint64_t exec) {
    for (uint64_t rest = exec; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        if (a.at[l] % sizeof(T) == 0) continue;
        w.fault(FaultKind::misaligned, "an atomic needs an address that is a multiple of its size", a.at[l], l, sizeof(T), true);
        return false;
    }
    return true;
}

template <class F> void global_atomic(Wave& w, const Inst& i) {
    using T = typename F::type;
    const uint64_t exec = w.exec();
    if (!exec) return;
    LaneAddresses a;
    global_addresses(w, i, a);
    if (!check_alignment<T>(w, a, exec) || !check_access(w, a.at, exec, sizeof(T), true)) return;
    trace_access(w, a.at, exec, sizeof(T));
    for_each_lane(exec, [&](int l) {
        const T old = atomic::update_shared<F>(a.at[l], register_value<T>(w, i.src[1], l), second_operand<F>(w, i, l));
        if (i.sc0) set_register_value(w, i.dst, l, old);
    });
}

template <class F> void flat_atomic(Wave& w, const Inst& i) {
    using T = typename F::type;
    const uint64_t exec = w.exec();
    if (!exec) return;
    FlatLanes f;
    flat_lanes(w, i, exec, f);
    if (sizeof(T) == 8 && f.scratch) return w.fault(FaultKind::unsupported, "a 64-bit atomic on private memory", f.a.at[__builtin_ctzll(f.scratch)], __builtin_ctzll(f.scratch), 8, true);
    if (!check_alignment<T>(w, f.a, exec) || !check_flat(w, f, sizeof(T), true)) return;
    for_each_lane(exec, [&](int l) {
        const T data = register_value<T>(w, i.src[1], l), second = second_operand<F>(w, i, l);
        T old{};
        if (f.global >> l & 1) {
            old = atomic::update_shared<F>(f.a.at[l], data, second);
        } else {
            const bool shared = f.shared >> l & 1;
            const uint64_t p = shared ? lds_pointer(w, aperture_offset(f, l), sizeof(T)) : reinterpret_cast<uint64_t>(scratch_byte(w, aperture_offset(f, l), l));
            if (p) old = atomic::update<F>(p, data, second);
            else ++w.counters->out_of_range_lds_lanes;
        }
        if (i.sc0) set_register_value(w, i.dst, l, old);
    });
}

// Direct to LDS: base = M0 without its two low bits + the instruction's offset, which both addresses take (manual 10.3).
uint32_t direct_base(const Wave& w, const Inst& i) {
    const uint32_t mask = w.launch->arch == Arch::gfx950 ? 0x3fffcu : 0xfffcu;
    return (w.s[operand::m0] & mask) + static_cast<uint32_t>(i.offset);
}
template <uint32_t kBytes, bool kSigned> void global_load_lds(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    const uint32_t base = direct_base(w, i);
    const uint64_t lanes = lds_direct_lanes(w, base, kBytes, exec);
    LaneAddresses a;
    global_addresses(w, i, a);
    if (!lanes || !check_access(w, a.at, lanes, kBytes, false)) return;
    trace_access(w, a.at, lanes, kBytes);
    store_lds_direct(w, base, a.at, lanes, kBytes, kSigned);
}
template <uint32_t kBytes, bool kSigned> void scratch_load_lds(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    const uint32_t base = direct_base(w, i);
    const uint64_t lanes = lds_direct_lanes(w, base, kBytes, exec);
    ScratchOffsets o;
    scratch_offsets(w, i, o);
    if (!lanes || !check_scratch(w, o, lanes, kBytes, false)) return;
    count_scratch(w, o, lanes, kBytes, false);
    uint8_t data[kLanes][4];
    LaneAddresses a;
    for_each_lane(lanes, [&](int l) {
        scratch_copy_out(w, o.at[l], l, data[l], kBytes);
        a.at[l] = reinterpret_cast<uint64_t>(data[l]);
    });
    store_lds_direct(w, base, a.at, lanes, kBytes, kSigned);
}

constexpr OpInfo load_row(uint16_t opcode, const char* name, Class cls, ExecFn exec, int dwords) {
    OpInfo r{opcode, name, kBoth, cls, exec};
    r.dst_dwords = static_cast<uint8_t>(dwords), r.src_dwords[0] = 2, r.src_dwords[2] = 2;
    return r;
}
constexpr OpInfo store_row(uint16_t opcode, const char* name, Class cls, ExecFn exec, int dwords) {
    OpInfo r{opcode, name, kBoth, cls, exec};
    r.src_dwords[0] = 2, r.src_dwords[1] = static_cast<uint8_t>(dwords), r.src_dwords[2] = 2;
    return r;
}
constexpr OpInfo atomic_row(uint16_t opcode, const char* name, Class cls, ExecFn exec, int result, int data) {
    OpInfo r = store_row(opcode, name, cls, exec, data);
    r.dst_dwords = static_cast<uint8_t>(result);
    return r;
}
constexpr OpInfo direct_row(uint16_t opcode, const char* name, ExecFn exec, uint8_t archs = kBoth) {
    OpInfo r{opcode, name, archs, Class::LDS_DMA, exec};
    r.src_dwords[0] = 2, r.src_dwords[2] = 2;
    return r;
}

#define LOADS_AND_STORES(segment, load_class, store_class)                                                     \
    load_row(16, #segment "_load_ubyte", load_class, segment##_load<Element::u8>, 1),                            \
    load_row(17, #segment "_load_sbyte", load_class, segment##_load<Element::i8>, 1),                            \
    load_row(18, #segment "_load_ushort", load_class, segment##_load<Element::u16>, 1),                          \
    load_row(19, #segment "_load_sshort", load_class, segment##_load<Element::i16>, 1),                          \
    load_row(20, #segment "_load_dword", load_class, segment##_load<Element::b32>, 1),                           \
    load_row(21, #segment "_load_dwordx2", load_class, segment##_load<Element::b64>, 2),                         \
    load_row(22, #segment "_load_dwordx3", load_class, segment##_load<Element::b96>, 3),                         \
    load_row(23, #segment "_load_dwordx4", load_class, segment##_load<Element::b128>, 4),                        \
    store_row(24, #segment "_store_byte", store_class, segment##_store<Element::u8>, 1),                         \
    store_row(25, #segment "_store_byte_d16_hi", store_class, segment##_store<Element::u8_high>, 1),             \
    store_row(26, #segment "_store_short", store_class, segment##_store<Element::u16>, 1),                       \
    store_row(27, #segment "_store_short_d16_hi", store_class, segment##_store<Element::u16_high>, 1),           \
    store_row(28, #segment "_store_dword", store_class, segment##_store<Element::b32>, 1),                       \
    store_row(29, #segment "_store_dwordx2", store_class, segment##_store<Element::b64>, 2),                     \
    store_row(30, #segment "_store_dwordx3", store_class, segment##_store<Element::b96>, 3),                     \
    store_row(31, #segment "_store_dwordx4", store_class, segment##_store<Element::b128>, 4),                    \
    load_row(32, #segment "_load_ubyte_d16", load_class, segment##_load<Element::u8_low>, 1),                    \
    load_row(33, #segment "_load_ubyte_d16_hi", load_class, segment##_load<Element::u8_high>, 1),                \
    load_row(34, #segment "_load_sbyte_d16", load_class, segment##_load<Element::i8_low>, 1),                    \
    load_row(35, #segment "_load_sbyte_d16_hi", load_class, segment##_load<Element::i8_high>, 1),                \
    load_row(36, #segment "_load_short_d16", load_class, segment##_load<Element::u16_low>, 1),                   \
    load_row(37, #segment "_load_short_d16_hi", load_class, segment##_load<Element::u16_high>, 1)

#define INTEGER_ATOMICS(first, segment, cls, suffix, bits, dwords)                                                            \
    atomic_row(first + 0, #segment "_atomic_swap" suffix, cls, segment##_atomic<atomic::Swap<uint##bits##_t>>, dwords, dwords),  \
    atomic_row(first + 1, #segment "_atomic_cmpswap" suffix, cls, segment##_atomic<atomic::CompareSwap<uint##bits##_t>>, dwords, 2 * dwords), \
    atomic_row(first + 2, #segment "_atomic_add" suffix, cls, segment##_atomic<atomic::Add<uint##bits##_t>>, dwords, dwords),    \
    atomic_row(first + 3, #segment "_atomic_sub" suffix, cls, segment##_atomic<atomic::Sub<uint##bits##_t>>, dwords, dwords),    \
    atomic_row(first + 4, #segment "_atomic_smin" suffix, cls, segment##_atomic<atomic::Min<int##bits##_t>>, dwords, dwords),    \
    atomic_row(first + 5, #segment "_atomic_umin" suffix, cls, segment##_atomic<atomic::Min<uint##bits##_t>>, dwords, dwords),   \
    atomic_row(first + 6, #segment "_atomic_smax" suffix, cls, segment##_atomic<atomic::Max<int##bits##_t>>, dwords, dwords),    \
    atomic_row(first + 7, #segment "_atomic_umax" suffix, cls, segment##_atomic<atomic::Max<uint##bits##_t>>, dwords, dwords),   \
    atomic_row(first + 8, #segment "_atomic_and" suffix, cls, segment##_atomic<atomic::And<uint##bits##_t>>, dwords, dwords),    \
    atomic_row(first + 9, #segment "_atomic_or" suffix, cls, segment##_atomic<atomic::Or<uint##bits##_t>>, dwords, dwords),      \
    atomic_row(first + 10, #segment "_atomic_xor" suffix, cls, segment##_atomic<atomic::Xor<uint##bits##_t>>, dwords, dwords),   \
    atomic_row(first + 11, #segment "_atomic_inc" suffix, cls, segment##_atomic<atomic::Inc<uint##bits##_t>>, dwords, dwords),   \
    atomic_row(first + 12, #segment "_atomic_dec" suffix, cls, segment##_atomic<atomic::Dec<uint##bits##_t>>, dwords, dwords)

#define ATOMICS(segment, cls)                                                                                       \
    INTEGER_ATOMICS(64, segment, cls, "", 32, 1),                                                                     \
    atomic_row(77, #segment "_atomic_add_f32", cls, segment##_atomic<atomic::AddFloat<float>>, 1, 1),                 \
    atomic_row(78, #segment "_atomic_pk_add_f16", cls, segment##_atomic<atomic::PackedAddHalf>, 1, 1),                \
    atomic_row(79, #segment "_atomic_add_f64", cls, segment##_atomic<atomic::AddFloat<double>>, 2, 2),                \
    atomic_row(80, #segment "_atomic_min_f64", cls, segment##_atomic<atomic::MinFloat<double>>, 2, 2),                \
    atomic_row(81, #segment "_atomic_max_f64", cls, segment##_atomic<atomic::MaxFloat<double>>, 2, 2),                \
    atomic_row(82, #segment "_atomic_pk_add_bf16", cls, segment##_atomic<atomic::PackedAddBfloat>, 1, 1),             \
    INTEGER_ATOMICS(96, segment, cls, "_x2", 64, 2)

const OpInfo kFlatRows[] = {
    LOADS_AND_STORES(flat, Class::FLAT, Class::FLAT),
    ATOMICS(flat, Class::FLAT),
};
const OpInfo kGlobalRows[] = {
    LOADS_AND_STORES(global, Class::VMEM_LOAD, Class::VMEM_STORE),
    direct_row(38, "global_load_lds_ubyte", global_load_lds<1, false>),
    direct_row(39, "global_load_lds_sbyte", global_load_lds<1, true>),
    direct_row(40, "global_load_lds_ushort", global_load_lds<2, false>),
    direct_row(41, "global_load_lds_sshort", global_load_lds<2, true>),
    direct_row(42, "global_load_lds_dword", global_load_lds<4, false>),
    ATOMICS(global, Class::VMEM_ATOMIC),
    direct_row(125, "global_load_lds_dwordx4", global_load_lds<16, false>, kGfx950),
    direct_row(126, "global_load_lds_dwordx3", global_load_lds<12, false>, kGfx950),
};
const OpInfo kScratchRows[] = {
    LOADS_AND_STORES(scratch, Class::SCRATCH, Class::SCRATCH),
    direct_row(38, "scratch_load_lds_ubyte", scratch_load_lds<1, false>),
    direct_row(39, "scratch_load_lds_sbyte", scratch_load_lds<1, true>),
    direct_row(40, "scratch_load_lds_ushort", scratch_load_lds<2, false>),
    direct_row(41, "scratch_load_lds_sshort", scratch_load_lds<2, true>),
    direct_row(42, "scratch_load_lds_dword", scratch_load_lds<4, false>),
};

template <int kCount> constexpr int row_count(const OpInfo (&)[kCount]) { return kCount; }

}  // namespace

extern const OpTable kFlatTable = {Enc::FLAT, kFlatRows, row_count(kFlatRows)};
extern const OpTable kGlobalTable = {Enc::GLOBAL, kGlobalRows, row_count(kGlobalRows)};
extern const OpTable kScratchTable = {Enc::SCRATCH, kScratchRows, row_count(kScratchRows)};

}  // namespace emu
