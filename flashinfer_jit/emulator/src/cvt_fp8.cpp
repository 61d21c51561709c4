// Conversions between 8-, 6- and 4-bit floats and f32, f16, bf16: plain ones of both archs (FNUZ on gfx942, OCP on gfx950), and those of
// gfx950 that multiply or divide by an E8M0 scale, which is the exponent field of an f32 operand (0xff: NaN).
// Narrowing divides by the scale and rounds once; widening multiplies. Partial results keep the rest of the destination.
#include "fp8.h"
#include "packed_half.h"
#include "register_range.h"

namespace emu {
namespace {

constexpr uint32_t kModeFp16Overflow = 1u << 23;
bool saturates(const Wave& w) { return w.mode & kModeFp16Overflow; }

uint32_t exponent_field(uint32_t scale) { return scale >> 23 & 0xffu; }
// x / 2^(field - 127) is NaN where the scale is.
template <class F, Rounding rounding>
uint32_t narrow_scaled(uint32_t x, uint32_t scale, uint32_t random, bool saturate) {
    const uint32_t field = exponent_field(scale);
    return encode_small<F, rounding>(select(field == 0xffu, 0x7fc00000u, x), static_cast<int32_t>(field) - 127, random, saturate);
}
// 2^(field - 127) as f32; 2^-127 is a denormal number.
uint32_t scale_factor(uint32_t scale) {
    const uint32_t field = exponent_field(scale);
    return select(field == 0xffu, 0x7fc00000u, select(field == 0, 0x00400000u, field << 23));
}
// The generator behind v_prng_b32, advanced once per element.
uint32_t next_random(uint32_t x) { return x << 1 ^ select(x >> 31, 197, 0); }

enum class Wide { f32, f16, bf16 };

uint32_t to_bf16(uint32_t x) {
    const uint32_t rounded = (x + 0x7fffu + (x >> 16 & 1u)) >> 16;
    return (x & 0x7fffffffu) > 0x7f800000u ? x >> 16 | 0x40u : rounded;
}
// Two rows of f32 to the packed 16-bit format.
template <Wide wide>
void join(const float* low, const float* high, uint32_t* out) {
    if (wide == Wide::f16) {
        join_halves(low, high, out);
        return;
    }
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) out[l] = to_bf16(as_bits(low[l])) | to_bf16(as_bits(high[l])) << 16;
}
template <Wide wide>
void split(const uint32_t* in, float* low, float* high) {
    if (wide == Wide::f16) split_halves(in, low, high);
    else split_bfloats(in, low, high);
}

struct alignas(64) Row {
    float x[kLanes];
    uint32_t bits(int l) const { return as_bits(x[l]); }
};

// ---- plain conversions -----------------------------------------------------------------------------------------------
// Without SDWA the lowest byte or word is meant; with it the executor has moved the selected one there.
template <class F>
void widen_byte(const LaneArgs& x) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) x.d[l] = decode_small<F>(x.a[l]);
}
template <class F>
void widen_word(const LaneArgs& x) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t word = x.a[l];
        x.d[l] = decode_small<F>(word), x.d[kLanes + l] = decode_small<F>(word >> 8);
    }
}
template <class F>
void narrow_pair(const LaneArgs& x) {
    const bool saturate = saturates(*x.wave);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l)
        x.d[l] = encode_small<F, Rounding::to_nearest_even>(x.a[l], 0, 0, saturate) |
                 encode_small<F, Rounding::to_nearest_even>(x.b[l], 0, 0, saturate) << 8;
}

// op_sel[3:2] is the byte of the destination; the others stay.
void place_byte(const LaneArgs& x, const uint32_t* codes) {
    const uint32_t* const old = x.wave->reg(x.inst->dst);
    const int shift = 8 * (x.inst->op_sel >> 2 & 3);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) x.d[l] = (old[l] & ~(0xffu << shift)) | codes[l] << shift;
}
template <class F>
void narrow_stochastic(const LaneArgs& x) {
    const bool saturate = saturates(*x.wave);
    alignas(64) uint32_t codes[kLanes];
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) codes[l] = encode_small<F, Rounding::stochastic>(x.a[l], 0, x.b[l], saturate);
    if (F::bits == 8) place_byte(x, codes);
    else std::memcpy(x.d, codes, sizeof codes);   // 16 bits: the executor places the half
}

