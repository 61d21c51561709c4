// DS instructions that move data between lanes: permute, bpermute, swizzle, and gfx950's transposing reads.
#include "lds.h"

namespace emu {
namespace {

void write_active(Wave& w, uint16_t dst, const uint32_t* row, uint64_t exec) {
    if (exec == kAllLanes) std::memcpy(w.reg(dst), row, kLanes * 4);
    else blend_row(w.reg(dst), row, w.active_lanes());
}

// Source lane of each lane for ds_swizzle_b32 (manual 12.12). Reading a lane that is off gives zero.
void swizzle_map(uint32_t offset, int from[kLanes]) {
    const int mask = static_cast<int>(offset & 0x1f);
    for (int l = 0; l < kLanes; ++l) {
        const int half = l & 0x20, x = l & 0x1f;
        if (offset >= 0xe000) {   // FFT: bit reversal
            int reversed = 0;
            for (int b = 0; b < 5; ++b) reversed |= (x >> b & 1) << (4 - b);
            from[l] = half | (reversed >> __builtin_popcount(static_cast<unsigned>(mask))) | (x & mask);
        } else if (offset >= 0xc000) {   // rotate
            const int by = static_cast<int>(offset >> 5 & 0x1f), rotated = (offset >> 10 & 1 ? x - by : x + by) & 0x1f;
            from[l] = half | (x & mask) | (rotated & ~mask);
        } else if (offset >> 15) {   // within groups of four
            from[l] = (l & ~3) | static_cast<int>(offset >> (2 * (l & 3)) & 3);
        } else {
            const int or_mask = static_cast<int>(offset >> 5 & 0x1f), xor_mask = static_cast<int>(offset >> 10 & 0x1f);
            from[l] = half | (((x & mask) | or_mask) ^ xor_mask);
        }
    }
}

// The transposing reads work on blocks of 16 lanes: the 16 elements of a row of the tile lie in consecutive lanes' data (4 lanes for
// 16-bit elements, 2 for 8-bit, 1 for 6- and 4-bit); lane i receives column i, row 0 in the lowest bits. Manual 11.4 wants EXEC all
// ones; blocks that are wholly off are left alone here, partly active ones are refused.
constexpr int kBlock = 16;
int first_misaligned(const LdsOffsets& o, uint64_t exec, uint32_t misaligned) {
    int l = __builtin_ctzll(exec);
    while (!(exec >> l & 1) || !(o.at[l] & misaligned)) ++l;
    return l;
}
bool begin_transpose(Wave& w, const Inst& i, uint32_t bytes, uint64_t& exec, LdsOffsets& o) {
    if (!lds_begin(w, i, exec)) return false;
    for (int b = 0; exec != kAllLanes && b < kLanes; b += kBlock) {
        const uint64_t block = exec >> b & 0xffff;
        if (block && block != 0xffff) {
            w.fault(FaultKind::unsupported, "a transposing LDS read needs whole blocks of 16 active lanes (the ISA asks for EXEC all ones)");
            return false;
        }
    }
    o = lds_offsets(w, i, static_cast<uint32_t>(i.offset));
    const uint32_t misaligned = bytes == 8 ? 7 : 3, *active = w.active_lanes();
    uint32_t low_bits = 0;
#pragma omp simd reduction(| : low_bits)
    for (int l = 0; l < kLanes; ++l) low_bits |= o.at[l] & active[l] & misaligned;
    if (low_bits) {
        const int l = first_misaligned(o, exec, misaligned);
        w.fault(FaultKind::misaligned, "a transposing LDS read needs an aligned address", o.at[l], l, bytes);
        return false;
    }
    lds_account(w, o, exec, bytes, false);
    return true;
}

// Each active lane's data: in place where all lanes are in range, else a copy with zeros for what is beyond the end.
struct TileSource {
    LaneAddresses pointers;
    alignas(64) uint32_t copy[kLanes][4];
};
void tile_source(Wave& w, const LdsOffsets& o, uint64_t exec, uint32_t bytes, TileSource& t) {
    const bool direct = exec == kAllLanes && lds_in_range(w, o, exec, bytes);
    const uint64_t base = reinterpret_cast<uint64_t>(w.group->lds);
    if (direct) {
        for (int l = 0; l < kLanes; ++l) t.pointers.at[l] = base + o.at[l];
        return;
    }
    for (int l = 0; l < kLanes; ++l) {
        for (uint32_t k = 0; k * 4 < bytes; ++k) {
            const uint64_t p = exec >> l & 1 ? lds_pointer(w, o.at[l] + 4 * k, 4) : 0;
            t.copy[l][k] = p ? load_unaligned<uint32_t>(p) : 0;
            if (!p && (exec >> l & 1) && k * 4 + 4 == bytes) ++w.counters->out_of_range_lds_lanes;
        }
        t.pointers.at[l] = reinterpret_cast<uint64_t>(t.copy[l]);
    }
}

__m128i two_lanes(const TileSource& t, int l) {
    return _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(t.pointers.at[l])),
                              _mm_loadl_epi64(reinterpret_cast<const __m128i*>(t.pointers.at[l + 1])));
}
void put(uint32_t* row, __m128i x) { _mm_store_si128(reinterpret_cast<__m128i*>(row), x); }

