// VOP2: two sources, and the accumulating forms whose third source is the destination.
#include "arith.h"
#include "dot.h"
#include "math.h"
#include "minmax.h"

namespace emu {
namespace {

using namespace arith;

uint32_t cndmask(uint32_t a, uint32_t b, uint32_t mask) { return mask ? b : a; }

// ---- 24-bit products -----------------------------------------------------------------------------------------------
int32_t mul_i32_i24(uint32_t a, uint32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(signed24(a)) * static_cast<uint32_t>(signed24(b))); }
uint32_t mul_u32_u24(uint32_t a, uint32_t b) { return unsigned24(a) * unsigned24(b); }
int32_t mul_hi_i32_i24(uint32_t a, uint32_t b) { return static_cast<int32_t>(int64_t{signed24(a)} * signed24(b) >> 32); }
uint32_t mul_hi_u32_u24(uint32_t a, uint32_t b) { return static_cast<uint32_t>(uint64_t{unsigned24(a)} * unsigned24(b) >> 32); }
int64_t exact_mul_i24(uint32_t a, uint32_t b) { return int64_t{signed24(a)} * signed24(b); }
int64_t exact_mul_u24(uint32_t a, uint32_t b) { return int64_t{unsigned24(a)} * unsigned24(b); }

// ---- carries -------------------------------------------------------------------------------------------------------
// S0 + S1 + carry, S0 - S1 - carry or S1 - S0 - carry; the carry-out is the unsigned overflow. The clamp bit saturates.
enum class Sum { add, sub, subrev };
template <Sum what, bool carry_in>
void carry_lanes(const LaneArgs& x) {
    const uint32_t clamp = x.inst->clamp;
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t a = what == Sum::subrev ? x.b[l] : x.a[l], b = what == Sum::subrev ? x.a[l] : x.b[l];
        const uint32_t in = carry_in ? x.c[l] & 1u : 0u;
        const uint32_t partial = what == Sum::add ? a + b : a - b;
        const uint32_t r = what == Sum::add ? partial + in : partial - in;
        const uint32_t out = what == Sum::add ? (partial < a) | (r < partial) : (b > a) | (in > partial);
        const uint32_t saturated = what == Sum::add ? ~0u : 0u;
        x.d[l] = (out & clamp) ? saturated : r;
        x.d2[l] = out;
    }
}

// ---- 16 bit --------------------------------------------------------------------------------------------------------
uint16_t mul_lo_u16(uint16_t a, uint16_t b) { return static_cast<uint16_t>(static_cast<uint32_t>(a) * b); }
uint16_t lshlrev_b16(uint16_t a, uint16_t b) { return static_cast<uint16_t>(static_cast<uint32_t>(b) << (a & 15)); }
uint16_t lshrrev_b16(uint16_t a, uint16_t b) { return static_cast<uint16_t>(b >> (a & 15)); }
int16_t ashrrev_i16(uint16_t a, int16_t b) { return static_cast<int16_t>(b >> (a & 15)); }
void ldexp_f16(const LaneArgs& x) {
    alignas(64) float f[kLanes];
    widen_halves(x.a, f);
    for (int l = 0; l < kLanes; ++l) f[l] = math::ldexp_f32(f[l], static_cast<int16_t>(x.b[l]));
    narrow_results(*x.wave, f, x.d);
}

// ---- accumulating dot products -------------------------------------------------------------------------------------
float low_bfloat(uint32_t x) { return bit_cast<float>(x << 16); }
float high_bfloat(uint32_t x) { return bit_cast<float>(x & 0xffff0000u); }
float dot2c_f32_bf16(uint32_t a, uint32_t b, float c) {
    return flushed(flushed(c) + flushed(low_bfloat(a)) * flushed(low_bfloat(b)) + flushed(high_bfloat(a)) * flushed(high_bfloat(b)));
}