// ---- scaled conversions of one or two values -----------------------------------------------------------------------
// op_sel[0] selects a word of the source, or op_sel[1:0] a byte.
int source_shift(const LaneArgs& x, bool byte) { return byte ? 8 * (x.inst->op_sel & 3) : 16 * (x.inst->op_sel & 1); }

template <class F>
void widen_scaled(const LaneArgs& x, int shift, Row& out) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) out.x[l] = as_float(decode_small<F>(x.a[l] >> shift)) * as_float(scale_factor(x.b[l]));
}
// One value to f32 or f16.
template <class F, Wide wide>
void widen_one(const LaneArgs& x) {
    Row value;
    widen_scaled<F>(x, source_shift(x, true), value);
    if (wide == Wide::f32) std::memcpy(x.d, value.x, sizeof value.x);
    else join<wide>(value.x, value.x, x.d);
}
// Two values to a pair of f32 or to packed 16-bit floats.
template <class F, Wide wide>
void widen_two(const LaneArgs& x) {
    const int shift = source_shift(x, F::bits == 4);
    Row low, high;
    widen_scaled<F>(x, shift, low), widen_scaled<F>(x, shift + F::bits, high);
    if (wide == Wide::f32) std::memcpy(x.d, low.x, sizeof low.x), std::memcpy(x.d + kLanes, high.x, sizeof high.x);
    else join<wide>(low.x, high.x, x.d);
}

// Two values to one word of fp8/bf8 or one byte of fp4. Sources: f32, f32, scale | 16-bit pair, scale | stochastic: pair, random, scale.
template <class F, Wide wide, Rounding rounding>
void narrow_two(const LaneArgs& x) {
    constexpr bool stochastic = rounding == Rounding::stochastic, three_sources = stochastic || wide == Wide::f32;
    const bool saturate = saturates(*x.wave);
    const uint32_t* const scale = three_sources ? x.c : x.b;
    Row low, high;
    if (wide != Wide::f32) {
        split<wide>(x.a, low.x, high.x);
    } else {
        std::memcpy(low.x, x.a, sizeof low.x), std::memcpy(high.x, stochastic ? x.a + kLanes : x.b, sizeof high.x);
    }
    alignas(64) uint32_t codes[kLanes];
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t random = stochastic ? x.b[l] : 0;
        codes[l] = narrow_scaled<F, rounding>(low.bits(l), scale[l], random, saturate) |
                   narrow_scaled<F, rounding>(high.bits(l), scale[l], next_random(random), saturate) << F::bits;
    }
    if (F::bits == 4) place_byte(x, codes);
    else std::memcpy(x.d, codes, sizeof codes);   // the executor places the word
}
// One value, stochastically: value, random, scale.
template <class F, Wide wide>
void narrow_one(const LaneArgs& x) {
    const bool saturate = saturates(*x.wave);
    Row value, unused;
    if (wide == Wide::f32) std::memcpy(value.x, x.a, sizeof value.x);
    else split<wide>(x.a, value.x, unused.x);
    alignas(64) uint32_t codes[kLanes];
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) codes[l] = narrow_scaled<F, Rounding::stochastic>(value.bits(l), x.c[l], x.b[l], saturate);
    place_byte(x, codes);
}

// ---- 32 values of fp6 or bf6 in six registers ------------------------------------------------------------------------
constexpr int kValues = 32, kSixBitDwords = 6;
constexpr int source_dwords(Wide wide) { return wide == Wide::f32 ? kValues : kValues / 2; }

void store_active(Wave& w, const uint32_t* from, int dwords, uint32_t* to) {
    const uint32_t* const active = w.active_lanes();
    for (int r = 0; r < dwords; ++r)
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) {
            uint32_t& d = to[r * kLanes + l];
            d = (from[r * kLanes + l] & active[l]) | (d & ~active[l]);
        }
}
// MODE bits 4 and 5 keep denormal f32 inputs and results.
void flush_f32(const Wave& w, uint32_t keep_bit, float* x) {
    if (w.mode & keep_bit) return;
    for (int l = 0; l < kLanes; ++l)
        if (!(as_bits(x[l]) & 0x7f800000u)) x[l] = as_float(as_bits(x[l]) & 0x80000000u);
}