void transpose_b16(const TileSource& t, int first, uint32_t* row0, uint32_t* row1) {
    __m128i left[4], right[4];   // elements 0..7 and 8..15 of each of the four tile rows
    for (int r = 0; r < 4; ++r) left[r] = two_lanes(t, first + 4 * r), right[r] = two_lanes(t, first + 4 * r + 2);
    put(row0 + first, _mm_unpacklo_epi16(left[0], left[1])), put(row0 + first + 4, _mm_unpackhi_epi16(left[0], left[1]));
    put(row0 + first + 8, _mm_unpacklo_epi16(right[0], right[1])), put(row0 + first + 12, _mm_unpackhi_epi16(right[0], right[1]));
    put(row1 + first, _mm_unpacklo_epi16(left[2], left[3])), put(row1 + first + 4, _mm_unpackhi_epi16(left[2], left[3]));
    put(row1 + first + 8, _mm_unpacklo_epi16(right[2], right[3])), put(row1 + first + 12, _mm_unpackhi_epi16(right[2], right[3]));
}

void transpose_b8(const TileSource& t, int first, uint32_t* row0, uint32_t* row1) {
    for (int half = 0; half < 2; ++half) {
        __m128i r[4];
        for (int k = 0; k < 4; ++k) r[k] = two_lanes(t, first + 2 * (4 * half + k));
        const __m128i low01 = _mm_unpacklo_epi8(r[0], r[1]), high01 = _mm_unpackhi_epi8(r[0], r[1]);
        const __m128i low23 = _mm_unpacklo_epi8(r[2], r[3]), high23 = _mm_unpackhi_epi8(r[2], r[3]);
        uint32_t* out = (half ? row1 : row0) + first;
        put(out, _mm_unpacklo_epi16(low01, low23)), put(out + 4, _mm_unpackhi_epi16(low01, low23));
        put(out + 8, _mm_unpacklo_epi16(high01, high23)), put(out + 12, _mm_unpackhi_epi16(high01, high23));
    }
}