template <int bits>
int64_t exact_dot(uint32_t a, uint32_t b, int32_t c) {
    int64_t sum = c;
    for (int n = 0; n < 32; n += bits) {
        const int32_t x = static_cast<int32_t>(a << (32 - bits - n)) >> (32 - bits), y = static_cast<int32_t>(b << (32 - bits - n)) >> (32 - bits);
        sum += int64_t{x} * y;
    }
    return sum;
}
template <int bits>
int32_t dot(uint32_t a, uint32_t b, int32_t c) { return static_cast<int32_t>(static_cast<uint32_t>(exact_dot<bits>(a, b, c))); }

void dot2c_f32_f16(const LaneArgs& x) {
    alignas(64) uint32_t high[2][kLanes];
    alignas(64) float a[2][kLanes], b[2][kLanes];
    for (int l = 0; l < kLanes; ++l) high[0][l] = x.a[l] >> 16, high[1][l] = x.b[l] >> 16;
    widen_halves(x.a, a[0]), widen_halves(high[0], a[1]), widen_halves(x.b, b[0]), widen_halves(high[1], b[1]);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        float product[2];
        for (int half = 0; half < 2; ++half) product[half] = flushed(a[half][l], kSmallestNormalHalf) * flushed(b[half][l], kSmallestNormalHalf);
        x.d[l] = bit_cast<uint32_t>(flushed(flushed(bit_cast<float>(x.c[l])) + product[0] + product[1]));
    }
}

void pk_fmac_f16(const LaneArgs& x) {
    alignas(64) uint32_t part[3][kLanes], low[kLanes], high[kLanes];
    const uint32_t* const in[] = {x.a, x.b, x.c};
    for (int shift = 0; shift <= 16; shift += 16) {
        for (int k = 0; k < 3; ++k)
            for (int l = 0; l < kLanes; ++l) part[k][l] = in[k][l] >> shift & 0xffffu;
        half_lanes<fma_f16>({shift ? high : low, nullptr, part[0], part[1], part[2], x.wave, x.inst});
    }
    for (int l = 0; l < kLanes; ++l) x.d[l] = low[l] | high[l] << 16;
}

constexpr Type B32 = Type::b32, U32 = Type::u32, I32 = Type::i32, F32 = Type::f32, F64 = Type::f64, F16 = Type::f16, U16 = Type::u16, I16 = Type::i16,
               MASK = Type::mask;
constexpr Class V = Class::VALU;