// interleaved (2xpk16): element 2 * n comes from source 0, element 2 * n + 1 from source 1.
template <class F, Wide wide, Rounding rounding, bool interleaved = false>
void exec_narrow32(Wave& w, const Inst& i) {
    constexpr bool stochastic = rounding == Rounding::stochastic;
    constexpr int dwords = interleaved ? kValues / 2 : source_dwords(wide);
    const uint32_t* const first = vector_range(w, i.src[0], dwords);
    const uint32_t* const second = first && interleaved ? vector_range(w, i.src[1], dwords) : first;
    uint32_t* const d = second ? vector_range(w, i.dst, kSixBitDwords) : nullptr;
    if (!d) return;
    alignas(64) uint32_t scale[kLanes], random[kLanes] = {}, packed[kSixBitDwords * kLanes] = {};
    read_lanes(w, i, i.src[stochastic || interleaved ? 2 : 1], Type::f32, scale);
    if (stochastic) read_lanes(w, i, i.src[1], Type::u32, random);
    if (w.status == Status::faulted) return;
    const bool saturate = saturates(w);
    for (int n = 0; n < kValues; ++n) {
        Row value, other;
        if (wide == Wide::f32) {
            const uint32_t* const from = interleaved ? (n % 2 ? second : first) + n / 2 * kLanes : first + n * kLanes;
            std::memcpy(value.x, from, sizeof value.x);
            flush_f32(w, 0x10, value.x);
        } else if (n % 2) {
            split<wide>(first + n / 2 * kLanes, other.x, value.x);
        } else {
            split<wide>(first + n / 2 * kLanes, value.x, other.x);
        }
        alignas(64) uint32_t code[kLanes];
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) code[l] = narrow_scaled<F, rounding>(value.bits(l), scale[l], stochastic ? random[l] : 0, saturate);
        if (stochastic)
            for (uint32_t& x : random) x = next_random(x);
        const int dword = n * 6 / 32, shift = n * 6 % 32;
        for (int l = 0; l < kLanes; ++l) packed[dword * kLanes + l] |= code[l] << shift;
        if (shift > 32 - 6)
            for (int l = 0; l < kLanes; ++l) packed[(dword + 1) * kLanes + l] |= code[l] >> (32 - shift);
    }
    store_active(w, packed, kSixBitDwords, d);
}

template <class F, Wide wide>
void exec_widen32(Wave& w, const Inst& i) {
    constexpr int dwords = source_dwords(wide);
    const uint32_t* const codes = vector_range(w, i.src[0], kSixBitDwords);
    uint32_t* const d = codes ? vector_range(w, i.dst, dwords) : nullptr;
    if (!d) return;
    alignas(64) uint32_t scale[kLanes], out[dwords * kLanes];
    read_lanes(w, i, i.src[1], Type::f32, scale);
    if (w.status == Status::faulted) return;
    Row value[2];
    for (int n = 0; n < kValues; ++n) {
        Row& row = value[n % 2];
        decode_lanes<F>(codes, 6 * n, row.x);
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) row.x[l] *= as_float(scale_factor(scale[l]));
        if (wide == Wide::f32) flush_f32(w, 0x20, row.x), std::memcpy(out + n * kLanes, row.x, sizeof row.x);
        else if (n % 2) join<wide>(value[0].x, value[1].x, out + n / 2 * kLanes);
    }
    store_active(w, out, dwords, d);
}

// ---- rows ------------------------------------------------------------------------------------------------------------
constexpr Type type_of(Wide wide) { return wide == Wide::f32 ? Type::f32 : wide == Wide::f16 ? Type::f16 : Type::bf16; }

constexpr OpInfo widening(uint16_t opcode, const char* name, uint8_t archs, LaneFn lanes, Type dst) {
    return {opcode, name, archs, Class::VALU, exec_valu, lanes, dst, {Type::b32, Type::none, Type::none}};
}
constexpr OpInfo narrowing(uint16_t opcode, const char* name, uint8_t archs, LaneFn lanes, bool stochastic) {
    // A word of the destination is placed by the executor (op_sel[3], kMerges16), a byte by place_byte.
    return {opcode, name, archs, Class::VALU, exec_valu, lanes, stochastic ? Type::b32 : Type::b16,
            {Type::f32, stochastic ? Type::u32 : Type::f32, Type::none}, stochastic ? uint16_t{0} : uint16_t{kMerges16}};
}

