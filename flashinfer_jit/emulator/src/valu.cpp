// The executors of vector-ALU rows: operand fetch, source modifiers, DPP, SDWA, op_sel, EXEC, clamp and omod around one lane function.
#include <cmath>
#include <cstring>
#include <immintrin.h>

#include "wave.h"

namespace emu {
namespace {

struct alignas(64) Lanes {
    uint32_t v[2 * kLanes];
};

inline void broadcast(uint32_t* out, uint32_t value) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) out[l] = value;
}
inline void copy(uint32_t* out, const uint32_t* in) { std::memcpy(out, in, kLanes * 4); }

// Bit per lane to 0/1 dwords and back, eight lanes at a time: compilers do not find either on their own.
inline void expand_mask(uint32_t* out, uint64_t mask) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), one = _mm256_set1_epi32(1);
    for (int l = 0; l < kLanes; l += 8) {
        const __m256i eight = _mm256_set1_epi32(static_cast<int>(mask >> l & 0xff));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + l), _mm256_and_si256(_mm256_srlv_epi32(eight, lane), one));
    }
}
inline uint64_t pack_mask(const uint32_t* in) {
    uint64_t mask = 0;
    for (int l = 0; l < kLanes; l += 8) {
        const __m256i signs = _mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + l)), 31);
        mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(signs)))) << l;
    }
    return mask;
}

// MODE bits 3:0 round f32 and f16/f64, bits 7:4 keep denormals; 0xF0 is what every compiler sets.
constexpr uint32_t kDefaultMode = 0xF0, kDx10Clamp = 1u << 8, kIeee = 1u << 9;
inline bool default_mode(const Wave& w) { return (w.mode & 0xFF) == kDefaultMode; }

// Runs a lane function under a MODE that compilers do not set: the host's rounding follows; denormals are flushed around it.
class ModeScope {
public:
    ModeScope(const Wave& w, bool wide) : saved_(_mm_getcsr()) {
        static const unsigned rounding[4] = {_MM_ROUND_NEAREST, _MM_ROUND_UP, _MM_ROUND_DOWN, _MM_ROUND_TOWARD_ZERO};
        _mm_setcsr((saved_ & ~_MM_ROUND_MASK) | rounding[(wide ? w.mode >> 2 : w.mode) & 3]);
    }
    ~ModeScope() { _mm_setcsr(saved_); }

private:
    unsigned saved_;
};

// MODE keeps denormals of inputs (bit 0 of each pair) and of outputs (bit 1), for f32 and for f16/f64.
struct DenormalMode {
    bool f32, wide;
    DenormalMode(const Wave& w, int bit) : f32(w.mode >> (4 + bit) & 1), wide(w.mode >> (6 + bit) & 1) {}
};

void flush_denormals(uint32_t* v, Type type, DenormalMode kept) {
    if (type == Type::f32 && !kept.f32) {
        for (int l = 0; l < kLanes; ++l)
            if (!(v[l] & 0x7f800000u)) v[l] &= 0x80000000u;
    } else if (type == Type::pkf32) {
        flush_denormals(v, Type::f32, kept), flush_denormals(v + kLanes, Type::f32, kept);
    } else if (type == Type::pk16f && !kept.wide) {
        for (int l = 0; l < kLanes; ++l)
            v[l] &= (v[l] & 0x7c00u ? 0xffffu : 0x8000u) | (v[l] & 0x7c000000u ? 0xffff0000u : 0x80000000u);
    } else if (type == Type::f16 && !kept.wide) {
        for (int l = 0; l < kLanes; ++l)
            if (!(v[l] & 0x7c00u)) v[l] &= 0xffff8000u;
    } else if (type == Type::f64 && !kept.wide) {
        for (int l = 0; l < kLanes; ++l)
            if (!(v[kLanes + l] & 0x7ff00000u)) v[kLanes + l] &= 0x80000000u, v[l] = 0;
    }
}

uint32_t sign_bit(Type t) { return type_is_16bit(t) ? 0x8000u : 0x80000000u; }

void apply_abs_neg(uint32_t* v, Type type, bool absolute, bool negate) {
    // The sign of a pair sits in its high dword.
    uint32_t* word = type_dwords(type) == 2 ? v + kLanes : v;
    const uint32_t sign = sign_bit(type), keep = absolute ? ~sign : ~0u, flip = negate ? sign : 0u;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) word[l] = (word[l] & keep) ^ flip;
}

// ---- SDWA ----------------------------------------------------------------------------------------------------------
constexpr uint8_t kSelectWord0 = 4, kSelectDword = 6;

