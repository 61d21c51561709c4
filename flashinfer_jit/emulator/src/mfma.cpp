// Dense matrix instructions with f32, f16, bf16, fp8, bf8 and i8 operands (VOP3P, MAI encoding).
#include <cmath>
#include <type_traits>

#include "fp8.h"
#include "matrix_tile.h"
#include "packed_half.h"

namespace emu {
namespace {

// Element types of A and B: registers[reg][lane] to tile.x[item][lane].
struct F32 {
    static constexpr int per_dword = 1;
    static void unpack(const Wave& w, const uint32_t* registers, int dwords, Tile& tile) {
        std::memcpy(tile.x, registers, static_cast<size_t>(dwords) * sizeof tile.x[0]);
        // Alone among the matrix instructions, these flush their inputs where MODE says so; C and D are never flushed.
        constexpr uint32_t kKeepInputDenormals = 0x10;
        if (w.mode & kKeepInputDenormals) return;
        for (int reg = 0; reg < dwords; ++reg)
            for (int l = 0; l < kLanes; ++l)
                if (!(registers[reg * kLanes + l] & 0x7f800000u)) tile.x[reg][l] = std::copysign(0.0f, tile.x[reg][l]);
    }
};

struct BF16 {
    static constexpr int per_dword = 2;
    static void unpack(const Wave&, const uint32_t* registers, int dwords, Tile& tile) {
        for (int reg = 0; reg < dwords; ++reg) split_bfloats(registers + reg * kLanes, tile.x[2 * reg], tile.x[2 * reg + 1]);
    }
};

struct F16 {
    static constexpr int per_dword = 2;
    static void unpack(const Wave&, const uint32_t* registers, int dwords, Tile& tile) {
        for (int reg = 0; reg < dwords; ++reg) split_halves(registers + reg * kLanes, tile.x[2 * reg], tile.x[2 * reg + 1]);
    }
};

struct I8 {
    static constexpr int per_dword = 4;
    static void unpack(const Wave&, const uint32_t* registers, int dwords, Tile& tile) {
        for (int reg = 0; reg < dwords; ++reg)
            for (int byte = 0; byte < 4; ++byte) {
                const uint32_t* const in = registers + reg * kLanes;
                float* const out = tile.x[4 * reg + byte];
#pragma omp simd
                for (int l = 0; l < kLanes; ++l)
                    out[l] = static_cast<float>(static_cast<int32_t>(in[l] << (24 - 8 * byte)) >> 24);
            }
    }
};

// FP8 (e4m3) and BF8 (e5m2): FNUZ on gfx942, OCP on gfx950.
template <class Ocp, class Fnuz>
struct Byte {
    static constexpr int per_dword = 4;
    static void unpack(const Wave& w, const uint32_t* registers, int dwords, Tile& tile) {
        if (w.launch->arch == Arch::gfx950) decode<Ocp>(registers, 4 * dwords, tile);
        else decode<Fnuz>(registers, 4 * dwords, tile);
    }

private:
    template <class F>
    static void decode(const uint32_t* registers, int items, Tile& tile) {
        for (int n = 0; n < items; ++n) decode_lanes<F>(registers, 8 * n, tile.x[n]);
    }
};
using FP8 = Byte<E4M3, E4M3Fnuz>;
using BF8 = Byte<E5M2, E5M2Fnuz>;

void permute_lanes(Tile& tile, int items, const uint8_t* source) {
    for (int i = 0; i < items; ++i) {
        float lanes[kLanes];
        std::memcpy(lanes, tile.x[i], sizeof lanes);
        for (int l = 0; l < kLanes; ++l) tile.x[i][l] = lanes[source[l]];
    }
}

// CBSZ, ABID: A is read from chunk `abid` of 2^cbsz equal chunks of the wave (CDNA3 ISA manual, section 7.1.6). Where 2^cbsz is the
// number of blocks, as in all code we know of, that is block `abid` for every block.
bool broadcast_a(Wave& w, const Inst& i, int blocks, int items, Tile& a) {
    if (!i.cbsz) return true;
    if (1 << i.cbsz > blocks || i.abid >= 1 << i.cbsz) {
        w.fault(FaultKind::unsupported, "cbsz or abid exceeds the blocks of this matrix instruction: undefined on the hardware");
        return false;
    }
    const int chunk = kLanes >> i.cbsz;
    uint8_t source[kLanes];
    for (int l = 0; l < kLanes; ++l) source[l] = static_cast<uint8_t>(l % chunk + chunk * i.abid);
    permute_lanes(a, items, source);
    return true;
}

// BLGP: which group of 16 lanes of B each group of 16 lanes reads.
void permute_b(int blgp, int items, Tile& b) {
    static const uint8_t kGroup[8][4] = {{0, 1, 2, 3}, {0, 1, 0, 1}, {2, 3, 2, 3}, {1, 2, 3, 0},
                                         {0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}};
    uint8_t source[kLanes];
    for (int l = 0; l < kLanes; ++l) source[l] = static_cast<uint8_t>(16 * kGroup[blgp][l / 16] + l % 16);
    permute_lanes(b, items, source);
}

template <class A, class B, int size, int k, int blocks>
struct Mfma {
    static constexpr int per_lane = k * size * blocks / kLanes;
    static constexpr int operand_dwords = per_lane / A::per_dword, dst_dwords = size * size * blocks / kLanes;
    static constexpr bool integer = A::per_dword == 4 && std::is_same<A, I8>::value;

