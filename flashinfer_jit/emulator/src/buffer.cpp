// MUBUF and MTBUF: loads, stores, atomics and format conversions through a buffer resource (V#), and loads into LDS.
#include "atomics.h"
#include "buffer_format.h"
#include "memory.h"

namespace emu {
namespace {

// The 128-bit resource, CDNA4 manual table 48. Elements of a swizzled buffer are 4 bytes on gfx9 and later.
struct Resource {
    uint64_t base;
    uint32_t stride, records, index_stride;
    bool swizzled, add_thread, unbound;
    BufferFormat format;
    uint8_t select[4];
};
constexpr uint32_t kElementSize = 4;

Resource read_resource(const Wave& w, const Inst& i, bool formatted) {
    const uint32_t* s = w.s + i.src[2];
    Resource r;
    r.base = s[0] | static_cast<uint64_t>(s[1] & 0xffff) << 32;
    r.stride = s[1] >> 16 & 0x3fff, r.swizzled = s[1] >> 31;
    r.records = s[2];
    for (int c = 0; c < 4; ++c) r.select[c] = s[3] >> (3 * c) & 7;
    r.format.number = s[3] >> 12 & 7, r.format.data = s[3] >> 15 & 15;
    r.index_stride = 8u << (s[3] >> 21 & 3), r.add_thread = s[3] >> 23 & 1;
    r.unbound = r.format.data == 0 && !r.add_thread;
    // Private buffers: the data format field extends the stride, except for format instructions.
    if (r.add_thread && !formatted) r.stride |= static_cast<uint32_t>(r.format.data) << 14;
    return r;
}

// Where each lane's piece `displacement` bytes into its element lies, and which lanes are in range (manual 9.1.5). A piece that is
// only partly below num_records counts as out of range: hardware never returns half a dword.
struct Piece {
    LaneAddresses a;
    uint64_t inside;
};
// The common kind, a raw buffer with an offset a lane: tail tiles come this way.
void raw_piece(const Resource& r, uint64_t base, const uint32_t* offset, uint64_t constant, uint32_t bytes, Piece& p) {
    p.inside = 0;
    const bool possible = constant + bytes <= r.records;
    const __m256i room = _mm256_set1_epi32(static_cast<int>(possible ? static_cast<uint32_t>(r.records - constant - bytes) : 0));
    for (int l = 0; l < kLanes; l += 8) {
        const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i*>(offset + l));
        const __m256i fits = _mm256_cmpeq_epi32(_mm256_min_epu32(x, room), x);
        p.inside |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(fits)))) << l;
    }
    if (!possible) p.inside = 0;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) p.a.at[l] = base + constant + offset[l];
}

void piece_addresses(Wave& w, const Inst& i, const Resource& r, uint32_t displacement, uint32_t bytes, uint64_t exec, Piece& p) {
    const uint32_t* first = i.idxen || i.offen ? w.reg(i.src[0]) : nullptr;
    const uint32_t* index_register = i.idxen ? first : nullptr;
    const uint32_t* offset_register = i.offen ? first + (i.idxen ? kLanes : 0) : nullptr;
    const uint64_t base = r.base + read_scalar32(w, i, i.sdst);
    if (i.offen && !i.idxen && !r.swizzled && !r.add_thread) {
        raw_piece(r, base, offset_register, static_cast<uint64_t>(static_cast<uint32_t>(i.offset)) + displacement, bytes, p);
        p.inside &= r.unbound ? 0 : exec;
        return;
    }
    const bool structured = i.idxen && r.stride != 0, unchecked = r.add_thread && !i.idxen;
    p.inside = 0;
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t index = (index_register ? index_register[l] : 0) + (r.add_thread ? static_cast<uint32_t>(l) : 0);
        const uint64_t offset = (offset_register ? offset_register[l] : 0ull) + static_cast<uint32_t>(i.offset) + displacement;
        uint64_t at;
        if (r.swizzled) {
            const uint64_t index_high = index / r.index_stride, index_low = index % r.index_stride;
            const uint64_t offset_high = offset / kElementSize, offset_low = offset % kElementSize;
            at = (index_high * r.stride + offset_high * kElementSize) * r.index_stride + index_low * kElementSize + offset_low;
        } else {
            at = static_cast<uint64_t>(index) * r.stride + offset;
        }
        const bool inside = !r.unbound && (unchecked || (structured ? index < r.records : offset + bytes <= r.records));
        p.a.at[l] = base + at;
        p.inside |= static_cast<uint64_t>(inside) << l;
    }
    p.inside &= exec;
}