void sdwa_select(uint32_t* v, uint8_t select, bool sign_extended) {
    if (select >= kSelectDword) return;
    const int width = select < kSelectWord0 ? 8 : 16;
    const int shift = select < kSelectWord0 ? select * 8 : (select - kSelectWord0) * 16;
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t field = v[l] >> shift << (32 - width);
        v[l] = sign_extended ? static_cast<uint32_t>(static_cast<int32_t>(field) >> (32 - width)) : field >> (32 - width);
    }
}

// Places the result into the selected part of the destination; the rest becomes 0, the sign, or stays (dst_unused 0, 1, 2).
void sdwa_place(uint32_t* result, const uint32_t* old, const Inst& i) {
    if (i.dst_sel >= kSelectDword) return;
    const int width = i.dst_sel < kSelectWord0 ? 8 : 16;
    const int shift = i.dst_sel < kSelectWord0 ? i.dst_sel * 8 : (i.dst_sel - kSelectWord0) * 16;
    const uint32_t field = (width == 8 ? 0xffu : 0xffffu) << shift;
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t placed = result[l] << shift & field;
        uint32_t rest = 0;
        if (i.dst_unused == 1) rest = placed >> (shift + width - 1) & 1 ? ~0u << (shift + width - 1) << 1 : 0;
        if (i.dst_unused == 2) rest = old[l];
        result[l] = placed | (rest & ~field);
    }
}

// ---- DPP -----------------------------------------------------------------------------------------------------------
// Source lane of each lane, or -1 where the pattern leaves its row (CDNA3 ISA manual, DPP_CTRL table).
int dpp_source(uint32_t control, int lane) {
    const int row = lane & ~15, in_row = lane & 15, n = static_cast<int>(control & 15);
    if (control <= 0xFF) return (lane & ~3) | static_cast<int>(control >> (2 * (lane & 3)) & 3);
    if (control >= 0x101 && control <= 0x10F) return in_row + n <= 15 ? lane + n : -1;       // row_shl
    if (control >= 0x111 && control <= 0x11F) return in_row - n >= 0 ? lane - n : -1;        // row_shr
    if (control >= 0x121 && control <= 0x12F) return row | ((in_row - n) & 15);              // row_ror
    if (control >= 0x150 && control <= 0x15F) return row | n;                                // row_newbcast
    switch (control) {
        case 0x130: return lane < 63 ? lane + 1 : -1;                                        // wave_shl
        case 0x134: return (lane + 1) & 63;                                                  // wave_rol
        case 0x138: return lane - 1;                                                         // wave_shr
        case 0x13C: return (lane - 1) & 63;                                                  // wave_ror
        case 0x140: return row | (15 - in_row);                                              // row_mirror
        case 0x141: return (lane & ~7) | (7 - (lane & 7));                                   // row_half_mirror
        case 0x142: return row - 1;                                                          // row_bcast15: last lane of the row before
        case 0x143: return lane >= 32 ? 31 : -1;                                             // row_bcast31
        default: return -2;
    }
}

// The sources of all lanes, for each of the 512 control words.
struct DppTable {
    int8_t from[512][kLanes];
    DppTable() {
        for (uint32_t control = 0; control < 512; ++control)
            for (int l = 0; l < kLanes; ++l) from[control][l] = static_cast<int8_t>(dpp_source(control, l));
    }
};

// Permutes source 0; returns the lanes that may be written.
uint64_t dpp_fetch(Wave& w, const Inst& i, uint32_t* v, int dwords) {
    static const DppTable table;
    const int8_t* from = table.from[i.dpp_ctrl & 511];
    if (from[0] == -2) {
        w.fault(FaultKind::unsupported, "reserved DPP control");
        return 0;
    }
    Lanes in;
    std::memcpy(in.v, v, sizeof(uint32_t) * kLanes * static_cast<size_t>(dwords));
    // A lane outside the pattern or switched off gives 0 with bound_ctrl, else the write is suppressed.
    const uint64_t exec = w.exec();
    uint64_t valid = 0, chosen = 0;
    for (int l = 0; l < kLanes; ++l) {
        valid |= static_cast<uint64_t>(from[l] >= 0 && (exec >> (from[l] & 63) & 1)) << l;
        chosen |= static_cast<uint64_t>(i.row_mask >> (l / 16) & i.bank_mask >> (l % 16 / 4) & 1) << l;
    }
    for (int d = 0; d < dwords; ++d)
        for (int l = 0; l < kLanes; ++l) v[d * kLanes + l] = in.v[d * kLanes + (from[l] & 63)] & (0u - static_cast<uint32_t>(valid >> l & 1));
    return chosen & (i.bound_ctrl ? ~0ull : valid);
}