    static void exec(Wave& w, const Inst& i) {
        const uint32_t* const a_registers = vector_range(w, i.src[0], operand_dwords);
        const uint32_t* const b_registers = a_registers ? vector_range(w, i.src[1], operand_dwords) : nullptr;
        uint32_t* const d = b_registers ? vector_range(w, i.dst, dst_dwords) : nullptr;
        if (!d) return;
        const uint32_t* c = nullptr;
        int c_stride = kLanes;
        alignas(64) uint32_t constant[kLanes];
        alignas(64) uint32_t copy[dst_dwords * kLanes];
        if (i.src[2] < operand::vgpr) {
            const uint32_t value = read_scalar32(w, i, i.src[2]);
            for (uint32_t& x : constant) x = value;
            c = constant, c_stride = 0;
        } else {
            c = vector_range(w, i.src[2], dst_dwords);
            if (!c) return;
            // Chunks are written in order: a C that overlaps D at another register must be read as a whole first.
            if (c != d && c < d + dst_dwords * kLanes && d < c + dst_dwords * kLanes)
                c = static_cast<const uint32_t*>(std::memcpy(copy, c, sizeof copy));
        }
        Tile a, b;
        A::unpack(w, a_registers, operand_dwords, a);
        B::unpack(w, b_registers, operand_dwords, b);
        if (!broadcast_a(w, i, blocks, per_lane, a)) return;
        if (i.blgp) permute_b(i.blgp, per_lane, b);
        constexpr GroupRange all = {0, blocks == 1 ? kLanes / size : 1};
        if (integer) {
            // At most 32 products of 8-bit integers: exact in f32. The addition of C wraps.
            alignas(64) static const float kZero[kLanes] = {};
            alignas(64) float product[dst_dwords * kLanes];
            multiply_accumulate<size>(a, b, per_lane, blocks, all, kZero, 0, product);
            for (int r = 0; r < dst_dwords; ++r)
#pragma omp simd
                for (int l = 0; l < kLanes; ++l)
                    d[r * kLanes + l] = c[r * c_stride + l] + static_cast<uint32_t>(static_cast<int32_t>(product[r * kLanes + l]));
        } else {
            multiply_accumulate<size>(a, b, per_lane, blocks, all, reinterpret_cast<const float*>(c), c_stride,
                                      reinterpret_cast<float*>(d));
        }
        if (w.counters) w.counters->mfma_flops += i.op->flops;
    }

