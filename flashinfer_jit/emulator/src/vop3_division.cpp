// VOP3 helpers of IEEE division, and v_trig_preop_f64.
#include "math.h"
#include "vop3.h"

namespace emu {
namespace {

template <class T>
void scale_lanes(const LaneArgs& x) {
    for (int l = 0; l < kLanes; ++l) {
        uint32_t carry;
        const T r = math::div_scale(detail::load_lane<T>(x.a, l), detail::load_lane<T>(x.b, l), detail::load_lane<T>(x.c, l), carry);
        detail::store_lane<T>(x.d, l, r);
        x.d2[l] = carry;
    }
}
template <class T>
void fmas_lanes(const LaneArgs& x) {
    const uint64_t vcc = x.wave->vcc();
    for (int l = 0; l < kLanes; ++l)
        detail::store_lane<T>(x.d, l, math::div_fmas(detail::load_lane<T>(x.a, l), detail::load_lane<T>(x.b, l), detail::load_lane<T>(x.c, l), vcc >> l & 1));
}
template <class T>
void fixup_lanes(const LaneArgs& x) {
    for (int l = 0; l < kLanes; ++l)
        detail::store_lane<T>(x.d, l, math::div_fixup(detail::load_lane<T>(x.a, l), detail::load_lane<T>(x.b, l), detail::load_lane<T>(x.c, l)));
}

uint32_t fixup_half(uint32_t quotient, uint32_t denominator, uint32_t numerator) {
    constexpr uint32_t infinity = 0x7c00, quiet = 0x0200;
    const uint32_t sign = (denominator ^ numerator) & 0x8000u, d = denominator & 0x7fffu, n = numerator & 0x7fffu;
    if (n > infinity) return numerator | quiet;
    if (d > infinity) return denominator | quiet;
    if ((d == 0 && n == 0) || (d == infinity && n == infinity)) return 0x8000u | infinity | quiet;
    if (d == 0 || n == infinity) return sign | infinity;
    if (d == infinity || n == 0) return sign;
    return (quotient & 0x7fffu) | sign;
}

// The bits of 2 / pi behind the point, highest first.
const uint64_t kTwoOverPi[] = {
    0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull,
    0xb7246e3a424dd2e0ull, 0x06492eea09d1921cull, 0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull,
    0xe99c7026b45f7e41ull, 0x3991d639835339f4ull, 0x9c845f8bbdf9283bull, 0x1ff897ffde05980full,
    0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull, 0x7527bac7ebe5f17bull,
    0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b0000ull,
};

// 53 bits of 2 / pi from bit `shift`, as a double of their own weight (CDNA3 ISA manual, V_TRIG_PREOP_F64).
double trig_preop(double x, uint32_t segment) {
    const int exponent = math::biased_exponent(x);
    int shift = static_cast<int>(segment & 31u) * 53;
    if (exponent > 1077) shift += exponent - 1077;
    constexpr int kBits = 1201, kWords = static_cast<int>(sizeof kTwoOverPi / sizeof kTwoOverPi[0]);
    uint64_t chunk = 0;
    if (shift < kBits) {
        const int word = shift / 64, bit = shift % 64;
        const uint64_t high = kTwoOverPi[word] << bit, low = bit && word + 1 < kWords ? kTwoOverPi[word + 1] >> (64 - bit) : 0;
        chunk = (high | low) >> 11;
    }
    int scale = -53 - shift;
    if (exponent >= 1968) scale += 128;
    return math::ldexp_f64(static_cast<double>(chunk), scale);
}

}  // namespace

void div_scale_f32(const LaneArgs& x) { scale_lanes<float>(x); }
void div_scale_f64(const LaneArgs& x) { scale_lanes<double>(x); }
void div_fmas_f32(const LaneArgs& x) { fmas_lanes<float>(x); }
void div_fmas_f64(const LaneArgs& x) { fmas_lanes<double>(x); }
void div_fixup_f32(const LaneArgs& x) { fixup_lanes<float>(x); }
void div_fixup_f64(const LaneArgs& x) { fixup_lanes<double>(x); }
void div_fixup_f16(const LaneArgs& x) { lanes<fixup_half>(x); }
void trig_preop_f64(const LaneArgs& x) {
    for (int l = 0; l < kLanes; ++l) detail::store_lane<double>(x.d, l, trig_preop(detail::load_lane<double>(x.a, l), x.b[l]));
}

}  // namespace emu