// ---- packed sources ------------------------------------------------------------------------------------------------
void select_halves(uint32_t* v, const Inst& i, int k, Type type) {
    const int low = i.op_sel >> k & 1 ? 16 : 0, high = i.op_sel_hi >> k & 1 ? 16 : 0;
    const bool flips = type == Type::pk16f || type == Type::pkbf16;
    const uint32_t flip = flips ? (i.neg >> k & 1 ? 0x8000u : 0u) | (i.neg_hi >> k & 1 ? 0x80000000u : 0u) : 0u;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) v[l] = ((v[l] >> low & 0xffffu) | (v[l] >> high & 0xffffu) << 16) ^ flip;
}

// Pair of f32: op_sel picks the register for the low result, op_sel_hi for the high one.
void select_pair(uint32_t* v, const Inst& i, int k) {
    Lanes in;
    std::memcpy(in.v, v, sizeof in.v);
    const int low = i.op_sel >> k & 1, high = i.op_sel_hi >> k & 1;
    const uint32_t flip_low = i.neg >> k & 1 ? 0x80000000u : 0u, flip_high = i.neg_hi >> k & 1 ? 0x80000000u : 0u;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        v[l] = in.v[low * kLanes + l] ^ flip_low;
        v[kLanes + l] = in.v[high * kLanes + l] ^ flip_high;
    }
}

bool is_packed16(Type t) { return t == Type::pk16f || t == Type::pk16i || t == Type::pkbf16; }

// ---- results -------------------------------------------------------------------------------------------------------
template <class F>
void for_f16(uint32_t* v, int shift, F f) {
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t half = v[l] >> shift & 0xffffu;
        v[l] = (v[l] & ~(0xffffu << shift)) | f(half) << shift;
    }
}
// Clamp to [0, 1] of numbers as sign-magnitude integers. A NaN becomes 0 where MODE's DX10_CLAMP is on, as it is by default, and else stays.
template <class Bits>
Bits clamped(Bits x, Bits one, Bits infinity, bool keep_nan) {
    constexpr Bits sign = Bits{1} << (sizeof(Bits) * 8 - 1);
    if ((x & ~sign) > infinity) return keep_nan ? x : 0;
    return x & sign ? 0 : x > one ? one : x;
}

void clamp_f32(uint32_t* v, bool keep_nan) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) v[l] = clamped<uint32_t>(v[l], 0x3f800000u, 0x7f800000u, keep_nan);
}

void clamp_f64(uint32_t* v, bool keep_nan) {
    for (int l = 0; l < kLanes; ++l) {
        const uint64_t x = clamped<uint64_t>(v[l] | static_cast<uint64_t>(v[kLanes + l]) << 32, 0x3ff0000000000000ull, 0x7ff0000000000000ull, keep_nan);
        v[l] = static_cast<uint32_t>(x), v[kLanes + l] = static_cast<uint32_t>(x >> 32);
    }
}

// A half times 2, 4 or 1/2 without leaving the format: exact but for overflow and the halving of denormals.
uint32_t scale_f16(uint32_t h, int exponent) {
    const uint32_t sign = h & 0x8000, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00 || magnitude == 0) return h;
    double value = magnitude < 0x400 ? std::ldexp(magnitude, -24) : std::ldexp(0x400 | (magnitude & 0x3ff), static_cast<int>(magnitude >> 10) - 25);
    value = std::ldexp(value, exponent);
    if (value >= 65520.0) return sign | 0x7c00;
    if (value < 0x1p-14) return sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(value, 24)));
    int e = 0;
    const double m = std::frexp(value, &e);
    return sign | static_cast<uint32_t>((e + 14) * 1024 + std::nearbyint(std::ldexp(m, 11)) - 1024);
}

// The output multiplier is ignored in IEEE mode and where output denormals are kept (manual, 6.2.2): that is, in what compilers set up.
bool omod_applies(const Wave& w, Type type, DenormalMode output) {
    return !(w.mode & kIeee) && !(type == Type::f32 ? output.f32 : output.wide);
}

void clear_negative_zeros(uint32_t* v, Type type) {
    for (int l = 0; l < kLanes; ++l) {
        if (type == Type::f32 && v[l] == 0x80000000u) v[l] = 0;
        if (type == Type::f16 && (v[l] & 0xffffu) == 0x8000u) v[l] &= 0xffff0000u;
        if (type == Type::f64 && v[kLanes + l] == 0x80000000u && !v[l]) v[kLanes + l] = 0;
    }
}

