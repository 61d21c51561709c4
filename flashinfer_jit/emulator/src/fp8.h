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

inline float as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline uint32_t as_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

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
