// f64 matrix instructions, and by name those that are not implemented: xf32 (gfx942) and sparse (v_smfmac).
#include <cmath>
#include <cstdio>

#include "register_range.h"

namespace emu {
namespace {

// Lane l of A holds A[block][row = l % size][k], of B B[block][k][column = l % size], with block = l / size % blocks and
// k = l / (size * blocks). D[block][row][column] is in register pair row / groups of lane (row % groups) * size * blocks + block * size +
// column, where groups = 64 / (size * blocks). The fields cbsz and abid have no meaning; blgp negates A, B and C (bits 0, 1, 2).
// Fused, k ascending from C; rounding to nearest even whatever MODE says.
template <int size, int blocks>
void exec_f64(Wave& w, const Inst& i) {
    constexpr int groups = kLanes / (size * blocks), pairs = size / groups, depth = 4;
    const uint32_t* const a = vector_range(w, i.src[0], 2);
    const uint32_t* const b = a ? vector_range(w, i.src[1], 2) : nullptr;
    uint32_t* const d = b ? vector_range(w, i.dst, 2 * pairs) : nullptr;
    if (!d) return;
    const auto element = [](const uint32_t* pair, int lane, bool negate) {
        const uint64_t bits = (pair[lane] | static_cast<uint64_t>(pair[kLanes + lane]) << 32) ^ (negate ? 1ull << 63 : 0ull);
        double x;
        std::memcpy(&x, &bits, 8);
        return x;
    };
    const bool negate_c = i.blgp >> 2 & 1;
    double result[pairs][kLanes];
    if (i.src[2] < operand::vgpr) {
        uint64_t bits = read_scalar64(w, i, i.src[2], Type::f64) ^ (negate_c ? 1ull << 63 : 0ull);
        if (w.status == Status::faulted) return;
        for (auto& row : result)
            for (double& x : row) std::memcpy(&x, &bits, 8);
    } else {
        const uint32_t* const c = vector_range(w, i.src[2], 2 * pairs);
        if (!c) return;
        for (int p = 0; p < pairs; ++p)
            for (int l = 0; l < kLanes; ++l) result[p][l] = element(c + 2 * p * kLanes, l, negate_c);
    }
    double left[kLanes], right[kLanes];
    for (int l = 0; l < kLanes; ++l) left[l] = element(a, l, i.blgp & 1), right[l] = element(b, l, i.blgp >> 1 & 1);
    for (int p = 0; p < pairs; ++p)
        for (int l = 0; l < kLanes; ++l) {
            const int row = p * groups + l / (size * blocks), block = l / size % blocks, column = l % size;
            for (int k = 0; k < depth; ++k) {
                const int base = k * size * blocks + block * size;
                result[p][l] = std::fma(left[base + row], right[base + column], result[p][l]);
            }
        }
    for (int p = 0; p < pairs; ++p)
        for (int l = 0; l < kLanes; ++l) {
            uint64_t bits;
            std::memcpy(&bits, &result[p][l], 8);
            d[2 * p * kLanes + l] = static_cast<uint32_t>(bits), d[(2 * p + 1) * kLanes + l] = static_cast<uint32_t>(bits >> 32);
        }
    if (w.counters) w.counters->mfma_flops += i.op->flops;
}

void exec_refused(Wave& w, const Inst& i) {
    char text[96];
    std::snprintf(text, sizeof text, "%s is not implemented by the emulator", i.op->name);
    w.fault(FaultKind::unsupported, text);
}

constexpr OpInfo row(uint16_t opcode, const char* name, ExecFn exec, uint8_t archs, uint8_t passes, int a_dwords, int b_dwords, int c_dwords,
                     int dst_dwords, uint32_t flops) {
    OpInfo op{opcode, name, archs, Class::MFMA, exec};
    op.dst = op.src[0] = op.src[1] = op.src[2] = Type::wide;
    op.flags = static_cast<uint16_t>(kIgnoresExec | kNoClamp | (exec == exec_refused ? kRefused : 0));
    op.src_dwords[0] = static_cast<uint8_t>(a_dwords), op.src_dwords[1] = static_cast<uint8_t>(b_dwords);
    op.src_dwords[2] = static_cast<uint8_t>(c_dwords), op.dst_dwords = static_cast<uint8_t>(dst_dwords);
    op.flops = flops, op.passes = passes;
    return op;
}
constexpr OpInfo xf32(uint16_t opcode, const char* name, uint8_t passes, int dst_dwords) {
    return row(opcode, name, exec_refused, kGfx942, passes, 2, 2, dst_dwords, dst_dwords, 0);
}
// src2 is the index register, C is the destination. A is half as long as B.
template <int size, int a_dwords>
constexpr OpInfo sparse(uint16_t opcode, const char* name, uint8_t archs = kBoth) {
    return row(opcode, name, exec_refused, archs, size == 16 ? 4 : 8, a_dwords, 2 * a_dwords, 1, size * size / kLanes, 0);
}

const OpInfo kRows[] = {
    row(110, "v_mfma_f64_16x16x4_f64", exec_f64<16, 1>, kGfx942, 8, 2, 2, 8, 8, 2 * 16 * 16 * 4),
    row(110, "v_mfma_f64_16x16x4_f64", exec_f64<16, 1>, kGfx950, 16, 2, 2, 8, 8, 2 * 16 * 16 * 4),
    row(111, "v_mfma_f64_4x4x4_4b_f64", exec_f64<4, 4>, kBoth, 4, 2, 2, 2, 2, 2 * 4 * 4 * 4 * 4),
    xf32(62, "v_mfma_f32_16x16x8_xf32", 4, 4),
    xf32(63, "v_mfma_f32_32x32x4_xf32", 8, 16),
    sparse<16, 2>(98, "v_smfmac_f32_16x16x32_f16"),
    sparse<32, 2>(100, "v_smfmac_f32_32x32x16_f16"),
    sparse<16, 2>(102, "v_smfmac_f32_16x16x32_bf16"),
    sparse<32, 2>(104, "v_smfmac_f32_32x32x16_bf16"),
    sparse<16, 2>(106, "v_smfmac_i32_16x16x64_i8"),
    sparse<32, 2>(108, "v_smfmac_i32_32x32x32_i8"),
    sparse<16, 2>(120, "v_smfmac_f32_16x16x64_bf8_bf8"),
    sparse<16, 2>(121, "v_smfmac_f32_16x16x64_bf8_fp8"),
    sparse<16, 2>(122, "v_smfmac_f32_16x16x64_fp8_bf8"),
    sparse<16, 2>(123, "v_smfmac_f32_16x16x64_fp8_fp8"),
    sparse<32, 2>(124, "v_smfmac_f32_32x32x32_bf8_bf8"),
    sparse<32, 2>(125, "v_smfmac_f32_32x32x32_bf8_fp8"),
    sparse<32, 2>(126, "v_smfmac_f32_32x32x32_fp8_bf8"),
    sparse<32, 2>(127, "v_smfmac_f32_32x32x32_fp8_fp8"),
    sparse<16, 4>(57, "v_smfmac_f32_16x16x64_bf16", kGfx950),
    sparse<16, 4>(58, "v_smfmac_i32_16x16x128_i8", kGfx950),
    sparse<16, 4>(59, "v_smfmac_f32_16x16x128_bf8_bf8", kGfx950),
    sparse<16, 4>(60, "v_smfmac_f32_16x16x128_bf8_fp8", kGfx950),
    sparse<16, 4>(61, "v_smfmac_f32_16x16x128_fp8_bf8", kGfx950),
    sparse<16, 4>(67, "v_smfmac_f32_16x16x128_fp8_fp8", kGfx950),
    sparse<32, 4>(70, "v_smfmac_f32_32x32x32_bf16", kGfx950),
    sparse<32, 4>(71, "v_smfmac_i32_32x32x64_i8", kGfx950),
    sparse<32, 4>(75, "v_smfmac_f32_32x32x64_bf8_bf8", kGfx950),
    sparse<32, 4>(78, "v_smfmac_f32_32x32x64_bf8_fp8", kGfx950),
    sparse<32, 4>(79, "v_smfmac_f32_32x32x64_fp8_bf8", kGfx950),
    sparse<32, 4>(83, "v_smfmac_f32_32x32x64_fp8_fp8", kGfx950),
    sparse<16, 4>(90, "v_smfmac_f32_16x16x64_f16", kGfx950),
    sparse<32, 4>(91, "v_smfmac_f32_32x32x32_f16", kGfx950),
};

}  // namespace

const OpTable kMfmaOtherTable = {Enc::VOP3P, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