void apply_omod(uint32_t* v, Type type, uint8_t omod) {
    static const int exponent[4] = {0, 1, 2, -1};
    const float factor = std::ldexp(1.0f, exponent[omod]);
    if (type == Type::f32) {
        for (int l = 0; l < kLanes; ++l) {
            float x;
            std::memcpy(&x, &v[l], 4);
            x *= factor;
            std::memcpy(&v[l], &x, 4);
        }
    } else if (type == Type::f64) {
        for (int l = 0; l < kLanes; ++l) {
            uint64_t bits = v[l] | static_cast<uint64_t>(v[kLanes + l]) << 32;
            double x;
            std::memcpy(&x, &bits, 8);
            x *= factor;
            std::memcpy(&bits, &x, 8);
            v[l] = static_cast<uint32_t>(bits), v[kLanes + l] = static_cast<uint32_t>(bits >> 32);
        }
    } else if (type == Type::f16) {
        for_f16(v, 0, [&](uint32_t h) { return scale_f16(h, exponent[omod]); });
    }
}

void apply_clamp(uint32_t* v, Type type, bool keep_nan) {
    const auto clamp_f16 = [&](uint32_t h) -> uint32_t { return clamped<uint16_t>(static_cast<uint16_t>(h), 0x3c00, 0x7c00, keep_nan); };
    const auto clamp_bf16 = [&](uint32_t h) -> uint32_t { return clamped<uint16_t>(static_cast<uint16_t>(h), 0x3f80, 0x7f80, keep_nan); };
    switch (type) {
        case Type::f32: clamp_f32(v, keep_nan); break;
        case Type::pkf32: clamp_f32(v, keep_nan), clamp_f32(v + kLanes, keep_nan); break;
        case Type::f64: clamp_f64(v, keep_nan); break;
        case Type::f16: for_f16(v, 0, clamp_f16); break;
        case Type::bf16: for_f16(v, 0, clamp_bf16); break;
        case Type::pk16f: for_f16(v, 0, clamp_f16), for_f16(v, 16, clamp_f16); break;
        case Type::pkbf16: for_f16(v, 0, clamp_bf16), for_f16(v, 16, clamp_bf16); break;
        default: break;   // integer saturation is the lane function's (LaneArgs::inst)
    }
}

void store_lanes(uint32_t* to, const uint32_t* from, const uint32_t* active) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) to[l] = (from[l] & active[l]) | (to[l] & ~active[l]);
}

}  // namespace

void read_lanes(Wave& w, const Inst& i, uint16_t code, Type type, uint32_t* out) {
    const int dwords = type_dwords(type);
    if (code >= operand::vgpr && code != operand::none) {
        for (int d = 0; d < dwords; ++d) copy(out + d * kLanes, w.reg(static_cast<uint16_t>(code + d)));
        return;
    }
    if (type == Type::mask) {
        expand_mask(out, read_scalar64(w, i, code));
        return;
    }
    if (dwords == 2) {
        // Packed f32 reads an SGPR pair as two registers; a constant serves both halves.
        const uint64_t value = type == Type::pkf32 && code >= 128 ? read_scalar32(w, i, code) * 0x100000001ull : read_scalar64(w, i, code, type);
        broadcast(out, static_cast<uint32_t>(value)), broadcast(out + kLanes, static_cast<uint32_t>(value >> 32));
        return;
    }
    const bool constant = code >= operand::inline_float && code <= 248;
    broadcast(out, constant ? static_cast<uint32_t>(inline_constant(code, type)) : read_scalar32(w, i, code));
}