const OpInfo kRows[] = {
    {0, "v_cndmask_b32", kBoth, V, exec_valu, lanes<cndmask>, B32, {B32, B32, MASK}},
    {1, "v_add_f32", kBoth, V, exec_valu, lanes<add_f32>, F32, {F32, F32}},
    {2, "v_sub_f32", kBoth, V, exec_valu, lanes<sub_f32>, F32, {F32, F32}},
    {3, "v_subrev_f32", kBoth, V, exec_valu, lanes<subrev_f32>, F32, {F32, F32}},
    {4, "v_fmac_f64", kBoth, Class::VALU_F64, exec_valu, lanes<fma_f64>, F64, {F64, F64, F64}, kAccumulates},
    {5, "v_mul_f32", kBoth, V, exec_valu, lanes<mul_f32>, F32, {F32, F32}},
    {6, "v_mul_i32_i24", kBoth, V, exec_valu, saturating_lanes<mul_i32_i24, exact_mul_i24>, I32, {I32, I32}},
    {7, "v_mul_hi_i32_i24", kBoth, V, exec_valu, lanes<mul_hi_i32_i24>, I32, {I32, I32}},
    {8, "v_mul_u32_u24", kBoth, V, exec_valu, saturating_lanes<mul_u32_u24, exact_mul_u24>, U32, {U32, U32}},
    {9, "v_mul_hi_u32_u24", kBoth, V, exec_valu, lanes<mul_hi_u32_u24>, U32, {U32, U32}},
    {10, "v_min_f32", kBoth, V, exec_valu, select2_lanes<uint32_t, Singles::min>, F32, {F32, F32}},
    {11, "v_max_f32", kBoth, V, exec_valu, select2_lanes<uint32_t, Singles::max>, F32, {F32, F32}},
    {12, "v_min_i32", kBoth, V, exec_valu, lanes<smaller<int32_t>>, I32, {I32, I32}},
    {13, "v_max_i32", kBoth, V, exec_valu, lanes<larger<int32_t>>, I32, {I32, I32}},
    {14, "v_min_u32", kBoth, V, exec_valu, lanes<smaller<uint32_t>>, U32, {U32, U32}},
    {15, "v_max_u32", kBoth, V, exec_valu, lanes<larger<uint32_t>>, U32, {U32, U32}},
    {16, "v_lshrrev_b32", kBoth, V, exec_valu, lanes<lshrrev_b32>, B32, {U32, B32}},
    {17, "v_ashrrev_i32", kBoth, V, exec_valu, lanes<ashrrev_i32>, I32, {U32, I32}},
    {18, "v_lshlrev_b32", kBoth, V, exec_valu, lanes<lshlrev_b32>, B32, {U32, B32}},
    {19, "v_and_b32", kBoth, V, exec_valu, lanes<and_b32>, B32, {B32, B32}},
    {20, "v_or_b32", kBoth, V, exec_valu, lanes<or_b32>, B32, {B32, B32}},
    {21, "v_xor_b32", kBoth, V, exec_valu, lanes<xor_b32>, B32, {B32, B32}},
    {22, "v_dot2c_f32_bf16", kGfx950, V, exec_valu, lanes<dot2c_f32_bf16>, F32, {Type::pkbf16, Type::pkbf16, F32}, kAccumulates},
    {23, "v_fmamk_f32", kBoth, V, exec_valu, lanes<fma_f32>, F32, {F32, F32, F32}},
    {24, "v_fmaak_f32", kBoth, V, exec_valu, lanes<fma_f32>, F32, {F32, F32, F32}},
    {25, "v_add_co_u32", kBoth, V, exec_valu, carry_lanes<Sum::add, false>, U32, {U32, U32}, kCarryOut},
    {26, "v_sub_co_u32", kBoth, V, exec_valu, carry_lanes<Sum::sub, false>, U32, {U32, U32}, kCarryOut},
    {27, "v_subrev_co_u32", kBoth, V, exec_valu, carry_lanes<Sum::subrev, false>, U32, {U32, U32}, kCarryOut},
    {28, "v_addc_co_u32", kBoth, V, exec_valu, carry_lanes<Sum::add, true>, U32, {U32, U32, MASK}, kCarryOut},
    {29, "v_subb_co_u32", kBoth, V, exec_valu, carry_lanes<Sum::sub, true>, U32, {U32, U32, MASK}, kCarryOut},
    {30, "v_subbrev_co_u32", kBoth, V, exec_valu, carry_lanes<Sum::subrev, true>, U32, {U32, U32, MASK}, kCarryOut},
    {31, "v_add_f16", kBoth, V, exec_valu, half_lanes<add_f32>, F16, {F16, F16}},
    {32, "v_sub_f16", kBoth, V, exec_valu, half_lanes<sub_f32>, F16, {F16, F16}},
    {33, "v_subrev_f16", kBoth, V, exec_valu, half_lanes<subrev_f32>, F16, {F16, F16}},
    {34, "v_mul_f16", kBoth, V, exec_valu, half_lanes<mul_f32>, F16, {F16, F16}},
    {35, "v_mac_f16", kBoth, V, exec_valu, mad_f16, F16, {F16, F16, F16}, kAccumulates},
    {36, "v_madmk_f16", kBoth, V, exec_valu, mad_f16, F16, {F16, F16, F16}},
    {37, "v_madak_f16", kBoth, V, exec_valu, mad_f16, F16, {F16, F16, F16}},
    {38, "v_add_u16", kBoth, V, exec_valu, saturating_lanes<add_u16, exact_add>, U16, {U16, U16}},
    {39, "v_sub_u16", kBoth, V, exec_valu, saturating_lanes<sub_u16, exact_sub>, U16, {U16, U16}},
    {40, "v_subrev_u16", kBoth, V, exec_valu, saturating_lanes<subrev_u16, exact_subrev>, U16, {U16, U16}},
    {41, "v_mul_lo_u16", kBoth, V, exec_valu, lanes<mul_lo_u16>, U16, {U16, U16}},
    {42, "v_lshlrev_b16", kBoth, V, exec_valu, lanes<lshlrev_b16>, U16, {U16, U16}},
    {43, "v_lshrrev_b16", kBoth, V, exec_valu, lanes<lshrrev_b16>, U16, {U16, U16}},
    {44, "v_ashrrev_i16", kBoth, V, exec_valu, lanes<ashrrev_i16>, I16, {U16, I16}},
    {45, "v_max_f16", kBoth, V, exec_valu, select2_lanes<uint32_t, Halves::max>, F16, {F16, F16}},
    {46, "v_min_f16", kBoth, V, exec_valu, select2_lanes<uint32_t, Halves::min>, F16, {F16, F16}},
    {47, "v_max_u16", kBoth, V, exec_valu, lanes<larger<uint16_t>>, U16, {U16, U16}},
    {48, "v_max_i16", kBoth, V, exec_valu, lanes<larger<int16_t>>, I16, {I16, I16}},
    {49, "v_min_u16", kBoth, V, exec_valu, lanes<smaller<uint16_t>>, U16, {U16, U16}},
    {50, "v_min_i16", kBoth, V, exec_valu, lanes<smaller<int16_t>>, I16, {I16, I16}},
    {51, "v_ldexp_f16", kBoth, V, exec_valu, ldexp_f16, F16, {F16, I16}},
    {52, "v_add_u32", kBoth, V, exec_valu, saturating_lanes<add_u32, exact_add>, U32, {U32, U32}},
    {53, "v_sub_u32", kBoth, V, exec_valu, saturating_lanes<sub_u32, exact_sub>, U32, {U32, U32}},
    {54, "v_subrev_u32", kBoth, V, exec_valu, saturating_lanes<subrev_u32, exact_subrev>, U32, {U32, U32}},
    {55, "v_dot2c_f32_f16", kBoth, V, exec_valu, dot2c_f32_f16, F32, {Type::pk16f, Type::pk16f, F32}, kAccumulates},
    {56, "v_dot2c_i32_i16", kBoth, V, exec_valu, saturating_lanes<dot<16>, exact_dot<16>>, I32, {B32, B32, I32}, kAccumulates},
    {57, "v_dot4c_i32_i8", kBoth, V, exec_valu, saturating_lanes<dot<8>, exact_dot<8>>, I32, {B32, B32, I32}, kAccumulates},
    {58, "v_dot8c_i32_i4", kBoth, V, exec_valu, saturating_lanes<dot<4>, exact_dot<4>>, I32, {B32, B32, I32}, kAccumulates},
    {59, "v_fmac_f32", kBoth, V, exec_valu, lanes<fma_f32>, F32, {F32, F32, F32}, kAccumulates},
    // Both halves arrive as they are: this encoding has no selectors.
    {60, "v_pk_fmac_f16", kBoth, Class::VALU_PACKED, exec_valu, pk_fmac_f16, Type::pk16f, {Type::pk16f, Type::pk16f, Type::pk16f}, kAccumulates},
    {61, "v_xnor_b32", kBoth, V, exec_valu, lanes<xnor_b32>, B32, {B32, B32}},
};

}  // namespace

const OpTable kVop2Table = {Enc::VOP2, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
