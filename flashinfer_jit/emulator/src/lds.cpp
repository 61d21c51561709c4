// DS: reads, writes and atomics of the group's LDS. Crosslane operations (permute, swizzle) and the transposing reads: lds_lanes.cpp.
#include "lds.h"

#include "atomics.h"

namespace emu {

bool lds_in_range(Wave& w, const LdsOffsets& o, uint64_t exec, uint32_t bytes) {
    const uint32_t size = w.group->lds_bytes;
    if (size < bytes) return false;
    uint32_t largest = 0;
    if (exec == kAllLanes) {
#pragma omp simd reduction(max : largest)
        for (int l = 0; l < kLanes; ++l) largest = o.at[l] > largest ? o.at[l] : largest;
    } else {
        const uint32_t* active = w.active_lanes();
#pragma omp simd reduction(max : largest)
        for (int l = 0; l < kLanes; ++l) {
            const uint32_t x = o.at[l] & active[l];
            largest = x > largest ? x : largest;
        }
    }
    return largest <= size - bytes;
}

void lds_account(Wave& w, const LdsOffsets& o, uint64_t exec, uint32_t bytes, bool write) {
    Counters& c = *w.counters;
    (write ? c.lds_written : c.lds_read) += static_cast<uint64_t>(lane_count(exec)) * bytes;
    ++c.lds_accesses;
    if (w.launch->count_conflicts) c.lds_conflict_cycles += lds_conflict_cycles(w, o.at, exec, bytes, write);
    if (w.trace) {
        LaneAddresses a;
        for (int l = 0; l < kLanes; ++l) a.at[l] = o.at[l];
        trace_access(w, a.at, exec, bytes);
    }
}

bool lds_begin(Wave& w, const Inst& i, uint64_t& exec) {
    if (i.gds) {
        w.fault(FaultKind::unsupported, "GDS: these parts have no global data share");
        return false;
    }
    exec = w.exec();
    return exec != 0;
}

namespace {

// DS_*_ADDTID: no address register.
inline LdsOffsets thread_offsets(Wave& w, const Inst& i) {
    LdsOffsets o;
    const uint32_t first = static_cast<uint32_t>(i.offset) + (w.s[operand::m0] & 0xffff);
    for (int l = 0; l < kLanes; ++l) o.at[l] = first + static_cast<uint32_t>(l) * 4;
    return o;
}

template <Element kElement> void read_element(Wave& w, uint16_t dst, const LdsOffsets& o, uint64_t exec) {
    constexpr uint32_t bytes = element_bytes(kElement);
    lds_account(w, o, exec, bytes, false);
    if (lds_in_range(w, o, exec, bytes)) {
        if (exec == kAllLanes) return load_lanes<kElement>(w, dst, AtOffsets{reinterpret_cast<uint64_t>(w.group->lds), o.at}, exec);
        LdsOffsets safe;
        const uint32_t* active = w.active_lanes();
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) safe.at[l] = o.at[l] & active[l];
        return load_lanes<kElement>(w, dst, AtOffsets{reinterpret_cast<uint64_t>(w.group->lds), safe.at}, exec);
    }
    constexpr uint32_t part = bytes < 4 ? bytes : 4;
    for (uint32_t k = 0; k * 4 < bytes; ++k) {
        LaneAddresses a;
        for (int l = 0; l < kLanes; ++l) {
            const uint64_t p = lds_pointer(w, o.at[l] + 4 * k, part);
            if (!p && (exec >> l & 1) && k * 4 + 4 >= bytes) ++w.counters->out_of_range_lds_lanes;
            a.at[l] = p ? p : zero_address();
        }
        load_lanes<bytes < 4 ? kElement : Element::b32>(w, static_cast<uint16_t>(dst + k), AtPointers{a.at}, exec);
    }
}

template <Element kElement> void write_element(Wave& w, uint16_t src, const LdsOffsets& o, uint64_t exec) {
    constexpr uint32_t bytes = element_bytes(kElement);
    lds_account(w, o, exec, bytes, true);
    if (lds_in_range(w, o, exec, bytes))
        return store_lanes<kElement>(w, src, AtOffsets{reinterpret_cast<uint64_t>(w.group->lds), o.at}, exec);
    constexpr uint32_t part = bytes < 4 ? bytes : 4;
    for (uint32_t k = 0; k * 4 < bytes; ++k) {
        LaneAddresses a;
        uint64_t lanes = 0;
        for_each_lane(exec, [&](int l) {
            a.at[l] = lds_pointer(w, o.at[l] + 4 * k, part);
            if (a.at[l]) lanes |= 1ull << l;
            else if (k * 4 + 4 >= bytes) ++w.counters->out_of_range_lds_lanes;
        });
        store_lanes<bytes < 4 ? kElement : Element::b32>(w, static_cast<uint16_t>(src + k), AtPointers{a.at}, lanes);
    }
}

template <Element kElement> void read(Wave& w, const Inst& i) {
    uint64_t exec;
    if (lds_begin(w, i, exec)) read_element<kElement>(w, i.dst, lds_offsets(w, i, static_cast<uint32_t>(i.offset)), exec);
}
template <Element kElement> void write(Wave& w, const Inst& i) {
    uint64_t exec;
    if (lds_begin(w, i, exec)) write_element<kElement>(w, i.src[1], lds_offsets(w, i, static_cast<uint32_t>(i.offset)), exec);
}
void read_addtid(Wave& w, const Inst& i) {
    uint64_t exec;
    if (lds_begin(w, i, exec)) read_element<Element::b32>(w, i.dst, thread_offsets(w, i), exec);
}
void write_addtid(Wave& w, const Inst& i) {
    uint64_t exec;
    if (lds_begin(w, i, exec)) write_element<Element::b32>(w, i.src[1], thread_offsets(w, i), exec);
}

// Two addresses: offset0 and offset1 in units of the element, or of 64 elements.
template <Element kElement, int kUnit> struct Pair {
    static constexpr uint32_t step = element_bytes(kElement) * kUnit;
    static LdsOffsets first(Wave& w, const Inst& i) { return lds_offsets(w, i, (static_cast<uint32_t>(i.offset) & 0xff) * step); }
    static LdsOffsets second(Wave& w, const Inst& i) { return lds_offsets(w, i, (static_cast<uint32_t>(i.offset) >> 8 & 0xff) * step); }
};
// Two equal offsets are one access, and it uses the first data operand (manual 11.3.1).
bool one_address(const Inst& i) { return (i.offset & 0xff) == (i.offset >> 8 & 0xff); }
template <Element kElement, int kUnit> void read2(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    const LdsOffsets first = Pair<kElement, kUnit>::first(w, i), second = Pair<kElement, kUnit>::second(w, i);
    read_element<kElement>(w, i.dst, first, exec);
    read_element<kElement>(w, static_cast<uint16_t>(i.dst + element_dwords(kElement)), second, exec);
}
template <Element kElement, int kUnit> void write2(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    write_element<kElement>(w, i.src[1], Pair<kElement, kUnit>::first(w, i), exec);
    if (!one_address(i)) write_element<kElement>(w, i.src[2], Pair<kElement, kUnit>::second(w, i), exec);
}

// MODE.fp_denorm decides what float atomics of the LDS do with denormals (manual 9.2.2): adds of f32 and f16 flush inputs and output,
// comparisons flush what they compare and store an operand as it came.
template <class T> T flush(T x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T{0}, x) : x; }
uint32_t flush_halves(uint32_t x, uint32_t exponent) {
    const uint32_t keep_low = x & exponent & 0xffffu ? 0x7fffu : 0, keep_high = x & exponent >> 16 << 16 ? 0x7fff0000u : 0;
    return x & (0x80008000u | keep_low | keep_high);
}
template <class F> typename F::type apply_with_mode(const Wave& w, typename F::type m, typename F::type a, typename F::type b) {
    using T = typename F::type;
    if constexpr (std::is_floating_point_v<T>) {
        const uint32_t denorm = w.mode >> (sizeof(T) == 4 ? 4 : 6);
        constexpr bool add = std::is_same_v<F, atomic::AddFloat<T>>;
        const bool flush_in = !(denorm & 1), flush_out = !(denorm & 2);
        if constexpr (add && sizeof(T) == 8) return F::apply(m, a, b);
        if constexpr (add) {
            const T sum = flush_in ? F::apply(flush(m), flush(a), b) : F::apply(m, a, b);
            return flush_out ? flush(sum) : sum;
        }
        if (flush_in) {
            if constexpr (F::kOperands == 2) return flush(m) == flush(a) ? flush(b) : m;
            const T chosen = F::apply(flush(m), flush(a), b);
            if (chosen == 0) return atomic::same_bits(chosen, flush(m)) ? m : a;
            return chosen;
        }
    }
    if constexpr (std::is_same_v<F, atomic::PackedAddHalf> || std::is_same_v<F, atomic::PackedAddBfloat>) {
        constexpr uint32_t exponent = std::is_same_v<F, atomic::PackedAddHalf> ? 0x7c007c00u : 0x7f807f80u;
        const uint32_t denorm = w.mode >> 6;
        const T sum = denorm & 1 ? F::apply(m, a, b) : F::apply(flush_halves(m, exponent), flush_halves(a, exponent), b);
        return denorm & 2 ? sum : flush_halves(sum, exponent);
    }
    return F::apply(m, a, b);
}

