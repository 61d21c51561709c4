// Turns a scalar function into a LaneFn: lanes<f> reads each lane by f's parameter types, applies f to all 64 lanes in one vectorisable
// loop and stores by f's result type. A row of an op table is then one line.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "f16.h"
#include "wave.h"

namespace emu {

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast between sizes");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

constexpr uint32_t kModeIeee = 1u << 9, kModeFp16Ovfl = 1u << 23;

// Results to halves. Under MODE.FP16_OVFL an overflow becomes the largest half; true infinities stay.
template <int rounding = _MM_FROUND_CUR_DIRECTION>
inline void narrow_results(const Wave& w, const float* in, uint32_t* out) {
    narrow_to_halves<rounding>(in, out);
    if (!(w.mode & kModeFp16Ovfl)) return;
    for (int l = 0; l < kLanes; ++l) {
        const bool was_finite = (bit_cast<uint32_t>(in[l]) & 0x7fffffffu) < 0x7f800000u;
        if (was_finite && (out[l] & 0x7fffu) == 0x7c00u) --out[l];
    }
}

namespace detail {

// Operand l of 64. 64-bit operands hold the high dwords in the next 64.
template <class T>
inline T load_lane(const uint32_t* p, int l) {
    if constexpr (sizeof(T) == 8) return bit_cast<T>(static_cast<uint64_t>(p[l]) | static_cast<uint64_t>(p[kLanes + l]) << 32);
    else if constexpr (std::is_same_v<T, float>) return bit_cast<float>(p[l]);
    else return static_cast<T>(p[l]);
}

template <class T>
inline void store_lane(uint32_t* p, int l, T x) {
    if constexpr (sizeof(T) == 8) {
        const uint64_t bits = bit_cast<uint64_t>(x);
        p[l] = static_cast<uint32_t>(bits), p[kLanes + l] = static_cast<uint32_t>(bits >> 32);
    } else if constexpr (std::is_same_v<T, float>) {
        p[l] = bit_cast<uint32_t>(x);
    } else if constexpr (sizeof(T) == 2) {
        p[l] = static_cast<uint16_t>(x);
    } else {
        p[l] = static_cast<uint32_t>(x);
    }
}

inline const uint32_t* operand_of(const LaneArgs& x, int k) { return k == 0 ? x.a : k == 1 ? x.b : x.c; }

template <class F, F f>
struct Lanes;

template <class R, class... A, R (*f)(A...)>
struct Lanes<R (*)(A...), f> {
    static void run(const LaneArgs& x) { run(x, std::index_sequence_for<A...>()); }

private:
    template <size_t... K>
    static void run(const LaneArgs& x, std::index_sequence<K...>) {
        uint32_t* const d = x.d;
        const uint32_t* const in[] = {operand_of(x, K)..., nullptr};
        (void)in;
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) store_lane<R>(d, l, f(load_lane<A>(in[K], l)...));
    }
};

// Halves: f computes in f32, and its result is rounded once more to f16 by the current rounding mode.
template <class F, F f>
struct HalfLanes;

template <class R, class... A, R (*f)(A...)>
struct HalfLanes<R (*)(A...), f> {
    static void run(const LaneArgs& x) { run(x, std::index_sequence_for<A...>()); }

private:
    template <size_t... K>
    static void run(const LaneArgs& x, std::index_sequence<K...>) {
        alignas(64) float in[sizeof...(A)][kLanes];
        (widen_halves(operand_of(x, K), in[K]), ...);
        if constexpr (std::is_same_v<R, float>) {
            alignas(64) float out[kLanes];
#pragma omp simd
            for (int l = 0; l < kLanes; ++l) out[l] = f(in[K][l]...);
            narrow_results(*x.wave, out, x.d);
        } else {
            uint32_t* const d = x.d;
#pragma omp simd
            for (int l = 0; l < kLanes; ++l) store_lane<R>(d, l, f(in[K][l]...));
        }
    }
};

// Integer operations that saturate under the clamp bit: exact(...) is the unbounded result as int64_t, plain(...) the wrapped one.
template <class F, F plain, class G, G exact>
struct Saturating;

template <class R, class... A, R (*plain)(A...), class... B, int64_t (*exact)(B...)>
struct Saturating<R (*)(A...), plain, int64_t (*)(B...), exact> {
    static_assert(sizeof(R) < 8, "a 64-bit result has no wider exact type here");
    static R saturated(A... a) {
        constexpr int64_t low = std::is_signed_v<R> ? -(int64_t{1} << (8 * sizeof(R) - 1)) : 0;
        constexpr int64_t high = (int64_t{1} << (8 * sizeof(R) - (std::is_signed_v<R> ? 1 : 0))) - 1;
        const int64_t x = exact(static_cast<B>(a)...);
        return static_cast<R>(x < low ? low : x > high ? high : x);
    }
    static void run(const LaneArgs& x) {
        if (x.inst->clamp) Lanes<R (*)(A...), saturated>::run(x);
        else Lanes<R (*)(A...), plain>::run(x);
    }
};

}  // namespace detail

template <auto f>
constexpr LaneFn lanes = detail::Lanes<decltype(f), f>::run;
template <auto f>
constexpr LaneFn half_lanes = detail::HalfLanes<decltype(f), f>::run;
template <auto plain, auto exact>
constexpr LaneFn saturating_lanes = detail::Saturating<decltype(plain), plain, decltype(exact), exact>::run;

}  // namespace emu