// Linear buffers whose lanes are all in range: one address a lane. False: take the general way.
bool linear_addresses(Wave& w, const Inst& i, const Resource& r, uint32_t bytes, uint64_t exec, LaneAddresses& a) {
    if (i.idxen || r.add_thread || r.swizzled || r.unbound) return false;
    const uint64_t end = static_cast<uint64_t>(static_cast<uint32_t>(i.offset)) + bytes;
    if (end > r.records) return false;
    const uint32_t room = static_cast<uint32_t>(r.records - end);
    const uint64_t base = r.base + read_scalar32(w, i, i.sdst) + static_cast<uint32_t>(i.offset);
    if (!i.offen) {
        for (int l = 0; l < kLanes; ++l) a.at[l] = base;
        return true;
    }
    const uint32_t *offset = w.reg(i.src[0]), *active = w.active_lanes();
    uint32_t largest = 0;
    if (exec == kAllLanes) {
#pragma omp simd reduction(max : largest)
        for (int l = 0; l < kLanes; ++l) largest = offset[l] > largest ? offset[l] : largest;
    } else {
#pragma omp simd reduction(max : largest)
        for (int l = 0; l < kLanes; ++l) largest = (offset[l] & active[l]) > largest ? (offset[l] & active[l]) : largest;
    }
    if (largest > room) return false;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) a.at[l] = base + offset[l];
    return true;
}

void count_outside(Wave& w, uint64_t lanes) { w.counters->out_of_range_buffer_lanes += static_cast<uint64_t>(lane_count(lanes)); }

// Loads and stores of several dwords are checked dword by dword (manual 9.1.5.1, note 4).
template <Element kElement> struct Pieces {
    static constexpr uint32_t bytes = element_bytes(kElement) < 4 ? element_bytes(kElement) : 4;
    static constexpr int count = element_dwords(kElement);
    Piece piece[count];
    bool prepare(Wave& w, const Inst& i, const Resource& r, uint64_t exec, bool write) {
        uint64_t everywhere = exec;
        for (int k = 0; k < count; ++k) {
            piece_addresses(w, i, r, 4 * static_cast<uint32_t>(k), bytes, exec, piece[k]);
            everywhere &= piece[k].inside;
        }
        for (int k = 0; k < count; ++k)
            if (!check_access(w, piece[k].a.at, piece[k].inside, bytes, write)) return false;
        count_outside(w, exec & ~everywhere);
        trace_access(w, piece[0].a.at, piece[0].inside, element_bytes(kElement));
        if (!write)
            for (Piece& p : piece)
                for (int l = 0; l < kLanes; ++l)
                    if (!(p.inside >> l & 1)) p.a.at[l] = zero_address();
        return true;
    }
};

template <Element kElement> void load_to_lds(Wave& w, const Inst& i, const Resource& r, uint64_t exec) {
    constexpr uint32_t bytes = element_bytes(kElement);
    constexpr bool sign_extend = kElement == Element::i8 || kElement == Element::i16;
    if (bytes == 8 || (bytes > 8 && w.launch->arch == Arch::gfx942)) return w.fault(FaultKind::unsupported, "this width cannot be loaded into LDS on this arch");
    // LDS address = M0 + the instruction's offset + lane * 4 (16 for three and four dwords), manual 9.1.9.
    const uint32_t base = (w.s[operand::m0] & (w.launch->arch == Arch::gfx950 ? 0x3ffffu : 0xffffu)) + static_cast<uint32_t>(i.offset);
    const uint64_t lanes = lds_direct_lanes(w, base, bytes, exec);
    if (!lanes) return;
    LaneAddresses a;
    if (linear_addresses(w, i, r, bytes, exec, a)) {
        if (!check_access(w, a.at, lanes, bytes, false)) return;
        trace_access(w, a.at, lanes, bytes);
        return store_lds_direct(w, base, a.at, lanes, bytes, sign_extend);
    }
    Pieces<kElement> pieces;
    if (!pieces.prepare(w, i, r, lanes, false)) return;
    alignas(16) uint8_t data[kLanes][16] = {};
    for_each_lane(lanes, [&](int l) {
        for (int k = 0; k < Pieces<kElement>::count; ++k)
            std::memcpy(data[l] + 4 * k, reinterpret_cast<const void*>(pieces.piece[k].a.at[l]), Pieces<kElement>::bytes);
        a.at[l] = reinterpret_cast<uint64_t>(data[l]);
    });
    store_lds_direct(w, base, a.at, lanes, bytes, sign_extend);
}