template <class F, bool kReturn> void atomic_op(Wave& w, const Inst& i) {
    using T = typename F::type;
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    const LdsOffsets o = lds_offsets(w, i, static_cast<uint32_t>(i.offset));
    lds_account(w, o, exec, sizeof(T), true);
    for (uint64_t rest = exec; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        if (o.at[l] % sizeof(T)) return w.fault(FaultKind::misaligned, "an LDS atomic needs an address that is a multiple of its size", o.at[l], l, sizeof(T), true);
        const uint64_t p = lds_pointer(w, o.at[l], sizeof(T));
        T old{};
        if (p) {
            old = load_unaligned<T>(p);
            store_unaligned(p, apply_with_mode<F>(w, old, register_value<T>(w, i.src[1], l), F::kOperands == 2 ? register_value<T>(w, i.src[2], l) : T{}));
        } else {
            ++w.counters->out_of_range_lds_lanes;
        }
        if constexpr (kReturn) set_register_value(w, i.dst, l, old);
    }
}

template <Element kElement, int kUnit, class T> void exchange2(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    const LdsOffsets first = Pair<kElement, kUnit>::first(w, i), second = Pair<kElement, kUnit>::second(w, i);
    lds_account(w, first, exec, sizeof(T), true), lds_account(w, second, exec, sizeof(T), true);
    for (uint64_t rest = exec; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        for (const uint32_t offset : {first.at[l], second.at[l]})
            if (offset % sizeof(T)) return w.fault(FaultKind::misaligned, "an LDS exchange needs an address that is a multiple of its size", offset, l, sizeof(T), true);
        const uint64_t p = lds_pointer(w, first.at[l], sizeof(T)), q = lds_pointer(w, second.at[l], sizeof(T));
        const T old_first = p ? load_unaligned<T>(p) : T{}, old_second = q ? load_unaligned<T>(q) : T{};
        const T a = register_value<T>(w, i.src[1], l), b = register_value<T>(w, i.src[2], l);
        if (p) store_unaligned(p, a);
        if (q && !one_address(i)) store_unaligned(q, b);
        if (!p || !q) ++w.counters->out_of_range_lds_lanes;
        set_register_value(w, i.dst, l, old_first);
        set_register_value(w, static_cast<uint16_t>(i.dst + element_dwords(kElement)), l, old_second);
    }
}

