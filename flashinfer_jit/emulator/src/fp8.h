// The 8-, 6- and 4-bit floating-point formats of CDNA3 and CDNA4 and their exact conversions.
#pragma once
#include <algorithm>
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

// a where `condition`, else b, as arithmetic: the compilers leave loops with ?: around float operations unvectorised.
inline uint32_t select(bool condition, uint32_t a, uint32_t b) { return b ^ ((a ^ b) & (0u - static_cast<uint32_t>(condition))); }

// The largest finite magnitude, and the codes of a NaN and of a magnitude beyond the largest one where nothing saturates.
template <class F> constexpr uint32_t largest_code() {
    return F::special == Special::ieee ? (F::magnitude_mask >> F::mantissa << F::mantissa) - 1u : F::special == Special::nan ? F::magnitude_mask - 1u : F::magnitude_mask;
}
template <class F> constexpr uint32_t overflow_code() {
    return F::special == Special::ieee ? largest_code<F>() + 1u : F::special == Special::nan ? F::magnitude_mask : largest_code<F>();
}

enum class Rounding { to_nearest_even, stochastic };

// The code of x / 2^scale_exponent (x: f32 bits), rounded once.
// Stochastic: the top bits of `random`, as many as a normal result drops, are added below the last kept bit, then the rest is cut off.
// Overflow, and an infinity that the format lacks: with `saturate` (MODE.FP16_OVFL) the largest number, else NaN (infinity in E5M2);
// FP6 and FP4 have neither and always saturate. They turn NaN into zero. The 16-bit formats keep infinities under `saturate`.
template <class F, Rounding rounding>
inline uint32_t encode_small(uint32_t x, int32_t scale_exponent, uint32_t random, bool saturate) {
    constexpr int smallest_exponent = 1 - F::bias, dropped = 23 - F::mantissa;
    const uint32_t magnitude = x & 0x7fffffffu, sign = x >> 31 << (F::bits - 1);
    const bool is_tiny = magnitude < 0x00800000u, is_nan = magnitude > 0x7f800000u, is_infinite = magnitude == 0x7f800000u;
    // Denormal inputs are brought up to normal numbers first, by 2^64.
    const uint32_t normal = as_bits(as_float(magnitude) * as_float(select(is_tiny, 0x5f800000u, 0x3f800000u)));
    const int32_t exponent = static_cast<int32_t>(normal >> 23) - static_cast<int32_t>(select(is_tiny, 127 + 64, 127)) - scale_exponent;
    const uint32_t significand = (normal & 0x007fffffu) | 0x00800000u;
    const int32_t kept_exponent = std::max(exponent, smallest_exponent);
    const int32_t gap = std::min(kept_exponent - exponent, 31), shift = std::min(gap + dropped, 31);
    const uint32_t kept = significand >> shift;
    uint32_t increment;
    if (rounding == Rounding::stochastic) {
        const uint32_t fraction = (significand >> gap) & ((1u << dropped) - 1u);
        increment = (fraction + (random >> (32 - dropped))) >> dropped;
    } else {
        // Half an ulp less the last place of what is cut off, plus one where the kept part is odd, carries when and only when to round up.
        const uint32_t rest = significand & ((1u << shift) - 1u);
        increment = (rest + (1u << (shift - 1)) - 1u + (kept & 1u)) >> shift;
    }
    // The leading one of a normal number counts one exponent up, and so does a carry out of the mantissa.
    uint32_t code = (static_cast<uint32_t>(kept_exponent - smallest_exponent) << F::mantissa) + kept + increment;
    const bool is_finite = !is_infinite & (code <= largest_code<F>());
    const bool keeps_infinity = F::bits == 16 && is_infinite;
    code = select(is_finite, code, select(saturate & !keeps_infinity, largest_code<F>(), overflow_code<F>()));
    code = select(magnitude == 0, 0, code);
    if (F::special == Special::fnuz) {
        const uint32_t number = select(code == 0, 0, sign | code);
        return select(is_nan | (!is_finite & !saturate), F::sign_mask, number);
    }
    return select(is_nan, F::special == Special::none ? 0u : sign | F::magnitude_mask, sign | code);
}

// The value of a code, exactly, as f32 bits.
template <class F>
inline uint32_t decode_small(uint32_t code) {
    const uint32_t magnitude = code & F::magnitude_mask, fraction = magnitude << (23 - F::mantissa);
    // An f32 with this exponent field and fraction, rescaled by the difference of the biases: right for subnormals as well.
    const float rescale = as_float(static_cast<uint32_t>(254 - F::bias) << 23);
    uint32_t value = as_bits(as_float(fraction) * rescale);
    if (F::special == Special::ieee)
        value = select(magnitude >> F::mantissa == F::magnitude_mask >> F::mantissa, fraction | 0x7f800000u, value);
    if (F::special == Special::nan) value = select(magnitude == F::magnitude_mask, 0x7fc00000u, value);
    value |= (code & F::sign_mask) << (32 - F::bits);
    if (F::special == Special::fnuz) value = select((code & (F::sign_mask | F::magnitude_mask)) == F::sign_mask, 0x7fc00000u, value);
    return value;
}

// Codes that start at bit `bit` of a lane's consecutive registers; a 6-bit one may reach into the next register.
template <class F>
inline void decode_lanes(const uint32_t* registers, int bit, float* values) {
    const uint32_t* const from = registers + bit / 32 * kLanes;
    const int shift = bit % 32;
    alignas(64) uint32_t value[kLanes];
    if (shift + F::bits <= 32) {
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) value[l] = decode_small<F>(from[l] >> shift);
    } else {
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) value[l] = decode_small<F>(from[l] >> shift | from[kLanes + l] << (32 - shift));
    }
    std::memcpy(values, value, sizeof value);
}

}  // namespace emu
