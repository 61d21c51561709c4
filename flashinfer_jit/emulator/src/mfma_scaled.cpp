// gfx950: v_mfma_f32_{16x16x128,32x32x64}_f8f6f4, and with E8M0 scales per 32 values of k (v_mfma_scale_*: 16 bytes, VOP3PX2).
//
// cbsz and blgp are the formats of A and B. A lane holds 32 values. Lane group g (lane / size) holds k = 32 g .. 32 g + 31 of the 6- and
// 4-bit formats, and of the 8-bit ones k = 16 g .. 16 g + 15 in the first four registers, K / 2 + 16 g .. + 15 in the next four
// (CDNA4 ISA manual, section 7.1.4: lanes hold 16-byte chunks of k). The scale of row (column) l % size and of the k block l / size is a
// byte of lane l of the scale operand. D is laid out as in mfma.cpp.
//
// Numerics: each block of 32 is summed from zero, fused, k ascending; its sum times 2^(a + b - 254) is then added to D. The hardware's own
// order is not published. A scale byte of 0xff makes NaN. Rounding is to nearest even and denormals are kept, whatever MODE says.
#include "fp8.h"
#include "matrix_tile.h"

namespace emu {
namespace {

constexpr int kValues = 32;

enum Format : uint8_t { kFp8, kBf8, kFp6, kBf6, kFp4, kFormats };
constexpr int kFormatDwords[kFormats] = {8, 8, 6, 6, 4};

template <class F>
void unpack(const uint32_t* registers, Tile& tile) {
    for (int n = 0; n < kValues; ++n) decode_lanes<F>(registers, n * F::bits, tile.x[n]);
}
void unpack(Format format, const uint32_t* registers, Tile& tile) {
    switch (format) {
        case kFp8: unpack<E4M3>(registers, tile); break;
        case kBf8: unpack<E5M2>(registers, tile); break;
        case kFp6: unpack<E2M3>(registers, tile); break;
        case kBf6: unpack<E3M2>(registers, tile); break;
        default: unpack<E2M1>(registers, tile); break;
    }
}

// Puts the values where the 6- and 4-bit formats have them: lane group g holds k = 32 g .. 32 g + 31.
template <int size>
void order_by_k(Format format, const Tile& from, Tile& to) {
    constexpr int groups = kLanes / size, half = groups * kValues / 2;
    if (format != kFp8 && format != kBf8) {
        to = from;
        return;
    }
    for (int g = 0; g < groups; ++g)
        for (int n = 0; n < kValues; ++n) {
            const int k = n / 16 * half + 16 * g + n % 16;
            std::memcpy(to.x[k % kValues] + k / kValues * size, from.x[n] + g * size, size * sizeof(float));
        }
}

// 2^(byte - 127) by lane for A or B; op_sel picks the byte of a register, a constant stands for its exponent field. In f64 the product of
// two of them and a sum of 32 is exact.
struct alignas(64) Scales {
    double factor[kLanes];
};
void read_scales(Wave& w, const Inst& i, int k, Scales& scales) {
    alignas(64) uint32_t raw[kLanes];
    const uint16_t code = i.scale_src[k];
    read_lanes(w, i, code, Type::f32, raw);
    const bool constant = code < operand::vgpr && code >= operand::inline_int;
    const int shift = constant ? 23 : 8 * ((i.scale_op_sel >> k & 1) | (i.scale_op_sel_hi >> k & 1) << 1);
    constexpr uint32_t kNan = 0xff;
    for (int l = 0; l < kLanes; ++l) {
        const uint32_t byte = raw[l] >> shift & 0xffu;
        const uint64_t bits = byte == kNan ? 0x7ff8000000000000ull : static_cast<uint64_t>(byte + 1023 - 127) << 52;
        std::memcpy(&scales.factor[l], &bits, 8);
    }
}

// d += sum * 2^(row scale + column scale) for the k block held by lane group `block`.
template <int size>
void add_scaled(const float* sum, const Scales& a, const Scales& b, int block, float* d) {
    constexpr int groups = kLanes / size;
    for (int reg = 0; reg < size * size / kLanes; ++reg)
        for (int g = 0; g < groups; ++g) {
            const int row = 4 * (reg / 4 * groups + g) + reg % 4, at = reg * kLanes + g * size;
            const double row_factor = a.factor[block * size + row];
            const double* const column_factor = b.factor + block * size;
#pragma omp simd
            for (int n = 0; n < size; ++n)
                d[at + n] = static_cast<float>(static_cast<double>(sum[at + n]) * (row_factor * column_factor[n]) + static_cast<double>(d[at + n]));
        }
}

template <int size>
void exec_scaled(Wave& w, const Inst& i) {
    constexpr int groups = kLanes / size, dst_dwords = size * size / kLanes;
    if (i.cbsz >= kFormats || i.blgp >= kFormats) {
        w.fault(FaultKind::unsupported, "cbsz and blgp of an f8f6f4 matrix instruction must be 0 (fp8), 1 (bf8), 2 (fp6), 3 (bf6) or 4 (fp4)");
        return;
    }
    const Format a_format = static_cast<Format>(i.cbsz), b_format = static_cast<Format>(i.blgp);
    const uint32_t* const a_registers = vector_range(w, i.src[0], kFormatDwords[a_format]);
    const uint32_t* const b_registers = a_registers ? vector_range(w, i.src[1], kFormatDwords[b_format]) : nullptr;
    uint32_t* const d = b_registers ? vector_range(w, i.dst, dst_dwords) : nullptr;
    if (!d) return;
    alignas(64) uint32_t c[dst_dwords * kLanes];
    if (!read_addend(w, i, dst_dwords, c)) return;
    // The scale prefix has modifiers of its own, of which those of C are legal: abs in bit 10 of its first dword, neg in bit 31 of its second.
    // ABID[0] clear: the scales are 1.
    const bool has_prefix = i.scale_src[0] != operand::none, scaled = has_prefix && (i.abid & 1);
    Scales a_scales, b_scales;
    if (has_prefix) {
        const uint32_t keep = i.raw[0] >> 10 & 1 ? 0x7fffffffu : ~0u, flip = i.raw[1] & 0x80000000u;
        for (uint32_t& x : c) x = (x & keep) ^ flip;
    }
    if (scaled) {
        read_scales(w, i, 0, a_scales), read_scales(w, i, 1, b_scales);
        if (w.status == Status::faulted) return;
    }
    Tile unordered, a, b;
    unpack(a_format, a_registers, unordered), order_by_k<size>(a_format, unordered, a);
    unpack(b_format, b_registers, unordered), order_by_k<size>(b_format, unordered, b);
    alignas(64) float result[dst_dwords * kLanes], sum[dst_dwords * kLanes];
    alignas(64) static const float kZero[kLanes] = {};
    std::memcpy(result, c, sizeof result);
    for (int block = 0; block < groups; ++block) {
        multiply_accumulate<size>(a, b, kValues, 1, {block, block + 1}, kZero, 0, sum);
        if (scaled) {
            add_scaled<size>(sum, a_scales, b_scales, block, result);
        } else {
#pragma omp simd
            for (int n = 0; n < dst_dwords * kLanes; ++n) result[n] += sum[n];
        }
    }
    std::memcpy(d, result, sizeof result);
    if (w.counters) w.counters->mfma_flops += i.op->flops;
}

constexpr OpInfo scaled_row(uint16_t opcode, const char* name, ExecFn exec, int size, uint8_t passes) {
    OpInfo op{opcode, name, kGfx950, Class::MFMA, exec};
    op.dst = op.src[0] = op.src[1] = op.src[2] = Type::wide;
    op.flags = kIgnoresExec | kNoClamp;
    op.dst_dwords = op.src_dwords[2] = static_cast<uint8_t>(size * size / kLanes), op.src_dwords[0] = op.src_dwords[1] = 8;
    op.flops = static_cast<uint32_t>(2 * size * size * (kLanes / size * kValues)), op.passes = passes;
    return op;
}

// Passes with an 8-bit operand; half of them without one (matrix_passes).
const OpInfo kRows[] = {
    scaled_row(45, "v_mfma_f32_16x16x128_f8f6f4", exec_scaled<16>, 16, 8),
    scaled_row(46, "v_mfma_f32_32x32x64_f8f6f4", exec_scaled<32>, 32, 16),
};

}  // namespace

int matrix_passes(const Inst& i) {
    const bool is_f8f6f4 = i.op->exec == exec_scaled<16> || i.op->exec == exec_scaled<32>;
    return is_f8f6f4 && i.cbsz >= kFp6 && i.blgp >= kFp6 ? i.op->passes / 2 : i.op->passes;
}

const OpTable kMfmaScaledTable = {Enc::VOP3P, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