// Two 32-bit exchanges, each only where the top bit of its data is set; that bit is not stored.
void conditional_exchange(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    LdsOffsets o = lds_offsets(w, i, static_cast<uint32_t>(i.offset));
    for (int l = 0; l < kLanes; ++l) o.at[l] &= 0xfff8;
    lds_account(w, o, exec, 8, true);
    for_each_lane(exec, [&](int l) {
        for (uint32_t k = 0; k < 2; ++k) {
            const uint64_t p = lds_pointer(w, o.at[l] + 4 * k, 4);
            const uint32_t data = w.reg(i.src[1])[k * kLanes + static_cast<uint32_t>(l)], old = p ? load_unaligned<uint32_t>(p) : 0;
            if (p && data >> 31) store_unaligned(p, data & 0x7fffffffu);
            if (!p && k) ++w.counters->out_of_range_lds_lanes;
            w.reg(i.dst)[k * kLanes + static_cast<uint32_t>(l)] = old;
        }
    });
}

// One counter for the wave: its address is M0 (which the compiler loads with the LDS pointer) plus the instruction's offset.
template <bool kAppend> void count_lanes(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    const uint32_t base = w.s[operand::m0] & (w.launch->arch == Arch::gfx950 ? 0x3ffffu : 0xffffu);
    const uint32_t offset = (base + static_cast<uint32_t>(i.offset)) & ~3u, lanes = static_cast<uint32_t>(lane_count(exec));
    const uint64_t p = lds_pointer(w, offset, 4);
    const uint32_t old = p ? load_unaligned<uint32_t>(p) : 0;
    if (p) store_unaligned(p, kAppend ? old + lanes : old - lanes);
    else w.counters->out_of_range_lds_lanes += lanes;
    ++w.counters->lds_accesses, w.counters->lds_written += 4;
    for_each_lane(exec, [&](int l) { w.reg(i.dst)[l] = old; });
}

void nop(Wave&, const Inst&) {}
void refuse_gws(Wave& w, const Inst&) { w.fault(FaultKind::unsupported, "global wave sync needs a GWS resource that HIP launches do not allocate"); }

