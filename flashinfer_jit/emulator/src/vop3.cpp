// VOP3: the opcodes that exist only in this encoding: three sources, scalar results, 64-bit arithmetic. The 32-bit encodings' opcodes are in
// vop1.cpp, vop2.cpp and vopc.cpp, byte and division helpers in vop3_bytes.cpp and vop3_division.cpp.
#include "vop3.h"

#include "arith.h"
#include "crosslane.h"
#include "math.h"
#include "minmax.h"

namespace emu {
namespace {

using namespace arith;

// ---- three-operand integers ----------------------------------------------------------------------------------------
int32_t mad_i32_i24(uint32_t a, uint32_t b, uint32_t c) { return static_cast<int32_t>(static_cast<uint32_t>(signed24(a)) * static_cast<uint32_t>(signed24(b)) + c); }
uint32_t mad_u32_u24(uint32_t a, uint32_t b, uint32_t c) { return unsigned24(a) * unsigned24(b) + c; }
int64_t exact_mad_i24(uint32_t a, uint32_t b, int32_t c) { return int64_t{signed24(a)} * signed24(b) + c; }
int64_t exact_mad_u24(uint32_t a, uint32_t b, uint32_t c) { return int64_t{unsigned24(a)} * unsigned24(b) + c; }
uint16_t mad_u16(uint16_t a, uint16_t b, uint16_t c) { return static_cast<uint16_t>(static_cast<uint32_t>(a) * b + c); }
int16_t mad_i16(int16_t a, int16_t b, int16_t c) { return static_cast<int16_t>(a * b + c); }
uint32_t mad_u32_u16(uint16_t a, uint16_t b, uint32_t c) { return static_cast<uint32_t>(a) * b + c; }
int32_t mad_i32_i16(int16_t a, int16_t b, int32_t c) { return static_cast<int32_t>(static_cast<uint32_t>(a * b) + static_cast<uint32_t>(c)); }

uint32_t bfe_u32(uint32_t a, uint32_t b, uint32_t c) { return a >> (b & 31u) & ((1u << (c & 31u)) - 1u); }
int32_t bfe_i32(int32_t a, uint32_t b, uint32_t c) {
    const uint32_t unused = 32u - (c & 31u);
    const uint32_t field = static_cast<uint32_t>(a >> (b & 31u));
    // A width of 0 gives 0; its shift by 32 is split in two.
    const int32_t r = static_cast<int32_t>(field << (unused >> 1) << (unused - (unused >> 1))) >> (unused & 31u);
    return c & 31u ? r : 0;
}
uint32_t bfi(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | (~a & c); }
uint32_t bfm(uint32_t a, uint32_t b) { return ((1u << (a & 31u)) - 1u) << (b & 31u); }
uint32_t xad(uint32_t a, uint32_t b, uint32_t c) { return (a ^ b) + c; }
uint32_t lshl_add(uint32_t a, uint32_t b, uint32_t c) { return (a << (b & 31u)) + c; }
uint32_t add_lshl(uint32_t a, uint32_t b, uint32_t c) { return (a + b) << (c & 31u); }
uint32_t add3(uint32_t a, uint32_t b, uint32_t c) { return a + b + c; }
uint32_t lshl_or(uint32_t a, uint32_t b, uint32_t c) { return a << (b & 31u) | c; }
uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }
uint32_t or3(uint32_t a, uint32_t b, uint32_t c) { return a | b | c; }
// Counts above 4 do not exist; the hardware takes them for 0.
uint64_t lshl_add_u64(uint64_t a, uint32_t b, uint64_t c) { return (a << ((b & 7u) > 4 ? 0u : b & 7u)) + c; }
template <class T> T min3(T a, T b, T c) { return smaller(smaller(a, b), c); }
template <class T> T max3(T a, T b, T c) { return larger(larger(a, b), c); }
template <class T> T med3(T a, T b, T c) { return larger(smaller(a, b), smaller(larger(a, b), c)); }

uint32_t mul_lo(uint32_t a, uint32_t b) { return a * b; }
uint32_t mul_hi_u32(uint32_t a, uint32_t b) { return static_cast<uint32_t>(uint64_t{a} * b >> 32); }
int32_t mul_hi_i32(int32_t a, int32_t b) { return static_cast<int32_t>(int64_t{a} * b >> 32); }
uint64_t lshlrev_b64(uint32_t a, uint64_t b) { return b << (a & 63u); }
uint64_t lshrrev_b64(uint32_t a, uint64_t b) { return b >> (a & 63u); }
int64_t ashrrev_i64(uint32_t a, int64_t b) { return b >> (a & 63u); }
uint32_t bcnt(uint32_t a, uint32_t b) {
    a -= a >> 1 & 0x55555555u;
    a = (a & 0x33333333u) + (a >> 2 & 0x33333333u);
    return (((a + (a >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24) + b;
}
// Counts the bits of S0 that belong to lanes below this one: lanes 0..31 of the wave, then 32..63.
template <bool high>
void mbcnt(const LaneArgs& x) {
    for (int l = 0; l < kLanes; ++l) {
        const uint64_t below = (1ull << l) - 1;
        x.d[l] = bcnt(x.a[l] & static_cast<uint32_t>(high ? below >> 32 : below), x.b[l]);
    }
}

void mad_u64_u32(const LaneArgs& x) {
    const bool clamp = x.inst->clamp;
    for (int l = 0; l < kLanes; ++l) {
        const uint64_t c = detail::load_lane<uint64_t>(x.c, l), r = uint64_t{x.a[l]} * x.b[l] + c;
        const bool overflow = r < c;
        detail::store_lane<uint64_t>(x.d, l, overflow && clamp ? ~0ull : r);
        x.d2[l] = overflow;
    }
}
void mad_i64_i32(const LaneArgs& x) {
    const bool clamp = x.inst->clamp;
    for (int l = 0; l < kLanes; ++l) {
        const int64_t product = int64_t{static_cast<int32_t>(x.a[l])} * static_cast<int32_t>(x.b[l]), c = detail::load_lane<int64_t>(x.c, l);
        int64_t r;
        const bool overflow = __builtin_add_overflow(product, c, &r);
        // Bit 64 of the 65-bit sum is its sign.
        const bool negative = overflow ? c < 0 : r < 0;
        detail::store_lane<int64_t>(x.d, l, overflow && clamp ? (negative ? INT64_MIN : INT64_MAX) : r);
        x.d2[l] = negative;
    }
}

// ---- bitwise by truth table (gfx950) -------------------------------------------------------------------------------
// The table's eight bits take the place of omod, abs and neg, so the executor must not see those.
uint32_t truth_table(const Inst& i) { return (i.raw[1] >> 27 & 3u) << 6 | (i.raw[0] >> 8 & 7u) << 3 | i.raw[1] >> 29; }
void exec_bitop3(Wave& w, const Inst& i) {
    Inst plain = i;
    plain.neg = plain.abs = plain.omod = 0;
    exec_valu(w, plain);
}
void bitop3(const LaneArgs& x) {
    const uint32_t table = truth_table(*x.inst), keep = type_is_16bit(x.inst->op->dst) ? 0xffffu : ~0u;
    uint32_t term[8];
    for (int n = 0; n < 8; ++n) term[n] = table >> n & 1 ? ~0u : 0u;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t a = x.a[l], b = x.b[l], c = x.c[l];
        const uint32_t zero = (~b & ((~c & term[0]) | (c & term[1]))) | (b & ((~c & term[2]) | (c & term[3])));
        const uint32_t one = (~b & ((~c & term[4]) | (c & term[5]))) | (b & ((~c & term[6]) | (c & term[7])));
        x.d[l] = ((~a & zero) | (a & one)) & keep;
    }
}

// ---- floats --------------------------------------------------------------------------------------------------------
double add_f64(double a, double b) { return a + b; }
double mul_f64(double a, double b) { return a * b; }
// 0 times anything is 0 (the rule of DirectX 9).
float mul_legacy(float a, float b) { return ((a == 0.0f) | (b == 0.0f)) ? 0.0f : a * b; }

// The cube-map face of a direction, its coordinates and twice its major axis.
struct Cube {
    bool z_major, y_major;
    Cube(float x, float y, float z) {
        const float ax = __builtin_fabsf(x), ay = __builtin_fabsf(y), az = __builtin_fabsf(z);
        z_major = (az >= ax) & (az >= ay), y_major = ay >= ax;
    }
};
float cubeid(float x, float y, float z) {
    const Cube c(x, y, z);
    return c.z_major ? (z < 0.0f ? 5.0f : 4.0f) : c.y_major ? (y < 0.0f ? 3.0f : 2.0f) : (x < 0.0f ? 1.0f : 0.0f);
}
float cubesc(float x, float y, float z) {
    const Cube c(x, y, z);
    return c.z_major ? (z < 0.0f ? -x : x) : c.y_major ? x : (x < 0.0f ? z : -z);
}
float cubetc(float x, float y, float z) {
    const Cube c(x, y, z);
    return c.z_major ? -y : c.y_major ? (y < 0.0f ? -z : z) : -y;
}
float cubema(float x, float y, float z) {
    const Cube c(x, y, z);
    return 2.0f * (c.z_major ? z : c.y_major ? y : x);
}

// ---- packing conversions -------------------------------------------------------------------------------------------
template <int rounding>
void pack_halves_of(const LaneArgs& x) {
    alignas(64) float a[kLanes], b[kLanes];
    alignas(64) uint32_t low[kLanes], high[kLanes];
    std::memcpy(a, x.a, sizeof a), std::memcpy(b, x.b, sizeof b);
    narrow_results<rounding>(*x.wave, a, low), narrow_results<rounding>(*x.wave, b, high);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) x.d[l] = low[l] | high[l] << 16;
}
uint32_t pack_bfloats(uint32_t a, uint32_t b) { return float_bits_to_bfloat(a) | float_bits_to_bfloat(b) << 16; }
uint32_t pack_b32_f16(uint16_t a, uint16_t b) { return a | static_cast<uint32_t>(b) << 16; }

uint32_t norm_i16(float x) {
    const double bounded = x >= -1.0f ? (x <= 1.0f ? x : 1.0f) : x == x ? -1.0f : 0.0f;
    return static_cast<uint32_t>(static_cast<int32_t>(__builtin_rint(bounded * 32767.0))) & 0xffffu;
}
uint32_t norm_u16(float x) {
    const double bounded = x > 0.0f ? (x <= 1.0f ? x : 1.0f) : 0.0f;
    return static_cast<uint32_t>(static_cast<int32_t>(__builtin_rint(bounded * 65535.0)));
}
uint32_t pknorm_i16(float a, float b) { return norm_i16(a) | norm_i16(b) << 16; }
uint32_t pknorm_u16(float a, float b) { return norm_u16(a) | norm_u16(b) << 16; }
uint32_t saturate_u16(uint32_t x) { return x > 0xffffu ? 0xffffu : x; }
uint32_t saturate_i16(int32_t x) { return static_cast<uint32_t>(x > 32767 ? 32767 : x < -32768 ? -32768 : x) & 0xffffu; }
uint32_t pk_u16_u32(uint32_t a, uint32_t b) { return saturate_u16(a) | saturate_u16(b) << 16; }
uint32_t pk_i16_i32(int32_t a, int32_t b) { return saturate_i16(a) | saturate_i16(b) << 16; }

template <int low, int high>
uint16_t ashr_pk(int32_t a, int32_t b, uint32_t c) {
    const auto byte = [&](int32_t x) {
        const int32_t shifted = x >> (c & 31u);
        return static_cast<uint32_t>(shifted < low ? low : shifted > high ? high : shifted) & 0xffu;
    };
    return static_cast<uint16_t>(byte(a) | byte(b) << 8);
}

constexpr Type B32 = Type::b32, U32 = Type::u32, I32 = Type::i32, F32 = Type::f32, B64 = Type::b64, U64 = Type::u64, I64 = Type::i64, F64 = Type::f64,
               F16 = Type::f16, U16 = Type::u16, I16 = Type::i16, B16 = Type::b16;
constexpr Class V = Class::VALU, D = Class::VALU_F64, X = Class::CROSSLANE;
constexpr uint16_t kHalf = kMerges16;   // opcodes with op_sel: the half that is not written stays

const OpInfo kRows[] = {
    {450, "v_mad_i32_i24", kBoth, V, exec_valu, saturating_lanes<mad_i32_i24, exact_mad_i24>, I32, {I32, I32, I32}},
    {451, "v_mad_u32_u24", kBoth, V, exec_valu, saturating_lanes<mad_u32_u24, exact_mad_u24>, U32, {U32, U32, U32}},
    {452, "v_cubeid_f32", kBoth, V, exec_valu, lanes<cubeid>, F32, {F32, F32, F32}},
    {453, "v_cubesc_f32", kBoth, V, exec_valu, lanes<cubesc>, F32, {F32, F32, F32}},
    {454, "v_cubetc_f32", kBoth, V, exec_valu, lanes<cubetc>, F32, {F32, F32, F32}},
    {455, "v_cubema_f32", kBoth, V, exec_valu, lanes<cubema>, F32, {F32, F32, F32}},
    {456, "v_bfe_u32", kBoth, V, exec_valu, lanes<bfe_u32>, U32, {U32, U32, U32}},
    {457, "v_bfe_i32", kBoth, V, exec_valu, lanes<bfe_i32>, I32, {I32, U32, U32}},
    {458, "v_bfi_b32", kBoth, V, exec_valu, lanes<bfi>, B32, {B32, B32, B32}},
    {459, "v_fma_f32", kBoth, V, exec_valu, lanes<fma_f32>, F32, {F32, F32, F32}},
    {460, "v_fma_f64", kBoth, D, exec_valu, lanes<fma_f64>, F64, {F64, F64, F64}},
    {461, "v_lerp_u8", kBoth, V, exec_valu, lerp_u8, U32, {B32, B32, B32}},
    {462, "v_alignbit_b32", kBoth, V, exec_valu, alignbit, B32, {B32, B32, U32}},
    {463, "v_alignbyte_b32", kBoth, V, exec_valu, alignbyte, B32, {B32, B32, U32}},
    {464, "v_min3_f32", kBoth, V, exec_valu, select3_lanes<uint32_t, Singles::min3>, F32, {F32, F32, F32}},
    {465, "v_min3_i32", kBoth, V, exec_valu, lanes<min3<int32_t>>, I32, {I32, I32, I32}},
    {466, "v_min3_u32", kBoth, V, exec_valu, lanes<min3<uint32_t>>, U32, {U32, U32, U32}},
    {467, "v_max3_f32", kBoth, V, exec_valu, select3_lanes<uint32_t, Singles::max3>, F32, {F32, F32, F32}},
    {468, "v_max3_i32", kBoth, V, exec_valu, lanes<max3<int32_t>>, I32, {I32, I32, I32}},
    {469, "v_max3_u32", kBoth, V, exec_valu, lanes<max3<uint32_t>>, U32, {U32, U32, U32}},
    {470, "v_med3_f32", kBoth, V, exec_valu, select3_lanes<uint32_t, Singles::med3>, F32, {F32, F32, F32}},
    {471, "v_med3_i32", kBoth, V, exec_valu, lanes<med3<int32_t>>, I32, {I32, I32, I32}},
    {472, "v_med3_u32", kBoth, V, exec_valu, lanes<med3<uint32_t>>, U32, {U32, U32, U32}},
    {473, "v_sad_u8", kBoth, V, exec_valu, sad_u8, U32, {B32, B32, U32}},
    {474, "v_sad_hi_u8", kBoth, V, exec_valu, sad_hi_u8, U32, {B32, B32, U32}},
    {475, "v_sad_u16", kBoth, V, exec_valu, sad_u16, U32, {B32, B32, U32}},
    {476, "v_sad_u32", kBoth, V, exec_valu, sad_u32, U32, {U32, U32, U32}},
    {477, "v_cvt_pk_u8_f32", kBoth, V, exec_valu, cvt_pk_u8_f32, B32, {F32, U32, B32}},
    {478, "v_div_fixup_f32", kBoth, V, exec_valu, div_fixup_f32, F32, {F32, F32, F32}},
    {479, "v_div_fixup_f64", kBoth, D, exec_valu, div_fixup_f64, F64, {F64, F64, F64}},
    {480, "v_div_scale_f32", kBoth, V, exec_valu, div_scale_f32, F32, {F32, F32, F32}, kCarryOut},
    {481, "v_div_scale_f64", kBoth, D, exec_valu, div_scale_f64, F64, {F64, F64, F64}, kCarryOut},
    {482, "v_div_fmas_f32", kBoth, V, exec_valu, div_fmas_f32, F32, {F32, F32, F32}},
    {483, "v_div_fmas_f64", kBoth, D, exec_valu, div_fmas_f64, F64, {F64, F64, F64}},
    {484, "v_msad_u8", kBoth, V, exec_valu, msad_u8, U32, {B32, B32, U32}},
    {485, "v_qsad_pk_u16_u8", kBoth, V, exec_valu, qsad_pk_u16_u8, B64, {B64, B32, B64}},
    {486, "v_mqsad_pk_u16_u8", kBoth, V, exec_valu, mqsad_pk_u16_u8, B64, {B64, B32, B64}},
    {487, "v_mqsad_u32_u8", kBoth, V, exec_mqsad_u32_u8, nullptr, Type::wide, {B64, B32, Type::wide}, 0, 4, {2, 1, 4}},
    {488, "v_mad_u64_u32", kBoth, V, exec_valu, mad_u64_u32, U64, {U32, U32, U64}, kCarryOut},
    {489, "v_mad_i64_i32", kBoth, V, exec_valu, mad_i64_i32, I64, {I32, I32, I64}, kCarryOut},
    {490, "v_mad_legacy_f16", kBoth, V, exec_valu, mad_f16, F16, {F16, F16, F16}},
    {491, "v_mad_legacy_u16", kBoth, V, exec_valu, saturating_lanes<mad_u16, exact_mad>, U16, {U16, U16, U16}},
    {492, "v_mad_legacy_i16", kBoth, V, exec_valu, saturating_lanes<mad_i16, exact_mad>, I16, {I16, I16, I16}},
    {493, "v_perm_b32", kBoth, V, exec_valu, perm_b32, B32, {B32, B32, B32}},
    {494, "v_fma_legacy_f16", kBoth, V, exec_valu, half_lanes<fma_f16>, F16, {F16, F16, F16}},
    {495, "v_div_fixup_legacy_f16", kBoth, V, exec_valu, div_fixup_f16, F16, {F16, F16, F16}},
    {496, "v_cvt_pkaccum_u8_f32", kBoth, V, exec_valu, cvt_pk_u8_f32, B32, {F32, U32, B32}, kAccumulates},
    {497, "v_mad_u32_u16", kBoth, V, exec_valu, saturating_lanes<mad_u32_u16, exact_mad>, U32, {U16, U16, U32}},
    {498, "v_mad_i32_i16", kBoth, V, exec_valu, saturating_lanes<mad_i32_i16, exact_mad>, I32, {I16, I16, I32}},
    {499, "v_xad_u32", kBoth, V, exec_valu, lanes<xad>, U32, {U32, U32, U32}},
    {500, "v_min3_f16", kBoth, V, exec_valu, select3_lanes<uint32_t, Halves::min3>, F16, {F16, F16, F16}, kHalf},
    {501, "v_min3_i16", kBoth, V, exec_valu, lanes<min3<int16_t>>, I16, {I16, I16, I16}, kHalf},
    {502, "v_min3_u16", kBoth, V, exec_valu, lanes<min3<uint16_t>>, U16, {U16, U16, U16}, kHalf},
    {503, "v_max3_f16", kBoth, V, exec_valu, select3_lanes<uint32_t, Halves::max3>, F16, {F16, F16, F16}, kHalf},
    {504, "v_max3_i16", kBoth, V, exec_valu, lanes<max3<int16_t>>, I16, {I16, I16, I16}, kHalf},
    {505, "v_max3_u16", kBoth, V, exec_valu, lanes<max3<uint16_t>>, U16, {U16, U16, U16}, kHalf},
    {506, "v_med3_f16", kBoth, V, exec_valu, select3_lanes<uint32_t, Halves::med3>, F16, {F16, F16, F16}, kHalf},
    {507, "v_med3_i16", kBoth, V, exec_valu, lanes<med3<int16_t>>, I16, {I16, I16, I16}, kHalf},
    {508, "v_med3_u16", kBoth, V, exec_valu, lanes<med3<uint16_t>>, U16, {U16, U16, U16}, kHalf},
    {509, "v_lshl_add_u32", kBoth, V, exec_valu, lanes<lshl_add>, U32, {U32, U32, U32}},
    {510, "v_add_lshl_u32", kBoth, V, exec_valu, lanes<add_lshl>, U32, {U32, U32, U32}},
    {511, "v_add3_u32", kBoth, V, exec_valu, lanes<add3>, U32, {U32, U32, U32}},
    {512, "v_lshl_or_b32", kBoth, V, exec_valu, lanes<lshl_or>, B32, {B32, U32, B32}},
    {513, "v_and_or_b32", kBoth, V, exec_valu, lanes<and_or>, B32, {B32, B32, B32}},
    {514, "v_or3_b32", kBoth, V, exec_valu, lanes<or3>, B32, {B32, B32, B32}},
    {515, "v_mad_f16", kBoth, V, exec_valu, mad_f16, F16, {F16, F16, F16}, kHalf},
    {516, "v_mad_u16", kBoth, V, exec_valu, saturating_lanes<mad_u16, exact_mad>, U16, {U16, U16, U16}, kHalf},
    {517, "v_mad_i16", kBoth, V, exec_valu, saturating_lanes<mad_i16, exact_mad>, I16, {I16, I16, I16}, kHalf},
    {518, "v_fma_f16", kBoth, V, exec_valu, half_lanes<fma_f16>, F16, {F16, F16, F16}, kHalf},
    {519, "v_div_fixup_f16", kBoth, V, exec_valu, div_fixup_f16, F16, {F16, F16, F16}, kHalf},
    {520, "v_lshl_add_u64", kBoth, V, exec_valu, lanes<lshl_add_u64>, U64, {U64, U32, U64}},
    {563, "v_bitop3_b16", kGfx950, V, exec_bitop3, bitop3, B16, {B16, B16, B16}, kHalf},
    {564, "v_bitop3_b32", kGfx950, V, exec_bitop3, bitop3, B32, {B32, B32, B32}},
    {613, "v_ashr_pk_i8_i32", kGfx950, V, exec_valu, lanes<ashr_pk<-128, 127>>, B16, {I32, I32, U32}, kHalf},
    {614, "v_ashr_pk_u8_i32", kGfx950, V, exec_valu, lanes<ashr_pk<0, 255>>, B16, {I32, I32, U32}, kHalf},
    {615, "v_cvt_pk_f16_f32", kGfx950, V, exec_valu, pack_halves_of<_MM_FROUND_TO_NEAREST_INT>, B32, {F32, F32}},
    {616, "v_cvt_pk_bf16_f32", kGfx950, V, exec_valu, lanes<pack_bfloats>, B32, {F32, F32}},
    {640, "v_add_f64", kBoth, D, exec_valu, lanes<add_f64>, F64, {F64, F64}},
    {641, "v_mul_f64", kBoth, D, exec_valu, lanes<mul_f64>, F64, {F64, F64}},
    {642, "v_min_f64", kBoth, D, exec_valu, select2_lanes<uint64_t, Doubles::min>, F64, {F64, F64}},
    {643, "v_max_f64", kBoth, D, exec_valu, select2_lanes<uint64_t, Doubles::max>, F64, {F64, F64}},
    {644, "v_ldexp_f64", kBoth, D, exec_valu, lanes<math::ldexp_f64>, F64, {F64, I32}},
    {645, "v_mul_lo_u32", kBoth, V, exec_valu, lanes<mul_lo>, U32, {U32, U32}},
    {646, "v_mul_hi_u32", kBoth, V, exec_valu, lanes<mul_hi_u32>, U32, {U32, U32}},
    {647, "v_mul_hi_i32", kBoth, V, exec_valu, lanes<mul_hi_i32>, I32, {I32, I32}},
    {648, "v_ldexp_f32", kBoth, V, exec_valu, lanes<math::ldexp_f32>, F32, {F32, I32}},
    {649, "v_readlane_b32", kBoth, X, exec_readlane, nullptr, B32, {B32, B32}, kIgnoresExec},
    {650, "v_writelane_b32", kBoth, X, exec_writelane, nullptr, B32, {B32, B32}, kIgnoresExec},
    {651, "v_bcnt_u32_b32", kBoth, V, exec_valu, lanes<bcnt>, U32, {B32, U32}},
    {652, "v_mbcnt_lo_u32_b32", kBoth, V, exec_valu, mbcnt<false>, U32, {B32, U32}},
    {653, "v_mbcnt_hi_u32_b32", kBoth, V, exec_valu, mbcnt<true>, U32, {B32, U32}},
    {655, "v_lshlrev_b64", kBoth, V, exec_valu, lanes<lshlrev_b64>, B64, {U32, B64}},
    {656, "v_lshrrev_b64", kBoth, V, exec_valu, lanes<lshrrev_b64>, B64, {U32, B64}},
    {657, "v_ashrrev_i64", kBoth, V, exec_valu, lanes<ashrrev_i64>, I64, {U32, I64}},
    {658, "v_trig_preop_f64", kBoth, D, exec_valu, trig_preop_f64, F64, {F64, U32}},
    {659, "v_bfm_b32", kBoth, V, exec_valu, lanes<bfm>, B32, {U32, U32}},
    {660, "v_cvt_pknorm_i16_f32", kBoth, V, exec_valu, lanes<pknorm_i16>, B32, {F32, F32}},
    {661, "v_cvt_pknorm_u16_f32", kBoth, V, exec_valu, lanes<pknorm_u16>, B32, {F32, F32}},
    {662, "v_cvt_pkrtz_f16_f32", kBoth, V, exec_valu, pack_halves_of<_MM_FROUND_TO_ZERO>, B32, {F32, F32}},
    {663, "v_cvt_pk_u16_u32", kBoth, V, exec_valu, lanes<pk_u16_u32>, B32, {U32, U32}},
    {664, "v_cvt_pk_i16_i32", kBoth, V, exec_valu, lanes<pk_i16_i32>, B32, {I32, I32}},
    {665, "v_cvt_pknorm_i16_f16", kBoth, V, exec_valu, half_lanes<pknorm_i16>, B32, {F16, F16}},
    {666, "v_cvt_pknorm_u16_f16", kBoth, V, exec_valu, half_lanes<pknorm_u16>, B32, {F16, F16}},
    {668, "v_add_i32", kBoth, V, exec_valu, saturating_lanes<add_i32, exact_add>, I32, {I32, I32}},
    {669, "v_sub_i32", kBoth, V, exec_valu, saturating_lanes<sub_i32, exact_sub>, I32, {I32, I32}},
    {670, "v_add_i16", kBoth, V, exec_valu, saturating_lanes<add_i16, exact_add>, I16, {I16, I16}, kHalf},
    {671, "v_sub_i16", kBoth, V, exec_valu, saturating_lanes<sub_i16, exact_sub>, I16, {I16, I16}, kHalf},
    {672, "v_pack_b32_f16", kBoth, V, exec_valu, lanes<pack_b32_f16>, B32, {F16, F16}},
    {673, "v_mul_legacy_f32", kBoth, V, exec_valu, lanes<mul_legacy>, F32, {F32, F32}},
    {680, "v_minimum3_f32", kGfx950, V, exec_valu, select3_lanes<uint32_t, Singles::minimum3>, F32, {F32, F32, F32}},
    {681, "v_maximum3_f32", kGfx950, V, exec_valu, select3_lanes<uint32_t, Singles::maximum3>, F32, {F32, F32, F32}},
};

}  // namespace

const OpTable kVop3Table = {Enc::VOP3, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
