// VOP3P: packed 16-bit and packed f32 arithmetic, dot products, f32/f16 mixed fma, AccVGPR moves. Matrix instructions: mfma.cpp.
// The executor selects halves (op_sel, op_sel_hi), negates them and clamps float results; the lane functions compute both halves.
#include <algorithm>
#include <cmath>

#include "dot.h"
#include "packed_half.h"

namespace emu {
namespace {

constexpr uint32_t kModeIeee = 1u << 9;

float as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
uint32_t as_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

// ---- packed 16-bit integers ----------------------------------------------------------------------------------------
// A function of up to three halves, sign- or zero-extended to 32 bits, whose result is saturated under the clamp bit.
template <class T, int32_t (*f)(int32_t, int32_t, int32_t)>
void packed_integer(const LaneArgs& x) {
    constexpr int32_t lowest = std::numeric_limits<T>::min(), highest = std::numeric_limits<T>::max();
    const bool saturate = x.inst->clamp;
    const uint32_t* const c = x.c ? x.c : x.a;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        int32_t low = f(static_cast<T>(x.a[l]), static_cast<T>(x.b[l]), static_cast<T>(c[l]));
        int32_t high = f(static_cast<T>(x.a[l] >> 16), static_cast<T>(x.b[l] >> 16), static_cast<T>(c[l] >> 16));
        low = saturate ? std::min(std::max(low, lowest), highest) : low;
        high = saturate ? std::min(std::max(high, lowest), highest) : high;
        x.d[l] = (static_cast<uint32_t>(low) & 0xffffu) | static_cast<uint32_t>(high) << 16;
    }
}
int32_t add(int32_t a, int32_t b, int32_t) { return a + b; }
int32_t subtract(int32_t a, int32_t b, int32_t) { return a - b; }
int32_t largest(int32_t a, int32_t b, int32_t) { return a > b ? a : b; }
int32_t smallest(int32_t a, int32_t b, int32_t) { return a < b ? a : b; }
int32_t shift_left(int32_t a, int32_t b, int32_t) { return static_cast<int32_t>(static_cast<uint32_t>(b) << (a & 15) & 0xffffu); }
int32_t shift_right(int32_t a, int32_t b, int32_t) { return b >> (a & 15); }
int32_t multiply_add_signed(int32_t a, int32_t b, int32_t c) { return a * b + c; }

// Unsigned products need all 32 bits: saturation and sum in 64.
template <bool with_addend>
void packed_unsigned_product(const LaneArgs& x) {
    const bool saturate = x.inst->clamp;
    const uint32_t* const c = with_addend ? x.c : x.a;
    const auto half = [saturate](uint32_t a, uint32_t b, uint32_t addend) {
        const uint32_t product = a * b, sum = with_addend ? product + addend : product;   // at most 0xffff0000
        return saturate && sum > 0xffffu ? 0xffffu : sum & 0xffffu;
    };
#pragma omp simd
    for (int l = 0; l < kLanes; ++l)
        x.d[l] = half(x.a[l] & 0xffffu, x.b[l] & 0xffffu, c[l] & 0xffffu) | half(x.a[l] >> 16, x.b[l] >> 16, c[l] >> 16) << 16;
}

// ---- packed halves -------------------------------------------------------------------------------------------------
struct alignas(64) Rows {
    float low[kLanes], high[kLanes];
};

// One f32 operation rounded once more to f16 is the correctly rounded f16 operation: 24 >= 2 * 11 + 2 bits.
template <float (*f)(float, float)>
void packed_half(const LaneArgs& x) {
    Rows a, b;
    split_halves(x.a, a.low, a.high), split_halves(x.b, b.low, b.high);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) a.low[l] = f(a.low[l], b.low[l]), a.high[l] = f(a.high[l], b.high[l]);
    join_halves(a.low, a.high, x.d);
}
float add_f32(float a, float b) { return a + b; }
float multiply_f32(float a, float b) { return a * b; }

