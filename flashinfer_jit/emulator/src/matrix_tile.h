// What every matrix instruction shares: the register layout, operand tiles in f32, and the multiply-accumulate loop.
//
// One description covers all dense shapes (CDNA3 ISA manual, chapter 7; AMD's matrix instruction calculator prints the same maps).
// A wave holds 64 / size lane groups of `size` lanes. Element i of lane l of A is A[row = l % size][k], of B it is B[k][column = l % size],
// with k = (l / size) * per_lane + i for one-block shapes; in multi-block shapes lane group g is block g and k = i.
// D is cut into chunks of four rows: register 4 * q + r of lane group g holds row r of chunk c = q * groups + g, and chunk c covers
// rows 4 * (c % (size / 4)) .. + 3 of block c / (size / 4). Columns are lanes.
//
// Numerics: products and sums are fused (one rounding to f32 per product, k ascending, starting from C), denormals are kept. The
// hardware's own summation order is not published, so the last bits may differ from a device.
#pragma once
#include <immintrin.h>

#include "register_range.h"

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "the emulator is built for x86-64-v3 (AVX2, FMA, F16C) or later: pass -march=x86-64-v3"
#endif

namespace emu {

constexpr int kMaxPerLane = 32;

// An operand in f32: item i of every lane.
struct alignas(64) Tile {
    float x[kMaxPerLane][kLanes];
};

struct Vec4 {
    static constexpr int width = 4;
    __m128 v;
    static Vec4 load(const float* p) { return {_mm_load_ps(p)}; }
    static Vec4 splat(float x) { return {_mm_set1_ps(x)}; }
    void store(float* p) const { _mm_store_ps(p, v); }
    void fma(Vec4 a, Vec4 b) { v = _mm_fmadd_ps(a.v, b.v, v); }
};
struct Vec8 {
    static constexpr int width = 8;
    __m256 v;
    static Vec8 load(const float* p) { return {_mm256_load_ps(p)}; }
    static Vec8 splat(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* p) const { _mm256_store_ps(p, v); }
    void fma(Vec8 a, Vec8 b) { v = _mm256_fmadd_ps(a.v, b.v, v); }
};
#ifdef __AVX512F__
struct Vec16 {
    static constexpr int width = 16;
    __m512 v;
    static Vec16 load(const float* p) { return {_mm512_load_ps(p)}; }
    static Vec16 splat(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* p) const { _mm512_store_ps(p, v); }
    void fma(Vec16 a, Vec16 b) { v = _mm512_fmadd_ps(a.v, b.v, v); }
};
using RowVec = Vec16;
#else
using RowVec = Vec8;
#endif
template <int size> struct RowVecFor { using type = RowVec; };
template <> struct RowVecFor<4> { using type = Vec4; };

// Which lane groups of one-block operands take part: all, or one of 32 values of k.
struct GroupRange {
    int begin, end;
};

// d[register][lane] = c + A * B in f32. c may be d; `c_stride` 0 repeats one register (inline constant).
template <int size>
inline void multiply_accumulate(const Tile& a, const Tile& b, int per_lane, int blocks, GroupRange k_groups, const float* c, int c_stride,
                                float* d) {
    using Vec = typename RowVecFor<size>::type;
    constexpr int groups = kLanes / size, chunks_per_block = size / 4;
    constexpr int columns = Vec::width * 2 < size ? Vec::width * 2 : size, vectors = columns / Vec::width;
    const int chunks = blocks * chunks_per_block;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int block = chunk / chunks_per_block, row = 4 * (chunk % chunks_per_block);
        const int reg = 4 * (chunk / groups), lane = size * (chunk % groups);
        const float* const a_rows = a.x[0] + (blocks == 1 ? 0 : size * block) + row;
        const float* const b_rows = b.x[0] + (blocks == 1 ? 0 : size * block);
        for (int column = 0; column < size; column += columns) {
            Vec acc[4][vectors];
            for (int r = 0; r < 4; ++r)
                for (int v = 0; v < vectors; ++v) acc[r][v] = Vec::load(c + (reg + r) * c_stride + lane + column + v * Vec::width);
            for (int g = k_groups.begin; g < k_groups.end; ++g)
                for (int k = 0; k < per_lane; ++k) {
                    const float* const a_k = a_rows + k * kLanes + g * size;
                    const float* const b_k = b_rows + k * kLanes + g * size + column;
                    Vec b_vec[vectors];
                    for (int v = 0; v < vectors; ++v) b_vec[v] = Vec::load(b_k + v * Vec::width);
                    for (int r = 0; r < 4; ++r) {
                        const Vec a_value = Vec::splat(a_k[r]);
                        for (int v = 0; v < vectors; ++v) acc[r][v].fma(a_value, b_vec[v]);
                    }
                }
            for (int r = 0; r < 4; ++r)
                for (int v = 0; v < vectors; ++v) acc[r][v].store(d + (reg + r) * kLanes + lane + column + v * Vec::width);
        }
    }
}

// C of a matrix instruction: registers, or a constant that stands for every element.
inline bool read_addend(Wave& w, const Inst& i, int dwords, uint32_t* c) {
    if (i.src[2] < operand::vgpr) {
        const uint32_t value = read_scalar32(w, i, i.src[2]);
        for (int n = 0; n < dwords * kLanes; ++n) c[n] = value;
        return w.status != Status::faulted;
    }
    const uint32_t* const registers = vector_range(w, i.src[2], dwords);
    if (registers) std::memcpy(c, registers, static_cast<size_t>(dwords) * kLanes * sizeof *c);
    return registers != nullptr;
}

}  // namespace emu