template <Element kElement> void load(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    const Resource r = read_resource(w, i, false);
    if constexpr (kElement <= Element::i16 || kElement >= Element::b32) {
        if (i.lds) return load_to_lds<kElement>(w, i, r, exec);
    } else if (i.lds) {
        return w.fault(FaultKind::unsupported, "16-bit results cannot be loaded into LDS");
    }
    LaneAddresses a;
    if (linear_addresses(w, i, r, element_bytes(kElement), exec, a)) {
        if (!check_access(w, a.at, exec, element_bytes(kElement), false)) return;
        trace_access(w, a.at, exec, element_bytes(kElement));
        mask_addresses(w, a, exec);
        return load_lanes<kElement>(w, i.dst, AtPointers{a.at}, exec);
    }
    Pieces<kElement> pieces;
    if (!pieces.prepare(w, i, r, exec, false)) return;
    constexpr Element part = element_bytes(kElement) < 4 ? kElement : Element::b32;
    for (int k = 0; k < Pieces<kElement>::count; ++k) load_lanes<part>(w, static_cast<uint16_t>(i.dst + k), AtPointers{pieces.piece[k].a.at}, exec);
}

template <Element kElement> void store(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    if (i.lds) return w.fault(FaultKind::unsupported, "a buffer store from LDS");
    const Resource r = read_resource(w, i, false);
    LaneAddresses a;
    if (linear_addresses(w, i, r, element_bytes(kElement), exec, a)) {
        if (!check_access(w, a.at, exec, element_bytes(kElement), true)) return;
        trace_access(w, a.at, exec, element_bytes(kElement));
        return store_lanes<kElement>(w, i.src[1], AtPointers{a.at}, exec);
    }
    Pieces<kElement> pieces;
    if (!pieces.prepare(w, i, r, exec, true)) return;
    constexpr Element part = element_bytes(kElement) < 4 ? kElement : Element::b32;
    for (int k = 0; k < Pieces<kElement>::count; ++k)
        store_lanes<part>(w, static_cast<uint16_t>(i.src[1] + k), AtPointers{pieces.piece[k].a.at}, pieces.piece[k].inside);
}

// Atomics are range-checked as a whole; dropped ones return zero.
template <class F> void atomic_op(Wave& w, const Inst& i) {
    using T = typename F::type;
    const uint64_t exec = w.exec();
    if (!exec) return;
    const Resource r = read_resource(w, i, false);
    Piece p;
    piece_addresses(w, i, r, 0, sizeof(T), exec, p);
    for (uint64_t rest = p.inside; rest; rest &= rest - 1) {
        const int l = __builtin_ctzll(rest);
        if (p.a.at[l] % sizeof(T)) return w.fault(FaultKind::misaligned, "an atomic needs an address that is a multiple of its size", p.a.at[l], l, sizeof(T), true);
    }
    if (!check_access(w, p.a.at, p.inside, sizeof(T), true)) return;
    count_outside(w, exec & ~p.inside);
    trace_access(w, p.a.at, p.inside, sizeof(T));
    for_each_lane(exec, [&](int l) {
        T old{};
        if (p.inside >> l & 1) {
            T second{};
            if constexpr (F::kOperands == 2) second = register_value<T>(w, static_cast<uint16_t>(i.src[1] + sizeof(T) / 4), l);
            old = atomic::update_shared<F>(p.a.at[l], register_value<T>(w, i.src[1], l), second);
        }
        if (i.sc0) set_register_value(w, i.dst, l, old);
    });
}