// a * b is exact in f32; the sum is rounded to odd, so that rounding it again to f16 equals one rounding of the exact value.
void fma_to_odd(const float* a, const float* b, const float* c, float* out) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const float product = a[l] * b[l], sum = product + c[l];
        const float shadow = sum - product;   // two-sum: sum + error is exact
        const float error = (product - (sum - shadow)) + (c[l] - shadow);
        const bool inexact = error > 0.0f || error < 0.0f;   // false for infinities and NaN, whose error is NaN
        const uint32_t bits = as_bits(sum);
        const bool too_large = (as_bits(error) ^ bits) >> 31;
        out[l] = as_float(inexact ? (bits - (too_large ? 1u : 0u)) | 1u : bits);
    }
}

void packed_half_fma(const LaneArgs& x) {
    Rows a, b, c;
    split_halves(x.a, a.low, a.high), split_halves(x.b, b.low, b.high), split_halves(x.c, c.low, c.high);
    const bool to_nearest = (x.wave->mode >> 2 & 3) == 0;
    if (to_nearest) {
        fma_to_odd(a.low, b.low, c.low, a.low), fma_to_odd(a.high, b.high, c.high, a.high);
    } else {
        // Rounding twice in one fixed direction is rounding once.
        for (int l = 0; l < kLanes; ++l) {
            a.low[l] = std::fma(a.low[l], b.low[l], c.low[l]);
            a.high[l] = std::fma(a.high[l], b.high[l], c.high[l]);
        }
    }
    join_halves(a.low, a.high, x.d);
}

bool is_nan(uint32_t h) { return (h & 0x7fffu) > 0x7c00u; }
bool is_signalling(uint32_t h) { return is_nan(h) && !(h & 0x200u); }
// Integers in the order of the halves they stand for, -0 below +0.
uint32_t order(uint32_t h) { return h & 0x8000u ? ~h & 0xffffu : h | 0x8000u; }
template <bool maximum>
uint32_t pick(uint32_t a, uint32_t b) { return (order(a) < order(b)) != maximum ? a : b; }

// v_min_f16, v_max_f16: a number wins over a NaN; in IEEE mode a signalling NaN wins and becomes quiet.
template <bool maximum>
uint32_t number_first(uint32_t a, uint32_t b, bool ieee) {
    const uint32_t number = is_nan(a) ? b : is_nan(b) ? a : pick<maximum>(a, b);
    return ieee && is_signalling(a) ? a | 0x200u : ieee && is_signalling(b) ? b | 0x200u : number;
}
// v_minimum, v_maximum: any NaN is the result.
template <bool maximum>
uint32_t nan_first(uint32_t a, uint32_t b) { return is_nan(a) ? a | 0x200u : is_nan(b) ? b | 0x200u : pick<maximum>(a, b); }

template <bool maximum>
void packed_half_extreme(const LaneArgs& x) {
    const bool ieee = x.wave->mode & kModeIeee;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l)
        x.d[l] = number_first<maximum>(x.a[l] & 0xffffu, x.b[l] & 0xffffu, ieee) | number_first<maximum>(x.a[l] >> 16, x.b[l] >> 16, ieee) << 16;
}
template <bool maximum>
void packed_half_extreme3(const LaneArgs& x) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t low = nan_first<maximum>(nan_first<maximum>(x.a[l] & 0xffffu, x.b[l] & 0xffffu), x.c[l] & 0xffffu);
        const uint32_t high = nan_first<maximum>(nan_first<maximum>(x.a[l] >> 16, x.b[l] >> 16), x.c[l] >> 16);
        x.d[l] = low | high << 16;
    }
}