const OpInfo kVop1Rows[] = {
    widening(84, "v_cvt_f32_fp8", kGfx942, widen_byte<E4M3Fnuz>, Type::f32),
    widening(84, "v_cvt_f32_fp8", kGfx950, widen_byte<E4M3>, Type::f32),
    widening(85, "v_cvt_f32_bf8", kGfx942, widen_byte<E5M2Fnuz>, Type::f32),
    widening(85, "v_cvt_f32_bf8", kGfx950, widen_byte<E5M2>, Type::f32),
    widening(86, "v_cvt_pk_f32_fp8", kGfx942, widen_word<E4M3Fnuz>, Type::pkf32),
    widening(86, "v_cvt_pk_f32_fp8", kGfx950, widen_word<E4M3>, Type::pkf32),
    widening(87, "v_cvt_pk_f32_bf8", kGfx942, widen_word<E5M2Fnuz>, Type::pkf32),
    widening(87, "v_cvt_pk_f32_bf8", kGfx950, widen_word<E5M2>, Type::pkf32),
};

template <class F, Wide wide>
constexpr OpInfo scaled_to_one(uint16_t opcode, const char* name) {
    return {opcode, name, kGfx950, Class::VALU, exec_valu, widen_one<F, wide>, type_of(wide), {Type::b32, Type::f32, Type::none},
            wide == Wide::f32 ? uint16_t{0} : uint16_t{kMerges16}};
}
template <class F, Wide wide>
constexpr OpInfo scaled_to_two(uint16_t opcode, const char* name) {
    return {opcode, name, kGfx950, Class::VALU, exec_valu, widen_two<F, wide>, wide == Wide::f32 ? Type::pkf32 : Type::b32,
            {Type::b32, Type::f32, Type::none}};
}
template <class F, Wide wide>
constexpr OpInfo scaled_from_one(uint16_t opcode, const char* name) {
    return {opcode, name, kGfx950, Class::VALU, exec_valu, narrow_one<F, wide>, Type::b32, {type_of(wide), Type::u32, Type::f32}};
}
template <class F, Wide wide, Rounding rounding = Rounding::to_nearest_even>
constexpr OpInfo scaled_from_two(uint16_t opcode, const char* name) {
    constexpr bool stochastic = rounding == Rounding::stochastic, from_f32 = wide == Wide::f32;
    const Type second = stochastic ? Type::u32 : Type::f32;   // random, or the other f32, or the scale
    return {opcode, name, kGfx950, Class::VALU, exec_valu, narrow_two<F, wide, rounding>, F::bits == 4 ? Type::b32 : Type::b16,
            {from_f32 ? (stochastic ? Type::b64 : Type::f32) : Type::b32, second, stochastic || from_f32 ? Type::f32 : Type::none},
            F::bits == 4 ? uint16_t{0} : uint16_t{kMerges16}};
}
constexpr OpInfo wide_row(uint16_t opcode, const char* name, ExecFn exec, int dst_dwords, int first_dwords, int second_dwords) {
    OpInfo op{opcode, name, kGfx950, Class::VALU, exec};
    op.dst = op.src[0] = Type::wide, op.src[1] = op.src[2] = Type::f32;
    if (second_dwords > 1) op.src[1] = Type::wide;
    op.dst_dwords = static_cast<uint8_t>(dst_dwords), op.src_dwords[0] = static_cast<uint8_t>(first_dwords);
    op.src_dwords[1] = static_cast<uint8_t>(second_dwords), op.src_dwords[2] = 1;
    return op;
}
template <class F, Wide wide, Rounding rounding = Rounding::to_nearest_even, bool interleaved = false>
constexpr OpInfo scaled_from_32(uint16_t opcode, const char* name) {
    constexpr int dwords = interleaved ? kValues / 2 : source_dwords(wide);
    return wide_row(opcode, name, exec_narrow32<F, wide, rounding, interleaved>, kSixBitDwords, dwords, interleaved ? dwords : 1);
}
template <class F, Wide wide>
constexpr OpInfo scaled_to_32(uint16_t opcode, const char* name) {
    return wide_row(opcode, name, exec_widen32<F, wide>, source_dwords(wide), kSixBitDwords, 1);
}

