// VOP3 on the bytes of a register: permutation, alignment, sums of absolute differences, packing of bytes.
#include <immintrin.h>

#include "lanes.h"
#include "vop3.h"

namespace emu {
namespace {

// ---- v_perm_b32 ----------------------------------------------------------------------------------------------------
// Selector bytes 0..3 name bytes of S1, 4..7 of S0, 8..11 the signs of bytes 1, 3, 5, 7; 12 is 0x00, above is 0xff.
uint32_t permuted_byte(uint32_t a, uint32_t b, uint32_t select) {
    const uint32_t word = select & 4u ? a : b, byte = word >> (8u * (select & 3u)) & 0xffu;
    const uint32_t signed_word = select & 2u ? a : b, sign = signed_word >> (select & 1u ? 31u : 15u) & 1u ? 0xffu : 0u;
    const uint32_t constant = select == 12u ? 0u : 0xffu;
    return select < 8u ? byte : select < 12u ? sign : constant;
}
uint32_t permuted(uint32_t a, uint32_t b, uint32_t c) {
    return permuted_byte(a, b, c & 0xffu) | permuted_byte(a, b, c >> 8 & 0xffu) << 8 | permuted_byte(a, b, c >> 16 & 0xffu) << 16 | permuted_byte(a, b, c >> 24) << 24;
}

bool uniform(const uint32_t* v) {
    uint32_t difference = 0;
#pragma omp simd reduction(| : difference)
    for (int l = 0; l < kLanes; ++l) difference |= v[l] ^ v[0];
    return difference == 0;
}

// One selector for all lanes, naming bytes or constants: two byte shuffles of the host.
bool permute_uniform(const LaneArgs& x) {
    const uint32_t selector = x.c[0];
    uint32_t from_a = 0, from_b = 0, ones = 0;
    for (int n = 0; n < 32; n += 8) {
        const uint32_t select = selector >> n & 0xffu;
        if (select >= 8 && select < 12) return false;
        constexpr uint32_t kZero = 0x80;
        from_a |= (select >= 4 && select < 8 ? select & 3u : kZero) << n;
        from_b |= (select < 4 ? select : kZero) << n;
        ones |= (select > 12 ? 0xffu : 0u) << n;
    }
    // The shuffle works inside 128 bits: dword k takes its own bytes.
    const __m256i dword = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
    const __m256i shuffle_a = _mm256_or_si256(_mm256_set1_epi32(static_cast<int>(from_a)), dword);
    const __m256i shuffle_b = _mm256_or_si256(_mm256_set1_epi32(static_cast<int>(from_b)), dword);
    const __m256i constant = _mm256_set1_epi32(static_cast<int>(ones));
    for (int l = 0; l < kLanes; l += 8) {
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x.a + l)), b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x.b + l));
        const __m256i bytes = _mm256_or_si256(_mm256_shuffle_epi8(a, shuffle_a), _mm256_shuffle_epi8(b, shuffle_b));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(x.d + l), _mm256_or_si256(bytes, constant));
    }
    return true;
}

uint32_t aligned_bits(uint32_t a, uint32_t b, uint32_t c) {
    const uint32_t shift = c & 31u;
    return b >> shift | a << 1 << (31u - shift);
}
uint32_t aligned_bytes(uint32_t a, uint32_t b, uint32_t c) { return aligned_bits(a, b, (c & 3u) * 8u); }

uint32_t interpolated(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r = 0;
    for (int n = 0; n < 32; n += 8) r |= ((a >> n & 0xffu) + (b >> n & 0xffu) + (c >> n & 1u)) >> 1 << n;
    return r;
}

// ---- sums of absolute differences ----------------------------------------------------------------------------------
uint32_t distance(uint32_t a, uint32_t b) { return a > b ? a - b : b - a; }
template <int bits>
uint32_t sum_of_differences(uint32_t a, uint32_t b) {
    constexpr uint32_t mask = (1u << bits) - 1u;
    uint32_t sum = 0;
    for (int n = 0; n < 32; n += bits) sum += distance(a >> n & mask, b >> n & mask);
    return sum;
}
// Bytes whose reference (S1) is 0 do not count.
uint32_t masked_sum(uint32_t a, uint32_t b) {
    uint32_t sum = 0;
    for (int n = 0; n < 32; n += 8) {
        const uint32_t reference = b >> n & 0xffu;
        sum += reference ? distance(a >> n & 0xffu, reference) : 0u;
    }
    return sum;
}

