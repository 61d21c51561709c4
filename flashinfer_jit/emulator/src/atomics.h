// The read-modify-write operations of LDS, global, flat, buffer and scalar memory: one functor each, and the two ways to apply them.
// Float rules: CDNA4 manual 9.2. NaN operands: the memory's NaN wins over the data's and is made quiet. f32 and f64 adds on global
// memory keep denormals: LLVM emits them on gfx942 and gfx950 without asking for a flushing mode (the manual's table says otherwise).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <type_traits>

namespace emu::atomic {

template <class To, class From> inline To bit_cast(From x) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
template <class T> inline bool same_bits(T a, T b) { return !std::memcmp(&a, &b, sizeof a); }
template <class T> inline bool is_nan(T x) { return x != x; }
inline bool is_signaling(float x) { return is_nan(x) && !(bit_cast<uint32_t>(x) & 0x00400000u); }
inline bool is_signaling(double x) { return is_nan(x) && !(bit_cast<uint64_t>(x) & 0x0008000000000000ull); }
inline float quiet(float x) { return bit_cast<float>(bit_cast<uint32_t>(x) | 0x00400000u); }
inline double quiet(double x) { return bit_cast<double>(bit_cast<uint64_t>(x) | 0x0008000000000000ull); }
inline float positive_nan(float) { return bit_cast<float>(0x7fc00000u); }
inline double positive_nan(double) { return bit_cast<double>(0x7ff8000000000000ull); }

template <class T> inline T add_float(T a, T b) {
    if (is_nan(a)) return quiet(a);
    if (is_nan(b)) return quiet(b);
    const T sum = a + b;
    return is_nan(sum) ? positive_nan(sum) : sum;   // inf - inf
}
template <class T> inline T max_float(T a, T b) {
    if (is_signaling(a)) return quiet(a);
    if (is_signaling(b)) return quiet(b);
    if (is_nan(a)) return b;
    if (is_nan(b)) return a;
    if (a == b) return std::signbit(a) ? b : a;
    return a > b ? a : b;
}
template <class T> inline T min_float(T a, T b) {
    if (is_signaling(a)) return quiet(a);
    if (is_signaling(b)) return quiet(b);
    if (is_nan(a)) return b;
    if (is_nan(b)) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
}
inline uint32_t add_half(uint32_t a, uint32_t b) {
    const auto nan = [](uint32_t x) { return (x & 0x7fff) > 0x7c00; };
    if (nan(a)) return a | 0x0200;
    if (nan(b)) return b | 0x0200;
    // A float sum of two halves rounds to half as the exact sum would: 24 >= 2 * 11 + 2 significand bits.
    const float sum = _cvtsh_ss(static_cast<uint16_t>(a)) + _cvtsh_ss(static_cast<uint16_t>(b));
    return is_nan(sum) ? 0x7e00u : static_cast<uint16_t>(_cvtss_sh(sum, _MM_FROUND_TO_NEAREST_INT));
}
inline uint32_t add_bfloat(uint32_t a, uint32_t b) {
    const auto nan = [](uint32_t x) { return (x & 0x7fff) > 0x7f80; };
    if (nan(a)) return a | 0x0040;
    if (nan(b)) return b | 0x0040;
    const float sum = bit_cast<float>(a << 16) + bit_cast<float>(b << 16);
    if (is_nan(sum)) return 0x7fc0;
    const uint32_t bits = bit_cast<uint32_t>(sum);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Functors: new memory value from the old one and the data operands. kOperands counts the data operands.
template <class T, int kCount = 1> struct Op {
    using type = T;
    static constexpr int kOperands = kCount;
};
template <class T> struct Add : Op<T> { static T apply(T m, T d, T) { return static_cast<T>(m + d); } };
template <class T> struct Sub : Op<T> { static T apply(T m, T d, T) { return static_cast<T>(m - d); } };
template <class T> struct ReverseSub : Op<T> { static T apply(T m, T d, T) { return static_cast<T>(d - m); } };
template <class T> struct Inc : Op<T> { static T apply(T m, T d, T) { return m >= d ? T{0} : static_cast<T>(m + 1); } };
template <class T> struct Dec : Op<T> { static T apply(T m, T d, T) { return m == 0 || m > d ? d : static_cast<T>(m - 1); } };
template <class T> struct Min : Op<T> { static T apply(T m, T d, T) { return d < m ? d : m; } };
template <class T> struct Max : Op<T> { static T apply(T m, T d, T) { return d < m ? m : d; } };
template <class T> struct And : Op<T> { static T apply(T m, T d, T) { return m & d; } };
template <class T> struct Or : Op<T> { static T apply(T m, T d, T) { return m | d; } };
template <class T> struct Xor : Op<T> { static T apply(T m, T d, T) { return m ^ d; } };
template <class T> struct Swap : Op<T> { static T apply(T, T d, T) { return d; } };
template <class T> struct MaskOr : Op<T, 2> { static T apply(T m, T mask, T d) { return (m & ~mask) | d; } };
template <class T> struct Wrap : Op<T, 2> { static T apply(T m, T d, T wrap) { return static_cast<T>(m >= d ? m - d : m + wrap); } };
// The DS order of operands (compare, source); the memory instructions hold (source, compare).
template <class T> struct CompareStore : Op<T, 2> { static T apply(T m, T compare, T source) { return m == compare ? source : m; } };
template <class T> struct CompareSwap : Op<T, 2> { static T apply(T m, T source, T compare) { return m == compare ? source : m; } };
template <class T> struct AddFloat : Op<T> { static T apply(T m, T d, T) { return add_float(m, d); } };
template <class T> struct MinFloat : Op<T> { static T apply(T m, T d, T) { return min_float(m, d); } };
template <class T> struct MaxFloat : Op<T> { static T apply(T m, T d, T) { return max_float(m, d); } };
struct PackedAddHalf : Op<uint32_t> {
    static uint32_t apply(uint32_t m, uint32_t d, uint32_t) { return add_half(m & 0xffff, d & 0xffff) | add_half(m >> 16, d >> 16) << 16; }
};
struct PackedAddBfloat : Op<uint32_t> {
    static uint32_t apply(uint32_t m, uint32_t d, uint32_t) { return add_bfloat(m & 0xffff, d & 0xffff) | add_bfloat(m >> 16, d >> 16) << 16; }
};

// LDS and scratch: one worker runs a whole group. Returns the old value.
template <class F> inline typename F::type update(uint64_t address, typename F::type a, typename F::type b) {
    typename F::type old, now;
    std::memcpy(&old, reinterpret_cast<const void*>(address), sizeof old);
    now = F::apply(old, a, b);
    std::memcpy(reinterpret_cast<void*>(address), &now, sizeof now);
    return old;
}

// Global memory, shared with the other workers. The address is aligned.
template <class F> inline typename F::type update_shared(uint64_t address, typename F::type a, typename F::type b) {
    using T = typename F::type;
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    Bits* p = reinterpret_cast<Bits*>(address);
    Bits old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, bit_cast<Bits>(F::apply(bit_cast<T>(old), a, b)), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
    return bit_cast<T>(old);
}

}  // namespace emu::atomic
