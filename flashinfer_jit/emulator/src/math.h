// The transcendental lane functions: v_exp, v_log, v_rcp, v_rsq, v_sqrt, v_sin, v_cos and the division helpers. Within 1 ulp of the true
// value, branch-free so that they vectorise. The f32 functions flush denormal inputs and results, as the CDNA ISA manuals say of each.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "lanes.h"

namespace emu {
namespace math {

constexpr uint32_t kSign = 0x80000000u, kInfinity = 0x7f800000u, kDefaultNan = 0xffc00000u, kQuiet = 0x00400000u, kMinNormal = 0x00800000u;
constexpr uint64_t kSign64 = 1ull << 63, kInfinity64 = 0x7ffull << 52, kDefaultNan64 = 0xfff8ull << 48, kQuiet64 = 1ull << 51;

inline uint32_t bits_of(float x) { return bit_cast<uint32_t>(x); }
inline uint64_t bits_of(double x) { return bit_cast<uint64_t>(x); }
inline float float_of(uint32_t x) { return bit_cast<float>(x); }
inline double double_of(uint64_t x) { return bit_cast<double>(x); }
inline bool is_nan(float x) { return (bits_of(x) & ~kSign) > kInfinity; }
inline bool is_nan(double x) { return (bits_of(x) & ~kSign64) > kInfinity64; }

inline float flush_denormal(float x) {
    const uint32_t b = bits_of(x);
    return float_of((b & kInfinity) ? b : b & kSign);
}

// What the functions below assume: the host rounds to nearest. MODE may say otherwise, but these operations have no rounding modes.
template <LaneFn f>
void in_nearest(const LaneArgs& x) {
    if (!(x.wave->mode & 0xfu)) {
        f(x);
        return;
    }
    const unsigned saved = _mm_getcsr();
    _mm_setcsr((saved & ~_MM_ROUND_MASK) | _MM_ROUND_NEAREST);
    f(x);
    _mm_setcsr(saved);
}

// 2^x = 2^n * (1 + f * P(f)) with n = round(x). P: degree-5 minimax fit of (2^f - 1) / f on [-1/2, 1/2], relative error 2^-28.9.
inline float exp2_f32(float x) {
    const float bounded = x > -130.0f ? (x < 130.0f ? x : 130.0f) : -130.0f;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    constexpr float kRounder = 0x1.8p23f;
    const float rounded = bounded + kRounder, f = bounded - (rounded - kRounder);
    float p = 0x1.41fbbap-13f;
    p = __builtin_fmaf(p, f, 0x1.5f3e54p-10f);
    p = __builtin_fmaf(p, f, 0x1.3b2d4cp-7f);
    p = __builtin_fmaf(p, f, 0x1.c6aee8p-5f);
    p = __builtin_fmaf(p, f, 0x1.ebfbdcp-3f);
    p = __builtin_fmaf(p, f, 0x1.62e430p-1f);
    const float mantissa = __builtin_fmaf(p, f, 1.0f);
    uint32_t result = bits_of(mantissa) + (bits_of(rounded) << 23);
    result = x >= 128.0f ? kInfinity : result;
    result = x < -126.0f ? 0u : result;
    return float_of(is_nan(x) ? bits_of(x) | kQuiet : result);
}

// log2 of a positive normal float, in double: x = 2^k * m, m in [sqrt(1/2), sqrt(2)), log2(m) = 2/ln(2) * atanh((m - 1) / (m + 1)).
inline double log2_normal(uint32_t b) {
    constexpr uint32_t kSqrtHalf = 0x3f3504f3u;
    const uint32_t shifted = b - kSqrtHalf;
    const int32_t k = static_cast<int32_t>(shifted) >> 23;
    const double m = float_of((shifted & 0x007fffffu) + kSqrtHalf);
    const double t = (m - 1.0) / (m + 1.0), t2 = t * t;
    double p = 1.0 / 15;
    p = __builtin_fma(p, t2, 1.0 / 13);
    p = __builtin_fma(p, t2, 1.0 / 11);
    p = __builtin_fma(p, t2, 1.0 / 9);
    p = __builtin_fma(p, t2, 1.0 / 7);
    p = __builtin_fma(p, t2, 1.0 / 5);
    p = __builtin_fma(p, t2, 1.0 / 3);
    p = __builtin_fma(p, t2, 1.0);
    constexpr double kTwoOverLn2 = 2.8853900817779268147;
    return __builtin_fma(p * t, kTwoOverLn2, static_cast<double>(k));
}

inline float log2_f32(float x) {
    const uint32_t b = bits_of(x), magnitude = b & ~kSign;
    // Any value will do for the lanes that the selections below replace.
    const bool ordinary = b >= kMinNormal && b < kInfinity;
    uint32_t result = bits_of(static_cast<float>(log2_normal(ordinary ? b : 0x3f800000u)));
    result = (b & kSign) ? kDefaultNan : result;
    result = magnitude < kMinNormal ? kSign | kInfinity : result;
    result = b == kInfinity ? kInfinity : result;
    return float_of(magnitude > kInfinity ? b | kQuiet : result);
}

inline float rcp_f32(float x) {
    const float y = 1.0f / flush_denormal(x);
    return flush_denormal(y);
}
inline float sqrt_f32(float x) { return __builtin_sqrtf(flush_denormal(x)); }
inline float rsq_f32(float x) { return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(flush_denormal(x)))); }

