// Minimum, maximum and median of floats by their bits: exact for NaNs, signed zeros and denormals, and branch-free.
#pragma once
#include "lanes.h"

namespace emu {

// The bit layout of a format; Bits is the word that holds it, Signed its signed counterpart.
struct SingleFormat {
    using Bits = uint32_t;
    using Signed = int32_t;
    static constexpr Bits magnitude = 0x7fffffffu, infinity = 0x7f800000u, quiet = 0x00400000u;
    static constexpr int sign_shift = 31;
};
struct HalfFormat {   // bits 15:0 of a dword
    using Bits = uint32_t;
    using Signed = int32_t;
    static constexpr Bits magnitude = 0x7fffu, infinity = 0x7c00u, quiet = 0x0200u;
    static constexpr int sign_shift = 15;
};
struct DoubleFormat {
    using Bits = uint64_t;
    using Signed = int64_t;
    static constexpr Bits magnitude = ~0ull >> 1, infinity = 0x7ffull << 52, quiet = 1ull << 51;
    static constexpr int sign_shift = 63;
};

// Inlined by force: a call in the lane loop would keep it from vectorising. Conditions are masks, all ones or zero, so that every compiler sees straight-line bit arithmetic.
template <class F>
struct MinMax {
    using Bits = typename F::Bits;
    using Signed = typename F::Signed;

    static Bits mask(bool condition) { return Bits{0} - static_cast<Bits>(condition); }
    static Bits select(Bits condition, Bits a, Bits b) { return (a & condition) | (b & ~condition); }
    static Bits nan_mask(Bits x) { return mask((x & F::magnitude) > F::infinity); }
    static Bits signalling_mask(Bits x) { return nan_mask(x) & mask((x & F::quiet) == 0); }
    // A signed integer that orders as the floats do, -0 below +0.
    static Signed key(Bits x) {
        const Bits negative = Bits{0} - (x >> F::sign_shift & 1);
        return static_cast<Signed>((x & F::magnitude) ^ negative);
    }
    template <bool maximum>
    static Bits pick_number(Bits a, Bits b) {
        return select(mask(maximum ? key(a) >= key(b) : key(a) < key(b)), a, b);
    }
    // The larger or smaller number; a NaN loses against a number. Where `ieee` is set, a signalling NaN wins and becomes quiet.
    template <bool maximum>
    [[gnu::always_inline]] static Bits pick(Bits a, Bits b, Bits ieee) {
        Bits r = pick_number<maximum>(a, b);
        r = select(nan_mask(b), a, r);
        r = select(nan_mask(a), b, r);
        r = select(ieee & signalling_mask(b), b | F::quiet, r);
        return select(ieee & signalling_mask(a), a | F::quiet, r);
    }
    static Bits min(Bits a, Bits b, Bits ieee) { return pick<false>(a, b, ieee); }
    static Bits max(Bits a, Bits b, Bits ieee) { return pick<true>(a, b, ieee); }
    [[gnu::always_inline]] static Bits min3(Bits a, Bits b, Bits c, Bits ieee) { return min(min(a, b, ieee), c, ieee); }
    [[gnu::always_inline]] static Bits max3(Bits a, Bits b, Bits c, Bits ieee) { return max(max(a, b, ieee), c, ieee); }
    // The largest is dropped and the larger of the rest taken; zeros of both signs count as equal to the largest. With a NaN: min3.
    [[gnu::always_inline]] static Bits med3(Bits a, Bits b, Bits c, Bits ieee) {
        const Bits largest = max3(a, b, c, ieee);
        const Bits is_a = mask(largest == a) | mask(((largest | a) & F::magnitude) == 0);
        const Bits is_b = mask(largest == b) | mask(((largest | b) & F::magnitude) == 0);
        Bits r = select(is_b, pick_number<true>(a, c), pick_number<true>(a, b));
        r = select(is_a, pick_number<true>(b, c), r);
        return select(nan_mask(a) | nan_mask(b) | nan_mask(c), min3(a, b, c, ieee), r);
    }
    // IEEE 754-2019 minimum and maximum: any NaN makes the result a quiet NaN, signalling ones first.
    template <bool maximum>
    [[gnu::always_inline]] static Bits propagate(Bits a, Bits b) {
        Bits r = pick_number<maximum>(a, b);
        r = select(nan_mask(b), b | F::quiet, r);
        r = select(nan_mask(a), a | F::quiet, r);
        r = select(signalling_mask(b), b | F::quiet, r);
        return select(signalling_mask(a), a | F::quiet, r);
    }
    [[gnu::always_inline]] static Bits minimum3(Bits a, Bits b, Bits c, Bits) { return propagate<false>(propagate<false>(a, b), c); }
    [[gnu::always_inline]] static Bits maximum3(Bits a, Bits b, Bits c, Bits) { return propagate<true>(propagate<true>(a, b), c); }
};

// Lane functions of the above; MODE.IEEE is the wave's.
template <class Bits, Bits (*f)(Bits, Bits, Bits)>
void select2_lanes(const LaneArgs& x) {
    const Bits ieee = x.wave->mode & kModeIeee ? ~Bits{0} : Bits{0};
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) detail::store_lane<Bits>(x.d, l, f(detail::load_lane<Bits>(x.a, l), detail::load_lane<Bits>(x.b, l), ieee));
}
template <class Bits, Bits (*f)(Bits, Bits, Bits, Bits)>
void select3_lanes(const LaneArgs& x) {
    const Bits ieee = x.wave->mode & kModeIeee ? ~Bits{0} : Bits{0};
#pragma omp simd
    for (int l = 0; l < kLanes; ++l)
        detail::store_lane<Bits>(x.d, l, f(detail::load_lane<Bits>(x.a, l), detail::load_lane<Bits>(x.b, l), detail::load_lane<Bits>(x.c, l), ieee));
}

using Singles = MinMax<SingleFormat>;
using Halves = MinMax<HalfFormat>;
using Doubles = MinMax<DoubleFormat>;

}  // namespace emu