void exec_valu(Wave& w, const Inst& i) {
    const OpInfo& op = *i.op;
    const uint64_t exec = w.exec();
    uint64_t writable = ~0ull;
    const bool special_mode = !default_mode(w);
    const DenormalMode input(w, 0), output(w, 1);
    Lanes source[3], result, carry;
    const uint32_t* arguments[3] = {nullptr, nullptr, nullptr};
    for (int k = 0; k < 3; ++k) {
        const Type type = op.src[k];
        if (type == Type::none) continue;
        uint32_t* v = source[k].v;
        read_lanes(w, i, i.src[k], type, v);
        if (w.status == Status::faulted) return;
        arguments[k] = v;
        if (type == Type::mask) continue;
        if (i.modifier == Modifier::dpp && k == 0) {
            writable = dpp_fetch(w, i, v, type_dwords(type));
            if (w.status == Status::faulted) return;
        }
        if (i.modifier == Modifier::sdwa && k < 2) sdwa_select(v, i.src_sel[k], i.sext >> k & 1);
        if (is_packed16(type)) {
            select_halves(v, i, k, type);
            if (special_mode) flush_denormals(v, type, input);
            continue;
        }
        if (type == Type::pkf32) {
            select_pair(v, i, k);
            if (special_mode) flush_denormals(v, type, input);
            continue;
        }
        if (type_is_16bit(type)) {
            const int shift = i.modifier != Modifier::sdwa && (i.op_sel >> k & 1) ? 16 : 0;
            for (int l = 0; l < kLanes; ++l) v[l] = v[l] >> shift & 0xffffu;
        }
        const bool absolute = i.abs >> k & 1, negate = i.neg >> k & 1;
        if (absolute || negate) apply_abs_neg(v, type, absolute, negate);
        if (special_mode) flush_denormals(v, type, input);
    }
    const LaneArgs args = {result.v, carry.v, arguments[0], arguments[1], arguments[2], &w, &i};
    if (special_mode && (w.mode & 0xF)) {
        ModeScope rounding(w, op.dst != Type::f32 && op.dst != Type::pkf32);
        op.lanes(args);
    } else {
        op.lanes(args);
    }
    if (w.status == Status::faulted) return;
    if (op.flags & kWritesMask) {
        const uint64_t mask = pack_mask(result.v) & exec & writable;
        w.set_pair(i.sdst, mask);
        if (op.flags & kWritesExec) w.set_pair(operand::exec_lo, mask);
        return;
    }
    if (special_mode) flush_denormals(result.v, op.dst, output);
    if (i.omod && omod_applies(w, op.dst, output)) {
        apply_omod(result.v, op.dst, i.omod);
        flush_denormals(result.v, op.dst, output);
        clear_negative_zeros(result.v, op.dst);
    }
    if (i.clamp && !(op.flags & kNoClamp)) apply_clamp(result.v, op.dst, !(w.mode & kDx10Clamp));
    uint32_t* destination = w.reg(i.dst);
    if (i.modifier == Modifier::sdwa) {
        sdwa_place(result.v, destination, i);
    } else if (type_is_16bit(op.dst) && (i.op_sel >> 3 & 1)) {
        // op_sel[3]: the result goes to the high half, the low half stays.
        for (int l = 0; l < kLanes; ++l) result.v[l] = result.v[l] << 16 | (destination[l] & 0xffffu);
    } else if (op.flags & kMerges16) {
        for (int l = 0; l < kLanes; ++l) result.v[l] = (result.v[l] & 0xffffu) | (destination[l] & 0xffff0000u);
    }
    const uint64_t lanes = exec & writable;
    const int dwords = type_dwords(op.dst);
    if (lanes == ~0ull) {
        for (int d = 0; d < dwords; ++d) copy(w.reg(static_cast<uint16_t>(i.dst + d)), result.v + d * kLanes);
    } else {
        alignas(64) uint32_t some[kLanes];
        const uint32_t* active = w.active_lanes();
        if (lanes != exec) {
            for (int l = 0; l < kLanes; ++l) some[l] = 0u - static_cast<uint32_t>(lanes >> l & 1);
            active = some;
        }
        for (int d = 0; d < dwords; ++d) store_lanes(w.reg(static_cast<uint16_t>(i.dst + d)), result.v + d * kLanes, active);
    }
    if (op.flags & kCarryOut) w.set_pair(i.sdst, pack_mask(carry.v) & lanes);
}

void exec_valu_plain(Wave& w, const Inst& i) {
    if (__builtin_expect(!default_mode(w), 0)) {
        exec_valu(w, i);
        return;
    }
    const OpInfo& op = *i.op;
    alignas(64) uint32_t scalar[3][kLanes];
    const uint32_t* arguments[3] = {nullptr, nullptr, nullptr};
    for (int k = 0; k < 3 && op.src[k] != Type::none; ++k) {
        const uint16_t code = i.src[k];
        if (code >= operand::vgpr) {
            arguments[k] = w.reg(code);
        } else {
            broadcast(scalar[k], read_scalar32(w, i, code));
            arguments[k] = scalar[k];
        }
    }
    if (__builtin_expect(w.status == Status::faulted, 0)) return;
    uint32_t* destination = w.reg(i.dst);
    if (w.exec() == ~0ull) {
        op.lanes({destination, nullptr, arguments[0], arguments[1], arguments[2], &w, &i});
        return;
    }
    alignas(64) uint32_t result[kLanes];
    op.lanes({result, nullptr, arguments[0], arguments[1], arguments[2], &w, &i});
    store_lanes(destination, result, w.active_lanes());
}

}  // namespace emu
