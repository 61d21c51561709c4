// Registers that hold two 16-bit floats a lane, as two rows of f32 and back.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "wave.h"

namespace emu {

// low[l], high[l]: the halves of in[l], exactly. A signalling NaN becomes quiet.
inline void split_halves(const uint32_t* in, float* low, float* high) {
    // Within each 128-bit half: the low halves of the four dwords, then the high ones.
    const __m256i split = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    for (int l = 0; l < kLanes; l += 8) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + l));
        const __m256i halves = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(pairs, split), _MM_SHUFFLE(3, 1, 2, 0));
        _mm256_storeu_ps(low + l, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
        _mm256_storeu_ps(high + l, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
    }
}

// Rounds both rows to f16 by the host's rounding mode, which the executor sets from MODE.
inline void join_halves(const float* low, const float* high, uint32_t* out) {
    for (int l = 0; l < kLanes; l += 8) {
        const __m128i a = _mm256_cvtps_ph(_mm256_loadu_ps(low + l), _MM_FROUND_CUR_DIRECTION);
        const __m128i b = _mm256_cvtps_ph(_mm256_loadu_ps(high + l), _MM_FROUND_CUR_DIRECTION);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + l), _mm_unpacklo_epi16(a, b));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + l + 4), _mm_unpackhi_epi16(a, b));
    }
}

inline void split_bfloats(const uint32_t* in, float* low, float* high) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (int l = 0; l < kLanes; l += 8) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + l));
        _mm256_storeu_ps(low + l, _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
        _mm256_storeu_ps(high + l, _mm256_castsi256_ps(_mm256_and_si256(pairs, mask)));
    }
}

}  // namespace emu