uint32_t half_of(uint32_t x, const BufferFormat& f) {
    if (f.is_integer()) return x & 0xffff;
    return static_cast<uint16_t>(_cvtss_sh(atomic::bit_cast<float>(x), _MM_FROUND_TO_NEAREST_INT));
}
uint32_t from_half(uint32_t half, const BufferFormat& f) {
    if (f.number == 5) return static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(half)));
    return f.is_integer() ? half & 0xffff : atomic::bit_cast<uint32_t>(_cvtsh_ss(static_cast<uint16_t>(half)));
}

// Typed accesses: kWide as 32-bit components, kHalf packed in pairs, kHigh one component in the upper half.
enum class Packing { wide, half, high };

// Fills r, the format and the lanes' addresses; false where there is nothing more to do.
bool begin_typed(Wave& w, const Inst& i, bool write, uint64_t exec, Resource& r, Piece& p) {
    r = read_resource(w, i, true);
    if (i.enc == Enc::MTBUF) {   // the instruction's format, components in order
        r.format.data = i.raw[0] >> 19 & 15, r.format.number = i.raw[0] >> 23 & 7;
        for (uint8_t c = 0; c < 4; ++c) r.select[c] = static_cast<uint8_t>(4 + c);
    }
    if (!r.unbound && !r.format.valid()) {
        w.fault(FaultKind::unsupported, "a buffer data format and number format that do not exist together");
        return false;
    }
    piece_addresses(w, i, r, 0, r.format.bytes(), exec, p);
    if (!check_access(w, p.a.at, p.inside, r.format.bytes(), write)) return false;
    count_outside(w, exec & ~p.inside);
    trace_access(w, p.a.at, p.inside, r.format.bytes());
    return true;
}

uint32_t select_component(const Resource& r, const uint32_t in[4], int c) {
    const uint8_t s = r.select[c];
    if (s >= 4) return in[s - 4];
    return s == 1 ? (r.format.is_integer() ? 1u : 0x3f800000u) : 0;
}

template <int kComponents, Packing kPacking> void load_format(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    Resource r;
    Piece p;
    uint64_t lanes = exec;
    uint32_t base = 0;
    if (i.lds) {
        if (kComponents > 1 || kPacking != Packing::wide) return w.fault(FaultKind::unsupported, "only buffer_load_format_x can load into LDS");
        base = (w.s[operand::m0] & (w.launch->arch == Arch::gfx950 ? 0x3ffffu : 0xffffu)) + static_cast<uint32_t>(i.offset);
        lanes = lds_direct_lanes(w, base, 4, exec);
    }
    if (!lanes || !begin_typed(w, i, false, lanes, r, p)) return;
    uint32_t first[kLanes];
    for_each_lane(lanes, [&](int l) {
        uint32_t in[4] = {}, out[4];
        if (p.inside >> l & 1) unpack_element(r.format, reinterpret_cast<const uint8_t*>(p.a.at[l]), in);
        for (int c = 0; c < kComponents; ++c) out[c] = select_component(r, in, c);
        first[l] = out[0];
        p.a.at[l] = reinterpret_cast<uint64_t>(first + l);
        if (i.lds) return;
        uint32_t* d = w.reg(i.dst) + l;
        if constexpr (kPacking == Packing::wide) {
            for (int c = 0; c < kComponents; ++c) d[c * kLanes] = out[c];
        } else if constexpr (kPacking == Packing::high) {
            d[0] = half_of(out[0], r.format) << 16;
        } else {
            for (int c = 0; c < kComponents; c += 2)
                d[c / 2 * kLanes] = half_of(out[c], r.format) | (c + 1 < kComponents ? half_of(out[c + 1], r.format) << 16 : 0);
        }
    });
    if (i.lds) store_lds_direct(w, base, p.a.at, lanes, 4, false);
}

