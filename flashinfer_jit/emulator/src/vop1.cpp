// VOP1: moves, conversions, rounding and transcendental functions of one source.
#include <climits>

#include "crosslane.h"
#include "lanes.h"
#include "math.h"

namespace emu {
namespace {

using namespace math;

void nothing(Wave&, const Inst&) {}
void screen_partition(Wave& w, const Inst&) { w.fault(FaultKind::unsupported, "v_screen_partition_4se_b32: a graphics instruction"); }

// ---- bits ----------------------------------------------------------------------------------------------------------
uint32_t mov_b32(uint32_t x) { return x; }
uint64_t mov_b64(uint64_t x) { return x; }
uint32_t not_b32(uint32_t x) { return ~x; }
uint32_t bfrev(uint32_t x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    x = (x >> 8 & 0x00ff00ffu) | (x & 0x00ff00ffu) << 8;
    return x >> 16 | x << 16;
}
uint32_t ffbh_u32(uint32_t x) { return x == 0 ? ~0u : leading_zeros(x); }
uint32_t ffbl_b32(uint32_t x) { return x == 0 ? ~0u : 31u - leading_zeros(x & (0u - x)); }
uint32_t ffbh_i32(uint32_t x) { return ffbh_u32(x ^ static_cast<uint32_t>(static_cast<int32_t>(x) >> 31)); }
uint32_t prng(uint32_t x) { return x << 1 ^ (x >> 31 ? 197u : 0u); }
uint16_t sat_pk_u8_i16(uint32_t x) {
    const auto saturate = [](int32_t n) { return static_cast<uint32_t>(n < 0 ? 0 : n > 255 ? 255 : n); };
    return static_cast<uint16_t>(saturate(static_cast<int16_t>(x)) | saturate(static_cast<int32_t>(x) >> 16) << 8);
}

// ---- conversions ---------------------------------------------------------------------------------------------------
// Float to integer truncates and saturates; NaN gives 0. The value is bounded first, so that the conversion itself is always defined.
int32_t i32_from_f32(float x) {
    const float bounded = x >= -0x1p31f ? (x < 0x1p31f ? x : 0.0f) : 0.0f;
    const int32_t inside = static_cast<int32_t>(bounded);
    const int32_t high = x >= 0x1p31f ? INT32_MAX : inside;
    return x < -0x1p31f ? INT32_MIN : high;
}
uint32_t u32_from_f32(float x) {
    // Halves of the range apart: only signed conversions vectorise.
    const float low = x > 0.0f ? (x < 0x1p31f ? x : 0.0f) : 0.0f, high = x >= 0x1p31f ? (x < 0x1p32f ? x - 0x1p31f : 0.0f) : 0.0f;
    const uint32_t from_low = static_cast<uint32_t>(static_cast<int32_t>(low));
    const uint32_t from_high = static_cast<uint32_t>(static_cast<int32_t>(high)) | 0x80000000u;
    const uint32_t inside = x >= 0x1p31f ? from_high : from_low;
    return x >= 0x1p32f ? ~0u : inside;
}
int32_t i32_from_f64(double x) {
    if (x != x) return 0;
    return x >= 0x1p31 ? INT32_MAX : x <= -0x1p31 ? INT32_MIN : static_cast<int32_t>(x);
}
uint32_t u32_from_f64(double x) { return x >= 0x1p32 ? ~0u : x > 0 ? static_cast<uint32_t>(x) : 0u; }
float f32_from_i32(int32_t x) { return static_cast<float>(x); }
// Through double, which holds every u32, so there is one rounding.
float f32_from_u32(uint32_t x) { return static_cast<float>(static_cast<double>(static_cast<int32_t>(x ^ 0x80000000u)) + 0x1p31); }
double f64_from_i32(int32_t x) { return x; }
double f64_from_u32(uint32_t x) { return static_cast<double>(static_cast<int32_t>(x ^ 0x80000000u)) + 0x1p31; }
float f32_from_f64(double x) { return static_cast<float>(x); }
double f64_from_f32(float x) { return x; }
template <int byte> float f32_from_ubyte(uint32_t x) { return static_cast<float>(static_cast<int32_t>(x >> (8 * byte) & 0xffu)); }
float f32_from_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
// Nearest, ties upwards, independent of the rounding mode; the distance from the floor is exact.
int32_t rpi_i32_f32(float x) {
    const float low = __builtin_floorf(x);
    return i32_from_f32(x - low >= 0.5f ? low + 1.0f : low);
}
int32_t flr_i32_f32(float x) { return i32_from_f32(__builtin_floorf(x)); }
float off_f32_i4(uint32_t x) { return static_cast<float>(static_cast<int32_t>(x << 28) >> 28) * 0.0625f; }

uint16_t u16_from_half(float x) { return static_cast<uint16_t>(x >= 65535.0f ? 65535 : x > 0.0f ? static_cast<int32_t>(x) : 0); }
int16_t i16_from_half(float x) {
    const float bounded = x >= -32768.0f ? (x <= 32767.0f ? x : 32767.0f) : -32768.0f;
    return static_cast<int16_t>(x == x ? static_cast<int32_t>(x == x ? bounded : 0.0f) : 0);
}

// Integers to halves: both 16-bit integer types are exact in f32, the half is rounded once.
template <class T>
void halves_from(const LaneArgs& x) {
    alignas(64) float out[kLanes];
    for (int l = 0; l < kLanes; ++l) out[l] = static_cast<T>(x.a[l]);
    narrow_results(*x.wave, out, x.d);
}
void f16_from_f32(const LaneArgs& x) {
    alignas(64) float in[kLanes];
    std::memcpy(in, x.a, sizeof in);
    narrow_results(*x.wave, in, x.d);
}
void f32_from_f16(const LaneArgs& x) {
    alignas(64) float out[kLanes];
    widen_halves(x.a, out);
    std::memcpy(x.d, out, sizeof out);
}

// ---- rounding ------------------------------------------------------------------------------------------------------
float trunc_f32(float x) { return __builtin_truncf(x); }
float ceil_f32(float x) { return __builtin_ceilf(x); }
float floor_f32(float x) { return __builtin_floorf(x); }
float rndne_f32(float x) { return __builtin_rintf(x); }
double trunc_f64(double x) { return __builtin_trunc(x); }
double ceil_f64(double x) { return __builtin_ceil(x); }
double floor_f64(double x) { return __builtin_floor(x); }
double rndne_f64(double x) { return __builtin_rint(x); }
// Below 1 even where the difference rounds up to it.
float fract_f32(float x) {
    const float f = x - __builtin_floorf(x);
    return f >= 1.0f ? 0x1.fffffep-1f : f;
}
double fract_f64(double x) {
    const double f = x - __builtin_floor(x);
    return f >= 1.0 ? 0x1.fffffffffffffp-1 : f;
}
float fract_f16(float x) {
    const float f = x - __builtin_floorf(x);
    return f > 0x1.ffcp-1f ? 0x1.ffcp-1f : f;
}
int16_t frexp_exp_f16(float x) { return static_cast<int16_t>(frexp_exp_f32(x)); }

// ---- transcendental halves: f32 precision without the f32 flushing of denormals, which halves never reach -----------
float rcp_f16(float x) { return 1.0f / x; }
float sqrt_f16(float x) { return __builtin_sqrtf(x); }

// [-1, 1] or [0, 1] to the whole range of 16 bits, to nearest.
int16_t snorm16(float x) {
    const double bounded = x >= -1.0f ? (x <= 1.0f ? x : 1.0f) : x == x ? -1.0f : 0.0f;
    return static_cast<int16_t>(static_cast<int32_t>(__builtin_rint(bounded * 32767.0)));
}
uint16_t unorm16(float x) {
    const double bounded = x > 0.0f ? (x <= 1.0f ? x : 1.0f) : 0.0f;
    return static_cast<uint16_t>(static_cast<int32_t>(__builtin_rint(bounded * 65535.0)));
}

constexpr Type B32 = Type::b32, U32 = Type::u32, I32 = Type::i32, F32 = Type::f32, B64 = Type::b64, F64 = Type::f64, F16 = Type::f16, U16 = Type::u16,
               I16 = Type::i16, B16 = Type::b16;
constexpr Class V = Class::VALU, TRANS = Class::VALU_TRANS, D = Class::VALU_F64, X = Class::CROSSLANE;

const OpInfo kRows[] = {
    {0, "v_nop", kBoth, V, nothing},
    {1, "v_mov_b32", kBoth, V, exec_valu, lanes<mov_b32>, B32, {B32}},
    {2, "v_readfirstlane_b32", kBoth, X, exec_readfirstlane, nullptr, B32, {B32}, kIgnoresExec},
    {3, "v_cvt_i32_f64", kBoth, D, exec_valu, lanes<i32_from_f64>, I32, {F64}},
    {4, "v_cvt_f64_i32", kBoth, D, exec_valu, lanes<f64_from_i32>, F64, {I32}},
    {5, "v_cvt_f32_i32", kBoth, V, exec_valu, lanes<f32_from_i32>, F32, {I32}},
    {6, "v_cvt_f32_u32", kBoth, V, exec_valu, lanes<f32_from_u32>, F32, {U32}},
    {7, "v_cvt_u32_f32", kBoth, V, exec_valu, lanes<u32_from_f32>, U32, {F32}},
    {8, "v_cvt_i32_f32", kBoth, V, exec_valu, lanes<i32_from_f32>, I32, {F32}},
    {10, "v_cvt_f16_f32", kBoth, V, exec_valu, f16_from_f32, F16, {F32}},
    {11, "v_cvt_f32_f16", kBoth, V, exec_valu, f32_from_f16, F32, {F16}},
    {12, "v_cvt_rpi_i32_f32", kBoth, V, exec_valu, lanes<rpi_i32_f32>, I32, {F32}},
    {13, "v_cvt_flr_i32_f32", kBoth, V, exec_valu, lanes<flr_i32_f32>, I32, {F32}},
    {14, "v_cvt_off_f32_i4", kBoth, V, exec_valu, lanes<off_f32_i4>, F32, {B32}},
    {15, "v_cvt_f32_f64", kBoth, D, exec_valu, lanes<f32_from_f64>, F32, {F64}},
    {16, "v_cvt_f64_f32", kBoth, D, exec_valu, lanes<f64_from_f32>, F64, {F32}},
    {17, "v_cvt_f32_ubyte0", kBoth, V, exec_valu, lanes<f32_from_ubyte<0>>, F32, {U32}},
    {18, "v_cvt_f32_ubyte1", kBoth, V, exec_valu, lanes<f32_from_ubyte<1>>, F32, {U32}},
    {19, "v_cvt_f32_ubyte2", kBoth, V, exec_valu, lanes<f32_from_ubyte<2>>, F32, {U32}},
    {20, "v_cvt_f32_ubyte3", kBoth, V, exec_valu, lanes<f32_from_ubyte<3>>, F32, {U32}},
    {21, "v_cvt_u32_f64", kBoth, D, exec_valu, lanes<u32_from_f64>, U32, {F64}},
    {22, "v_cvt_f64_u32", kBoth, D, exec_valu, lanes<f64_from_u32>, F64, {U32}},
    {23, "v_trunc_f64", kBoth, D, exec_valu, lanes<trunc_f64>, F64, {F64}},
    {24, "v_ceil_f64", kBoth, D, exec_valu, lanes<ceil_f64>, F64, {F64}},
    {25, "v_rndne_f64", kBoth, D, exec_valu, in_nearest<lanes<rndne_f64>>, F64, {F64}},
    {26, "v_floor_f64", kBoth, D, exec_valu, lanes<floor_f64>, F64, {F64}},
    {27, "v_fract_f32", kBoth, V, exec_valu, lanes<fract_f32>, F32, {F32}},
    {28, "v_trunc_f32", kBoth, V, exec_valu, lanes<trunc_f32>, F32, {F32}},
    {29, "v_ceil_f32", kBoth, V, exec_valu, lanes<ceil_f32>, F32, {F32}},
    {30, "v_rndne_f32", kBoth, V, exec_valu, in_nearest<lanes<rndne_f32>>, F32, {F32}},
    {31, "v_floor_f32", kBoth, V, exec_valu, lanes<floor_f32>, F32, {F32}},
    {32, "v_exp_f32", kBoth, TRANS, exec_valu, in_nearest<lanes<exp2_f32>>, F32, {F32}},
    {33, "v_log_f32", kBoth, TRANS, exec_valu, in_nearest<lanes<log2_f32>>, F32, {F32}},
    {34, "v_rcp_f32", kBoth, TRANS, exec_valu, lanes<rcp_f32>, F32, {F32}},
    {35, "v_rcp_iflag_f32", kBoth, TRANS, exec_valu, lanes<rcp_f32>, F32, {F32}},
    {36, "v_rsq_f32", kBoth, TRANS, exec_valu, lanes<rsq_f32>, F32, {F32}},
    {37, "v_rcp_f64", kBoth, TRANS, exec_valu, lanes<rcp_f64>, F64, {F64}},
    {38, "v_rsq_f64", kBoth, TRANS, exec_valu, lanes<rsq_f64>, F64, {F64}},
    {39, "v_sqrt_f32", kBoth, TRANS, exec_valu, lanes<sqrt_f32>, F32, {F32}},
    {40, "v_sqrt_f64", kBoth, TRANS, exec_valu, lanes<sqrt_f64>, F64, {F64}},
    {41, "v_sin_f32", kBoth, TRANS, exec_valu, in_nearest<lanes<sin_f32>>, F32, {F32}},
    {42, "v_cos_f32", kBoth, TRANS, exec_valu, in_nearest<lanes<cos_f32>>, F32, {F32}},
    {43, "v_not_b32", kBoth, V, exec_valu, lanes<not_b32>, B32, {B32}},
    {44, "v_bfrev_b32", kBoth, V, exec_valu, lanes<bfrev>, B32, {B32}},
    {45, "v_ffbh_u32", kBoth, V, exec_valu, lanes<ffbh_u32>, U32, {U32}},
    {46, "v_ffbl_b32", kBoth, V, exec_valu, lanes<ffbl_b32>, U32, {B32}},
    {47, "v_ffbh_i32", kBoth, V, exec_valu, lanes<ffbh_i32>, U32, {I32}},
    {48, "v_frexp_exp_i32_f64", kBoth, D, exec_valu, lanes<frexp_exp_f64>, I32, {F64}},
    {49, "v_frexp_mant_f64", kBoth, D, exec_valu, lanes<frexp_mant_f64>, F64, {F64}},
    {50, "v_fract_f64", kBoth, D, exec_valu, lanes<fract_f64>, F64, {F64}},
    {51, "v_frexp_exp_i32_f32", kBoth, V, exec_valu, lanes<frexp_exp_f32>, I32, {F32}},
    {52, "v_frexp_mant_f32", kBoth, V, exec_valu, lanes<frexp_mant_f32>, F32, {F32}},
    {53, "v_clrexcp", kBoth, V, nothing},
    {55, "v_screen_partition_4se_b32", kBoth, V, screen_partition, nullptr, B32, {B32}, kRefused},
    {56, "v_mov_b64", kBoth, V, exec_valu, lanes<mov_b64>, B64, {B64}},
    {57, "v_cvt_f16_u16", kBoth, V, exec_valu, halves_from<uint16_t>, F16, {U16}},
    {58, "v_cvt_f16_i16", kBoth, V, exec_valu, halves_from<int16_t>, F16, {I16}},
    {59, "v_cvt_u16_f16", kBoth, V, exec_valu, half_lanes<u16_from_half>, U16, {F16}},
    {60, "v_cvt_i16_f16", kBoth, V, exec_valu, half_lanes<i16_from_half>, I16, {F16}},
    {61, "v_rcp_f16", kBoth, TRANS, exec_valu, half_lanes<rcp_f16>, F16, {F16}},
    {62, "v_sqrt_f16", kBoth, TRANS, exec_valu, half_lanes<sqrt_f16>, F16, {F16}},
    {63, "v_rsq_f16", kBoth, TRANS, exec_valu, half_lanes<rsq_f32>, F16, {F16}},
    {64, "v_log_f16", kBoth, TRANS, exec_valu, in_nearest<half_lanes<log2_f32>>, F16, {F16}},
    {65, "v_exp_f16", kBoth, TRANS, exec_valu, in_nearest<half_lanes<exp2_f32>>, F16, {F16}},
    {66, "v_frexp_mant_f16", kBoth, V, exec_valu, half_lanes<frexp_mant_f32>, F16, {F16}},
    {67, "v_frexp_exp_i16_f16", kBoth, V, exec_valu, half_lanes<frexp_exp_f16>, I16, {F16}},
    {68, "v_floor_f16", kBoth, V, exec_valu, half_lanes<floor_f32>, F16, {F16}},
    {69, "v_ceil_f16", kBoth, V, exec_valu, half_lanes<ceil_f32>, F16, {F16}},
    {70, "v_trunc_f16", kBoth, V, exec_valu, half_lanes<trunc_f32>, F16, {F16}},
    {71, "v_rndne_f16", kBoth, V, exec_valu, in_nearest<half_lanes<rndne_f32>>, F16, {F16}},
    {72, "v_fract_f16", kBoth, V, exec_valu, half_lanes<fract_f16>, F16, {F16}},
    {73, "v_sin_f16", kBoth, TRANS, exec_valu, in_nearest<half_lanes<sin_f32>>, F16, {F16}},
    {74, "v_cos_f16", kBoth, TRANS, exec_valu, in_nearest<half_lanes<cos_f32>>, F16, {F16}},
    {75, "v_exp_legacy_f32", kBoth, TRANS, exec_valu, in_nearest<lanes<exp2_f32>>, F32, {F32}},
    {76, "v_log_legacy_f32", kBoth, TRANS, exec_valu, in_nearest<lanes<log2_f32>>, F32, {F32}},
    {77, "v_cvt_norm_i16_f16", kBoth, V, exec_valu, half_lanes<snorm16>, I16, {F16}},
    {78, "v_cvt_norm_u16_f16", kBoth, V, exec_valu, half_lanes<unorm16>, U16, {F16}},
    {79, "v_sat_pk_u8_i16", kBoth, V, exec_valu, lanes<sat_pk_u8_i16>, B16, {B32}},
    {81, "v_swap_b32", kBoth, V, exec_swap, nullptr, B32, {B32}},
    {82, "v_accvgpr_mov_b32", kBoth, V, exec_valu, lanes<mov_b32>, B32, {B32}},
    {88, "v_prng_b32", kGfx950, V, exec_valu, lanes<prng>, B32, {B32}},
    {89, "v_permlane16_swap_b32", kGfx950, X, exec_permlane16_swap, nullptr, B32, {B32}},
    {90, "v_permlane32_swap_b32", kGfx950, X, exec_permlane32_swap, nullptr, B32, {B32}},
    {91, "v_cvt_f32_bf16", kGfx950, V, exec_valu, lanes<f32_from_bf16>, F32, {Type::bf16}},
};

}  // namespace

const OpTable kVop1Table = {Enc::VOP1, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