// ---- packed f32: both registers of the pair, one after the other -----------------------------------------------------
void packed_f32_fma(const LaneArgs& x) {
#pragma omp simd
    for (int l = 0; l < 2 * kLanes; ++l) x.d[l] = as_bits(std::fma(as_float(x.a[l]), as_float(x.b[l]), as_float(x.c[l])));
}
template <float (*f)(float, float)>
void packed_f32(const LaneArgs& x) {
#pragma omp simd
    for (int l = 0; l < 2 * kLanes; ++l) x.d[l] = as_bits(f(as_float(x.a[l]), as_float(x.b[l])));
}
// ---- dot products ----------------------------------------------------------------------------------------------------
// Addition order of AMD's pseudocode; products of halves are exact in f32.
void dot2_f16(const LaneArgs& x) {
    Rows a, b;
    split_halves(x.a, a.low, a.high), split_halves(x.b, b.low, b.high);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const float low = flushed(a.low[l], kSmallestNormalHalf) * flushed(b.low[l], kSmallestNormalHalf);
        const float high = flushed(a.high[l], kSmallestNormalHalf) * flushed(b.high[l], kSmallestNormalHalf);
        x.d[l] = as_bits(flushed(flushed(as_float(x.c[l])) + low + high));
    }
}
void dot2_bf16(const LaneArgs& x) {
    Rows a, b;
    split_bfloats(x.a, a.low, a.high), split_bfloats(x.b, b.low, b.high);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const float first = flushed(a.low[l]) * flushed(b.low[l]), second = flushed(a.high[l]) * flushed(b.high[l]);
        x.d[l] = as_bits(flushed((first + second) + flushed(as_float(x.c[l]))));
    }
}

// `bits`-wide integers of both registers, multiplied in pairs and added to a 32-bit integer; clamp saturates the sum.
template <int bits, bool is_signed>
void dot_integer(const LaneArgs& x) {
    const bool saturate = x.inst->clamp;
    for (int l = 0; l < kLanes; ++l) {
        int64_t sum = is_signed ? static_cast<int64_t>(static_cast<int32_t>(x.c[l])) : static_cast<int64_t>(x.c[l]);
        for (int shift = 0; shift < 32; shift += bits) {
            const uint32_t a = x.a[l] << (32 - bits - shift), b = x.b[l] << (32 - bits - shift);
            if (is_signed) sum += static_cast<int64_t>(static_cast<int32_t>(a) >> (32 - bits)) * (static_cast<int32_t>(b) >> (32 - bits));
            else sum += static_cast<int64_t>(a >> (32 - bits)) * (b >> (32 - bits));
        }
        const int64_t lowest = is_signed ? INT32_MIN : 0, highest = is_signed ? static_cast<int64_t>(INT32_MAX) : static_cast<int64_t>(UINT32_MAX);
        x.d[l] = static_cast<uint32_t>(saturate ? std::min(std::max(sum, lowest), highest) : sum);
    }
}

// ---- v_fma_mix: op_sel_hi says f16, op_sel which half; neg_hi is the absolute value ----------------------------------
void read_mixed(Wave& w, const Inst& i, int k, float* out) {
    alignas(64) uint32_t raw[kLanes];
    const bool half = i.op_sel_hi >> k & 1;
    read_lanes(w, i, i.src[k], half ? Type::f16 : Type::f32, raw);
    alignas(64) float low[kLanes], high[kLanes];
    if (half) split_halves(raw, low, high);
    else std::memcpy(low, raw, sizeof low);
    const float* const value = half && (i.op_sel >> k & 1) ? high : low;
    const uint32_t keep = i.neg_hi >> k & 1 ? 0x7fffffffu : ~0u, flip = i.neg >> k & 1 ? 0x80000000u : 0u;
    // MODE: bit 4 keeps denormal f32 inputs, bit 6 denormal f16 inputs.
    const float smallest = w.mode >> (half ? 6 : 4) & 1 ? 0.0f : half ? 0x1p-14f : 0x1p-126f;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t bits = std::fabs(value[l]) < smallest ? as_bits(value[l]) & 0x80000000u : as_bits(value[l]);
        out[l] = as_float((bits & keep) ^ flip);
    }
}

class RoundingScope {
public:
    explicit RoundingScope(uint32_t mode_bits) : saved_(_mm_getcsr()) {
        static const unsigned rounding[4] = {_MM_ROUND_NEAREST, _MM_ROUND_UP, _MM_ROUND_DOWN, _MM_ROUND_TOWARD_ZERO};
        _mm_setcsr((saved_ & ~static_cast<unsigned>(_MM_ROUND_MASK)) | rounding[mode_bits & 3]);
    }
    ~RoundingScope() { _mm_setcsr(saved_); }
    RoundingScope(const RoundingScope&) = delete;
    RoundingScope& operator=(const RoundingScope&) = delete;

private:
    unsigned saved_;
};