constexpr OpInfo row(uint16_t opcode, const char* name, ExecFn exec, int dst, int data0 = 0, int data1 = 0, uint8_t archs = kBoth, int address = 1) {
    OpInfo r{opcode, name, archs, Class::LDS, exec};
    r.dst_dwords = static_cast<uint8_t>(dst);
    r.src_dwords[0] = static_cast<uint8_t>(address), r.src_dwords[1] = static_cast<uint8_t>(data0), r.src_dwords[2] = static_cast<uint8_t>(data1);
    if (exec == refuse_gws) r.flags = kRefused;
    return r;
}
// An atomic without and with return: `plain` and `returning` are the opcodes.
#define ATOMIC(plain, returning, before, after, functor, dwords)                                                        \
    row(plain, before "_" after, atomic_op<functor, false>, 0, dwords, functor::kOperands == 2 ? dwords : 0),             \
    row(returning, before "_rtn_" after, atomic_op<functor, true>, dwords, dwords, functor::kOperands == 2 ? dwords : 0)
#define INTEGER_ATOMICS(plain, returning, bits, dwords)                                              \
    ATOMIC(plain + 0, returning + 0, "ds_add", "u" #bits, atomic::Add<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 1, returning + 1, "ds_sub", "u" #bits, atomic::Sub<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 2, returning + 2, "ds_rsub", "u" #bits, atomic::ReverseSub<uint##bits##_t>, dwords), \
    ATOMIC(plain + 3, returning + 3, "ds_inc", "u" #bits, atomic::Inc<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 4, returning + 4, "ds_dec", "u" #bits, atomic::Dec<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 5, returning + 5, "ds_min", "i" #bits, atomic::Min<int##bits##_t>, dwords),         \
    ATOMIC(plain + 6, returning + 6, "ds_max", "i" #bits, atomic::Max<int##bits##_t>, dwords),         \
    ATOMIC(plain + 7, returning + 7, "ds_min", "u" #bits, atomic::Min<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 8, returning + 8, "ds_max", "u" #bits, atomic::Max<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 9, returning + 9, "ds_and", "b" #bits, atomic::And<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 10, returning + 10, "ds_or", "b" #bits, atomic::Or<uint##bits##_t>, dwords),        \
    ATOMIC(plain + 11, returning + 11, "ds_xor", "b" #bits, atomic::Xor<uint##bits##_t>, dwords),      \
    ATOMIC(plain + 12, returning + 12, "ds_mskor", "b" #bits, atomic::MaskOr<uint##bits##_t>, dwords)

const OpInfo kRows[] = {
    INTEGER_ATOMICS(0, 32, 32, 1),
    row(13, "ds_write_b32", write<Element::b32>, 0, 1),
    row(14, "ds_write2_b32", write2<Element::b32, 1>, 0, 1, 1),
    row(15, "ds_write2st64_b32", write2<Element::b32, 64>, 0, 1, 1),
    ATOMIC(16, 48, "ds_cmpst", "b32", atomic::CompareStore<uint32_t>, 1),
    ATOMIC(17, 49, "ds_cmpst", "f32", atomic::CompareStore<float>, 1),
    ATOMIC(18, 50, "ds_min", "f32", atomic::MinFloat<float>, 1),
    ATOMIC(19, 51, "ds_max", "f32", atomic::MaxFloat<float>, 1),
    row(20, "ds_nop", nop, 0, 0, 0, kBoth, 0),
    ATOMIC(21, 53, "ds_add", "f32", atomic::AddFloat<float>, 1),
    ATOMIC(23, 183, "ds_pk_add", "f16", atomic::PackedAddHalf, 1),
    ATOMIC(24, 184, "ds_pk_add", "bf16", atomic::PackedAddBfloat, 1),
    row(29, "ds_write_addtid_b32", write_addtid, 0, 1, 0, kBoth, 0),
    row(30, "ds_write_b8", write<Element::u8>, 0, 1),
    row(31, "ds_write_b16", write<Element::u16>, 0, 1),
    row(45, "ds_wrxchg_rtn_b32", atomic_op<atomic::Swap<uint32_t>, true>, 1, 1),
    row(46, "ds_wrxchg2_rtn_b32", exchange2<Element::b32, 1, uint32_t>, 2, 1, 1),
    row(47, "ds_wrxchg2st64_rtn_b32", exchange2<Element::b32, 64, uint32_t>, 2, 1, 1),
    row(52, "ds_wrap_rtn_b32", atomic_op<atomic::Wrap<uint32_t>, true>, 1, 1, 1),
    row(54, "ds_read_b32", read<Element::b32>, 1),
    row(55, "ds_read2_b32", read2<Element::b32, 1>, 2),
    row(56, "ds_read2st64_b32", read2<Element::b32, 64>, 2),
    row(57, "ds_read_i8", read<Element::i8>, 1),
    row(58, "ds_read_u8", read<Element::u8>, 1),
    row(59, "ds_read_i16", read<Element::i16>, 1),
    row(60, "ds_read_u16", read<Element::u16>, 1),
    row(61, "ds_swizzle_b32", exec_ds_swizzle, 1),
    row(62, "ds_permute_b32", exec_ds_permute, 1, 1),
    row(63, "ds_bpermute_b32", exec_ds_bpermute, 1, 1),
    INTEGER_ATOMICS(64, 96, 64, 2),
    row(77, "ds_write_b64", write<Element::b64>, 0, 2),
    row(78, "ds_write2_b64", write2<Element::b64, 1>, 0, 2, 2),
    row(79, "ds_write2st64_b64", write2<Element::b64, 64>, 0, 2, 2),
    ATOMIC(80, 112, "ds_cmpst", "b64", atomic::CompareStore<uint64_t>, 2),
    ATOMIC(81, 113, "ds_cmpst", "f64", atomic::CompareStore<double>, 2),
    ATOMIC(82, 114, "ds_min", "f64", atomic::MinFloat<double>, 2),
    ATOMIC(83, 115, "ds_max", "f64", atomic::MaxFloat<double>, 2),
    row(84, "ds_write_b8_d16_hi", write<Element::u8_high>, 0, 1),
    row(85, "ds_write_b16_d16_hi", write<Element::u16_high>, 0, 1),
    row(86, "ds_read_u8_d16", read<Element::u8_low>, 1),
    row(87, "ds_read_u8_d16_hi", read<Element::u8_high>, 1),
    row(88, "ds_read_i8_d16", read<Element::i8_low>, 1),
    row(89, "ds_read_i8_d16_hi", read<Element::i8_high>, 1),
    row(90, "ds_read_u16_d16", read<Element::u16_low>, 1),
    row(91, "ds_read_u16_d16_hi", read<Element::u16_high>, 1),
    ATOMIC(92, 124, "ds_add", "f64", atomic::AddFloat<double>, 2),
    row(109, "ds_wrxchg_rtn_b64", atomic_op<atomic::Swap<uint64_t>, true>, 2, 2),
    row(110, "ds_wrxchg2_rtn_b64", exchange2<Element::b64, 1, uint64_t>, 4, 2, 2),
    row(111, "ds_wrxchg2st64_rtn_b64", exchange2<Element::b64, 64, uint64_t>, 4, 2, 2),
    row(118, "ds_read_b64", read<Element::b64>, 2),
    row(119, "ds_read2_b64", read2<Element::b64, 1>, 4),
    row(120, "ds_read2st64_b64", read2<Element::b64, 64>, 4),
    row(126, "ds_condxchg32_rtn_b64", conditional_exchange, 2, 2),
    row(152, "ds_gws_sema_release_all", refuse_gws, 0),
    row(153, "ds_gws_init", refuse_gws, 0, 1),
    row(154, "ds_gws_sema_v", refuse_gws, 0),
    row(155, "ds_gws_sema_br", refuse_gws, 0, 1),
    row(156, "ds_gws_sema_p", refuse_gws, 0),
    row(157, "ds_gws_barrier", refuse_gws, 0, 1),
    row(182, "ds_read_addtid_b32", read_addtid, 1, 0, 0, kBoth, 0),
    row(189, "ds_consume", count_lanes<false>, 1, 0, 0, kBoth, 0),
    row(190, "ds_append", count_lanes<true>, 1, 0, 0, kBoth, 0),
    row(222, "ds_write_b96", write<Element::b96>, 0, 3),
    row(223, "ds_write_b128", write<Element::b128>, 0, 4),
    row(224, "ds_read_b64_tr_b4", exec_ds_read_tr_b4, 2, 0, 0, kGfx950),
    row(225, "ds_read_b96_tr_b6", exec_ds_read_tr_b6, 3, 0, 0, kGfx950),
    row(226, "ds_read_b64_tr_b8", exec_ds_read_tr_b8, 2, 0, 0, kGfx950),
    row(227, "ds_read_b64_tr_b16", exec_ds_read_tr_b16, 2, 0, 0, kGfx950),
    row(254, "ds_read_b96", read<Element::b96>, 3),
    row(255, "ds_read_b128", read<Element::b128>, 4),
};

}  // namespace

extern const OpTable kDsTable = {Enc::DS, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