template <int bits> uint32_t sad(uint32_t a, uint32_t b, uint32_t c) { return sum_of_differences<bits>(a, b) + c; }
template <int bits> int64_t exact_sad(uint32_t a, uint32_t b, uint32_t c) { return int64_t{sum_of_differences<bits>(a, b)} + c; }
uint32_t sad_hi(uint32_t a, uint32_t b, uint32_t c) { return (sum_of_differences<8>(a, b) << 16) + c; }
int64_t exact_sad_hi(uint32_t a, uint32_t b, uint32_t c) { return (int64_t{sum_of_differences<8>(a, b)} << 16) + c; }
uint32_t sad32(uint32_t a, uint32_t b, uint32_t c) { return distance(a, b) + c; }
int64_t exact_sad32(uint32_t a, uint32_t b, uint32_t c) { return int64_t{distance(a, b)} + c; }
uint32_t msad(uint32_t a, uint32_t b, uint32_t c) { return masked_sum(a, b) + c; }
int64_t exact_msad(uint32_t a, uint32_t b, uint32_t c) { return int64_t{masked_sum(a, b)} + c; }

// Four sums at byte offsets 0..3 of S0, each added to its 16 bits of S2.
template <uint32_t (*f)(uint32_t, uint32_t)>
void quad_sad(const LaneArgs& x) {
    const bool clamp = x.inst->clamp;
    for (int l = 0; l < kLanes; ++l) {
        const uint64_t a = detail::load_lane<uint64_t>(x.a, l), c = detail::load_lane<uint64_t>(x.c, l);
        uint64_t r = 0;
        for (int n = 0; n < 4; ++n) {
            uint64_t sum = f(static_cast<uint32_t>(a >> (8 * n)), x.b[l]) + (c >> (16 * n) & 0xffffu);
            if (clamp && sum > 0xffffu) sum = 0xffffu;
            r |= (sum & 0xffffu) << (16 * n);
        }
        detail::store_lane<uint64_t>(x.d, l, r);
    }
}

uint32_t byte_from_float(float x) { return static_cast<uint32_t>(x >= 255.0f ? 255 : x > 0.0f ? static_cast<int32_t>(x) : 0); }
uint32_t placed_byte(float a, uint32_t b, uint32_t c) {
    const uint32_t shift = (b & 3u) * 8u;
    return (c & ~(0xffu << shift)) | byte_from_float(a) << shift;
}

}  // namespace

void perm_b32(const LaneArgs& x) {
    if (!uniform(x.c) || !permute_uniform(x)) lanes<permuted>(x);
}
void alignbit(const LaneArgs& x) { lanes<aligned_bits>(x); }
void alignbyte(const LaneArgs& x) { lanes<aligned_bytes>(x); }
void lerp_u8(const LaneArgs& x) { lanes<interpolated>(x); }
void sad_u8(const LaneArgs& x) { saturating_lanes<sad<8>, exact_sad<8>>(x); }
void sad_hi_u8(const LaneArgs& x) { saturating_lanes<sad_hi, exact_sad_hi>(x); }
void sad_u16(const LaneArgs& x) { saturating_lanes<sad<16>, exact_sad<16>>(x); }
void sad_u32(const LaneArgs& x) { saturating_lanes<sad32, exact_sad32>(x); }
void msad_u8(const LaneArgs& x) { saturating_lanes<msad, exact_msad>(x); }
void qsad_pk_u16_u8(const LaneArgs& x) { quad_sad<sum_of_differences<8>>(x); }
void mqsad_pk_u16_u8(const LaneArgs& x) { quad_sad<masked_sum>(x); }
void cvt_pk_u8_f32(const LaneArgs& x) { lanes<placed_byte>(x); }

// The only opcode of this encoding with 128-bit operands.
void exec_mqsad_u32_u8(Wave& w, const Inst& i) {
    alignas(64) uint32_t a[2 * kLanes], b[kLanes], result[4][kLanes];
    read_lanes(w, i, i.src[0], Type::b64, a);
    read_lanes(w, i, i.src[1], Type::b32, b);
    if (i.src[2] < operand::vgpr || i.src[2] == operand::none) w.fault(FaultKind::unsupported, "v_mqsad_u32_u8 with a third source that is no VGPR");
    if (w.status == Status::faulted) return;
    for (int n = 0; n < 4; ++n) {
        const uint32_t* c = w.reg(static_cast<uint16_t>(i.src[2] + n));
        for (int l = 0; l < kLanes; ++l) {
            const uint64_t sum = uint64_t{masked_sum(static_cast<uint32_t>(detail::load_lane<uint64_t>(a, l) >> (8 * n)), b[l])} + c[l];
            result[n][l] = i.clamp && sum >> 32 ? ~0u : static_cast<uint32_t>(sum);
        }
    }
    const uint32_t* active = w.active_lanes();
    for (int n = 0; n < 4; ++n) {
        uint32_t* d = w.reg(static_cast<uint16_t>(i.dst + n));
        for (int l = 0; l < kLanes; ++l) d[l] = (result[n][l] & active[l]) | (d[l] & ~active[l]);
    }
}

}  // namespace emu