inline double rcp_f64(double x) { return 1.0 / x; }
inline double sqrt_f64(double x) { return __builtin_sqrt(x); }
inline double rsq_f64(double x) { return 1.0 / __builtin_sqrt(x); }

// sin(2 pi r) for |r| <= 1/4: Taylor series to (2 pi r)^17, relative error below 2^-40.
inline double sin_quarter(double r) {
    const double y = r * 6.283185307179586477, y2 = y * y;
    double p = 1.0 / 355687428096000.0;
    p = __builtin_fma(p, y2, -1.0 / 1307674368000.0);
    p = __builtin_fma(p, y2, 1.0 / 6227020800.0);
    p = __builtin_fma(p, y2, -1.0 / 39916800.0);
    p = __builtin_fma(p, y2, 1.0 / 362880.0);
    p = __builtin_fma(p, y2, -1.0 / 5040.0);
    p = __builtin_fma(p, y2, 1.0 / 120.0);
    p = __builtin_fma(p, y2, -1.0 / 6.0);
    return __builtin_fma(p * y2, y, y);
}
// The argument counts revolutions, so the reduction is exact.
inline float sin_f32(float x) {
    const double wide = x, r = wide - __builtin_rint(wide);
    const double half = r < 0 ? -0.5 : 0.5;
    const double folded = r * r > 0.0625 ? half - r : r;
    const float result = static_cast<float>(sin_quarter(folded));
    return bits_of(x) == kSign ? x : result;
}
inline float cos_f32(float x) {
    const double wide = x, r = wide - __builtin_rint(wide);
    return static_cast<float>(sin_quarter(0.25 - (r < 0 ? -r : r)));
}

