// The 8-, 6- and 4-bit floating-point formats of CDNA3 and CDNA4 and their exact conversions.
#pragma once
#include <cstdint>
#include <cstring>

#include "wave.h"

namespace emu {

// What the codes beyond the finite numbers mean.
enum class Special : uint8_t {
    none,    // every code is a number (OCP MX FP6, FP4)
    ieee,    // exponent all ones: infinity and NaN (OCP E5M2)
    nan,     // magnitude all ones: NaN; no infinity (OCP E4M3)
    fnuz,    // minus zero is the one NaN; no infinity (E4M3FNUZ, E5M2FNUZ: gfx942)
};

template <int exponent_bits, int mantissa_bits, int exponent_bias, Special special_codes>
struct SmallFloat {
    static constexpr int mantissa = mantissa_bits, bias = exponent_bias, bits = 1 + exponent_bits + mantissa_bits;
    static constexpr Special special = special_codes;
    static constexpr uint32_t magnitude_mask = (1u << (bits - 1)) - 1u, sign_mask = 1u << (bits - 1);
};

using E4M3 = SmallFloat<4, 3, 7, Special::nan>;
using E5M2 = SmallFloat<5, 2, 15, Special::ieee>;
using E4M3Fnuz = SmallFloat<4, 3, 8, Special::fnuz>;
using E5M2Fnuz = SmallFloat<5, 2, 16, Special::fnuz>;
using E2M3 = SmallFloat<2, 3, 1, Special::none>;
using E3M2 = SmallFloat<3, 2, 3, Special::none>;
using E2M1 = SmallFloat<2, 1, 1, Special::none>;

// 16-bit formats as destinations of stochastic rounding.
using Half = SmallFloat<5, 10, 15, Special::ieee>;
using BFloat = SmallFloat<8, 7, 127, Special::ieee>;

inline float as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline uint32_t as_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

// The largest finite magnitude, and the codes of a NaN and of a magnitude beyond the largest one where nothing saturates.
template <class F> constexpr uint32_t largest_code() {
    return F::special == Special::ieee ? (F::magnitude_mask >> F::mantissa << F::mantissa) - 1u : F::special == Special::nan ? F::magnitude_mask - 1u : F::magnitude_mask;
}
template <class F> constexpr uint32_t overflow_code() {
    return F::special == Special::ieee ? largest_code<F>() + 1u : F::special == Special::nan ? F::magnitude_mask : largest_code<F>();
}

enum class Rounding { to_nearest_even, stochastic };

// The code of x / 2^scale_exponent (x: f32 bits), rounded once. Without branches, so that loops over lanes vectorise.
// Stochastic: the top bits of `random`, as many as a normal result drops, are added below the last kept bit, then the rest is cut off.
// Overflow, and an infinity that the format lacks: with `saturate` (MODE.FP16_OVFL) the largest number, else NaN (infinity in E5M2);
// FP6 and FP4 have neither and always saturate. They turn NaN into zero. The 16-bit formats keep infinities under `saturate`.
template <class F, Rounding rounding>
inline uint32_t encode_small(uint32_t x, int32_t scale_exponent, uint32_t random, bool saturate) {
    constexpr int smallest_exponent = 1 - F::bias, dropped = 23 - F::mantissa;
    const uint32_t magnitude = x & 0x7fffffffu, sign = x >> 31 << (F::bits - 1);
    const bool is_tiny = magnitude < 0x00800000u, is_nan = magnitude > 0x7f800000u, is_infinite = magnitude == 0x7f800000u;
    const uint32_t normal = is_tiny ? as_bits(as_float(magnitude) * 0x1p64f) : magnitude;
    const int32_t exponent = static_cast<int32_t>(normal >> 23) - (is_tiny ? 127 + 64 : 127) - scale_exponent;
    const uint32_t significand = (normal & 0x007fffffu) | 0x00800000u;
    const int32_t kept_exponent = exponent < smallest_exponent ? smallest_exponent : exponent;
    const int32_t gap = kept_exponent - exponent, shift = gap + dropped < 31 ? gap + dropped : 31;
    const uint32_t kept = significand >> shift;
    uint32_t increment;
    if (rounding == Rounding::stochastic) {
        const uint32_t fraction = (significand >> (gap < 31 ? gap : 31)) & ((1u << dropped) - 1u);
        increment = (fraction + (random >> (32 - dropped))) >> dropped;
    } else {
        const uint32_t rest = significand & ((1u << shift) - 1u), half = 1u << (shift - 1);
        increment = rest > half || (rest == half && (kept & 1u)) ? 1u : 0u;
    }
    // The leading one of a normal number counts one exponent up, and so does a carry out of the mantissa.
    uint32_t code = (static_cast<uint32_t>(kept_exponent - smallest_exponent) << F::mantissa) + kept + increment;
    const bool is_finite = !is_infinite && code <= largest_code<F>();
    const bool keeps_infinity = F::bits == 16 && is_infinite;
    const bool is_zero = magnitude == 0 || (is_finite && code == 0);
    code = is_finite ? code : saturate && !keeps_infinity ? largest_code<F>() : overflow_code<F>();
    code = magnitude == 0 ? 0 : code;
    if (F::special == Special::fnuz) {
        const bool is_absent = is_nan || (!is_finite && !saturate);
        return is_absent ? F::sign_mask : is_zero ? 0u : sign | code;
    }
    constexpr uint32_t nan_code = F::special == Special::none ? 0u : F::magnitude_mask;
    return is_nan ? (F::special == Special::none ? 0u : sign | nan_code) : sign | code;
}

// The value of a code, exactly, as f32 bits. Without branches, so that loops over lanes vectorise.
template <class F>
inline uint32_t decode_small(uint32_t code) {
    const uint32_t magnitude = code & F::magnitude_mask, fraction = magnitude << (23 - F::mantissa);
    constexpr uint32_t rebias = static_cast<uint32_t>(127 - F::bias) << 23, smallest_normal = rebias + (1u << 23);
    const uint32_t normal = fraction + rebias;
    // Subnormals: put the fraction behind the smallest normal's leading one, then take that one away.
    const uint32_t subnormal = as_bits(as_float(smallest_normal | fraction) - as_float(smallest_normal));
    uint32_t value = magnitude >> F::mantissa ? normal : subnormal;
    if (F::special == Special::ieee) value = magnitude >> F::mantissa == F::magnitude_mask >> F::mantissa ? fraction | 0x7f800000u : value;
    if (F::special == Special::nan) value = magnitude == F::magnitude_mask ? 0x7fc00000u : value;
    value |= (code & F::sign_mask) << (32 - F::bits);
    if (F::special == Special::fnuz) value = (code & (F::sign_mask | F::magnitude_mask)) == F::sign_mask ? 0x7fc00000u : value;
    return value;
}

// The codes at bit `shift` of 64 dwords.
template <class F>
inline void decode_lanes(const uint32_t* codes, int shift, float* values) {
    alignas(64) uint32_t value[kLanes];
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) value[l] = decode_small<F>(codes[l] >> shift);
    std::memcpy(values, value, sizeof value);
}

}  // namespace emu
