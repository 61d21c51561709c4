// Arithmetic that rows of VOP2 and VOP3 share.
#pragma once
#include "lanes.h"

namespace emu {
namespace arith {

inline float add_f32(float a, float b) { return a + b; }
inline float sub_f32(float a, float b) { return a - b; }
inline float subrev_f32(float a, float b) { return b - a; }
inline float mul_f32(float a, float b) { return a * b; }
inline float fma_f32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma_f64(double a, double b, double c) { return __builtin_fma(a, b, c); }

// The product of two halves is exact in double; the sum is made odd on the way to f32, so that rounding it to a half rounds once.
inline float fma_f16(float a, float b, float c) { return round_to_odd(static_cast<double>(a) * b + c); }
// The product is a half of its own before the addition (v_mad, v_mac).
inline void mad_f16(const LaneArgs& x) {
    alignas(64) float a[kLanes], b[kLanes];
    alignas(64) uint32_t product[kLanes];
    widen_halves(x.a, a), widen_halves(x.b, b);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) a[l] *= b[l];
    narrow_results(*x.wave, a, product);
    widen_halves(product, a), widen_halves(x.c, b);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) a[l] += b[l];
    narrow_results(*x.wave, a, x.d);
}

inline uint32_t add_u32(uint32_t a, uint32_t b) { return a + b; }
inline uint32_t sub_u32(uint32_t a, uint32_t b) { return a - b; }
inline uint32_t subrev_u32(uint32_t a, uint32_t b) { return b - a; }
inline int32_t add_i32(int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)); }
inline int32_t sub_i32(int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b)); }
inline uint16_t add_u16(uint16_t a, uint16_t b) { return static_cast<uint16_t>(a + b); }
inline uint16_t sub_u16(uint16_t a, uint16_t b) { return static_cast<uint16_t>(a - b); }
inline uint16_t subrev_u16(uint16_t a, uint16_t b) { return static_cast<uint16_t>(b - a); }
inline int16_t add_i16(int16_t a, int16_t b) { return static_cast<int16_t>(a + b); }
inline int16_t sub_i16(int16_t a, int16_t b) { return static_cast<int16_t>(a - b); }
// The exact results behind saturation.
inline int64_t exact_add(int64_t a, int64_t b) { return a + b; }
inline int64_t exact_sub(int64_t a, int64_t b) { return a - b; }
inline int64_t exact_subrev(int64_t a, int64_t b) { return b - a; }
inline int64_t exact_mad(int64_t a, int64_t b, int64_t c) { return a * b + c; }

inline int32_t signed24(uint32_t x) { return static_cast<int32_t>(x << 8) >> 8; }
inline uint32_t unsigned24(uint32_t x) { return x & 0xffffffu; }

inline uint32_t and_b32(uint32_t a, uint32_t b) { return a & b; }
inline uint32_t or_b32(uint32_t a, uint32_t b) { return a | b; }
inline uint32_t xor_b32(uint32_t a, uint32_t b) { return a ^ b; }
inline uint32_t xnor_b32(uint32_t a, uint32_t b) { return ~(a ^ b); }
inline uint32_t lshlrev_b32(uint32_t a, uint32_t b) { return b << (a & 31u); }
inline uint32_t lshrrev_b32(uint32_t a, uint32_t b) { return b >> (a & 31u); }
inline int32_t ashrrev_i32(uint32_t a, int32_t b) { return b >> (a & 31u); }

template <class T> T smaller(T a, T b) { return a < b ? a : b; }
template <class T> T larger(T a, T b) { return a >= b ? a : b; }

}  // namespace arith
}  // namespace emu