// ---- splitting and scaling -----------------------------------------------------------------------------------------
inline uint32_t leading_zeros(uint32_t x) {
    // Through the exponent of the conversion: vectorises where a loop or lzcnt does not. The low bits are cleared so that it cannot round up.
    const uint32_t high = x & ~(x >> 1);
    const uint32_t exponent = bits_of(static_cast<float>(static_cast<int32_t>(high & 0x7fffffffu))) >> 23;
    return x & 0x80000000u ? 0u : x == 0 ? 32u : 158u - exponent;
}
inline int32_t frexp_exp_f32(float x) {
    const uint32_t magnitude = bits_of(x) & ~kSign;
    const int32_t normal = static_cast<int32_t>(magnitude >> 23) - 126;
    const int32_t denormal = -117 - static_cast<int32_t>(leading_zeros(magnitude));
    const int32_t e = magnitude >= kMinNormal ? normal : denormal;
    return magnitude == 0 || magnitude >= kInfinity ? 0 : e;
}
inline float frexp_mant_f32(float x) {
    const uint32_t b = bits_of(x), magnitude = b & ~kSign;
    // Brings the highest set bit of a denormal to bit 23.
    const uint32_t shift = leading_zeros(magnitude) - 8u;
    const uint32_t normalised = magnitude >= kMinNormal ? magnitude : magnitude << (shift & 31u);
    const uint32_t m = (b & kSign) | 0x3f000000u | (normalised & 0x007fffffu);
    const uint32_t special = magnitude > kInfinity ? b | kQuiet : b;
    return float_of(magnitude == 0 || magnitude >= kInfinity ? special : m);
}
inline int32_t frexp_exp_f64(double x) {
    const uint64_t magnitude = bits_of(x) & ~kSign64;
    if (magnitude == 0 || magnitude >= kInfinity64) return 0;
    return magnitude >> 52 ? static_cast<int32_t>(magnitude >> 52) - 1022 : -1010 - __builtin_clzll(magnitude);
}
inline double frexp_mant_f64(double x) {
    const uint64_t b = bits_of(x), magnitude = b & ~kSign64;
    if (magnitude > kInfinity64) return double_of(b | kQuiet64);
    if (magnitude == 0 || magnitude == kInfinity64) return x;
    const uint64_t normalised = magnitude >> 52 ? magnitude : magnitude << (__builtin_clzll(magnitude) - 11);
    return double_of((b & kSign64) | 0x3fe0000000000000ull | (normalised & 0x000fffffffffffffull));
}

inline double power_of_two(int32_t e) { return double_of(static_cast<uint64_t>(static_cast<int64_t>(e) + 1023) << 52); }

// One rounding: the product with a power of two is exact in double.
inline float ldexp_f32(float x, int32_t e) {
    const int32_t bounded = e > 600 ? 600 : e < -600 ? -600 : e;
    return static_cast<float>(static_cast<double>(x) * power_of_two(bounded));
}
// The first two factors keep the value normal (or overflow it for good); only the last can round.
inline double ldexp_f64(double x, int32_t e) {
    const int32_t exponent = frexp_exp_f64(x);
    const int32_t bounded = e > 4200 ? 4200 : e < -4200 ? -4200 : e;
    const double mantissa = frexp_mant_f64(x);
    const int32_t total = exponent + bounded;
    if (total > 1024) return mantissa * 0x1p1023 * 0x1p1023;
    if (total > -1000) return total > 1000 ? mantissa * 0x1p900 * power_of_two(total - 900) : mantissa * power_of_two(total);
    return mantissa * 0x1p-900 * power_of_two(total < -1900 ? -1000 : total + 900);
}

// ---- IEEE division -------------------------------------------------------------------------------------------------
// v_div_scale brings the operands of a division where rcp, the residuals and the quotient neither overflow nor lose bits; v_div_fmas undoes
// it; v_div_fixup answers the special cases. CDNA3 ISA manual, V_DIV_SCALE_F32; three readings are ours, because only they make division right:
// a denominator above 2^126 is scaled down (the manual's text scales it up in one case, to infinity), and v_div_fmas multiplies by 2^64 or
// 2^-64 by the size of the quotient (as AMD's RDNA manuals say; the CDNA text has one constant for both); v_div_fixup turns the NaN of an
// overflowing quotient into infinity.
template <class T>
struct Format;
template <>
struct Format<float> {
    using Bits = uint32_t;
    static constexpr int mantissa_bits = 23, bias = 127, max_exponent = 255, scale = 64, near_overflow = 96, tiny = 23, underflow = -150;
};
template <>
struct Format<double> {
    using Bits = uint64_t;
    static constexpr int mantissa_bits = 52, bias = 1023, max_exponent = 2047, scale = 128, near_overflow = 768, tiny = 53, underflow = -1075;
};
template <class T>
inline int biased_exponent(T x) {
    return static_cast<int>(bits_of(x) >> Format<T>::mantissa_bits) & Format<T>::max_exponent;
}
template <class T>
inline bool is_denormal(T x) {
    return biased_exponent(x) == 0 && x != 0;
}
inline float scaled(float x, int e) { return ldexp_f32(x, e); }
inline double scaled(double x, int e) { return ldexp_f64(x, e); }