template <int kComponents, Packing kPacking> void store_format(Wave& w, const Inst& i) {
    const uint64_t exec = w.exec();
    if (!exec) return;
    Resource r;
    Piece p;
    if (!begin_typed(w, i, true, exec, r, p)) return;
    for_each_lane(p.inside, [&](int l) {
        const uint32_t* s = w.reg(i.src[1]) + l;
        uint32_t values[4] = {};
        for (int c = 0; c < kComponents; ++c) {
            if constexpr (kPacking == Packing::wide) values[c] = s[c * kLanes];
            else if constexpr (kPacking == Packing::high) values[c] = from_half(s[0] >> 16, r.format);
            else values[c] = from_half(s[c / 2 * kLanes] >> (16 * (c & 1)) & 0xffff, r.format);
        }
        // The resource's selectors route registers to fields: field f takes the register whose selector names it.
        uint32_t fields[4] = {};
        for (int c = 0; c < kComponents; ++c)
            if (r.select[c] >= 4) fields[r.select[c] - 4] = values[c];
        pack_element(r.format, fields, reinterpret_cast<uint8_t*>(p.a.at[l]));
    });
}

void nothing(Wave&, const Inst&) {}   // cache maintenance: memory here is coherent

constexpr OpInfo row(uint16_t opcode, const char* name, Class cls, ExecFn exec, int dst, int data, uint8_t archs = kBoth) {
    OpInfo r{opcode, name, archs, cls, exec};
    r.dst_dwords = static_cast<uint8_t>(dst);
    r.src_dwords[0] = 2, r.src_dwords[1] = static_cast<uint8_t>(data), r.src_dwords[2] = 4;
    return r;
}
#define LOAD(opcode, name, element, dwords) row(opcode, "buffer_load_" name, Class::VMEM_LOAD, load<Element::element>, dwords, 0)
#define STORE(opcode, name, element, dwords) row(opcode, "buffer_store_" name, Class::VMEM_STORE, store<Element::element>, 0, dwords)
#define ATOMIC(opcode, name, functor, dwords, data) row(opcode, "buffer_atomic_" name, Class::VMEM_ATOMIC, atomic_op<atomic::functor>, dwords, data)
#define FORMATS(prefix)                                                                                              \
    row(0, prefix "_load_format_x", Class::VMEM_LOAD, load_format<1, Packing::wide>, 1, 0),                            \
    row(1, prefix "_load_format_xy", Class::VMEM_LOAD, load_format<2, Packing::wide>, 2, 0),                           \
    row(2, prefix "_load_format_xyz", Class::VMEM_LOAD, load_format<3, Packing::wide>, 3, 0),                          \
    row(3, prefix "_load_format_xyzw", Class::VMEM_LOAD, load_format<4, Packing::wide>, 4, 0),                         \
    row(4, prefix "_store_format_x", Class::VMEM_STORE, store_format<1, Packing::wide>, 0, 1),                         \
    row(5, prefix "_store_format_xy", Class::VMEM_STORE, store_format<2, Packing::wide>, 0, 2),                        \
    row(6, prefix "_store_format_xyz", Class::VMEM_STORE, store_format<3, Packing::wide>, 0, 3),                       \
    row(7, prefix "_store_format_xyzw", Class::VMEM_STORE, store_format<4, Packing::wide>, 0, 4),                      \
    row(8, prefix "_load_format_d16_x", Class::VMEM_LOAD, load_format<1, Packing::half>, 1, 0),                        \
    row(9, prefix "_load_format_d16_xy", Class::VMEM_LOAD, load_format<2, Packing::half>, 1, 0),                       \
    row(10, prefix "_load_format_d16_xyz", Class::VMEM_LOAD, load_format<3, Packing::half>, 2, 0),                     \
    row(11, prefix "_load_format_d16_xyzw", Class::VMEM_LOAD, load_format<4, Packing::half>, 2, 0),                    \
    row(12, prefix "_store_format_d16_x", Class::VMEM_STORE, store_format<1, Packing::half>, 0, 1),                    \
    row(13, prefix "_store_format_d16_xy", Class::VMEM_STORE, store_format<2, Packing::half>, 0, 1),                   \
    row(14, prefix "_store_format_d16_xyz", Class::VMEM_STORE, store_format<3, Packing::half>, 0, 2),                  \
    row(15, prefix "_store_format_d16_xyzw", Class::VMEM_STORE, store_format<4, Packing::half>, 0, 2)