// 4- and 6-bit elements: 16 rows, one lane each.
template <int kBits> void transpose_small(const TileSource& t, int first, uint32_t* rows) {
    constexpr int dwords = kBits / 2;
    const auto element = [&](int lane, int n) {
        const int bit = n * kBits, k = bit / 32;
        const uint64_t pair = load_unaligned<uint32_t>(t.pointers.at[lane] + 4u * static_cast<unsigned>(k)) |
                              (k + 1 < dwords ? static_cast<uint64_t>(load_unaligned<uint32_t>(t.pointers.at[lane] + 4u * static_cast<unsigned>(k) + 4)) << 32 : 0);
        return static_cast<uint32_t>(pair >> (bit % 32)) & ((1u << kBits) - 1);
    };
    for (int i = 0; i < kBlock; ++i) {
        uint32_t out[4] = {};
        for (int j = 0; j < kBlock; ++j) {
            const int bit = j * kBits;
            const uint64_t placed = static_cast<uint64_t>(element(first + j, i)) << (bit % 32);
            out[bit / 32] |= static_cast<uint32_t>(placed), out[bit / 32 + 1] |= static_cast<uint32_t>(placed >> 32);
        }
        for (int k = 0; k < dwords; ++k) rows[k * kLanes + first + i] = out[k];
    }
}

template <int kBits> void read_transposed(Wave& w, const Inst& i) {
    constexpr int dwords = kBits == 6 ? 3 : 2;
    uint64_t exec;
    LdsOffsets o;
    if (!begin_transpose(w, i, dwords * 4, exec, o)) return;
    TileSource t;
    tile_source(w, o, exec, dwords * 4, t);
    alignas(64) uint32_t rows[3 * kLanes];
    uint32_t* out = exec == kAllLanes ? w.reg(i.dst) : rows;
    for (int first = 0; first < kLanes; first += kBlock) {
        if constexpr (kBits == 16) transpose_b16(t, first, out, out + kLanes);
        else if constexpr (kBits == 8) transpose_b8(t, first, out, out + kLanes);
        else transpose_small<kBits>(t, first, out);
    }
    if (exec == kAllLanes) return;
    for (int k = 0; k < dwords; ++k) write_active(w, static_cast<uint16_t>(i.dst + k), rows + k * kLanes, exec);
}

}  // namespace

void exec_ds_swizzle(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    int from[kLanes];
    swizzle_map(static_cast<uint32_t>(i.offset), from);
    const uint32_t *source = w.reg(i.src[0]), *active = w.active_lanes();
    alignas(64) uint32_t row[kLanes];
    for (int l = 0; l < kLanes; ++l) row[l] = source[from[l]] & active[from[l]];
    write_active(w, i.dst, row, exec);
}

// Pull: lane l takes the data of lane address / 4; zero from a lane that is off.
void exec_ds_bpermute(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    const uint32_t *address = w.reg(i.src[0]), *active = w.active_lanes(), offset = static_cast<uint32_t>(i.offset);
    alignas(64) uint32_t data[kLanes], row[kLanes];
    const uint32_t* source = w.reg(i.src[1]);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) data[l] = source[l] & active[l];
    for (int l = 0; l < kLanes; ++l) row[l] = data[(address[l] + offset) >> 2 & 63];
    write_active(w, i.dst, row, exec);
}

// Push: the highest-numbered source lane wins, lanes nobody sends to get zero.
void exec_ds_permute(Wave& w, const Inst& i) {
    uint64_t exec;
    if (!lds_begin(w, i, exec)) return;
    const uint32_t *address = w.reg(i.src[0]), *source = w.reg(i.src[1]), offset = static_cast<uint32_t>(i.offset);
    alignas(64) uint32_t row[kLanes] = {};
    for_each_lane(exec, [&](int l) { row[(address[l] + offset) >> 2 & 63] = source[l]; });
    write_active(w, i.dst, row, exec);
}

void exec_ds_read_tr_b4(Wave& w, const Inst& i) { read_transposed<4>(w, i); }
void exec_ds_read_tr_b6(Wave& w, const Inst& i) { read_transposed<6>(w, i); }
void exec_ds_read_tr_b8(Wave& w, const Inst& i) { read_transposed<8>(w, i); }
void exec_ds_read_tr_b16(Wave& w, const Inst& i) { read_transposed<16>(w, i); }

}  // namespace emu