constexpr Rounding kStochastic = Rounding::stochastic, kNearest = Rounding::to_nearest_even;

const OpInfo kVop3Rows[] = {
    narrowing(674, "v_cvt_pk_fp8_f32", kGfx942, narrow_pair<E4M3Fnuz>, false),
    narrowing(674, "v_cvt_pk_fp8_f32", kGfx950, narrow_pair<E4M3>, false),
    narrowing(675, "v_cvt_pk_bf8_f32", kGfx942, narrow_pair<E5M2Fnuz>, false),
    narrowing(675, "v_cvt_pk_bf8_f32", kGfx950, narrow_pair<E5M2>, false),
    narrowing(676, "v_cvt_sr_fp8_f32", kGfx942, narrow_stochastic<E4M3Fnuz>, true),
    narrowing(676, "v_cvt_sr_fp8_f32", kGfx950, narrow_stochastic<E4M3>, true),
    narrowing(677, "v_cvt_sr_bf8_f32", kGfx942, narrow_stochastic<E5M2Fnuz>, true),
    narrowing(677, "v_cvt_sr_bf8_f32", kGfx950, narrow_stochastic<E5M2>, true),
    {678, "v_cvt_sr_f16_f32", kGfx950, Class::VALU, exec_valu, narrow_stochastic<Half>, Type::b16, {Type::f32, Type::u32, Type::none}, kMerges16},
    {679, "v_cvt_sr_bf16_f32", kGfx950, Class::VALU, exec_valu, narrow_stochastic<BFloat>, Type::b16, {Type::f32, Type::u32, Type::none}, kMerges16},

    scaled_from_two<E4M3, Wide::f32>(565, "v_cvt_scalef32_pk_fp8_f32"),
    scaled_from_two<E5M2, Wide::f32>(566, "v_cvt_scalef32_pk_bf8_f32"),
    scaled_from_one<E4M3, Wide::f32>(567, "v_cvt_scalef32_sr_fp8_f32"),
    scaled_from_one<E5M2, Wide::f32>(568, "v_cvt_scalef32_sr_bf8_f32"),
    scaled_to_two<E4M3, Wide::f32>(569, "v_cvt_scalef32_pk_f32_fp8"),
    scaled_to_two<E5M2, Wide::f32>(570, "v_cvt_scalef32_pk_f32_bf8"),
    scaled_to_one<E4M3, Wide::f32>(571, "v_cvt_scalef32_f32_fp8"),
    scaled_to_one<E5M2, Wide::f32>(572, "v_cvt_scalef32_f32_bf8"),
    scaled_from_two<E2M1, Wide::f32>(573, "v_cvt_scalef32_pk_fp4_f32"),
    scaled_from_two<E2M1, Wide::f32, kStochastic>(574, "v_cvt_scalef32_sr_pk_fp4_f32"),
    scaled_to_two<E2M1, Wide::f32>(575, "v_cvt_scalef32_pk_f32_fp4"),
    scaled_from_two<E4M3, Wide::f16>(576, "v_cvt_scalef32_pk_fp8_f16"),
    scaled_from_two<E5M2, Wide::f16>(577, "v_cvt_scalef32_pk_bf8_f16"),
    scaled_from_one<E4M3, Wide::f16>(578, "v_cvt_scalef32_sr_fp8_f16"),
    scaled_from_one<E5M2, Wide::f16>(579, "v_cvt_scalef32_sr_bf8_f16"),
    scaled_from_two<E4M3, Wide::bf16>(580, "v_cvt_scalef32_pk_fp8_bf16"),
    scaled_from_two<E5M2, Wide::bf16>(581, "v_cvt_scalef32_pk_bf8_bf16"),
    scaled_from_one<E4M3, Wide::bf16>(582, "v_cvt_scalef32_sr_fp8_bf16"),
    scaled_from_one<E5M2, Wide::bf16>(583, "v_cvt_scalef32_sr_bf8_bf16"),
    scaled_to_two<E4M3, Wide::f16>(584, "v_cvt_scalef32_pk_f16_fp8"),
    scaled_to_two<E5M2, Wide::f16>(585, "v_cvt_scalef32_pk_f16_bf8"),
    scaled_to_one<E4M3, Wide::f16>(586, "v_cvt_scalef32_f16_fp8"),
    scaled_to_one<E5M2, Wide::f16>(587, "v_cvt_scalef32_f16_bf8"),
    scaled_from_two<E2M1, Wide::f16>(588, "v_cvt_scalef32_pk_fp4_f16"),
    scaled_from_two<E2M1, Wide::bf16>(589, "v_cvt_scalef32_pk_fp4_bf16"),
    scaled_from_two<E2M1, Wide::f16, kStochastic>(590, "v_cvt_scalef32_sr_pk_fp4_f16"),
    scaled_from_two<E2M1, Wide::bf16, kStochastic>(591, "v_cvt_scalef32_sr_pk_fp4_bf16"),
    scaled_to_two<E2M1, Wide::f16>(592, "v_cvt_scalef32_pk_f16_fp4"),
    scaled_to_two<E2M1, Wide::bf16>(593, "v_cvt_scalef32_pk_bf16_fp4"),
    scaled_from_32<E2M3, Wide::f32, kNearest, true>(594, "v_cvt_scalef32_2xpk16_fp6_f32"),
    scaled_from_32<E3M2, Wide::f32, kNearest, true>(595, "v_cvt_scalef32_2xpk16_bf6_f32"),
    scaled_from_32<E2M3, Wide::f32, kStochastic>(596, "v_cvt_scalef32_sr_pk32_fp6_f32"),
    scaled_from_32<E3M2, Wide::f32, kStochastic>(597, "v_cvt_scalef32_sr_pk32_bf6_f32"),
    scaled_to_32<E2M3, Wide::f32>(598, "v_cvt_scalef32_pk32_f32_fp6"),
    scaled_to_32<E3M2, Wide::f32>(599, "v_cvt_scalef32_pk32_f32_bf6"),
    scaled_from_32<E2M3, Wide::f16>(600, "v_cvt_scalef32_pk32_fp6_f16"),
    scaled_from_32<E2M3, Wide::bf16>(601, "v_cvt_scalef32_pk32_fp6_bf16"),
    scaled_from_32<E3M2, Wide::f16>(602, "v_cvt_scalef32_pk32_bf6_f16"),
    scaled_from_32<E3M2, Wide::bf16>(603, "v_cvt_scalef32_pk32_bf6_bf16"),
    scaled_from_32<E2M3, Wide::f16, kStochastic>(604, "v_cvt_scalef32_sr_pk32_fp6_f16"),
    scaled_from_32<E2M3, Wide::bf16, kStochastic>(605, "v_cvt_scalef32_sr_pk32_fp6_bf16"),
    scaled_from_32<E3M2, Wide::f16, kStochastic>(606, "v_cvt_scalef32_sr_pk32_bf6_f16"),
    scaled_from_32<E3M2, Wide::bf16, kStochastic>(607, "v_cvt_scalef32_sr_pk32_bf6_bf16"),
    scaled_to_32<E2M3, Wide::f16>(608, "v_cvt_scalef32_pk32_f16_fp6"),
    scaled_to_32<E2M3, Wide::bf16>(609, "v_cvt_scalef32_pk32_bf16_fp6"),
    scaled_to_32<E3M2, Wide::f16>(610, "v_cvt_scalef32_pk32_f16_bf6"),
    scaled_to_32<E3M2, Wide::bf16>(611, "v_cvt_scalef32_pk32_bf16_bf6"),
    scaled_to_two<E4M3, Wide::bf16>(617, "v_cvt_scalef32_pk_bf16_fp8"),
    scaled_to_two<E5M2, Wide::bf16>(618, "v_cvt_scalef32_pk_bf16_bf8"),
};

}  // namespace

const OpTable kVop1Fp8Table = {Enc::VOP1, kVop1Rows, sizeof kVop1Rows / sizeof kVop1Rows[0]};
const OpTable kVop3Fp8Table = {Enc::VOP3, kVop3Rows, sizeof kVop3Rows / sizeof kVop3Rows[0]};

}  // namespace emu