#define INTEGER_ATOMICS(first, suffix, bits, dwords)                                      \
    ATOMIC(first + 0, "swap" suffix, Swap<uint##bits##_t>, dwords, dwords),                 \
    ATOMIC(first + 1, "cmpswap" suffix, CompareSwap<uint##bits##_t>, dwords, 2 * dwords),   \
    ATOMIC(first + 2, "add" suffix, Add<uint##bits##_t>, dwords, dwords),                   \
    ATOMIC(first + 3, "sub" suffix, Sub<uint##bits##_t>, dwords, dwords),                   \
    ATOMIC(first + 4, "smin" suffix, Min<int##bits##_t>, dwords, dwords),                   \
    ATOMIC(first + 5, "umin" suffix, Min<uint##bits##_t>, dwords, dwords),                  \
    ATOMIC(first + 6, "smax" suffix, Max<int##bits##_t>, dwords, dwords),                   \
    ATOMIC(first + 7, "umax" suffix, Max<uint##bits##_t>, dwords, dwords),                  \
    ATOMIC(first + 8, "and" suffix, And<uint##bits##_t>, dwords, dwords),                   \
    ATOMIC(first + 9, "or" suffix, Or<uint##bits##_t>, dwords, dwords),                     \
    ATOMIC(first + 10, "xor" suffix, Xor<uint##bits##_t>, dwords, dwords),                  \
    ATOMIC(first + 11, "inc" suffix, Inc<uint##bits##_t>, dwords, dwords),                  \
    ATOMIC(first + 12, "dec" suffix, Dec<uint##bits##_t>, dwords, dwords)

const OpInfo kUntypedRows[] = {
    FORMATS("buffer"),
    LOAD(16, "ubyte", u8, 1),
    LOAD(17, "sbyte", i8, 1),
    LOAD(18, "ushort", u16, 1),
    LOAD(19, "sshort", i16, 1),
    LOAD(20, "dword", b32, 1),
    LOAD(21, "dwordx2", b64, 2),
    LOAD(22, "dwordx3", b96, 3),
    LOAD(23, "dwordx4", b128, 4),
    STORE(24, "byte", u8, 1),
    STORE(25, "byte_d16_hi", u8_high, 1),
    STORE(26, "short", u16, 1),
    STORE(27, "short_d16_hi", u16_high, 1),
    STORE(28, "dword", b32, 1),
    STORE(29, "dwordx2", b64, 2),
    STORE(30, "dwordx3", b96, 3),
    STORE(31, "dwordx4", b128, 4),
    LOAD(32, "ubyte_d16", u8_low, 1),
    LOAD(33, "ubyte_d16_hi", u8_high, 1),
    LOAD(34, "sbyte_d16", i8_low, 1),
    LOAD(35, "sbyte_d16_hi", i8_high, 1),
    LOAD(36, "short_d16", u16_low, 1),
    LOAD(37, "short_d16_hi", u16_high, 1),
    row(38, "buffer_load_format_d16_hi_x", Class::VMEM_LOAD, load_format<1, Packing::high>, 1, 0),
    row(39, "buffer_store_format_d16_hi_x", Class::VMEM_STORE, store_format<1, Packing::high>, 0, 1),
    row(40, "buffer_wbl2", Class::VMEM_STORE, nothing, 0, 0),
    row(41, "buffer_inv", Class::VMEM_LOAD, nothing, 0, 0),
    INTEGER_ATOMICS(64, "", 32, 1),
    ATOMIC(77, "add_f32", AddFloat<float>, 1, 1),
    ATOMIC(78, "pk_add_f16", PackedAddHalf, 1, 1),
    ATOMIC(79, "add_f64", AddFloat<double>, 2, 2),
    ATOMIC(80, "min_f64", MinFloat<double>, 2, 2),
    ATOMIC(81, "max_f64", MaxFloat<double>, 2, 2),
    row(82, "buffer_atomic_pk_add_bf16", Class::VMEM_ATOMIC, atomic_op<atomic::PackedAddBfloat>, 1, 1, kGfx950),
    INTEGER_ATOMICS(96, "_x2", 64, 2),
};
const OpInfo kTypedRows[] = {FORMATS("tbuffer")};

}  // namespace

extern const OpTable kMubufTable = {Enc::MUBUF, kUntypedRows, sizeof kUntypedRows / sizeof kUntypedRows[0]};
extern const OpTable kMtbufTable = {Enc::MTBUF, kTypedRows, sizeof kTypedRows / sizeof kTypedRows[0]};

}  // namespace emu
