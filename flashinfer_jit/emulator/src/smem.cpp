// SMEM: scalar loads, stores and atomics, the clocks, and the scalar cache instructions (which have nothing to do here).
#include "atomics.h"
#include "memory.h"

namespace emu {
namespace {

struct ScalarAddress {
    uint64_t at;
    uint64_t limit;   // readable bytes from `at` on (buffer forms: num_records)
};

// base + offset + soffset; the two low bits of every component and of the sum are ignored (manual 8.2.1.1).
ScalarAddress scalar_address(Wave& w, const Inst& i, uint64_t soffset_scale) {
    const uint64_t soffset = i.src[1] == operand::none ? 0 : read_scalar32(w, i, i.src[1]);
    return {(w.pair(i.src[0]) + static_cast<uint64_t>(static_cast<int64_t>(i.offset)) + soffset * soffset_scale) & ~3ull, ~0ull};
}

// The buffer forms use base, stride and num_records of the V#; dwords beyond its end are not accessed and read as zero (8.4).
ScalarAddress buffer_address(Wave& w, const Inst& i) {
    const uint32_t* srd = w.s + i.src[0];
    const uint64_t base = srd[0] | static_cast<uint64_t>(srd[1] & 0xffff) << 32;
    const uint32_t stride = srd[1] >> 16 & 0x3fff;
    const uint64_t size = static_cast<uint64_t>(srd[2]) * (stride ? stride : 1);
    const uint64_t offset = static_cast<uint64_t>(static_cast<int64_t>(i.offset)) + (i.src[1] == operand::none ? 0 : read_scalar32(w, i, i.src[1]));
    const uint64_t start = offset & ~3ull;
    return {(base & ~3ull) + start, start < size ? size - start : 0};
}

enum class Base { global, scratch, buffer };
template <Base kBase> ScalarAddress address_of(Wave& w, const Inst& i) {
    if constexpr (kBase == Base::buffer) return buffer_address(w, i);
    return scalar_address(w, i, kBase == Base::scratch ? 64 : 1);
}

template <Base kBase, int kDwords> void load(Wave& w, const Inst& i) {
    const ScalarAddress a = address_of<kBase>(w, i);
    uint32_t data[kDwords] = {};
    const uint32_t bytes = static_cast<uint32_t>(a.limit / 4 < kDwords ? a.limit / 4 : kDwords) * 4;
    if (bytes) {
        if (!check_scalar_access(w, a.at, bytes)) return;
        std::memcpy(data, reinterpret_cast<const void*>(a.at), bytes);
    }
    std::memcpy(w.s + i.dst, data, sizeof data);
}

template <Base kBase, int kDwords> void store(Wave& w, const Inst& i) {
    const ScalarAddress a = address_of<kBase>(w, i);
    const uint32_t bytes = static_cast<uint32_t>(a.limit / 4 < kDwords ? a.limit / 4 : kDwords) * 4;
    if (!bytes || !check_scalar_access(w, a.at, bytes, true)) return;
    std::memcpy(reinterpret_cast<void*>(a.at), w.s + i.dst, bytes);
}

template <Base kBase, class F> void atomic_op(Wave& w, const Inst& i) {
    using T = typename F::type;
    const ScalarAddress a = address_of<kBase>(w, i);
    T data[2] = {}, old{};
    std::memcpy(data, w.s + i.dst, sizeof(T) * F::kOperands);
    if (a.limit >= sizeof(T)) {
        if (a.at % sizeof(T)) return w.fault(FaultKind::misaligned, "an atomic needs an address that is a multiple of its size", a.at, -1, sizeof(T), true);
        if (!check_scalar_access(w, a.at, sizeof(T), true)) return;
        old = atomic::update_shared<F>(a.at, data[0], data[1]);
    }
    if (i.sc0) std::memcpy(w.s + i.dst, &old, sizeof old);
}

// Cache maintenance and translation probes: memory here is coherent.
void nothing(Wave&, const Inst&) {}

// Clocks that depend on nothing but the program: four clocks an instruction, and never the same twice.
uint64_t clock_now(Wave& w) {
    const uint64_t now = w.executed * 4;
    w.clock = now > w.clock ? now : w.clock + 4;
    return w.clock;
}
void memtime(Wave& w, const Inst& i) { w.set_pair(i.dst, clock_now(w)); }
// A constant 100 MHz; 2.1 GHz core clock.
void memrealtime(Wave& w, const Inst& i) { w.set_pair(i.dst, clock_now(w) / 21); }

constexpr OpInfo row(uint16_t opcode, const char* name, ExecFn exec, int dst_dwords, int base_dwords) {
    OpInfo r{opcode, name, kBoth, Class::SMEM, exec};
    r.dst_dwords = static_cast<uint8_t>(dst_dwords), r.src_dwords[0] = static_cast<uint8_t>(base_dwords);
    return r;
}

#define ATOMICS(first, prefix, base, base_dwords, suffix, bits, dwords)                                                  \
    row(first + 0, prefix "swap" suffix, atomic_op<base, atomic::Swap<uint##bits##_t>>, dwords, base_dwords),             \
    row(first + 1, prefix "cmpswap" suffix, atomic_op<base, atomic::CompareSwap<uint##bits##_t>>, 2 * dwords, base_dwords), \
    row(first + 2, prefix "add" suffix, atomic_op<base, atomic::Add<uint##bits##_t>>, dwords, base_dwords),               \
    row(first + 3, prefix "sub" suffix, atomic_op<base, atomic::Sub<uint##bits##_t>>, dwords, base_dwords),               \
    row(first + 4, prefix "smin" suffix, atomic_op<base, atomic::Min<int##bits##_t>>, dwords, base_dwords),               \
    row(first + 5, prefix "umin" suffix, atomic_op<base, atomic::Min<uint##bits##_t>>, dwords, base_dwords),              \
    row(first + 6, prefix "smax" suffix, atomic_op<base, atomic::Max<int##bits##_t>>, dwords, base_dwords),               \
    row(first + 7, prefix "umax" suffix, atomic_op<base, atomic::Max<uint##bits##_t>>, dwords, base_dwords),              \
    row(first + 8, prefix "and" suffix, atomic_op<base, atomic::And<uint##bits##_t>>, dwords, base_dwords),               \
    row(first + 9, prefix "or" suffix, atomic_op<base, atomic::Or<uint##bits##_t>>, dwords, base_dwords),                 \
    row(first + 10, prefix "xor" suffix, atomic_op<base, atomic::Xor<uint##bits##_t>>, dwords, base_dwords),              \
    row(first + 11, prefix "inc" suffix, atomic_op<base, atomic::Inc<uint##bits##_t>>, dwords, base_dwords),              \
    row(first + 12, prefix "dec" suffix, atomic_op<base, atomic::Dec<uint##bits##_t>>, dwords, base_dwords)

const OpInfo kRows[] = {
    row(0, "s_load_dword", load<Base::global, 1>, 1, 2),
    row(1, "s_load_dwordx2", load<Base::global, 2>, 2, 2),
    row(2, "s_load_dwordx4", load<Base::global, 4>, 4, 2),
    row(3, "s_load_dwordx8", load<Base::global, 8>, 8, 2),
    row(4, "s_load_dwordx16", load<Base::global, 16>, 16, 2),
    row(5, "s_scratch_load_dword", load<Base::scratch, 1>, 1, 2),
    row(6, "s_scratch_load_dwordx2", load<Base::scratch, 2>, 2, 2),
    row(7, "s_scratch_load_dwordx4", load<Base::scratch, 4>, 4, 2),
    row(8, "s_buffer_load_dword", load<Base::buffer, 1>, 1, 4),
    row(9, "s_buffer_load_dwordx2", load<Base::buffer, 2>, 2, 4),
    row(10, "s_buffer_load_dwordx4", load<Base::buffer, 4>, 4, 4),
    row(11, "s_buffer_load_dwordx8", load<Base::buffer, 8>, 8, 4),
    row(12, "s_buffer_load_dwordx16", load<Base::buffer, 16>, 16, 4),
    row(16, "s_store_dword", store<Base::global, 1>, 1, 2),
    row(17, "s_store_dwordx2", store<Base::global, 2>, 2, 2),
    row(18, "s_store_dwordx4", store<Base::global, 4>, 4, 2),
    row(21, "s_scratch_store_dword", store<Base::scratch, 1>, 1, 2),
    row(22, "s_scratch_store_dwordx2", store<Base::scratch, 2>, 2, 2),
    row(23, "s_scratch_store_dwordx4", store<Base::scratch, 4>, 4, 2),
    row(24, "s_buffer_store_dword", store<Base::buffer, 1>, 1, 4),
    row(25, "s_buffer_store_dwordx2", store<Base::buffer, 2>, 2, 4),
    row(26, "s_buffer_store_dwordx4", store<Base::buffer, 4>, 4, 4),
    row(32, "s_dcache_inv", nothing, 0, 0),
    row(33, "s_dcache_wb", nothing, 0, 0),
    row(34, "s_dcache_inv_vol", nothing, 0, 0),
    row(35, "s_dcache_wb_vol", nothing, 0, 0),
    row(36, "s_memtime", memtime, 2, 0),
    row(37, "s_memrealtime", memrealtime, 2, 0),
    row(38, "s_atc_probe", nothing, 0, 2),
    row(39, "s_atc_probe_buffer", nothing, 0, 4),
    row(40, "s_dcache_discard", nothing, 0, 2),
    row(41, "s_dcache_discard_x2", nothing, 0, 2),
    ATOMICS(64, "s_buffer_atomic_", Base::buffer, 4, "", 32, 1),
    ATOMICS(96, "s_buffer_atomic_", Base::buffer, 4, "_x2", 64, 2),
    ATOMICS(128, "s_atomic_", Base::global, 2, "", 32, 1),
    ATOMICS(160, "s_atomic_", Base::global, 2, "_x2", 64, 2),
};

}  // namespace

extern const OpTable kSmemTable = {Enc::SMEM, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
