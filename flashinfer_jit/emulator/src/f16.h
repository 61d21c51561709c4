// Half and bfloat16 conversions over lanes and single values.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace emu {

constexpr int kHalfBlock = 8;   // lanes of one F16C conversion

// Halves in bits 15:0 of 64 dwords to floats. Exact; a signalling NaN becomes quiet.
inline void widen_halves(const uint32_t* in, float* out) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    for (int l = 0; l < 64; l += kHalfBlock) {
        const __m256i x = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + l)), low);
        const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        _mm256_storeu_ps(out + l, _mm256_cvtph_ps(packed));
    }
}

// Floats to halves in bits 15:0, zero above. rounding: an _MM_FROUND constant; the default follows MXCSR, which follows MODE.
template <int rounding = _MM_FROUND_CUR_DIRECTION>
inline void narrow_to_halves(const float* in, uint32_t* out) {
    for (int l = 0; l < 64; l += kHalfBlock) {
        const __m128i packed = _mm256_cvtps_ph(_mm256_loadu_ps(in + l), rounding);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + l), _mm256_cvtepu16_epi32(packed));
    }
}

// Rounds a double to f32 so that a second rounding to f16 or bf16 gives what one rounding would: to odd, which keeps the sticky bit.
inline float round_to_odd(double x) {
    const float nearest = static_cast<float>(x);
    const double back = nearest;
    uint32_t bits;
    std::memcpy(&bits, &nearest, 4);
    const uint32_t inexact = (back < x) | (back > x), even = ~bits & 1u;
    const uint32_t outward = (x < 0 ? -x : x) > (back < 0 ? -back : back);
    bits += (inexact & even) * (2u * outward - 1u);
    float odd;
    std::memcpy(&odd, &bits, 4);
    return odd;
}

// Round to nearest even on the bits; a NaN stays a NaN and becomes quiet.
inline uint32_t float_bits_to_bfloat(uint32_t x) {
    const bool is_nan = (x & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (x + 0x7fffu + (x >> 16 & 1u)) >> 16;
    return is_nan ? (x >> 16) | 0x40u : rounded;
}

}  // namespace emu