    static constexpr OpInfo row(uint16_t opcode, const char* name, uint8_t archs, uint8_t passes) {
        OpInfo op{opcode, name, archs, Class::MFMA, exec};
        op.dst = Type::wide, op.src[0] = op.src[1] = op.src[2] = Type::wide;
        op.flags = kIgnoresExec | kNoClamp;
        op.dst_dwords = op.src_dwords[2] = dst_dwords, op.src_dwords[0] = op.src_dwords[1] = operand_dwords;
        op.flops = 2u * size * size * k * blocks, op.passes = passes;
        return op;
    }
};

template <int size, int k, int blocks, class A, class B = A>
constexpr OpInfo dense(uint16_t opcode, const char* name, uint8_t passes, uint8_t archs = kBoth) {
    return Mfma<A, B, size, k, blocks>::row(opcode, name, archs, passes);
}

// Passes of 4 clocks: the resource cycles that LLVM's scheduling model (llvm-mca) gives for gfx942 and gfx950.
const OpInfo kRows[] = {
    dense<32, 1, 2, F32>(64, "v_mfma_f32_32x32x1_2b_f32", 16),
    dense<16, 1, 4, F32>(65, "v_mfma_f32_16x16x1_4b_f32", 8),
    dense<4, 1, 16, F32>(66, "v_mfma_f32_4x4x1_16b_f32", 2),
    dense<32, 2, 1, F32>(68, "v_mfma_f32_32x32x2_f32", 16),
    dense<16, 4, 1, F32>(69, "v_mfma_f32_16x16x4_f32", 8),

    dense<32, 4, 2, F16>(72, "v_mfma_f32_32x32x4_2b_f16", 16),
    dense<16, 4, 4, F16>(73, "v_mfma_f32_16x16x4_4b_f16", 8),
    dense<4, 4, 16, F16>(74, "v_mfma_f32_4x4x4_16b_f16", 2),
    dense<32, 8, 1, F16>(76, "v_mfma_f32_32x32x8_f16", 8),
    dense<16, 16, 1, F16>(77, "v_mfma_f32_16x16x16_f16", 4),
    dense<16, 32, 1, F16>(84, "v_mfma_f32_16x16x32_f16", 4, kGfx950),
    dense<32, 16, 1, F16>(85, "v_mfma_f32_32x32x16_f16", 8, kGfx950),

    dense<32, 4, 2, BF16>(93, "v_mfma_f32_32x32x4_2b_bf16", 16),
    dense<16, 4, 4, BF16>(94, "v_mfma_f32_16x16x4_4b_bf16", 8),
    dense<4, 4, 16, BF16>(95, "v_mfma_f32_4x4x4_16b_bf16", 2),
    dense<32, 8, 1, BF16>(96, "v_mfma_f32_32x32x8_bf16", 8),
    dense<16, 16, 1, BF16>(97, "v_mfma_f32_16x16x16_bf16", 4),
    dense<16, 32, 1, BF16>(53, "v_mfma_f32_16x16x32_bf16", 4, kGfx950),
    dense<32, 16, 1, BF16>(55, "v_mfma_f32_32x32x16_bf16", 8, kGfx950),

    dense<32, 4, 2, I8>(80, "v_mfma_i32_32x32x4_2b_i8", 16),
    dense<16, 4, 4, I8>(81, "v_mfma_i32_16x16x4_4b_i8", 8),
    dense<4, 4, 16, I8>(82, "v_mfma_i32_4x4x4_16b_i8", 2),
    dense<32, 16, 1, I8>(86, "v_mfma_i32_32x32x16_i8", 8),
    dense<16, 32, 1, I8>(87, "v_mfma_i32_16x16x32_i8", 4),
    dense<16, 64, 1, I8>(54, "v_mfma_i32_16x16x64_i8", 4, kGfx950),
    dense<32, 32, 1, I8>(56, "v_mfma_i32_32x32x32_i8", 8, kGfx950),

    dense<16, 32, 1, BF8, BF8>(112, "v_mfma_f32_16x16x32_bf8_bf8", 4),
    dense<16, 32, 1, BF8, FP8>(113, "v_mfma_f32_16x16x32_bf8_fp8", 4),
    dense<16, 32, 1, FP8, BF8>(114, "v_mfma_f32_16x16x32_fp8_bf8", 4),
    dense<16, 32, 1, FP8, FP8>(115, "v_mfma_f32_16x16x32_fp8_fp8", 4),
    dense<32, 16, 1, BF8, BF8>(116, "v_mfma_f32_32x32x16_bf8_bf8", 8),
    dense<32, 16, 1, BF8, FP8>(117, "v_mfma_f32_32x32x16_bf8_fp8", 8),
    dense<32, 16, 1, FP8, BF8>(118, "v_mfma_f32_32x32x16_fp8_bf8", 8),
    dense<32, 16, 1, FP8, FP8>(119, "v_mfma_f32_32x32x16_fp8_fp8", 8),
};

}  // namespace

const OpTable kMfmaTable = {Enc::VOP3P, kRows, sizeof kRows / sizeof kRows[0]};

}  // namespace emu