// Returns the scaled s0 (the denominator s1 or the numerator s2); carry says that v_div_fmas has to scale.
template <class T>
inline T div_scale(T s0, T s1, T s2, uint32_t& carry) {
    constexpr int scale = Format<T>::scale;
    const int e1 = biased_exponent(s1), e2 = biased_exponent(s2);
    const bool is_denominator = bits_of(s0) == bits_of(s1), is_numerator = bits_of(s0) == bits_of(s2);
    carry = 0;
    if (s2 == 0 || s1 == 0) return std::numeric_limits<T>::quiet_NaN();
    if (e2 - e1 >= Format<T>::near_overflow) {
        carry = 1;
        return is_denominator ? scaled(s0, scale) : s0;
    }
    if (is_denormal(s1)) return scaled(s0, scale);
    // A quotient that rounds to zero is a denormal one too.
    const bool reciprocal_denormal = is_denormal(static_cast<T>(1) / s1), quotient_denormal = biased_exponent(s2 / s1) == 0;
    if (reciprocal_denormal && quotient_denormal) {
        carry = 1;
        return is_denominator ? scaled(s0, -scale) : s0;
    }
    if (reciprocal_denormal) return scaled(s0, -scale);
    if (quotient_denormal) {
        carry = 1;
        return is_numerator ? scaled(s0, scale) : s0;
    }
    if (e2 <= Format<T>::tiny) return scaled(s0, scale);
    return s0;
}

template <class T>
inline T div_fmas(T s0, T s1, T s2, bool carry) {
    const T result = std::fma(s0, s1, s2);
    if (!carry) return result;
    if (biased_exponent(s2) > Format<T>::bias) return scaled(result, Format<T>::scale);
    // Scaling down rounds a second time where the quotient is denormal. If the first rounding made it a tie, the residue decides it.
    const T down = scaled(result, -Format<T>::scale), off = result - scaled(down, Format<T>::scale), residue = std::fma(s0, s1, s2 - result);
    const T half_step = scaled(std::numeric_limits<T>::denorm_min(), Format<T>::scale) / 2;
    const bool beyond = (off == half_step && residue > 0) || (off == -half_step && residue < 0);
    return beyond ? down + (off > 0 ? std::numeric_limits<T>::denorm_min() : -std::numeric_limits<T>::denorm_min()) : down;
}

template <class T>
inline T div_fixup(T quotient, T denominator, T numerator) {
    using F = Format<T>;
    using Bits = typename F::Bits;
    const Bits sign_mask = Bits{1} << (sizeof(T) * 8 - 1), sign = (bits_of(denominator) ^ bits_of(numerator)) & sign_mask;
    const Bits infinity = static_cast<Bits>(F::max_exponent) << F::mantissa_bits, quiet = Bits{1} << (F::mantissa_bits - 1);
    const Bits d = bits_of(denominator) & ~sign_mask, n = bits_of(numerator) & ~sign_mask;
    const auto make = [](Bits b) { return bit_cast<T>(b); };
    if (n > infinity) return make(bits_of(numerator) | quiet);
    if (d > infinity) return make(bits_of(denominator) | quiet);
    if ((d == 0 && n == 0) || (d == infinity && n == infinity)) return make(sign_mask | infinity | quiet);
    if (d == 0 || n == infinity) return make(sign | infinity);
    if (d == infinity || n == 0) return make(sign);
    if (biased_exponent(numerator) - biased_exponent(denominator) < F::underflow) return make(sign);   // rounds to zero
    // A quotient that overflows has made the residuals of the usual sequence infinite, their sum NaN.
    const bool overflows = biased_exponent(numerator) - biased_exponent(denominator) > F::bias + 1;
    if (overflows && is_nan(quotient)) return make(sign | infinity);
    return make((bits_of(quotient) & ~sign_mask) | sign);
}

}  // namespace math
}  // namespace emu
