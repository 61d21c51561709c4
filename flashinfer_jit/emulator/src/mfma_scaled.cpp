// gfx950: v_mfma_f32_{16x16x128,32x32x64}_f8f6f4, and with E8M0 scales per 32 values of k (v_mfma_scale_*: 16 bytes, VOP3PX2).
//
// cbsz and blgp are the formats of A and B. A lane holds 32 values. Lane group g (lane / size) holds k = 32 g .. 32 g + 31 of the 6- and
// 4-bit formats, and of the 8-bit ones k = 16 g .. 16 g + 15 in the first four registers, K / 2 + 16 g .. + 15 in the next four
// (CDNA4 ISA manual, section 7.1.4: lanes hold 16-byte chunks of k). The scale of row (column) l % size and of the k block l / size is a
// byte of lane l of the scale operand. D is laid out as in mfma.cpp.
//
// Numerics: each block of 32 is summed from zero, fused, k ascending; its sum times 2^(a + b - 254) is then added to D. The hardware's own
// order is not published. A scale byte of 0xff makes NaN. Rounding is to nearest even and denormals are kept, whatever MODE says.
#include <cmath>

#include "fp8.h"
#include "matrix_tile.h"

namespace emu {
namespace {

constexpr int kValues = 32;

enum Format : uint8_t { kFp8, kBf8, kFp6, kBf6, kFp4, kFormats };
constexpr int kFormatDwords[kFormats] = {8, 8, 6, 6, 4};

template <class F>
void unpack(const uint32_t* registers, Tile& tile) {
    alignas(64) uint32_t codes[kLanes];
    for (int n = 0; n < kValues; ++n) {
        const int dword = n * F::bits / 32, shift = n * F::bits % 32;
        const uint32_t* const from = registers + dword * kLanes;
        const bool crosses = shift + F::bits > 32;
        for (int l = 0; l < kLanes; ++l) codes[l] = from[l] >> shift | (crosses ? from[kLanes + l] << (32 - shift) : 0u);
        decode_lanes<F>(codes, 0, tile.x[n]);
    }
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

// Rows of one k: by_k[k][row], whatever the format's order of k.
template <int size>
struct alignas(64) Matrix {
    static constexpr int groups = kLanes / size, k = groups * kValues;
    float by_k[k][size];

    Matrix(const Tile& tile, Format format) {
        const bool is_split = format == kFp8 || format == kBf8;
        for (int g = 0; g < groups; ++g)
            for (int n = 0; n < kValues; ++n) {
                const int at = is_split ? n / 16 * (k / 2) + 16 * g + n % 16 : kValues * g + n;
                std::memcpy(by_k[at], tile.x[n] + g * size, size * sizeof(float));
            }
    }
};

// Scale bytes of A and B by lane; op_sel picks the byte of a register. A constant stands for its exponent field.
struct Scales {
    int32_t a[kLanes], b[kLanes];
    bool enabled = false;
};
void read_scale(Wave& w, const Inst& i, int k, int32_t* out) {
    alignas(64) uint32_t raw[kLanes];
    const uint16_t code = i.scale_src[k];
    read_lanes(w, i, code, Type::f32, raw);
    const bool constant = code < operand::vgpr && code >= operand::inline_int;
    const int shift = constant ? 23 : 8 * ((i.scale_op_sel >> k & 1) | (i.scale_op_sel_hi >> k & 1) << 1);
    for (int l = 0; l < kLanes; ++l) out[l] = static_cast<int32_t>(raw[l] >> shift & 0xffu);
}

constexpr int kScaleNan = 0xff, kScaleBias = 127;

// d += A * B over one block of k for four rows of D, with 2^(row scale + column scale).
template <int size>
void add_block(const Matrix<size>& a, const Matrix<size>& b, int block, int row, const Scales& scales, float (*d)[size]) {
    float sum[4][size] = {};
    for (int k = block * kValues; k < (block + 1) * kValues; ++k) {
        const float* const b_k = b.by_k[k];
        for (int r = 0; r < 4; ++r) {
            const float a_value = a.by_k[k][row + r];
#pragma omp simd
            for (int n = 0; n < size; ++n) sum[r][n] = std::fma(a_value, b_k[n], sum[r][n]);
        }
    }
    for (int r = 0; r < 4; ++r) {
        if (!scales.enabled) {
#pragma omp simd
            for (int n = 0; n < size; ++n) d[r][n] += sum[r][n];
            continue;
        }
        const int32_t row_scale = scales.a[block * size + row + r];
        for (int n = 0; n < size; ++n) {
            const int32_t column_scale = scales.b[block * size + n];
            const bool is_nan = row_scale == kScaleNan || column_scale == kScaleNan;
            // 2^-254 .. 2^254 and its product with a sum of 32 are exact in f64.
            const uint64_t factor_bits = static_cast<uint64_t>(row_scale + column_scale - 2 * kScaleBias + 1023) << 52;
            double factor;
            std::memcpy(&factor, &factor_bits, 8);
            d[r][n] = is_nan ? std::nanf("") : static_cast<float>(static_cast<double>(sum[r][n]) * factor + static_cast<double>(d[r][n]));
        }
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
    Scales scales;
    if (i.scale_src[0] != operand::none) {
        const uint32_t keep = i.raw[0] >> 10 & 1 ? 0x7fffffffu : ~0u, flip = i.raw[1] & 0x80000000u;
        for (uint32_t& x : c) x = (x & keep) ^ flip;
        // ABID[0] clear: the scales are 1.
        if (i.abid & 1) {
            scales.enabled = true;
            read_scale(w, i, 0, scales.a), read_scale(w, i, 1, scales.b);
            if (w.status == Status::faulted) return;
        }
    }
    Tile tile;
    unpack(a_format, a_registers, tile);
    const Matrix<size> a(tile, a_format);
    unpack(b_format, b_registers, tile);
    const Matrix<size> b(tile, b_format);
    for (int chunk = 0; chunk < size / 4; ++chunk) {
        const int reg = 4 * (chunk / groups), lane = size * (chunk % groups);
        alignas(64) float rows[4][size];
        for (int r = 0; r < 4; ++r) std::memcpy(rows[r], c + (reg + r) * kLanes + lane, sizeof rows[r]);
        for (int block = 0; block < groups; ++block) add_block<size>(a, b, block, 4 * chunk, scales, rows);
        for (int r = 0; r < 4; ++r) std::memcpy(d + (reg + r) * kLanes + lane, rows[r], sizeof rows[r]);
    }
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