enum class MixResult { full, low, high };

template <MixResult result>
void exec_mix(Wave& w, const Inst& i) {
    alignas(64) float a[kLanes], b[kLanes], c[kLanes];
    alignas(64) uint32_t out[kLanes];
    read_mixed(w, i, 0, a), read_mixed(w, i, 1, b), read_mixed(w, i, 2, c);
    if (w.status == Status::faulted) return;
    const uint32_t* const active = w.active_lanes();
    uint32_t* const d = w.reg(i.dst);
    {
        RoundingScope rounding(w.mode);
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) c[l] = std::fma(a[l], b[l], c[l]);
    }
    if (i.clamp) {
        const bool keep_nan = !(w.mode >> 8 & 1);   // DX10_CLAMP off
#pragma omp simd
        for (int l = 0; l < kLanes; ++l)
            if (!(keep_nan && c[l] != c[l])) c[l] = c[l] > 0.0f ? (c[l] < 1.0f ? c[l] : 1.0f) : 0.0f;
    }
    if (result == MixResult::full) {
        const float smallest = w.mode >> 5 & 1 ? 0.0f : 0x1p-126f;
        for (int l = 0; l < kLanes; ++l) out[l] = std::fabs(c[l]) < smallest ? as_bits(c[l]) & 0x80000000u : as_bits(c[l]);
    } else {
        RoundingScope rounding(w.mode >> 2);
        join_halves(c, c, out);
        const bool keep_denormals = w.mode >> 7 & 1;
        const uint32_t written = result == MixResult::low ? 0xffffu : 0xffff0000u;
        for (int l = 0; l < kLanes; ++l) {
            if (!keep_denormals && !(out[l] & 0x7c00u)) out[l] &= 0x80008000u;
            out[l] = (out[l] & written) | (d[l] & ~written);
        }
    }
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) d[l] = (out[l] & active[l]) | (d[l] & ~active[l]);
}

// v_pk_mov_b32: S0's register of op_sel[0] and S1's of op_sel[1]. A move, so no modifier and no flushing.
void exec_packed_move(Wave& w, const Inst& i) {
    alignas(64) uint32_t pair[2][2 * kLanes];
    for (int k = 0; k < 2; ++k) read_lanes(w, i, i.src[k], Type::pkf32, pair[k]);
    if (w.status == Status::faulted) return;
    const uint32_t* const active = w.active_lanes();
    for (int k = 0; k < 2; ++k) {
        const uint32_t* const from = pair[k] + (i.op_sel >> k & 1) * kLanes;
        uint32_t* const d = w.reg(static_cast<uint16_t>(i.dst + k));
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) d[l] = (from[l] & active[l]) | (d[l] & ~active[l]);
    }
}

void move_lanes(const LaneArgs& x) { std::memmove(x.d, x.a, kLanes * sizeof(uint32_t)); }

// ---- rows ------------------------------------------------------------------------------------------------------------
constexpr OpInfo packed(uint16_t opcode, const char* name, LaneFn lanes, Type type, int sources, uint8_t archs = kBoth) {
    return {opcode, name, archs, Class::VALU_PACKED, exec_valu, lanes, type, {type, type, sources == 3 ? type : Type::none}};
}
constexpr OpInfo dot(uint16_t opcode, const char* name, LaneFn lanes, Type factors, Type sum, uint8_t archs = kBoth) {
    return {opcode, name, archs, Class::VALU, exec_valu, lanes, sum, {factors, factors, sum}};
}
constexpr OpInfo mixed(uint16_t opcode, const char* name, ExecFn exec, Type dst) {
    return {opcode, name, kBoth, Class::VALU, exec, nullptr, dst, {Type::f32, Type::f32, Type::f32}};
}

const OpInfo kRows[] = {
    packed(0, "v_pk_mad_i16", packed_integer<int16_t, multiply_add_signed>, Type::pk16i, 3),
    packed(1, "v_pk_mul_lo_u16", packed_unsigned_product<false>, Type::pk16i, 2),
    packed(2, "v_pk_add_i16", packed_integer<int16_t, add>, Type::pk16i, 2),
    packed(3, "v_pk_sub_i16", packed_integer<int16_t, subtract>, Type::pk16i, 2),
    packed(4, "v_pk_lshlrev_b16", packed_integer<uint16_t, shift_left>, Type::pk16i, 2),
    packed(5, "v_pk_lshrrev_b16", packed_integer<uint16_t, shift_right>, Type::pk16i, 2),
    packed(6, "v_pk_ashrrev_i16", packed_integer<int16_t, shift_right>, Type::pk16i, 2),
    packed(7, "v_pk_max_i16", packed_integer<int16_t, largest>, Type::pk16i, 2),
    packed(8, "v_pk_min_i16", packed_integer<int16_t, smallest>, Type::pk16i, 2),
    packed(9, "v_pk_mad_u16", packed_unsigned_product<true>, Type::pk16i, 3),
    packed(10, "v_pk_add_u16", packed_integer<uint16_t, add>, Type::pk16i, 2),
    packed(11, "v_pk_sub_u16", packed_integer<uint16_t, subtract>, Type::pk16i, 2),
    packed(12, "v_pk_max_u16", packed_integer<uint16_t, largest>, Type::pk16i, 2),
    packed(13, "v_pk_min_u16", packed_integer<uint16_t, smallest>, Type::pk16i, 2),
    packed(14, "v_pk_fma_f16", packed_half_fma, Type::pk16f, 3),
    packed(15, "v_pk_add_f16", packed_half<add_f32>, Type::pk16f, 2),
    packed(16, "v_pk_mul_f16", packed_half<multiply_f32>, Type::pk16f, 2),
    packed(17, "v_pk_min_f16", packed_half_extreme<false>, Type::pk16f, 2),
    packed(18, "v_pk_max_f16", packed_half_extreme<true>, Type::pk16f, 2),
    packed(27, "v_pk_minimum3_f16", packed_half_extreme3<false>, Type::pk16f, 3, kGfx950),
    packed(28, "v_pk_maximum3_f16", packed_half_extreme3<true>, Type::pk16f, 3, kGfx950),

    packed(48, "v_pk_fma_f32", packed_f32_fma, Type::pkf32, 3),
    packed(49, "v_pk_mul_f32", packed_f32<multiply_f32>, Type::pkf32, 2),
    packed(50, "v_pk_add_f32", packed_f32<add_f32>, Type::pkf32, 2),
    {51, "v_pk_mov_b32", kBoth, Class::VALU_PACKED, exec_packed_move, nullptr, Type::pkf32, {Type::pkf32, Type::pkf32, Type::none}},

    mixed(32, "v_fma_mix_f32", exec_mix<MixResult::full>, Type::f32),
    mixed(33, "v_fma_mixlo_f16", exec_mix<MixResult::low>, Type::f16),
    mixed(34, "v_fma_mixhi_f16", exec_mix<MixResult::high>, Type::f16),

    dot(26, "v_dot2_f32_bf16", dot2_bf16, Type::pkbf16, Type::f32, kGfx950),
    dot(35, "v_dot2_f32_f16", dot2_f16, Type::pk16f, Type::f32),
    dot(38, "v_dot2_i32_i16", dot_integer<16, true>, Type::pk16i, Type::i32),
    dot(39, "v_dot2_u32_u16", dot_integer<16, false>, Type::pk16i, Type::u32),
    dot(40, "v_dot4_i32_i8", dot_integer<8, true>, Type::i32, Type::i32),
    dot(41, "v_dot4_u32_u8", dot_integer<8, false>, Type::u32, Type::u32),
    dot(42, "v_dot8_i32_i4", dot_integer<4, true>, Type::i32, Type::i32),
    dot(43, "v_dot8_u32_u4", dot_integer<4, false>, Type::u32, Type::u32),

    {88, "v_accvgpr_read_b32", kBoth, Class::VALU, exec_valu, move_lanes, Type::b32, {Type::b32, Type::none, Type::none}},
    {89, "v_accvgpr_write_b32", kBoth, Class::VALU, exec_valu, move_lanes, Type::b32, {Type::b32, Type::none, Type::none}},
};

}  // namespace

const OpTable kVop3pTable = {Enc::VOP3P, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
